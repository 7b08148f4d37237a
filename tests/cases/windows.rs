//! The window slots: taken, given back, and taken again by others.

use super::Stage;
use super::ext::AddressSpaceSide;
use super::stage::{Probe, World, assert_quiet, notifier, pages};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use userptr::{Blockable, Outcome};

/// Where the other thread has got to. Not a step of a model, and orders nothing.
type Step = AtomicUsize;

/// The slot's new range lies above the object: its start alone says so.
pub fn attach_beside_a_window_above<P: Stage>() {
    attach_beside_a_window::<P>(0, 8, |_| ());
}

/// The slot's new range lies below the object: its last address alone says so.
pub fn attach_beside_a_window_below<P: Stage>() {
    attach_beside_a_window::<P>(8, 0, |_| ());
}

/// A window over the object closes and its slot is taken for a range elsewhere, while the object is
/// acquired, which comes after `pause`, with the window still open perhaps: an attach that is let
/// through sees what the invalidation did, though it may read the slot's word from before and its
/// range from after.
pub fn attach_beside_a_window<P: Stage>(at: usize, elsewhere: usize, pause: impl FnOnce(&Step)) {
    let (home, world) = (notifier::<P>(), World::new());
    let probe = Probe::new(&home, &world, pages(at, 1));
    let step = Arc::new(Step::new(0));
    let t = {
        let (home, world, step) = (home.clone(), world.clone(), step.clone());
        P::spawn(move || {
            assert_eq!(home.invalidate_and_wait(pages(at, 1), Blockable::Yes).unwrap(), Outcome::Idle);
            step.store(1, Ordering::Relaxed);
            world.zap();
            home.end(pages(at, 1));
            home.open_window(pages(elsewhere, 1));
        })
    };
    pause(&step);
    Probe::acquire(&probe);
    Probe::touch(&probe);
    P::join(t);
    Probe::touch(&probe);
    home.end(pages(elsewhere, 1));
    drop(probe);
    assert_quiet(&home, &world);
}

/// As above, with the slot taken by a third thread: that one has only its claim to order it after
/// the end.
pub fn attach_beside_a_strangers_window<P: Stage>() {
    let (home, world) = (notifier::<P>(), World::new());
    let probe = Probe::new(&home, &world, pages(0, 1));
    assert_eq!(home.invalidate_and_wait(pages(0, 1), Blockable::Yes).unwrap(), Outcome::Idle);
    let t = {
        let (home, world) = (home.clone(), world.clone());
        P::spawn(move || {
            world.zap();
            home.end(pages(0, 1));
        })
    };
    let s = {
        let home = home.clone();
        P::spawn(move || home.open_window(pages(8, 1)))
    };
    Probe::acquire(&probe);
    Probe::touch(&probe);
    P::join(t);
    P::join(s);
    Probe::touch(&probe);
    home.end(pages(8, 1));
    drop(probe);
    assert_quiet(&home, &world);
}

/// An end beside a start that takes a slot which held a window of the end's range before: it closes
/// its own window, and not the stranger's.
pub fn end_beside_a_start_in_an_old_slot<P: Stage>() {
    let (home, world) = (notifier::<P>(), World::<P>::new());
    for _ in 0..P::WINDOWS {
        home.open_window(pages(0, 1));
    }
    home.end(pages(0, 1));
    let t = {
        let home = home.clone();
        P::spawn(move || (1..P::WINDOWS).for_each(|_| home.end(pages(0, 1))))
    };
    assert_eq!(home.invalidate_and_wait(pages(8, 1), Blockable::Yes).unwrap(), Outcome::Idle);
    P::join(t);
    assert_eq!(home.stats().windows, 1);
    let probes = [0, 8].map(|at| Probe::new(&home, &world, pages(at, 1)));
    assert!(Probe::acquire(&probes[0]), "an end closed another's window, and its own is open");
    assert!(!Probe::acquire(&probes[1]), "an end closed another's window");
    home.end(pages(8, 1));
    drop(probes);
    assert_quiet(&home, &world);
}

pub fn two_ends_and_a_third_window<P: Stage>() {
    two_ends_beside_a_window::<P>(|_| ());
}

/// Two windows of one range. One end takes the slot of the other's start, and that slot is taken
/// for a range elsewhere before the other end, which comes after `pause`: that one finds the second
/// window, wherever it lies. None is lost.
pub fn two_ends_beside_a_window<P: Stage>(pause: impl FnOnce(&Step) + Send + 'static) {
    let (home, world) = (notifier::<P>(), World::<P>::new());
    assert_eq!(home.invalidate_and_wait(pages(0, 1), Blockable::Yes).unwrap(), Outcome::Idle);
    let step = Arc::new(Step::new(0));
    let t = {
        let (home, step) = (home.clone(), step.clone());
        P::spawn(move || {
            pause(&step);
            home.end(pages(0, 1));
        })
    };
    assert_eq!(home.invalidate_and_wait(pages(0, 1), Blockable::Yes).unwrap(), Outcome::Idle);
    home.end(pages(0, 1));
    assert_eq!(home.invalidate_and_wait(pages(8, 1), Blockable::Yes).unwrap(), Outcome::Idle);
    step.store(1, Ordering::Relaxed);
    P::join(t);
    home.end(pages(8, 1));
    let probe = Probe::new(&home, &world, pages(0, 1));
    assert!(Probe::acquire(&probe), "an end was lost: its window stays open for ever");
    drop(probe);
    assert_quiet(&home, &world);
}
