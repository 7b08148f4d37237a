//! Who waits, and who wakes them. A wake-up that is missing leaves the waiter asleep: a checker
//! reports the deadlock.

use super::Stage;
use super::ext::AddressSpaceSide;
use super::memory::{Machine, home, touch};
use super::stage::{Home, Probe, ProbeRef, World, assert_quiet, notifier, pages};
use core::time::Duration;
use std::sync::Arc;
use userptr::notifier::State;
use userptr::platform::{AtomicUsize, Load, Store};
use userptr::work::Waiter;
use userptr::{Blockable, Current, Error, Flags, Notifier, Outcome};

fn stage<P: Stage>() -> (Home<P>, Arc<World<P>>, ProbeRef<P>) {
    let (home, world) = (notifier::<P>(), World::new());
    let probe = Probe::new(&home, &world, pages(0, 1));
    (home, world, probe)
}

/// Waits until the object can be attached, which it can then, unless what the other thread does had
/// not begun. Returns how often it waited.
fn acquired<P: Stage>(probe: &ProbeRef<P>) -> usize {
    let mut waits = 0;
    while !Probe::acquire(probe) {
        assert!(Notifier::wait_ready(probe, None));
        waits += 1;
    }
    waits
}

/// For the end of a window, with the slot free for it or not.
pub fn wait_for_an_end<P: Stage>() {
    for spilled in [0, 1] {
        let (home, world, probe) = stage::<P>();
        let others = P::WINDOWS * spilled;
        (0..others).for_each(|_| home.open_window(pages(0, 2)));
        assert_eq!(home.invalidate_and_wait(pages(0, 1), Blockable::Yes).unwrap(), Outcome::Idle);
        (0..others).for_each(|_| home.end(pages(0, 2)));
        let t = {
            let (home, world) = (home.clone(), world.clone());
            P::spawn(move || {
                world.zap();
                home.end(pages(0, 1));
            })
        };
        assert!(acquired(&probe) <= 1);
        assert!(Probe::touch(&probe));
        P::join(t);
        drop(probe);
        assert_quiet(&home, &world);
    }
}

/// For a condition of the driver's own, on the wait queue that it is given.
pub fn wait_for_a_driver<P: Stage>() {
    let waiter = Waiter::<P>::try_new().unwrap();
    let done = Arc::new(<P::Usize as AtomicUsize>::new(0));
    let t = {
        let (waiter, done) = (waiter.clone(), Arc::clone(&done));
        P::spawn(move || {
            done.store(1, Store::Relaxed);
            waiter.wake_all();
        })
    };
    assert!(waiter.wait_until(None, || done.load(Load::Relaxed) == 1));
    assert_eq!(done.load(Load::Relaxed), 1, "it did not wait");
    P::join(t);
}

/// For a start that is refused: its window was there for a moment.
pub fn wait_for_a_refusal<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    let attached = Probe::new(&home, &world, pages(0, 2));
    assert!(Probe::acquire(&attached));
    let t = {
        let home = home.clone();
        P::spawn(move || assert!(home.invalidate_and_wait(pages(0, 1), Blockable::No).is_err()))
    };
    assert!(acquired(&probe) <= 1);
    P::join(t);
    drop((probe, attached));
    assert_quiet(&home, &world);
}

/// For somebody else's acquire, which is committed, given up, or fails for good.
pub fn wait_for_an_acquire<P: Stage>() {
    for end in 0..3 {
        let (home, world, probe) = stage::<P>();
        let ticket = Notifier::attach(&probe).unwrap();
        let t = {
            let (probe, world) = (probe.clone(), world.clone());
            P::spawn(move || match end {
                0 => {
                    let seen = world.pin();
                    assert!(Probe::commit(&probe, ticket, seen));
                }
                _ => assert!(Notifier::abandon(&probe, ticket, end == 2)),
            })
        };
        assert!(Notifier::wait_ready(&probe, None));
        P::join(t);
        let expected = [State::Ready, State::Idle, State::Failed][end];
        assert_eq!(Notifier::state(&probe), expected);
        drop(probe);
        assert_quiet(&home, &world);
    }
}

/// For somebody else's acquire, which an eviction supersedes: nobody else says anything after that.
pub fn wait_for_an_eviction<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    let ticket = Notifier::attach(&probe).unwrap();
    let t = {
        let probe = probe.clone();
        P::spawn(move || assert_eq!(Notifier::revoke(&probe), Outcome::Idle))
    };
    assert!(Notifier::wait_ready(&probe, None));
    assert!(!Notifier::abandon(&probe, ticket, false));
    P::join(t);
    assert_eq!(acquired(&probe), 0);
    drop(probe);
    assert_quiet(&home, &world);
}

/// For an eviction: once, if it had begun.
pub fn wait_for_a_cancel<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    assert!(Probe::acquire(&probe));
    let t = {
        let probe = probe.clone();
        P::spawn(move || assert!(acquired(&probe) <= 1))
    };
    assert_eq!(Notifier::revoke(&probe), Outcome::Idle);
    P::join(t);
    drop(probe);
    assert_quiet(&home, &world);
}

