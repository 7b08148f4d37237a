//! Objects whose leases are counted in several words: each thread counts in its own.

use super::Stage;
use super::ext::AddressSpaceSide;
use super::stage::{Home, Probe, ProbeRef, World, assert_quiet, invalidate, notifier, pages};
use core::time::Duration;
use std::sync::Arc;
use userptr::notifier::State;
use userptr::{Blockable, Notifier, Outcome};

fn stage<P: Stage>(deadline: Option<Duration>) -> (Home<P>, Arc<World<P>>, ProbeRef<P>) {
    let (home, world) = (notifier::<P>(), World::new());
    let probe = Probe::spread(&home, &world, pages(0, 1), deadline);
    assert!(Probe::acquire(&probe));
    (home, world, probe)
}

/// Takes a lease in another thread, if the pages are still there, and uses them.
fn touch<P: Stage>(probe: &ProbeRef<P>) -> P::Join {
    let probe = probe.clone();
    P::spawn(move || P::met(if Probe::touch(&probe) { "leased" } else { "no lease" }))
}

/// An invalidation waits for the leases of every word, and none opens again before the next commit.
pub fn leases_against_an_invalidation<P: Stage>() {
    let (home, world, probe) = stage::<P>(None);
    let t = touch(&probe);
    assert!(Probe::touch(&probe));
    invalidate(&home, &world, pages(0, 1), &probe);
    assert!(!Probe::touch(&probe), "a word stayed open");
    P::join(t);
    assert!(Probe::acquire(&probe) && Probe::touch(&probe), "a word stayed closed");
    assert_eq!(Notifier::revoke(&probe), Outcome::Idle);
    drop(probe);
    assert_quiet(&home, &world);
}

/// The deadline passes while two words may have leases: the last lease of all, and no other,
/// finishes the release.
pub fn two_words_past_the_deadline<P: Stage>() {
    let (home, world, probe) = stage::<P>(Some(Duration::ZERO));
    let t = touch(&probe);
    let lease = Notifier::lease(probe.clone()).unwrap();
    assert_eq!(home.invalidate_and_wait(pages(0, 1), Blockable::Yes).unwrap(), Outcome::TimedOut);
    home.end(pages(0, 1));
    Probe::check(&lease);
    drop(lease);
    P::join(t);
    assert_eq!((world.pins(), Notifier::state(&probe)), (0, State::Idle), "the last lease did not finish");
    drop(probe);
    assert_quiet(&home, &world);
}

/// A lease is dropped by another thread than the one that took it: it counts where it was taken.
pub fn lease_dropped_elsewhere<P: Stage>() {
    let (home, world, probe) = stage::<P>(None);
    let lease = Notifier::lease(probe.clone()).unwrap();
    let t = P::spawn(move || {
        Probe::check(&lease);
        drop(lease);
    });
    invalidate(&home, &world, pages(0, 1), &probe);
    P::join(t);
    assert_eq!(probe.leases(), 0);
    drop(probe);
    assert_quiet(&home, &world);
}
