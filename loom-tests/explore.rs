//! Explores a model, and takes the census of its outcomes.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use userptr::platforms::loom::{Deadlines, set_deadlines};

/// What this execution met so far.
static NOW: Mutex<Vec<String>> = Mutex::new(Vec::new());
/// Each outcome, and in how many executions it was met.
static SEEN: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

/// Records a part of this execution's outcome. The parts are sorted: which thread said its own
/// first says nothing.
pub fn met(part: impl Into<String>) {
    NOW.lock().unwrap().push(part.into());
}

/// What an exploration found.
#[derive(Debug)]
pub struct Explored {
    pub executions: usize,
    /// Each outcome, and in how many executions it was met.
    pub outcomes: BTreeMap<String, usize>,
}

/// Explores every interleaving of `body`, up to `bound` preemptions. Panics if one of them does.
/// One exploration at a time.
pub fn explore(bound: Option<usize>, body: impl Fn() + Send + Sync + 'static) -> Explored {
    static EXECUTIONS: AtomicUsize = AtomicUsize::new(0);
    EXECUTIONS.store(0, Ordering::Relaxed);
    NOW.lock().unwrap().clear();
    SEEN.lock().unwrap().clear();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = bound;
    // Room for the longest executions; a model that needs more does not end.
    builder.max_branches = 20_000;
    builder.check(move || {
        // Threads that the body did not join have ended by now, and not when it did.
        if EXECUTIONS.fetch_add(1, Ordering::Relaxed) > 0 {
            end_execution();
        }
        // Models of deadlines explore "it has passed" at every point; the others have none.
        set_deadlines(Deadlines::AtOnce);
        body();
    });
    end_execution();
    Explored {
        executions: EXECUTIONS.load(Ordering::Relaxed),
        outcomes: std::mem::take(&mut *SEEN.lock().unwrap()),
    }
}

fn end_execution() {
    let mut parts = std::mem::take(&mut *NOW.lock().unwrap());
    parts.sort();
    *SEEN.lock().unwrap().entry(parts.join(", ")).or_default() += 1;
}