/// For a cancel that gives up: the waiter learns that there is nothing to wait for. The device is
/// late, or a lease.
pub fn wait_for_a_quarantine<P: Stage>() {
    for late in [false, true] {
        let (home, world) = (notifier::<P>(), World::new());
        let probe = Probe::with_deadline(&home, &world, pages(0, 1), Some(Duration::ZERO));
        assert!(Probe::acquire(&probe));
        world.set_stuck(late);
        let lease = if late { None } else { Notifier::lease(&probe) };
        let stopping = home.invalidate_start(pages(0, 1), Blockable::Yes).unwrap();
        let t = {
            let probe = probe.clone();
            P::spawn(move || assert!(Notifier::wait_ready(&probe, None)))
        };
        assert_eq!(stopping.finish(), Outcome::TimedOut);
        P::join(t);
        assert_eq!(Notifier::state(&probe), State::Quarantined);
        home.end(pages(0, 1));
        drop(lease);
        world.set_stuck(false);
        assert_eq!(home.retry_quarantined(), Outcome::Idle);
        drop(probe);
        assert_quiet(&home, &world);
    }
}

/// For the end of the address space, beside an acquire in flight: nothing comes after it.
pub fn wait_for_an_exit<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    let ticket = Notifier::attach(&probe).unwrap();
    let t = {
        let home = home.clone();
        P::spawn(move || assert_eq!(home.exit(), Outcome::Idle))
    };
    assert!(Notifier::wait_ready(&probe, None));
    assert!(!Notifier::abandon(&probe, ticket, false));
    assert!(!Probe::acquire(&probe), "attached to a dead address space");
    P::join(t);
    drop(probe);
    assert_quiet(&home, &world);
}

/// For an exit while a window keeps the object out: nothing is attached that it could supersede,
/// and the window's end may never come.
pub fn wait_for_an_exit_in_a_window<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    home.open_window(pages(0, 1));
    let t = {
        let home = home.clone();
        P::spawn(move || assert_eq!(home.exit(), Outcome::Idle))
    };
    assert!(Notifier::wait_ready(&probe, None));
    assert!(!Probe::acquire(&probe), "attached to a dead address space");
    P::join(t);
    home.end(pages(0, 1));
    drop(probe);
    assert_quiet(&home, &world);
}

/// For an export, which moves the object away from where the waiter sleeps, and supersedes what was
/// begun there after the export had looked.
pub fn wait_for_an_export<P: Stage>() {
    let machine = Machine::<P>::new(Current::None, 1, false);
    let object = machine.object(0, Flags::UNSYNCHRONIZED);
    let t = {
        let object = object.clone();
        P::spawn(move || object.export().unwrap())
    };
    assert_eq!(touch(&machine, &object), Err(Error::Again));
    // Begun at the old home: nobody serves it there, and it is the export that ends the wait.
    if !object.is_watched() {
        assert!(object.wait_ready(None));
    }
    P::join(t);
    assert!(object.is_watched());
    while machine.pin_queue.run_one() {}
    drop(object);
    machine.assert_quiet();
}

/// The whole: an acquire waits for the worker that pins for it.
pub fn acquire_waits_for_its_worker<P: Stage>() {
    let machine = Machine::<P>::new(Current::None, 1, false);
    let object = machine.object(0, Flags::NONE);
    let w = super::queue::worker(&machine.pin_queue);
    drop(object.acquire().unwrap());
    machine.pin_queue.shut_down();
    P::join(w);
    drop(object);
    machine.assert_quiet();
}

/// And for a place among the workers, which another object's has.
pub fn acquire_waits_for_a_place<P: Stage>() {
    let machine = Machine::<P>::new(Current::None, 1, false);
    let objects = [0, 1].map(|page| machine.object(page, Flags::NONE));
    assert_eq!(touch(&machine, &objects[0]), Err(Error::Again));
    let w = super::queue::worker(&machine.pin_queue);
    drop(objects[1].acquire().unwrap());
    machine.pin_queue.shut_down();
    P::join(w);
    drop(objects);
    machine.assert_quiet();
}

/// And for the end of a change of the mapping, before which it finds nothing and after which it
/// finds fresh pages.
pub fn acquire_waits_for_a_change<P: Stage>() {
    let machine = Machine::<P>::new(Current::This, 1, false);
    let object = machine.object(0, Flags::NONE);
    let home = home(&machine);
    assert_eq!(home.invalidate_and_wait(pages(0, 1), Blockable::Yes).unwrap(), Outcome::Idle);
    let t = {
        let memory = Arc::clone(&machine.memory);
        P::spawn(move || {
            memory.world.zap();
            home.end(pages(0, 1));
        })
    };
    let lease = object.acquire().unwrap();
    machine.memory.world.use_frame(lease.pages()[0]);
    drop(lease);
    P::join(t);
    drop(object);
    machine.assert_quiet();
}
