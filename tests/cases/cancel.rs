//! Cancels on a queue.

use super::Stage;
use super::ext::AddressSpaceSide;
use super::queue::worker;
use super::stage::{
    Home, Probe, ProbeRef, Queue, World, assert_quiet, invalidate, pages, queue, queued_notifier,
    start_zap_end,
};
use std::sync::Arc;
use userptr::{Blockable, Notifier, Outcome, Ref};

fn stage<P: Stage>() -> (Queue<P>, Home<P>, Arc<World<P>>, ProbeRef<P>) {
    let (queue, world) = (queue::<P>(), World::new());
    let home = queued_notifier(&queue);
    let probe = Probe::new(&home, &world, pages(0, 1));
    (queue, home, world, probe)
}

fn assert_all_quiet<P: Stage>(queue: &Queue<P>, home: &Home<P>, world: &World<P>) {
    assert_quiet(home, world);
    assert!(queue.is_empty(), "cancels left");
    assert_eq!(Ref::count(queue), 2, "references to the queue left");
}

/// The object is acquired again while its cancel's function still runs; the next start's cancel is
/// accepted and runs again.
pub fn reacquired_while_cancel_runs<P: Stage>() {
    let (queue, home, world, probe) = stage::<P>();
    assert!(Probe::acquire(&probe));
    let w = worker(&queue);
    for _ in 0..2 {
        // Returns when the object is out of the index, which is before the end of the cancel's
        // function.
        invalidate(&home, &world, pages(0, 1), &probe);
        Probe::acquire(&probe);
        assert!(Probe::touch(&probe));
    }
    queue.shut_down();
    P::join(w);
    drop(probe);
    assert_all_quiet(&queue, &home, &world);
}

/// An acquire is superseded and the object acquired and revoked again at any point of it: at no
/// attach is a cancel pending, which `attach` itself asserts.
pub fn attached_and_pending<P: Stage>() {
    let (queue, home, world, probe) = stage::<P>();
    let t = {
        let (queue, home, probe) = (queue.clone(), home.clone(), probe.clone());
        P::spawn(move || {
            for _ in 0..2 {
                home.invalidate_start(pages(0, 1), Blockable::Yes).unwrap().finish_without_waiting();
                while queue.run_one() {}
                home.end(pages(0, 1));
                Probe::acquire(&probe);
            }
        })
    };
    Probe::acquire(&probe);
    P::join(t);
    drop(probe);
    assert_all_quiet(&queue, &home, &world);
}

/// The last reference goes while the cancel is queued, runs, or ends: it is released once, and a
/// start that comes meanwhile waits.
pub fn last_put_in_queued_cancel<P: Stage>() {
    let (queue, home, world, probe) = stage::<P>();
    assert!(Probe::acquire(&probe));
    let w = worker(&queue);
    home.invalidate_start(pages(0, 1), Blockable::Yes).unwrap().finish_without_waiting();
    drop(probe);
    assert_eq!(home.invalidate_and_wait(pages(0, 2), Blockable::Yes).unwrap(), Outcome::Idle);
    assert_eq!(world.pins(), 0, "a start returned before the cancel had unpinned");
    home.end(pages(0, 2));
    home.end(pages(0, 1));
    queue.shut_down();
    P::join(w);
    assert_all_quiet(&queue, &home, &world);
}

/// The queue is shut down while a start queues its cancel: it is drained, or refused and run by the
/// start.
pub fn shut_down_against_start<P: Stage>() {
    let (queue, home, world, probe) = stage::<P>();
    assert!(Probe::acquire(&probe));
    let w = {
        let queue = queue.clone();
        P::spawn(move || {
            queue.shut_down();
            queue.work();
        })
    };
    start_zap_end(&home, &world, pages(0, 1));
    P::join(w);
    assert!(!Notifier::is_revoke_pending(&probe));
    drop(probe);
    assert_all_quiet(&queue, &home, &world);
}
