//! Small programs whose every outcome is known: what the search of loom meets of them, as it is and
//! repaired.

use crate::explore::{Explored, explore, met};
use loom::sync::atomic::Ordering::{Relaxed, SeqCst};
use loom::sync::atomic::{AtomicUsize, fence};
use loom::thread;
use std::sync::Arc;

/// One program.
struct Program {
    name: &'static str,
    body: fn(),
    /// Every outcome that the memory model allows: the repaired search meets them all, and no
    /// other.
    outcomes: &'static [&'static str],
    /// Executions of the repaired search.
    executions: usize,
    /// What the search of loom 0.7.3 meets, and in how many executions.
    stock: (&'static [&'static str], usize),
}

/// A load that is hidden by the writer's own load (tokio-rs/loom#392).
fn load_beside_load_store() {
    let x = Arc::new(AtomicUsize::new(0));
    let y = x.clone();
    let writer = thread::spawn(move || {
        y.load(Relaxed);
        y.store(1, Relaxed);
    });
    met(x.load(Relaxed).to_string());
    writer.join().unwrap();
}

/// The same with a read-modify-write, and two loads that must not go back.
fn two_loads_beside_load_cas() {
    let x = Arc::new(AtomicUsize::new(0));
    let y = x.clone();
    let writer = thread::spawn(move || {
        y.load(Relaxed);
        y.compare_exchange(0, 1, Relaxed, Relaxed).unwrap();
    });
    let (first, second) = (x.load(Relaxed), x.load(Relaxed));
    met(format!("{first} {second}"));
    writer.join().unwrap();
}

/// Two threads that load beside one that loads and stores: each load is hidden by the others.
fn two_loaders_beside_load_store() {
    let x = Arc::new(AtomicUsize::new(0));
    let (y, z) = (x.clone(), x.clone());
    let loader = thread::spawn(move || y.load(Relaxed));
    let writer = thread::spawn(move || {
        z.load(Relaxed);
        z.store(1, Relaxed);
    });
    let here = x.load(Relaxed);
    met(format!("{here} {}", loader.join().unwrap()));
    writer.join().unwrap();
}

/// Two compare-exchanges, each behind a load of its own: one of them succeeds, and the loads say
/// how far the other one was.
fn two_load_cas() {
    let x = Arc::new(AtomicUsize::new(0));
    let run = |x: Arc<AtomicUsize>, new| {
        let seen = x.load(Relaxed);
        let won = x.compare_exchange(0, new, Relaxed, Relaxed).is_ok();
        format!("{seen} {}", if won { "won" } else { "lost" })
    };
    let y = x.clone();
    let other = thread::spawn(move || run(y, 2));
    let here = run(x, 1);
    met(format!("{here} | {}", other.join().unwrap()));
}

/// Store buffering: complete in loom as it is.
fn store_buffering() {
    let words = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let there = words.clone();
    let other = thread::spawn(move || {
        there[1].store(1, Relaxed);
        there[0].load(Relaxed)
    });
    words[0].store(1, Relaxed);
    let here = words[1].load(Relaxed);
    met(format!("{here} {}", other.join().unwrap()));
}

/// Store buffering with fences, and a word that says how far the other thread is.
fn fence_behind_two_stores() {
    let words = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0)]);
    let there = words.clone();
    let other = thread::spawn(move || {
        let [x, y, z] = &*there;
        x.store(1, Relaxed);
        z.store(1, Relaxed);
        fence(SeqCst);
        y.load(Relaxed)
    });
    let [x, y, z] = &*words;
    y.store(1, Relaxed);
    let seen = z.load(Relaxed);
    fence(SeqCst);
    let here = x.load(Relaxed);
    met(format!("z{seen} x{here} y{}", other.join().unwrap()));
}

const PROGRAMS: &[Program] = &[
    Program {
        name: "load | load; store",
        body: load_beside_load_store,
        outcomes: &["0", "1"],
        executions: 6,
        stock: (&["0"], 1),
    },
    Program {
        name: "load; load | load; cas",
        body: two_loads_beside_load_cas,
        outcomes: &["0 0", "0 1", "1 1"],
        executions: 17,
        stock: (&["0 0"], 1),
    },
    Program {
        name: "load | load | load; store",
        body: two_loaders_beside_load_store,
        outcomes: &["0 0", "0 1", "1 0", "1 1"],
        executions: 68,
        stock: (&["0 0"], 3),
    },
    Program {
        name: "load; cas | load; cas",
        body: two_load_cas,
        outcomes: &["0 won | 0 lost", "0 won | 1 lost", "0 lost | 0 won", "2 lost | 0 won"],
        executions: 19,
        stock: (&["0 won | 0 lost", "0 won | 1 lost", "0 lost | 0 won"], 7),
    },
    Program {
        name: "store; load | store; load",
        body: store_buffering,
        outcomes: &["0 0", "0 1", "1 0", "1 1"],
        executions: 30,
        stock: (&["0 0", "0 1", "1 0", "1 1"], 30),
    },
    // The memory model allows "z1 x0 y1", too. No search of loom meets it: a fence is no point at
    // which another thread can take over, it runs with the access before it.
    Program {
        name: "store; store; fence; load | ...",
        body: fence_behind_two_stores,
        outcomes: &["z0 x0 y1", "z0 x1 y0", "z0 x1 y1", "z1 x1 y0", "z1 x1 y1"],
        executions: 54,
        stock: (&["z0 x0 y1", "z0 x1 y0", "z0 x1 y1", "z1 x1 y0", "z1 x1 y1"], 54),
    },
];

/// Which search runs the programs.
#[derive(Clone, Copy, PartialEq)]
pub enum Search {
    /// The registry's loom.
    Stock,
    /// The repaired copy.
    Repaired,
}

/// Runs the programs, and fails if the search meets other outcomes than it is known for. For the
/// registry's loom this shows the hole, and fails when it is closed.
pub fn check(search: Search) -> Result<(), String> {
    for program in PROGRAMS {
        let found = explore(None, program.body);
        let hole = program.stock.0.len() < program.outcomes.len();
        if search == Search::Stock && hole && outcomes(&found) == sorted(program.outcomes) {
            return Err(format!(
                "{}: every outcome is met: loom has closed the hole of its search (tokio-rs/loom#392). Remove the repair: \
                 loom-tests/loom, repair.rs, and what the documentation of the loom platform says of it",
                program.name
            ));
        }
        match search {
            Search::Stock => compare(program, "stock", &found, program.stock)?,
            Search::Repaired => compare(program, "repaired", &found, (program.outcomes, program.executions))?,
        }
    }
    Ok(())
}

fn compare(
    program: &Program,
    search: &str,
    found: &Explored,
    expected: (&[&str], usize),
) -> Result<(), String> {
    println!(
        "{:<32} {search:<10} {:>4} executions: {}",
        program.name,
        found.executions,
        outcomes(found).join(", ")
    );
    if outcomes(found) == sorted(expected.0) && found.executions == expected.1 {
        return Ok(());
    }
    Err(format!(
        "{}: the {search} search was to meet {} in {} executions",
        program.name,
        sorted(expected.0).join(", "),
        expected.1
    ))
}

fn outcomes(found: &Explored) -> Vec<&str> {
    found.outcomes.keys().map(String::as_str).collect()
}

fn sorted<'a>(outcomes: &[&'a str]) -> Vec<&'a str> {
    let mut outcomes = outcomes.to_vec();
    outcomes.sort_unstable();
    outcomes
}
