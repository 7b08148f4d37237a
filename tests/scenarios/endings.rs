//! Scenarios 47 to 52: how address spaces, devices and guards end.

use crate::bare::Bare;
use crate::ext::AddressSpaceSide;
use crate::world::{Host, Object, Setup, World, range, rounds, until};
use std::sync::mpsc::channel;
use std::thread;
use userptr::notifier::{AttachError, State};
use userptr::{Blockable, Error, Flags, Notifier, Outcome};
use userptr_sim::{Op, PAGE, Prot, Seam, Space};

/// The first device's callbacks are in flight as long as the start waits for the second's.
fn s47_unregister_waits_for_a_callback_in_flight<P: Host>() {
    let w = World::<P>::with(Setup::default().threads(1));
    let _in = w.enter();
    let (a, object) = w.pinned(1);
    let second = w.another_device(Setup::default());
    let other = second.create(a, 1);
    let job = second.job(&second.lease(&other));
    // The first one's last reference goes inside its cancel, and the record's free is queued there.
    w.machine.once(Seam::Unpin, move |_| drop(object));
    let (to_wait, waits) = channel();
    thread::scope(|s| {
        s.spawn(|| w.process.munmap(a, PAGE));
        // The first start is through: both devices are waited for, one after the other.
        until(|| w.count(Seam::Unpin) == 1);
        s.spawn(move || {
            // Until the second's job ends the unregistration has to wait.
            until(|| job.is_stopping());
            waits.recv().unwrap();
            drop(job);
        });
        assert_eq!(w.count(Seam::Unregistered), 0);
        until(|| w.count(Seam::WaitIdle) == 2);
        assert_eq!(w.count(Seam::Unregistered), 0, "a callback is in flight");
        to_wait.send(()).unwrap();
    });
    w.work();
    assert_eq!(w.count(Seam::Unregistered), 1);
    let trace = w.machine.trace();
    let at = |seam| trace.iter().position(|e| e.seam == seam).unwrap();
    let second_unmap = trace.iter().rposition(|e| e.seam == Seam::Unmap).unwrap();
    assert!(second_unmap < at(Seam::Unregistered), "the second device was done first");
    drop(other);
    second.end();
    w.finish();
}

fn s48_an_address_space_ends_with_live_pages<P: Host>() {
    for queued in [false, true] {
        let w = World::<P>::with(Setup::default().threads(1).queued(queued));
        let other = w.machine.process();
        let (a, object) = {
            let _in = other.enter();
            let a = other.mmap(2 * PAGE);
            other.touch(a, 2 * PAGE, 1).unwrap();
            (a, w.ctx.register_raw(&Space::of(&other), a, 2 * PAGE, 0).unwrap())
        };
        let id = other.record().id();
        let job = {
            let _in = other.enter();
            w.job(&w.lease(&object))
        };
        let machine = w.machine.clone();
        w.machine.once_in(Op::Exit, Seam::Started, move |_| assert_eq!(machine.pins(), 0, "quiesced"));
        let (to_wait, waits) = channel();
        w.machine.once(Seam::WaitIdle, move |_| to_wait.send(()).unwrap());
        thread::scope(|s| {
            s.spawn(move || other.exit());
            waits.recv().unwrap();
            job.write(0, 7);
            drop(job);
        });
        assert_eq!(object.state(), State::Idle);
        assert!(w.stats(&object).dead);
        let _in = w.machine.enter_nobody();
        for _ in 0..3 {
            assert_eq!(object.try_acquire().unwrap_err(), Error::Gone);
            assert_eq!(object.acquire().unwrap_err(), Error::Gone);
        }
        // A look-up by the identity of old still finds the record, and no memory.
        assert_eq!(object.record().space().record().id(), id);
        assert_eq!(object.range(), range(a, 2 * PAGE));
        drop(object);
        drop(_in);
        w.finish();
    }
}

fn s49_the_end_before_the_worker_runs<P: Host>() {
    let w = World::<P>::new();
    let other = w.machine.process();
    let object: Object<P> = {
        let _in = other.enter();
        let a = other.mmap(PAGE);
        w.ctx.register_raw(&Space::of(&other), a, PAGE, 0).unwrap()
    };
    {
        let _in = other.enter();
        assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    }
    other.exit();
    w.work();
    let _in = w.machine.enter_nobody();
    assert_eq!(object.try_acquire().unwrap_err(), Error::Gone);
    drop(object);
    // Unsynchronised: nobody is told of the end; the worker finds out.
    let other = w.machine.process();
    other.record().set_capable(true);
    let object: Object<P> = {
        let _in = other.enter();
        let a = other.mmap(PAGE);
        let flags = Flags::UNSYNCHRONIZED.bits();
        let object = w.ctx.register_raw(&Space::of(&other), a, PAGE, flags).unwrap();
        assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
        object
    };
    other.exit();
    w.work();
    assert_eq!(object.try_acquire().unwrap_err(), Error::Gone);
    drop(object);
    drop(_in);
    w.finish();
}

