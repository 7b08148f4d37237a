//! Scenarios 27 to 37 and 264: the slow path.

use crate::ext::AddressSpaceSide;
use crate::world::{Host, Setup, World, range, rounds, until};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use userptr::Error;
use userptr::notifier::State;
use userptr_sim::{Op, PAGE, PinFault, Prot, Seam};

fn s27_a_partial_fast_pin_is_given_back_once_and_the_worker_finishes<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let a = w.process.mmap(5 * PAGE);
    w.process.touch(a, 2 * PAGE, 1).unwrap();
    let object = w.create(a, 5);
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    assert_eq!((object.state(), w.machine.pins()), (State::Acquiring, 0));
    assert_eq!(w.count(Seam::Unpin), 1);
    w.work();
    assert_eq!((object.state(), w.machine.pins(), w.record().charged()), (State::Ready, 5, 5));
    assert_eq!(w.lease(&object).pages().len(), 5);
    // A slow pin that gets part goes on from there.
    object.put_pages().unwrap();
    w.machine.inject().fast_pin(PinFault::Part(0));
    w.machine.inject().slow_pin(PinFault::Part(2));
    w.machine.inject().slow_pin(PinFault::Part(1));
    drop(w.lease(&object));
    assert_eq!(w.machine.pins(), 5);
    // One that gets part and then fails gives the part back.
    object.put_pages().unwrap();
    w.machine.inject().fast_pin(PinFault::Part(4));
    w.machine.inject().slow_pin(PinFault::Part(3));
    w.machine.inject().slow_pin(PinFault::Fail(Error::NoMemory));
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    w.work();
    assert_eq!((w.machine.pins(), w.record().charged()), (0, 0));
    assert_eq!(object.try_acquire().unwrap_err(), Error::NoMemory);
    drop(object);
    w.finish();
}

/// In each case worker 1 ends after something newer has been installed, and leaves it alone.
fn s28_a_superseded_worker_that_ends_last_changes_nothing<P: Host>() {
    for seam in [Seam::PinBegin, Seam::Pinned, Seam::Prepare, Seam::Prepared] {
        let w = World::<P>::new();
        let _in = w.enter();
        let a = w.process.mmap(2 * PAGE);
        let object = w.create(a, 2);
        let (process, again, machine) = (w.record().users().unwrap(), object.clone(), w.machine.clone());
        let newer = move || {
            process.dontneed(a, PAGE);
            process.touch(a, 2 * PAGE, 2).unwrap();
            let _in = machine.enter(&process);
            drop(again.try_acquire().unwrap());
        };
        assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
        match seam {
            Seam::PinBegin | Seam::Pinned => w.machine.once_in(Op::SlowPin, seam, move |_| newer()),
            _ => w.machine.once(seam, move |_| newer()),
        }
        w.work();
        assert_eq!((object.state(), w.machine.pins()), (State::Ready, 2), "{seam:?}");
        let lease = object.try_acquire().unwrap();
        assert_eq!(w.read(&lease, 0), 2, "{seam:?}");
        drop(lease);
        drop(object);
        w.finish();
    }
}

fn s29_a_cancel_while_a_worker_pins<P: Host>() {
    for seam in [Seam::PinBegin, Seam::Pinned] {
        let w = World::<P>::new();
        let _in = w.enter();
        let a = w.process.mmap(2 * PAGE);
        let object = w.create(a, 2);
        assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
        assert_eq!(object.handles(), 2, "the worker has a reference");
        let process = w.record().users().unwrap();
        w.machine.once_in(Op::SlowPin, seam, move |_| process.dontneed(a, PAGE));
        w.work();
        assert_eq!((object.state(), w.machine.pins(), object.handles()), (State::Idle, 0, 1));
        // Nothing was wrong, so nothing is reported.
        drop(w.lease(&object));
        drop(object);
        w.finish();
    }
}

