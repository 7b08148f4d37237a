//! What a window's slot says after it was taken again: the two threads meet at a relaxed step, and
//! only what the core orders between them is there. Miri reads old values wherever it may.

use crate::cases::windows;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use userptr::platforms::std::Std;

/// Races per seed.
const ROUNDS: usize = 32;

fn reach(step: &AtomicUsize) {
    while step.load(Ordering::Relaxed) == 0 {
        thread::yield_now();
    }
}

#[test]
fn s160_attach_beside_a_window_above() {
    (0..ROUNDS).for_each(|_| windows::attach_beside_a_window::<Std>(0, 8, reach));
}

#[test]
fn s160_attach_beside_a_window_below() {
    (0..ROUNDS).for_each(|_| windows::attach_beside_a_window::<Std>(8, 0, reach));
}

#[test]
fn s161_two_ends_and_a_third_window() {
    (0..ROUNDS).for_each(|_| windows::two_ends_beside_a_window::<Std>(reach));
}
