//! The object: acquires, workers, exports against invalidations.

use super::Stage;
use super::ext::AddressSpaceSide;
use super::memory::{Machine, home, touch};
use super::stage::pages;
use std::sync::Arc;
use userptr::notifier::State;
use userptr::{Blockable, Current, Error, Flags};

/// A worker with one item to run, if there is one.
fn worker<P: Stage>(machine: &Machine<P>) -> P::Join {
    let pin_queue = machine.pin_queue.clone();
    P::spawn(move || {
        pin_queue.run_one();
    })
}

fn spawn_change<P: Stage>(machine: &Machine<P>, page: usize) -> P::Join {
    let memory = Arc::clone(&machine.memory);
    P::spawn(move || memory.change(pages(page, 1)))
}

/// Every lease is on fresh pages.
pub fn acquire_against_invalidate<P: Stage>() {
    let machine = Machine::<P>::new(Current::This, 1, false);
    let object = machine.object(0, Flags::NONE);
    let t = spawn_change(&machine, 0);
    P::met(named(touch(&machine, &object)));
    P::join(t);
    touch(&machine, &object).unwrap();
    drop(object);
    machine.assert_quiet();
}

/// The notifier is registered while a change is under way: it refuses until the end, and nothing
/// stale is installed.
pub fn register_during_window<P: Stage>() {
    let machine = Machine::<P>::new(Current::This, 1, false);
    let t = spawn_change(&machine, 0);
    let object = machine.object(0, Flags::NONE);
    P::met(named(touch(&machine, &object)));
    P::join(t);
    touch(&machine, &object).unwrap();
    drop(object);
    machine.assert_quiet();
}

/// A start comes while a worker pins: what it pinned is dropped or released, and a later acquire is
/// served.
pub fn cancel_while_a_worker_pins<P: Stage>() {
    let machine = Machine::<P>::new(Current::None, 1, false);
    let object = machine.object(0, Flags::NONE);
    assert_eq!(touch(&machine, &object), Err(Error::Again));
    let w = worker(&machine);
    machine.memory.change(pages(0, 1));
    P::join(w);
    while machine.pin_queue.run_one() {}
    assert_ne!(object.state(), State::Acquiring, "a ticket without a worker");
    served(&machine, &object);
    drop(object);
    machine.assert_quiet();
}

/// The object is acquired again while the worker of the superseded acquire is queued, pins or ends:
/// the newest ticket is served.
pub fn superseded_worker<P: Stage>() {
    let machine = Machine::<P>::new(Current::None, 2, false);
    let object = machine.object(0, Flags::NONE);
    assert_eq!(touch(&machine, &object), Err(Error::Again));
    let w = worker(&machine);
    let home = home(&machine);
    assert!(home.invalidate_and_wait(pages(0, 1), Blockable::Yes).is_ok());
    machine.memory.world.zap();
    home.end(pages(0, 1));
    P::met(named(touch(&machine, &object)));
    P::join(w);
    while machine.pin_queue.run_one() {}
    assert_ne!(object.state(), State::Acquiring, "a ticket without a worker");
    drop(home);
    served(&machine, &object);
    drop(object);
    machine.assert_quiet();
}

/// The outcome of an acquire.
fn named(acquired: Result<(), Error>) -> &'static str {
    match acquired {
        Ok(()) => "served",
        Err(Error::Again) => "again",
        Err(Error::Fault) => "fault",
        Err(Error::Gone) => "gone",
        Err(Error::Busy) => "busy",
        Err(_) => "another error",
    }
}

/// An acquire is served after a worker's turn at most.
fn served<P: Stage>(machine: &Machine<P>, object: &super::memory::Object<P>) {
    if touch(machine, object).is_err() {
        while machine.pin_queue.run_one() {}
        touch(machine, object).unwrap();
    }
}

/// The address space goes while a worker pins: nothing stays, and later acquires get `EFAULT`.
pub fn exit_against_worker<P: Stage>() {
    let machine = Machine::<P>::new(Current::None, 1, false);
    let object = machine.object(0, Flags::NONE);
    assert_eq!(touch(&machine, &object), Err(Error::Again));
    let w = worker(&machine);
    machine.memory.exit();
    P::join(w);
    while machine.pin_queue.run_one() {}
    assert_eq!(touch(&machine, &object), Err(Error::Gone));
    assert_eq!(machine.memory.world.pins(), 0);
    drop(object);
    machine.assert_quiet();
}

/// All workers are taken: nothing is attached, and once one is free the acquire is served.
pub fn worker_limit<P: Stage>() {
    let machine = Machine::<P>::new(Current::None, 1, false);
    let objects = [0, 1].map(|page| machine.object(page, Flags::NONE));
    assert_eq!(touch(&machine, &objects[0]), Err(Error::Again));
    let w = worker(&machine);
    assert_eq!(touch(&machine, &objects[1]), Err(Error::Again));
    P::join(w);
    while machine.pin_queue.run_one() {}
    assert_ne!(objects[1].state(), State::Acquiring, "attached without a worker");
    for object in &objects {
        served(&machine, object);
    }
    drop(objects);
    machine.assert_quiet();
}

