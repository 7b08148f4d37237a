//! Scenarios 38 to 52: who lives how long.
#![cfg(feature = "sim")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test: it runs on the standard library, and stops where something is wrong"
)]

mod common;

use common::{Host, Object, Setup, World, range, until};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use userptr::device::sim::{Op, PAGE, Prot, Seam, Space};
use userptr::notifier::State;
use userptr::{Blockable, Client, Context, Error, Flags, Outcome, Ref, UserPtr};

fn s38_a_dying_object_is_not_found<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let client = Client::open(w.ctx.clone()).unwrap();
    let a = w.memory(1);
    let handle = client.create(&w.space(), a, PAGE, 0).unwrap();
    {
        let object = client.lookup(handle).unwrap();
        drop(w.lease(&object));
    }
    // The release is under way: the handle is gone, and a start that meets the node waits, but does not take the object.
    let n = w.ctx.registry().len();
    assert_eq!(n, 1);
    let (to_release, releasing) = channel();
    let (to_go_on, go_on) = channel::<()>();
    w.machine.once(Seam::WaitIdle, move |_| {
        to_release.send(()).unwrap();
        let _ = go_on.recv();
    });
    let ended = AtomicBool::new(false);
    thread::scope(|s| {
        s.spawn(|| {
            let _in = w.enter();
            client.close(handle).unwrap();
        });
        releasing.recv().unwrap();
        assert_eq!(client.lookup(handle).unwrap_err(), Error::NoEntry);
        assert_eq!(client.close(handle).unwrap_err(), Error::NoEntry);
        let (to_begin, begun) = channel();
        w.machine.once(Seam::Before, move |_| to_begin.send(()).unwrap());
        s.spawn(|| {
            w.process.munmap(a, PAGE);
            ended.store(true, Ordering::SeqCst);
        });
        begun.recv().unwrap();
        assert!(!ended.load(Ordering::SeqCst));
        assert_eq!(w.machine.pins(), 1);
        drop(to_go_on);
    });
    assert_eq!((w.count(Seam::Stop), w.count(Seam::Unmap), w.count(Seam::Unpin)), (1, 1, 1));
    drop(client);
    w.finish();
}

fn s39_the_last_reference_is_dropped_by_the_cancel<P: Host>() {
    for queued in [false, true] {
        let mut setup = Setup::default().threads(1);
        setup.queued = queued;
        let w = World::<P>::with(setup);
        let _in = w.enter();
        let (a, object) = w.pinned(1);
        let dropped = Arc::new(AtomicUsize::new(0));
        let seen = dropped.clone();
        // The cancel holds the only reference from here on.
        w.machine.once(Seam::Unpin, move |_| {
            assert_eq!(Ref::count(&object), 2);
            drop(object);
            seen.store(1, Ordering::SeqCst);
        });
        w.process.munmap(a, PAGE);
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        w.work();
        assert_eq!(w.record().registered(), 0, "the record went with the object");
        w.finish();
    }
}

/// The close of a handle at every step of an invalidation, and the other way round.
fn s40_a_close_against_an_invalidation_in_every_order<P: Host>() {
    let seams = [
        Seam::Before,
        Seam::Stop,
        Seam::WaitIdle,
        Seam::Unmap,
        Seam::Unpin,
        Seam::Started,
        Seam::Cleared,
        Seam::Ended,
    ];
    for queued in [false, true] {
        for seam in seams {
            let mut setup = Setup::default().threads(1);
            setup.queued = queued;
            let w = World::<P>::with(setup);
            let _in = w.enter();
            let (a, object) = w.pinned(1);
            w.machine.once(seam, move |_| drop(object));
            w.process.dontneed(a, PAGE);
            let counts = [Seam::Stop, Seam::Unmap, Seam::Unpin].map(|s| w.count(s));
            assert_eq!(counts, [1, 1, 1], "closed at {seam:?}, queued: {queued}");
            w.finish();
        }
    }
    for seam in [Seam::Stop, Seam::WaitIdle, Seam::Unmap, Seam::Unpin] {
        let w = World::<P>::new();
        let _in = w.enter();
        let (a, object) = w.pinned(1);
        let process = w.record().users().unwrap();
        let (to_thread, invalidation) = channel();
        let (to_begin, begun) = channel();
        w.machine.once(Seam::Before, move |_| to_begin.send(()).unwrap());
        w.machine.once(seam, move |_| {
            to_thread.send(thread::spawn(move || process.munmap(a, PAGE))).unwrap();
            begun.recv().unwrap();
        });
        drop(object);
        invalidation.recv().unwrap().join().unwrap();
        assert_eq!([Seam::Stop, Seam::Unmap, Seam::Unpin].map(|s| w.count(s)), [1, 1, 1], "{seam:?}");
        w.finish();
    }
}