/// A large object is pinned in strides, and a worker whose result nobody wants any more does not go
/// on with the next.
fn s29_a_superseded_worker_stops_early<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let pages = 4000;
    let a = w.process.mmap(pages * PAGE);
    let object = w.create(a, pages);
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    let process = w.record().users().unwrap();
    w.machine.once_in(Op::SlowPin, Seam::Pinned, move |_| process.dontneed(a, PAGE));
    let strides =
        || w.machine.trace().iter().filter(|e| e.seam == Seam::Pinned && e.op == Op::SlowPin).count();
    w.work();
    assert_eq!((strides(), w.machine.pins()), (1, 0));
    drop(w.lease(&object));
    assert!(strides() > 4, "it takes several");
    assert_eq!(w.machine.pins(), pages);
    drop(object);
    w.finish();
}

/// The object is closed while its worker pins the first of many strides: the worker has the last
/// reference, and does not bring in the rest of the memory for nobody.
fn s264_the_worker_of_a_closed_object_stops_early<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let pages = 4000;
    let a = w.process.mmap(pages * PAGE);
    let object = w.create(a, pages);
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    w.machine.once_in(Op::SlowPin, Seam::Pinned, move |_| drop(object));
    let strides =
        || w.machine.trace().iter().filter(|e| e.seam == Seam::Pinned && e.op == Op::SlowPin).count();
    w.work();
    assert_eq!((strides(), w.machine.pins()), (1, 0));
    // With another handle somewhere it goes on.
    let object = w.create(a, pages);
    let kept = object.clone();
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    w.machine.once_in(Op::SlowPin, Seam::Pinned, move |_| drop(object));
    w.work();
    assert_eq!((kept.state(), w.machine.pins()), (State::Ready, pages));
    drop(kept);
    w.finish();
}

fn s30_a_fault_sticks_until_the_mapping_changes_or_a_reset<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, object) = w.object(3);
    let fails = |why: &str| {
        for _ in 0..3 {
            assert!(matches!(object.try_acquire(), Err(Error::Fault)), "{why}");
        }
    };
    w.process.munmap(a + PAGE, PAGE);
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    w.work();
    assert_eq!((object.state(), w.machine.pins()), (State::Failed, 0));
    let pins = w.count(Seam::PinBegin);
    fails("it sticks");
    assert_eq!(w.count(Seam::PinBegin), pins, "nothing is tried again");
    // The mapping changes: a start clears it at once, and the new state of things is looked at.
    w.process.mmap_fixed(a + PAGE, PAGE, Prot::RW);
    fails("nothing was unmapped, so nobody was told");
    w.process.munmap(a + 2 * PAGE, PAGE);
    assert_eq!(object.state(), State::Idle);
    w.process.mmap_fixed(a + 2 * PAGE, PAGE, Prot::RW);
    drop(w.lease(&object));
    // By a fast pin's error, and by a reset.
    object.put_pages().unwrap();
    w.machine.inject().fast_pin(PinFault::Fail(Error::Fault));
    fails("a fast pin says so");
    assert!(object.reset() && !object.reset());
    drop(w.lease(&object));
    drop(object);
    w.finish();
}

fn s31_out_of_memory_is_reported_once<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let a = w.process.mmap(2 * PAGE);
    let object = w.create(a, 2);
    for error in [Error::NoMemory, Error::Interrupted, Error::Limit] {
        w.machine.inject().slow_pin(PinFault::Fail(error));
        assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
        w.work();
        assert_eq!(object.state(), State::Idle);
        assert_eq!(object.try_acquire().unwrap_err(), error);
        drop(w.lease(&object));
        object.put_pages().unwrap();
        w.process.dontneed(a, 2 * PAGE);
    }
    // The same of the device's map, on both ways.
    w.machine.inject().prepare(Error::NoMemory);
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    w.work();
    assert_eq!(object.try_acquire().unwrap_err(), Error::NoMemory);
    drop(w.lease(&object));
    object.put_pages().unwrap();
    w.machine.inject().prepare(Error::NoMemory);
    assert_eq!(object.try_acquire().unwrap_err(), Error::NoMemory);
    assert_eq!((object.state(), w.machine.pins()), (State::Idle, 0));
    drop(w.lease(&object));
    drop(object);
    w.finish();
}