/// A worker fails while the object is acquired again: its error is told once, and never after a
/// later success.
pub fn report_against_acquire<P: Stage>() {
    let machine = Machine::<P>::new(Current::None, 2, false);
    let object = machine.object(0, Flags::NONE);
    assert_eq!(touch(&machine, &object), Err(Error::Again));
    machine.memory.refuse(1);
    let w = worker(&machine);
    let told = touch(&machine, &object) == Err(Error::NoMemory);
    P::join(w);
    while machine.pin_queue.run_one() {}
    let ready = object.state() == State::Ready;
    assert!(!(told && ready), "told, and served all the same");
    P::met(if told {
        "told at once"
    } else if ready {
        "served"
    } else {
        "told later"
    });
    let later = touch(&machine, &object);
    if ready {
        assert_eq!(later, Ok(()));
        // Its pages go: the next acquire is a new one, and knows nothing of the error.
        object.put_pages().unwrap();
        assert_eq!(touch(&machine, &object), Err(Error::Again));
    } else {
        let expected = if told { Error::Again } else { Error::NoMemory };
        assert_eq!(later, Err(expected), "told once");
        served(&machine, &object);
    }
    while machine.pin_queue.run_one() {}
    drop(object);
    machine.assert_quiet();
}

/// The last handle goes while the worker pins: the worker's reference is the last.
pub fn last_reference_in_worker<P: Stage>() {
    let machine = Machine::<P>::new(Current::None, 1, false);
    let object = machine.object(0, Flags::NONE);
    assert_eq!(touch(&machine, &object), Err(Error::Again));
    let w = worker(&machine);
    drop(object);
    P::join(w);
    machine.assert_quiet();
}

/// An unsynchronised object is exported while it is acquired: whatever it has afterwards, an
/// invalidation reaches.
pub fn export_against_acquire<P: Stage>() {
    let machine = Machine::<P>::new(Current::This, 1, false);
    let object = machine.object(0, Flags::UNSYNCHRONIZED);
    let t = {
        let object = object.clone();
        P::spawn(move || object.export().unwrap())
    };
    P::met(named(object.try_acquire().map(drop)));
    P::join(t);
    exported(&machine, &object);
    drop(object);
    machine.assert_quiet();
}

/// An object that has pages is exported while somebody uses them: they are released first, and an
/// invalidation reaches what comes after.
pub fn export_of_a_ready_object<P: Stage>() {
    let machine = Machine::<P>::new(Current::This, 1, false);
    let object = machine.object(0, Flags::UNSYNCHRONIZED);
    touch(&machine, &object).unwrap();
    let t = {
        let object = object.clone();
        P::spawn(move || object.export().unwrap())
    };
    P::met(named(touch(&machine, &object)));
    P::join(t);
    exported(&machine, &object);
    drop(object);
    machine.assert_quiet();
}

/// The host tells of a change after it was made. Who has seen the change gets no lease on what was
/// there before: either the host says that it has not told everybody, or it has, and the word is
/// closed.
pub fn told_after_the_change<P: Stage>() {
    let machine = Machine::<P>::told_afterwards(Current::This);
    let object = machine.object(0, Flags::NONE);
    touch(&machine, &object).unwrap();
    let home = home(&machine);
    let t = {
        let memory = Arc::clone(&machine.memory);
        P::spawn(move || memory.change_and_tell(&home, pages(0, 1)))
    };
    let seen = machine.memory.world.walk();
    if let Ok(lease) = object.try_acquire() {
        assert!(lease.pages()[0] >= seen, "a lease on pages older than this thread has seen");
        machine.memory.world.use_old_frame(lease.pages()[0]);
    }
    P::join(t);
    touch(&machine, &object).unwrap();
    drop(object);
    machine.assert_quiet();
}

/// Two exports at once: one watch.
pub fn two_exports<P: Stage>() {
    let machine = Machine::<P>::new(Current::This, 1, false);
    let object = machine.object(0, Flags::UNSYNCHRONIZED);
    let t = {
        let object = object.clone();
        P::spawn(move || object.export().unwrap())
    };
    object.export().unwrap();
    P::join(t);
    exported(&machine, &object);
    drop(object);
    machine.assert_quiet();
}

fn exported<P: Stage>(machine: &Machine<P>, object: &super::memory::Object<P>) {
    assert!(object.is_watched());
    machine.memory.change(pages(0, 1));
    assert_eq!(object.state(), State::Idle);
    assert_eq!(machine.memory.world.pins(), 0, "an invalidation did not reach an exported object");
    touch(machine, object).unwrap();
}