const ROUNDS: usize = if cfg!(miri) { 10 } else { 500 };

fn s41_two_closes_and_an_invalidation<P: Host>() {
    let w = World::<P>::with(Setup::default().threads(1));
    let _in = w.enter();
    for _ in 0..ROUNDS {
        w.machine.clear_trace();
        let (a, object) = w.pinned(1);
        let other = object.clone();
        let gate = std::sync::Barrier::new(3);
        thread::scope(|s| {
            for object in [object, other] {
                let gate = &gate;
                s.spawn(move || {
                    gate.wait();
                    drop(object);
                });
            }
            gate.wait();
            w.process.munmap(a, PAGE);
            assert_eq!(w.machine.pins(), 0);
        });
        assert_eq!([Seam::Unmap, Seam::Unpin].map(|s| w.count(s)), [1, 1]);
    }
    w.finish();
}

fn s42_a_double_export_is_one_node<P: Host>() {
    let w = World::<P>::new();
    w.record().set_capable(true);
    let _in = w.enter();
    let a = w.memory(1);
    let object = w.try_create(a, PAGE, Flags::UNSYNCHRONIZED.bits()).unwrap();
    UserPtr::export(&object).unwrap();
    UserPtr::export(&object).unwrap();
    drop(w.lease(&object));
    UserPtr::export(&object).unwrap();
    assert_eq!(UserPtr::state(&object), State::Ready, "it is exported: nothing to do");
    assert_eq!((w.stats(&object).attached, w.record().registered()), (1, 1));
    w.process.munmap(a, PAGE);
    assert_eq!((w.stats(&object).attached, w.machine.pins()), (0, 0));
    drop(object);
    // Two threads export at once.
    for _ in 0..ROUNDS / 10 {
        let a = w.memory(1);
        let object = w.try_create(a, PAGE, Flags::UNSYNCHRONIZED.bits()).unwrap();
        drop(w.lease(&object));
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    let _in = w.enter();
                    UserPtr::export(&object).unwrap();
                });
            }
        });
        drop(w.lease(&object));
        assert_eq!(w.stats(&object).attached, 1);
        w.process.munmap(a, PAGE);
        assert_eq!(w.machine.pins(), 0);
    }
    w.finish();
}

fn s43_a_late_registration_revokes_what_is_there<P: Host>() {
    let w = World::<P>::new();
    w.record().set_capable(true);
    let _in = w.enter();
    let a = w.memory(1);
    let object = w.try_create(a, PAGE, Flags::UNSYNCHRONIZED.bits()).unwrap();
    drop(w.lease(&object));
    // Nobody watches: the caller broke its promise, and the device has a stale page. It is alive, at least.
    w.process.mmap_fixed(a, PAGE, Prot::RW);
    w.process.store(a, 2).unwrap();
    assert_eq!(w.read(&w.lease(&object), 0), 1);
    assert_eq!(w.machine.take_violations().len(), 1);
    UserPtr::export(&object).unwrap();
    assert_eq!((UserPtr::state(&object), w.machine.pins()), (State::Idle, 0));
    assert_eq!(w.read(&w.lease(&object), 0), 2);
    w.process.munmap(a, PAGE);
    assert_eq!(UserPtr::state(&object), State::Idle);
    drop(object);
    w.finish();
}

fn s44_registration_on_a_dead_address_space<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let other = w.machine.process();
    let space = Space::<P>::of(&other);
    other.exit();
    let live = w.machine.meter().live();
    assert_eq!(Context::create(&w.ctx, &space, PAGE, PAGE, 0).unwrap_err(), Error::Fault);
    w.work();
    assert_eq!((w.machine.meter().live(), w.ctx.stats().spaces), (live, 0));
    drop(space);
    w.finish();
}

