#![deny(warnings, rust_2018_idioms)]

//! Programs that the search explores only if an access of a thread does not
//! hide the loads of the other threads.

use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::Relaxed;
use loom::thread;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

/// Checks that the executions of `model` have exactly these outcomes.
fn assert_outcomes<T>(expected: &[T], model: impl Fn() -> T + Send + Sync + 'static)
where
    T: Clone + Debug + Ord + Send + 'static,
{
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let seen_by_model = seen.clone();

    loom::model(move || {
        let outcome = model();
        seen_by_model.lock().unwrap().insert(outcome);
    });

    assert_eq!(*seen.lock().unwrap(), expected.iter().cloned().collect());
}

#[test]
fn load_beside_load_store() {
    assert_outcomes(&[0, 1], || {
        let x = Arc::new(AtomicUsize::new(0));
        let x2 = x.clone();

        let th = thread::spawn(move || {
            x2.load(Relaxed);
            x2.store(1, Relaxed);
        });

        let seen = x.load(Relaxed);
        th.join().unwrap();
        seen
    });
}

#[test]
fn two_loads_beside_load_cas() {
    assert_outcomes(&[(0, 0), (0, 1), (1, 1)], || {
        let x = Arc::new(AtomicUsize::new(0));
        let x2 = x.clone();

        let th = thread::spawn(move || {
            x2.load(Relaxed);
            x2.compare_exchange(0, 1, Relaxed, Relaxed).unwrap();
        });

        let seen = (x.load(Relaxed), x.load(Relaxed));
        th.join().unwrap();
        seen
    });
}

#[test]
fn two_loaders_beside_load_store() {
    assert_outcomes(&[(0, 0), (0, 1), (1, 0), (1, 1)], || {
        let x = Arc::new(AtomicUsize::new(0));
        let (x2, x3) = (x.clone(), x.clone());

        let loader = thread::spawn(move || x2.load(Relaxed));
        let writer = thread::spawn(move || {
            x3.load(Relaxed);
            x3.store(1, Relaxed);
        });

        let seen = x.load(Relaxed);
        writer.join().unwrap();
        (seen, loader.join().unwrap())
    });
}

/// The load of each thread, and whether its compare-exchange succeeded.
#[test]
fn two_load_cas() {
    let lost_late = ((2, false), (0, true));
    let lost = ((0, false), (0, true));
    let won = ((0, true), (0, false));
    let won_early = ((0, true), (1, false));

    assert_outcomes(&[lost_late, lost, won, won_early], || {
        let x = Arc::new(AtomicUsize::new(0));
        let x2 = x.clone();

        let run = |x: &AtomicUsize, new| {
            let seen = x.load(Relaxed);
            (seen, x.compare_exchange(0, new, Relaxed, Relaxed).is_ok())
        };

        let th = thread::spawn(move || run(&x2, 2));
        let here = run(&x, 1);
        (here, th.join().unwrap())
    });
}
