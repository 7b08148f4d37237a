//! Scenarios from 165: what the reports and the ends of things say.

use crate::ext::AddressSpaceSide;
use crate::world::{Host, Setup, World, range};
use userptr::{Blockable, Context, Error, Limits, Outcome, SharedQueue};
use userptr_sim::{DmaDevice, Machine, PAGE};

/// The record of one address space is given back while a cancel in another waits for a lease: its
/// release does not.
fn s165_a_release_does_not_wait_for_strangers<P: Host>() {
    let w = World::<P>::with(Setup::default().threads(1).queued(true));
    let _in = w.enter();
    let (a, held) = w.pinned(1);
    // Of no thread: this one allocates meanwhile.
    let lease = w.lease(&held).into_owned();
    w.notifier(&held).invalidate_start(range(a, PAGE), Blockable::Yes).unwrap().finish_without_waiting();
    {
        let other = w.machine.process();
        let _in = w.machine.enter(&other);
        let b = other.mmap(PAGE);
        other.touch(b, PAGE, 1).unwrap();
        let object = w.ctx.register_raw(&userptr_sim::Space::of(&other), b, PAGE, 0).unwrap();
        drop(object.acquire().unwrap());
        drop(object);
        // Returns when the record has been released, and not when the lease is gone.
        w.ctx.registry().flush();
        assert_eq!(w.ctx.stats().spaces, 1);
        assert_eq!(other.record().registered(), 0);
    }
    assert!(lease.is_revoked());
    drop(lease);
    w.ctx.drain();
    assert_eq!(w.machine.pins(), 0);
    w.notifier(&held).end(range(a, PAGE));
    drop(held);
    w.finish();
}

/// A lease that a cancel waits for is still a lease.
fn s166_leases_are_counted_while_a_cancel_waits<P: Host>() {
    let w = World::<P>::with(Setup::deadline(10));
    let _in = w.enter();
    let (a, object) = w.pinned(1);
    assert_eq!(object.leases(), 0);
    let leases = [w.lease(&object), w.lease(&object)];
    assert_eq!(object.leases(), 2);
    let n = w.notifier(&object);
    let stopping = n.invalidate_start(range(a, PAGE), Blockable::Yes).unwrap();
    assert_eq!(object.leases(), 2, "closed to new ones");
    assert_eq!(stopping.finish(), Outcome::TimedOut);
    for (lease, left) in leases.into_iter().zip([1, 0]) {
        drop(lease);
        assert_eq!(object.leases(), left, "quarantined");
    }
    assert_eq!(w.machine.pins(), 0);
    n.end(range(a, PAGE));
    drop((n, object));
    w.finish();
}

/// Ends are told apart by their range alone: one that was never started closes an open window of
/// its range, and no other.
fn s167_an_end_closes_one_window_of_its_range<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, object) = w.object(1);
    let n = w.notifier(&object);
    for _ in 0..2 {
        assert_eq!(n.invalidate_and_wait(range(a, PAGE), Blockable::Yes), Ok(Outcome::Idle));
    }
    n.end(range(a, 2 * PAGE));
    n.end(range(a + PAGE, PAGE));
    assert_eq!(n.stats().windows, 2, "no window of those ranges");
    n.end(range(a, PAGE));
    assert_eq!(n.stats().windows, 1);
    assert_eq!(object.try_acquire().err(), Some(Error::Again));
    n.end(range(a, PAGE));
    n.end(range(a, PAGE));
    assert_eq!(n.stats().windows, 0, "one end too many closes nothing");
    drop(w.lease(&object));
    drop((n, object));
    w.finish();
}

/// A device that allows for no pin worker could never be given what a worker has to pin: refused,
/// with the device given back.
fn s168_no_pin_workers_are_refused<P: Host>() {
    let machine = Machine::new();
    let queue = || SharedQueue::<P>::try_new().unwrap();
    let device = DmaDevice::<P>::with_limits(&machine, Limits::default().max_workers(0));
    let refused = Context::builder(device).pin_queue(queue()).release_queue(queue()).build();
    assert_eq!(refused.unwrap_err().error, Error::Invalid);
}

crate::on_each_host! {
    s165_a_release_does_not_wait_for_strangers,
    s166_leases_are_counted_while_a_cancel_waits,
    s167_an_end_closes_one_window_of_its_range,
    s168_no_pin_workers_are_refused,
}
