//! Races whose outcomes are known: every one of them is seen, and no other.
//!
//! One outcome that never comes would say that the race under test is not run; an unknown one fails
//! in the body.

use crate::cases::ext::AddressSpaceSide;
use crate::cases::stage::{Probe, World, assert_quiet, notifier, pages};
use crate::cases::{Stage, queue, refcount};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use userptr::platforms::std::Std;
use userptr::{Blockable, Outcome};

/// The most rounds to wait for the last outcome.
const ROUNDS: usize = if cfg!(miri) { 200 } else { 200_000 };

/// Runs the race until each of `expected` has come.
fn enumerate<T: Ord + Debug>(expected: &[T], race: impl Fn(usize) -> T) {
    let mut seen = BTreeSet::new();
    for round in 0..ROUNDS {
        let outcome = race(round);
        assert!(expected.contains(&outcome), "an impossible outcome: {outcome:?}");
        seen.insert(outcome);
        if seen.len() == expected.len() {
            return;
        }
    }
    panic!("of {expected:?} only {seen:?} came in {ROUNDS} rounds");
}

/// Lets the other thread run, for longer in each of sixteen rounds: starting a thread takes Miri
/// more steps than a whole race.
fn pause(round: usize) {
    (0..round % 16).for_each(|_| thread::yield_now());
}

#[test]
fn upgrade_against_last_put_both_ways() {
    enumerate(&[false, true], |round| refcount::upgrade::<Std>(|| pause(round)));
}

#[test]
fn second_enqueue_accepted_and_refused() {
    enumerate(&[false, true], |round| queue::queued_twice::<Std>(|| pause(round)));
}

/// A start meets two objects that are being acquired one after the other: none is there, one, or
/// both.
#[test]
fn start_finds_every_prefix_of_the_tree() {
    enumerate(&[0, 1, 2], |round| {
        let (home, world) = (notifier::<Std>(), World::new());
        let probes = [Probe::new(&home, &world, pages(0, 2)), Probe::new(&home, &world, pages(1, 2))];
        let found = Arc::new(AtomicUsize::new(0));
        let t = {
            let (home, found) = (home.clone(), found.clone());
            Std::spawn(move || {
                // Later in every round.
                (0..round % 6).for_each(|_| thread::yield_now());
                let stopping = home.invalidate_start(pages(1, 1), Blockable::Yes).unwrap();
                // Whatever is attached from here on overlaps the window and is refused.
                found.store(home.stats().attached, Ordering::Relaxed);
                assert_eq!(stopping.finish(), Outcome::Idle);
                home.end(pages(1, 1));
            })
        };
        for probe in &probes {
            Probe::acquire(probe);
            thread::yield_now();
        }
        Std::join(t);
        drop(probes);
        assert_quiet(&home, &world);
        found.load(Ordering::Relaxed)
    });
}
