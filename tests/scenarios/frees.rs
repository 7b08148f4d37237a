//! Scenario 121: what a revocation frees, and where.

use crate::world::{Host, Setup, World};
use std::thread;
use userptr::notifier::State;
use userptr_sim::{PAGE, Seam};

/// Pages of an object, unmapped while its revocations run on a queue that is stepped: nothing is
/// freed by the queue, though the handle goes meanwhile, so that the revocation has the last
/// reference.
fn s121_a_revocation_frees_nothing<P: Host>() {
    let w = World::<P>::with_stepped_revocations(Setup::default());
    let _in = w.enter();
    let (a, object) = w.pinned(4);
    let notifier = w.notifier(&object);
    let range = crate::world::range(a, 4 * PAGE);
    let pending = notifier.invalidate_start(range, userptr::Blockable::Yes).unwrap();
    pending.finish_without_waiting();
    assert_eq!(object.state(), State::Revoking);
    drop(object);
    let live = w.machine.meter().live();
    let revokes = w.revoke_queue.as_ref().unwrap();
    assert!(revokes.run_one(), "nothing was queued");
    if P::CHECKS {
        assert_eq!(w.machine.meter().live(), live, "the queue of the revocations freed something");
    }
    assert_eq!((w.count(Seam::Unpin), notifier.stats().attached), (1, 0), "released, and out of the index");
    // SAFETY: begun above, ended once.
    unsafe { notifier.invalidate_end(range) };
    drop(notifier);
    w.work();
    w.finish();
}

/// The same in the thread that invalidates, for an address space without a queue.
fn s121_nor_does_one_in_the_invalidating_thread<P: Host>() {
    let w = World::<P>::with(Setup::default());
    let _in = w.enter();
    let (a, object) = w.pinned(4);
    let live = w.machine.meter().live();
    w.process.dontneed(a, 4 * PAGE);
    assert_eq!((object.state(), w.count(Seam::Unpin)), (State::Idle, 1));
    if P::CHECKS {
        assert_eq!(w.machine.meter().live(), live, "the invalidation freed something");
    }
    // What it left is freed by the next acquire, and by an eviction.
    drop(w.lease(&object));
    if P::CHECKS {
        assert_eq!(w.machine.meter().live(), live, "the next acquire keeps what the last one left");
    }
    object.put_pages().unwrap();
    if P::CHECKS {
        assert!(w.machine.meter().live() < live, "an eviction keeps the page array");
    }
    drop(object);
    w.finish();
}

/// The last handle goes in another thread while the device is waited for.
fn s121_the_last_handle_goes_during_the_revocation<P: Host>() {
    for queued in [false, true] {
        let w = World::<P>::with(Setup::default().threads(1).queued(queued));
        let _in = w.enter();
        let (a, object) = w.pinned(2);
        w.machine.once(Seam::Unpin, move |_| {
            thread::scope(|s| {
                s.spawn(|| drop(object));
            });
        });
        w.process.munmap(a, 2 * PAGE);
        w.work();
        w.finish();
    }
}

crate::on_each_host! {
    s121_a_revocation_frees_nothing,
    s121_nor_does_one_in_the_invalidating_thread,
    s121_the_last_handle_goes_during_the_revocation,
}