fn s45_an_interrupted_registration_leaves_nothing<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let a = w.memory(1);
    for error in [Error::Interrupted, Error::NoMemory, Error::Limit] {
        let live = w.machine.meter().live();
        w.machine.inject().register(error);
        assert_eq!(w.try_create(a, PAGE, 0).unwrap_err(), error);
        w.work();
        assert_eq!((w.machine.meter().live(), w.ctx.stats().spaces), (live, 0));
        drop(w.create(a, 1));
        w.work();
    }
    // By an export: the object goes on unsynchronised.
    w.record().set_capable(true);
    let object = w.try_create(a, PAGE, Flags::UNSYNCHRONIZED.bits()).unwrap();
    w.machine.inject().register(Error::Interrupted);
    assert_eq!(UserPtr::export(&object), Err(Error::Interrupted));
    assert!(!object.is_watched());
    drop(w.lease(&object));
    assert_eq!(UserPtr::export(&object), Ok(()));
    drop(object);
    w.finish();
}

fn s46_the_last_put_of_a_record_against_a_look_up<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, object) = w.object(1);
    // The record is unlinked, and its free work has not run: a look-up makes a new one.
    drop(object);
    assert_eq!((w.ctx.stats().spaces, w.record().registered()), (0, 1));
    let object = w.create(a, 1);
    assert_eq!((w.ctx.stats().spaces, w.record().registered()), (1, 2));
    w.work();
    assert_eq!((w.ctx.stats().spaces, w.record().registered()), (1, 1));
    drop(w.lease(&object));
    drop(object);
    w.finish();

    let w = World::<P>::with(Setup::default().threads(1));
    let a = {
        let _in = w.enter();
        w.memory(1)
    };
    thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                let _in = w.enter();
                for _ in 0..ROUNDS {
                    let object = w.create(a, 1);
                    if let Ok(lease) = UserPtr::try_acquire(&object) {
                        let _ = w.read(&lease, 0);
                    }
                }
            });
        }
    });
    w.finish();
}

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
        let mut setup = Setup::default().threads(1);
        setup.queued = queued;
        let w = World::<P>::with(setup);
        let other = w.machine.process();
        let (a, object) = {
            let _in = other.enter();
            let a = other.mmap(2 * PAGE);
            other.touch(a, 2 * PAGE, 1).unwrap();
            (a, Context::create(&w.ctx, &Space::of(&other), a, 2 * PAGE, 0).unwrap())
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
        assert_eq!(UserPtr::state(&object), State::Idle);
        assert!(w.stats(&object).dead);
        let _in = w.machine.enter_nobody();
        for _ in 0..3 {
            assert_eq!(UserPtr::try_acquire(&object).unwrap_err(), Error::Fault);
            assert_eq!(UserPtr::acquire(&object).unwrap_err(), Error::Fault);
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
        Context::create(&w.ctx, &Space::of(&other), a, PAGE, 0).unwrap()
    };
    {
        let _in = other.enter();
        assert_eq!(UserPtr::try_acquire(&object).unwrap_err(), Error::Again);
    }
    other.exit();
    w.work();
    let _in = w.machine.enter_nobody();
    assert_eq!(UserPtr::try_acquire(&object).unwrap_err(), Error::Fault);
    drop(object);
    // Unsynchronised: nobody is told of the end; the worker finds out.
    let other = w.machine.process();
    other.record().set_capable(true);
    let object: Object<P> = {
        let _in = other.enter();
        let a = other.mmap(PAGE);
        let flags = Flags::UNSYNCHRONIZED.bits();
        let object = Context::create(&w.ctx, &Space::of(&other), a, PAGE, flags).unwrap();
        assert_eq!(UserPtr::try_acquire(&object).unwrap_err(), Error::Again);
        object
    };
    other.exit();
    w.work();
    assert_eq!(UserPtr::try_acquire(&object).unwrap_err(), Error::Fault);
    drop(object);
    drop(_in);
    w.finish();
}