fn s32_no_pages_is_an_error_and_no_loop<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (_, object) = w.object(2);
    w.machine.inject().fast_pin(PinFault::Part(0));
    w.machine.inject().slow_pin(PinFault::Part(1));
    w.machine.inject().slow_pin(PinFault::Part(0));
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    w.work();
    assert_eq!(object.try_acquire().unwrap_err(), Error::Fault);
    assert_eq!((w.machine.pins(), w.record().charged()), (0, 0));
    assert!(object.reset());
    drop(w.lease(&object));
    drop(object);
    w.finish();
}

fn s33_the_worker_limit_leaves_nothing_attached<P: Host>() {
    let w = World::<P>::with(Setup::default().limits(|l| l.max_workers = 1));
    let _in = w.enter();
    let a = w.process.mmap(2 * PAGE);
    let (one, two) = (w.create(a, 1), w.create(a + PAGE, 1));
    assert_eq!(one.try_acquire().unwrap_err(), Error::Again);
    for _ in 0..3 {
        assert_eq!(two.try_acquire().unwrap_err(), Error::Again);
        assert_eq!((two.state(), two.handles()), (State::Idle, 1));
    }
    assert_eq!((w.ctx.stats().workers, w.stats(&two).attached), (1, 1));
    w.work();
    assert_eq!(w.ctx.stats().workers, 0);
    drop(w.lease(&one));
    drop(w.lease(&two));
    drop((one, two));
    w.finish();
}

fn s34_a_refused_enqueue_gives_the_reference_back<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let a = w.process.mmap(PAGE);
    let object = w.create(a, 1);
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    w.process.dontneed(a, PAGE);
    assert_eq!(object.state(), State::Idle);
    // The item is still pending: the new ticket is served by its run.
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    assert_eq!((object.handles(), w.ctx.stats().workers), (2, 1));
    assert_eq!(object.state(), State::Acquiring);
    w.work();
    assert_eq!((object.state(), object.handles()), (State::Ready, 1));
    assert_eq!(w.count(Seam::Prepare), 1, "one run for both");
    // Refused for good: the queue is shut down.
    w.process.dontneed(a, PAGE);
    w.pin_queue.shut_down();
    assert_eq!(object.try_acquire().unwrap_err(), Error::ShutDown);
    assert_eq!(object.acquire().unwrap_err(), Error::ShutDown);
    assert_eq!((object.state(), object.handles()), (State::Idle, 1));
    assert_eq!(w.ctx.stats().workers, 0);
    drop(object);
    w.finish();
}