/// The machine fails the test if the users are dropped under any lock; see
/// `users_dropped_under_a_lock_are_caught` there.
fn s50_the_worker_drops_the_last_user<P: Host>() {
    for seam in [Seam::PinBegin, Seam::Pinned] {
        let w = World::<P>::new();
        let other = w.machine.process();
        let object: Object<P> = {
            let _in = other.enter();
            let a = other.mmap(PAGE);
            let object = w.ctx.register_raw(&Space::of(&other), a, PAGE, 0).unwrap();
            assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
            object
        };
        let record = other.record().clone();
        w.machine.once_in(Op::SlowPin, seam, move |_| other.exit());
        w.work();
        assert!(!record.is_alive());
        assert_eq!(w.machine.pins(), 0);
        let _in = w.machine.enter_nobody();
        assert_eq!(object.try_acquire().unwrap_err(), Error::Gone);
        drop((object, record));
        drop(_in);
        w.finish();
    }
}

fn s51_a_shutdown_drains_everything<P: Host>() {
    for _ in 0..rounds(50) {
        let w = World::<P>::with(Setup::default().queued(true).threads(2));
        let _in = w.enter();
        let a = w.process.mmap(8 * PAGE);
        let objects: Vec<_> = (0..8).map(|n| w.create(a + n * PAGE, 1)).collect();
        for object in &objects {
            assert!(object.try_acquire().is_err());
        }
        w.process.dontneed(a, 4 * PAGE);
        drop(objects);
        w.ctx.drain();
        w.ctx.drain();
        w.finish();
    }
}

fn s52_forgotten_guards_leak_and_nothing_worse<P: Host>() {
    // A lease: the pages stay pinned and nobody else gets them.
    let w = World::<P>::with(Setup::deadline(1));
    let _in = w.enter();
    let (a, object) = w.object(2);
    // By a thread that ends: this one allocates later.
    let map = thread::scope(|s| {
        let forget = || {
            let _in = w.enter();
            let lease = w.lease(&object);
            let map = w.map(&lease);
            std::mem::forget(lease);
            map
        };
        s.spawn(forget).join().unwrap()
    });
    let before = w.record().page_at(a).unwrap();
    w.process.munmap(a, 2 * PAGE);
    assert_eq!(w.machine.take_outcomes(), [Outcome::TimedOut]);
    assert_eq!((object.state(), w.machine.pins()), (State::Quarantined, 2));
    w.process.mmap_fixed(a, 2 * PAGE, Prot::RW);
    w.process.touch(a, 2 * PAGE, 9).unwrap();
    assert_ne!(w.record().page_at(a).unwrap().frame(), before.frame(), "the old page is nobody else's");
    // The device goes on with the old page: stale, as it must be, but alive.
    assert_eq!(w.engine().read(&map, 0), 1);
    let violations = w.machine.take_violations();
    assert_eq!(violations.len(), 1, "{violations:?}");
    // An owned one, and a reference.
    let (_, other) = w.object(1);
    std::mem::forget(other.acquire_owned().unwrap());
    std::mem::forget(other.clone());
    drop((object, other));
    w.machine.assert_clean_but_pins();
    assert_eq!(w.machine.pins(), 3);
    // Everything of this world leaks: it holds the context for ever.
    drop(_in);
    std::mem::forget(w);
}

fn s52_a_forgotten_acquire_is_detached_by_a_start<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, registered) = w.object(1);
    let n = w.notifier(&registered);
    let object = Bare::new(&n, range(a, PAGE));
    // A ticket that nobody uses.
    let _ticket = Notifier::attach(&object).unwrap();
    assert_eq!(Notifier::attach(&object), Err(AttachError::Busy));
    assert_eq!(n.invalidate_and_wait(range(a, PAGE), Blockable::Yes), Ok(Outcome::Idle));
    n.end(range(a, PAGE));
    assert_eq!(Notifier::state(&object), State::Idle);
    drop((n, object, registered));
    w.finish();
}

crate::on_each_host! {
    s47_unregister_waits_for_a_callback_in_flight,
    s48_an_address_space_ends_with_live_pages,
    s49_the_end_before_the_worker_runs,
    s50_the_worker_drops_the_last_user,
    s51_a_shutdown_drains_everything,
    #[cfg_attr(miri, ignore = "it leaks on purpose")]
    s52_forgotten_guards_leak_and_nothing_worse,
    s52_a_forgotten_acquire_is_detached_by_a_start,
}
