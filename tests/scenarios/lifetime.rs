//! Scenarios 38 to 46: who lives how long.

use crate::world::{Host, Setup, World, rounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use userptr::notifier::State;
use userptr::{Client, Error, Flags};
use userptr_sim::{PAGE, Prot, Seam, Space};

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
    // The release is under way: the handle is gone, and a start that meets the node waits, but does
    // not take the object.
    let n = w.ctx.registry().len();
    assert_eq!(n, 1);
    let gate = w.hold(Seam::WaitIdle);
    let ended = AtomicBool::new(false);
    thread::scope(|s| {
        s.spawn(|| {
            let _in = w.enter();
            client.close(handle).unwrap();
        });
        gate.reached();
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
        drop(gate);
    });
    assert_eq!((w.count(Seam::Stop), w.count(Seam::Unmap), w.count(Seam::Unpin)), (1, 1, 1));
    drop(client);
    w.finish();
}

fn s39_the_last_reference_is_dropped_by_the_cancel<P: Host>() {
    for queued in [false, true] {
        let w = World::<P>::with(Setup::default().threads(1).queued(queued));
        let _in = w.enter();
        let (a, object) = w.pinned(1);
        let dropped = Arc::new(AtomicUsize::new(0));
        let seen = dropped.clone();
        // The cancel holds the only reference from here on.
        w.machine.once(Seam::Unpin, move |_| {
            assert_eq!(object.handles(), 2);
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
            let w = World::<P>::with(Setup::default().threads(1).queued(queued));
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

fn s41_two_closes_and_an_invalidation<P: Host>() {
    let w = World::<P>::with(Setup::default().threads(1));
    let _in = w.enter();
    for _ in 0..rounds(500) {
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
    object.export().unwrap();
    object.export().unwrap();
    drop(w.lease(&object));
    object.export().unwrap();
    assert_eq!(object.state(), State::Ready, "it is exported: nothing to do");
    assert_eq!((w.stats(&object).attached, w.record().registered()), (1, 1));
    w.process.munmap(a, PAGE);
    assert_eq!((w.stats(&object).attached, w.machine.pins()), (0, 0));
    drop(object);
    // Two threads export at once.
    for _ in 0..rounds(50) {
        let a = w.memory(1);
        let object = w.try_create(a, PAGE, Flags::UNSYNCHRONIZED.bits()).unwrap();
        drop(w.lease(&object));
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    let _in = w.enter();
                    object.export().unwrap();
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
    // Nobody watches: the caller broke its promise, and the device has a stale page. It is alive,
    // at least.
    w.process.mmap_fixed(a, PAGE, Prot::RW);
    w.process.store(a, 2).unwrap();
    assert_eq!(w.read(&w.lease(&object), 0), 1);
    assert_eq!(w.machine.take_violations().len(), 1);
    object.export().unwrap();
    assert_eq!((object.state(), w.machine.pins()), (State::Idle, 0));
    assert_eq!(w.read(&w.lease(&object), 0), 2);
    w.process.munmap(a, PAGE);
    assert_eq!(object.state(), State::Idle);
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
    assert_eq!(w.ctx.register_raw(&space, PAGE, PAGE, 0).unwrap_err(), Error::Fault);
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
    assert_eq!(object.export(), Err(Error::Interrupted));
    assert!(!object.is_watched());
    drop(w.lease(&object));
    assert_eq!(object.export(), Ok(()));
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
                for _ in 0..rounds(500) {
                    let object = w.create(a, 1);
                    if let Ok(lease) = object.try_acquire() {
                        let _ = w.read(&lease, 0);
                    }
                }
            });
        }
    });
    w.finish();
}

crate::on_each_host! {
    s38_a_dying_object_is_not_found,
    s39_the_last_reference_is_dropped_by_the_cancel,
    s40_a_close_against_an_invalidation_in_every_order,
    s41_two_closes_and_an_invalidation,
    s42_a_double_export_is_one_node,
    s43_a_late_registration_revokes_what_is_there,
    s44_registration_on_a_dead_address_space,
    s45_an_interrupted_registration_leaves_nothing,
    s46_the_last_put_of_a_record_against_a_look_up,
}