/// The cancel's work item is queued again while its last run has not returned; a lost one would
/// hang the next start. Each attach asserts that no cancel is pending.
fn s35_and_s36_a_cancel_runs_again_for_each_attach<P: Host>() {
    let w = World::<P>::with(Setup::default().queued(true).threads(2));
    let (a, object) = {
        let _in = w.enter();
        w.object(1)
    };
    let stop = AtomicBool::new(false);
    let got = AtomicUsize::new(0);
    thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                let _in = w.enter();
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(lease) = object.try_acquire() {
                        w.write(&lease, 0, 1);
                        got.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let _in = w.enter();
        for _ in 0..rounds(500) {
            let before = got.load(Ordering::Relaxed);
            w.process.dontneed(a, PAGE);
            assert!(!object.is_revoke_pending() || object.state() == State::Revoking);
            w.process.store(a, 1).unwrap();
            until(|| got.load(Ordering::Relaxed) > before);
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(object);
    w.finish();
}

/// Step by step: an object whose cancel is queued is `Revoking`, and cannot be attached.
fn s36_attached_and_cancel_pending_exclude_each_other<P: Host>() {
    let w = World::<P>::with_stepped_revocations(Setup::default());
    let _in = w.enter();
    let (a, object) = w.pinned(1);
    let n = w.notifier(&object);
    for _ in 0..3 {
        let stopping = n.invalidate_start(range(a, PAGE), userptr::Blockable::Yes).unwrap();
        stopping.finish_without_waiting();
        assert!(object.is_revoke_pending());
        assert_eq!(object.state(), State::Revoking);
        n.end(range(a, PAGE));
        assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
        assert_eq!(object.state(), State::Revoking);
        w.work();
        assert!(!object.is_revoke_pending());
        assert_eq!((object.state(), w.machine.pins()), (State::Idle, 0));
        drop(w.lease(&object));
        assert!(!object.is_revoke_pending());
    }
    drop((n, object));
    w.finish();
}

fn s37_constant_invalidation_ends_in_a_defined_error<P: Host>() {
    for slow in [false, true] {
        let w = World::<P>::with(Setup::default().threads(1));
        let _in = w.enter();
        let (a, object) = w.object(1);
        let process = w.record().users().unwrap();
        w.machine.always(Seam::Pinned, move |_| {
            process.dontneed(a, PAGE);
            if !slow {
                process.store(a, 1).unwrap();
            }
        });
        if slow {
            w.process.dontneed(a, PAGE);
        }
        assert_eq!(object.acquire().unwrap_err(), Error::Busy);
        let tries = w.count(Seam::Pinned);
        assert!((2..200).contains(&tries), "{tries} tries");
        w.machine.clear_seams();
        drop(object.acquire().unwrap());
        drop(object);
        w.finish();
    }
}

/// The waiting acquire waits for a window, for a worker and for a cancel, and gets its lease.
fn s37_the_waiting_acquire_waits<P: Host>() {
    let w = World::<P>::with(Setup::deadline(30_000).threads(1));
    let _in = w.enter();
    let a = w.process.mmap(PAGE);
    let object = w.create(a, 1);
    drop(object.acquire().unwrap());
    let n = w.notifier(&object);
    let window = range(a, PAGE);
    assert!(n.invalidate_and_wait(window, userptr::Blockable::Yes).is_ok());
    thread::scope(|s| {
        let waiter = s.spawn(|| {
            let _in = w.enter();
            drop(object.acquire().unwrap());
        });
        assert_eq!(object.state(), State::Idle);
        n.end(window);
        waiter.join().unwrap();
    });
    // A window that stays open for longer than the deadline.
    let w2 = World::<P>::with(Setup::deadline(1));
    let _in = w2.enter();
    let (b, other) = w2.object(1);
    let n2 = w2.notifier(&other);
    assert!(n2.invalidate_and_wait(range(b, PAGE), userptr::Blockable::Yes).is_ok());
    assert_eq!(other.acquire().unwrap_err(), Error::TimedOut);
    n2.end(range(b, PAGE));
    drop(other.acquire().unwrap());
    drop((n2, other));
    drop(_in);
    w2.finish();
    drop((n, object));
    w.finish();
}

crate::on_each_host! {
    s27_a_partial_fast_pin_is_given_back_once_and_the_worker_finishes,
    s28_a_superseded_worker_that_ends_last_changes_nothing,
    s29_a_cancel_while_a_worker_pins,
    s29_a_superseded_worker_stops_early,
    s264_the_worker_of_a_closed_object_stops_early,
    s30_a_fault_sticks_until_the_mapping_changes_or_a_reset,
    s31_out_of_memory_is_reported_once,
    s32_no_pages_is_an_error_and_no_loop,
    s33_the_worker_limit_leaves_nothing_attached,
    s34_a_refused_enqueue_gives_the_reference_back,
    s35_and_s36_a_cancel_runs_again_for_each_attach,
    s36_attached_and_cancel_pending_exclude_each_other,
    s37_constant_invalidation_ends_in_a_defined_error,
    s37_the_waiting_acquire_waits,
}
