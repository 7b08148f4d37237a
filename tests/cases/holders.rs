//! Leases past the deadline, quarantines, and starts that are not finished.

use super::Stage;
use super::ext::AddressSpaceSide;
use super::stage::{Home, Probe, ProbeRef, World, assert_quiet, notifier, pages};
use core::time::Duration;
use std::sync::Arc;
use userptr::notifier::State;
use userptr::{Blockable, Notifier, Outcome};

fn stage<P: Stage>(deadline: Option<Duration>) -> (Home<P>, Arc<World<P>>, ProbeRef<P>) {
    let (home, world) = (notifier::<P>(), World::new());
    let probe = Probe::with_deadline(&home, &world, pages(0, 1), deadline);
    assert!(Probe::acquire(&probe));
    (home, world, probe)
}

/// Two holders of an object whose cancel gave up: the last one finishes it, after everything that
/// the other did.
pub fn two_holders_past_the_deadline<P: Stage>() {
    let (home, world, probe) = stage::<P>(Some(Duration::ZERO));
    let holds = [0, 1].map(|_| Notifier::lease(probe.clone()).unwrap());
    assert_eq!(home.invalidate_and_wait(pages(0, 1), Blockable::Yes).unwrap(), Outcome::TimedOut);
    home.end(pages(0, 1));
    let [one, other] = holds;
    let t = P::spawn(move || {
        Probe::check(&one);
        drop(one);
    });
    Probe::check(&other);
    drop(other);
    P::join(t);
    assert_eq!(
        (world.pins(), Notifier::state(&probe)),
        (0, State::Idle),
        "the last lease did not finish the cancel"
    );
    drop(probe);
    assert_quiet(&home, &world);
}

/// A device that is late again when its cancel is tried again, by two threads: one cancel, one
/// reference, released once.
pub fn quarantined_twice<P: Stage>() {
    let (home, world, probe) = stage::<P>(None);
    world.set_stuck(true);
    assert_eq!(home.invalidate_and_wait(pages(0, 1), Blockable::Yes).unwrap(), Outcome::TimedOut);
    home.end(pages(0, 1));
    let t = {
        let home = home.clone();
        P::spawn(move || {
            let _ = home.retry_quarantined();
        })
    };
    let _ = home.retry_quarantined();
    P::join(t);
    let stats = home.stats();
    assert_eq!((stats.quarantined, world.pins(), userptr::Ref::count(&probe)), (1, 1, 2), "{stats:?}");
    assert!((2..=3).contains(&stats.quarantined_ever), "{stats:?}");
    world.set_stuck(false);
    assert_eq!(home.retry_quarantined(), Outcome::Idle);
    assert_eq!(userptr::Ref::count(&probe), 1);
    drop(probe);
    assert_quiet(&home, &world);
}

/// A start that is begun and dropped does all that it would do if it were finished: its own
/// cancels, and the wait for others'.
pub fn dropped_start<P: Stage>() {
    let (home, world, probe) = stage::<P>(None);
    let t = {
        let (home, world) = (home.clone(), world.clone());
        P::spawn(move || {
            drop(home.invalidate_start(pages(0, 1), Blockable::Yes).unwrap());
            world.zap();
            home.end(pages(0, 1));
        })
    };
    let stopping = home.invalidate_start(pages(0, 2), Blockable::Yes).unwrap();
    drop(stopping);
    // Through the cell, which the checker orders.
    probe.assert_released();
    home.end(pages(0, 2));
    P::join(t);
    drop(probe);
    assert_quiet(&home, &world);
}

/// A start that may not wait is refused when no slot is free for its window: it leaves none behind
/// the slots, either.
pub fn refused_without_a_slot<P: Stage>() {
    let (home, world, probe) = stage::<P>(None);
    (0..P::WINDOWS).for_each(|_| home.open_window(pages(9, 1)));
    let t = {
        let home = home.clone();
        P::spawn(move || {
            if home.invalidate_and_wait(pages(0, 1), Blockable::No).is_ok() {
                home.end(pages(0, 1));
            }
        })
    };
    assert_eq!(Notifier::revoke(&probe), Outcome::Idle);
    P::join(t);
    assert_eq!(home.stats().windows, P::WINDOWS);
    assert!(Probe::acquire(&probe), "a refused start left its window open");
    (0..P::WINDOWS).for_each(|_| home.end(pages(9, 1)));
    drop(probe);
    assert_quiet(&home, &world);
}

/// Which of two neighbours in the index is evicted while a start looks for `probe`.
enum Evicted {
    Probe,
    Neighbour,
}

/// The neighbour, which lies below, leaves the index while a start looks for the object: it finds
/// it.
pub fn neighbour_below<P: Stage>() {
    eviction_of_two::<P>(0, Evicted::Neighbour);
}

pub fn neighbour_above<P: Stage>() {
    eviction_of_two::<P>(4, Evicted::Neighbour);
}

/// The object is evicted, and its neighbour stays: a start over the object alone that takes no lock
/// has the unpin behind it, too.
pub fn eviction_beside_a_neighbour_below<P: Stage>() {
    eviction_of_two::<P>(0, Evicted::Probe);
}

pub fn eviction_beside_a_neighbour_above<P: Stage>() {
    eviction_of_two::<P>(4, Evicted::Probe);
}

/// Two objects are attached, and one is evicted, while a start comes for the first. The neighbour
/// has page `at`.
fn eviction_of_two<P: Stage>(at: usize, evicted: Evicted) {
    let (home, world) = (notifier::<P>(), World::new());
    let probe = Probe::new(&home, &world, pages(2, 1));
    let neighbour = Probe::new(&home, &World::new(), pages(at, 1));
    assert!(Probe::acquire(&probe) && Probe::acquire(&neighbour));
    let evicted = match evicted {
        Evicted::Probe => probe.clone(),
        Evicted::Neighbour => neighbour.clone(),
    };
    let t = P::spawn(move || assert_eq!(Notifier::revoke(&evicted), Outcome::Idle));
    assert_eq!(home.invalidate_and_wait(pages(2, 1), Blockable::Yes).unwrap(), Outcome::Idle);
    probe.assert_released();
    world.zap();
    home.end(pages(2, 1));
    P::join(t);
    drop((probe, neighbour));
    assert_quiet(&home, &world);
}