/// The machine fails the test if the users are dropped under any lock; see `users_dropped_under_a_lock_are_caught` there.
fn s50_the_worker_drops_the_last_user<P: Host>() {
    for seam in [Seam::PinBegin, Seam::Pinned] {
        let w = World::<P>::new();
        let other = w.machine.process();
        let object: Object<P> = {
            let _in = other.enter();
            let a = other.mmap(PAGE);
            let object = Context::create(&w.ctx, &Space::of(&other), a, PAGE, 0).unwrap();
            assert_eq!(UserPtr::try_acquire(&object).unwrap_err(), Error::Again);
            object
        };
        let record = other.record().clone();
        w.machine.once_in(Op::SlowPin, seam, move |_| other.exit());
        w.work();
        assert!(!record.is_alive());
        assert_eq!(w.machine.pins(), 0);
        let _in = w.machine.enter_nobody();
        assert_eq!(UserPtr::try_acquire(&object).unwrap_err(), Error::Fault);
        drop((object, record));
        drop(_in);
        w.finish();
    }
}

fn s51_a_shutdown_drains_everything<P: Host>() {
    for _ in 0..ROUNDS / 10 {
        let w = World::<P>::with(Setup::default().queued().threads(2));
        let _in = w.enter();
        let a = w.process.mmap(8 * PAGE);
        let objects: Vec<_> = (0..8).map(|n| w.create(a + n * PAGE, 1)).collect();
        for object in &objects {
            assert!(UserPtr::try_acquire(object).is_err());
        }
        w.process.dontneed(a, 4 * PAGE);
        drop(objects);
        w.ctx.flush();
        w.ctx.flush();
        w.finish();
    }
}

fn s52_forgotten_guards_leak_and_nothing_worse<P: Host>() {
    // A lease: the pages stay pinned and nobody else gets them.
    let w = World::<P>::with(Setup::deadline(1));
    let _in = w.enter();
    let (a, object) = w.object(2);
    let lease = w.lease(&object);
    let map = w.map(&lease);
    std::mem::forget(lease);
    let before = w.record().page_at(a).unwrap();
    w.process.munmap(a, 2 * PAGE);
    assert_eq!(w.machine.take_outcomes(), [Outcome::TimedOut]);
    assert_eq!((UserPtr::state(&object), w.machine.pins()), (State::Quarantined, 2));
    w.process.mmap_fixed(a, 2 * PAGE, Prot::RW);
    w.process.touch(a, 2 * PAGE, 9).unwrap();
    assert_ne!(w.record().page_at(a).unwrap().frame(), before.frame(), "the old page is nobody else's");
    // The device goes on with the old page: stale, as it must be, but alive.
    assert_eq!(w.engine().read(&map, 0), 1);
    let violations = w.machine.take_violations();
    assert_eq!(violations.len(), 1, "{violations:?}");
    // An owned one, and a reference.
    let (_, other) = w.object(1);
    std::mem::forget(UserPtr::acquire_owned(&other).unwrap());
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
    let (a, object) = w.object(1);
    let n = w.notifier(&object);
    // A ticket that nobody uses.
    let _ticket = userptr::Notifier::attach(&object).unwrap();
    assert_eq!(UserPtr::try_acquire(&object).unwrap_err(), Error::Again);
    assert_eq!(n.invalidate_start(range(a, PAGE), Blockable::Yes), Ok(Outcome::Idle));
    n.invalidate_end(range(a, PAGE));
    drop(w.lease(&object));
    drop((n, object));
    w.finish();
}

on_each_host! {
    s38_a_dying_object_is_not_found,
    s39_the_last_reference_is_dropped_by_the_cancel,
    s40_a_close_against_an_invalidation_in_every_order,
    s41_two_closes_and_an_invalidation,
    s42_a_double_export_is_one_node,
    s43_a_late_registration_revokes_what_is_there,
    s44_registration_on_a_dead_address_space,
    s45_an_interrupted_registration_leaves_nothing,
    s46_the_last_put_of_a_record_against_a_look_up,
    s47_unregister_waits_for_a_callback_in_flight,
    s48_an_address_space_ends_with_live_pages,
    s49_the_end_before_the_worker_runs,
    s50_the_worker_drops_the_last_user,
    s51_a_shutdown_drains_everything,
    #[cfg_attr(miri, ignore = "it leaks on purpose")]
    s52_forgotten_guards_leak_and_nothing_worse,
    s52_a_forgotten_acquire_is_detached_by_a_start,
}
