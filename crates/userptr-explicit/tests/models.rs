//! The models of this package: the shared bodies on loom, in every interleaving up to the bound.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "tests"
)]

#[allow(dead_code, reason = "one body is for threads alone")]
mod cases;

use cases::Stage;
use loom::thread::JoinHandle;
use userptr::platforms::loom::Loom;

impl Stage for Loom {
    type Join = JoinHandle<()>;
    fn spawn(f: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        loom::thread::spawn(f)
    }
    fn join(join: JoinHandle<()>) {
        join.join().unwrap();
    }
}

fn model(preemptions: usize, body: fn()) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(body);
}

#[test]
fn s220_change_beside_acquire() {
    model(3, cases::change_beside_acquire::<Loom>);
}

#[test]
fn s221_two_overlapping_changes() {
    model(2, cases::two_overlapping_changes::<Loom>);
}

#[test]
fn s222_change_beside_a_late_registration() {
    model(3, cases::change_beside_a_late_registration::<Loom>);
}

#[test]
fn s223_change_beside_the_last_release() {
    model(3, cases::change_beside_the_last_release::<Loom>);
}

#[test]
fn s223_change_beside_an_unregistration() {
    model(3, cases::change_beside_an_unregistration::<Loom>);
}
