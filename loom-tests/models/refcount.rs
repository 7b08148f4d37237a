//! The count alone.

use crate::harness::{Model, full};
use crate::stage::LoomRef;
use loom::sync::Arc;
use loom::thread;
use userptr::backend::loom::{Loom, LoomCell};
use userptr::platform::{Cell, LockClass, SpinLock};
use userptr::refcount::{Fate, Object, Ref, Refcount};

pub const MODELS: &[Model] = &[
    full("r1_two_drops_order_the_release", 2, two_drops),
    full("s38_get_unless_zero_against_last_put", 2, upgrade_against_last_put),
    full("s46_put_and_lock_against_lookup", 3, put_and_lock_against_lookup),
];

struct Data(LoomCell<u32>);
// SAFETY: the model's threads write before their drop, and the release reads: loom checks it.
unsafe impl Send for Data {}
// SAFETY: as above.
unsafe impl Sync for Data {}
// SAFETY: nothing to settle, nothing points to it.
unsafe impl Object<Loom> for Data {
    fn last_put(&self) -> Fate {
        // Everything that any holder did happens before the release.
        self.0.with_mut(|_| ());
        Fate::Free
    }
}

/// Bare drops, with no lock to hide a missing ordering.
fn two_drops() {
    let a: LoomRef<Data> = Ref::try_new(Data(<LoomCell<_> as Cell<_>>::new(7))).map_err(|(_, e)| e).unwrap();
    let b = a.clone();
    let t = thread::spawn(move || {
        b.0.with(|_| ());
        drop(b);
    });
    a.0.with(|_| ());
    drop(a);
    t.join().unwrap();
}

/// A table with one weak edge: a count and the data that its zero releases.
struct Entry {
    count: Refcount<Loom>,
    data: LoomCell<bool>,
}

struct Table {
    edge: SpinLock<Loom, bool>,
    entry: Entry,
}
// SAFETY: `data` is written by the release only, after the edge is cut under the lock: loom checks it.
unsafe impl Send for Table {}
// SAFETY: as above.
unsafe impl Sync for Table {}

impl Table {
    fn new() -> Arc<Self> {
        let this = Arc::new(Self {
            edge: SpinLock::<Loom, _>::blank(LockClass::NOTIFIER, true),
            entry: Entry { count: Refcount::new(), data: <LoomCell<_> as Cell<_>>::new(true) },
        });
        // SAFETY: once, in place.
        unsafe { this.edge.settle() };
        this
    }

    fn release(&self) {
        // SAFETY: settled, not held.
        unsafe { self.edge.with(|linked| *linked = false) };
        self.free();
    }

    fn free(&self) {
        // SAFETY: the last reference is gone: loom checks it.
        self.entry.data.with_mut(|d| unsafe {
            assert!(*d, "freed twice");
            *d = false;
        });
    }

    fn use_it(&self) {
        // SAFETY: under a reference: loom checks it.
        self.entry.data.with(|d| unsafe { assert!(*d, "used after the release") });
    }
}

fn upgrade_against_last_put() {
    let table = Table::new();
    let other = table.clone();
    let t = thread::spawn(move || {
        // SAFETY: settled, not held.
        let got = unsafe { other.edge.with(|linked| *linked && other.entry.count.get_unless_zero()) };
        if got {
            other.use_it();
            if other.entry.count.put() {
                other.release();
            }
        }
    });
    table.use_it();
    if table.entry.count.put() {
        table.release();
    }
    t.join().unwrap();
    assert_eq!(table.entry.count.count(), 0);
    // SAFETY: everybody has joined.
    table.entry.data.with(|d| unsafe { assert!(!*d, "never released") });
}

/// The look-up takes a plain count: allowed, because `put_and_lock` lets no look-up meet a zero.
fn put_and_lock_against_lookup() {
    let table = Table::new();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let table = table.clone();
            thread::spawn(move || {
                // SAFETY: settled, not held.
                let got = unsafe {
                    table.edge.with(|linked| {
                        if *linked {
                            assert_ne!(table.entry.count.count(), 0, "a look-up met a dying record");
                            table.entry.count.get();
                        }
                        *linked
                    })
                };
                if got {
                    table.use_it();
                    last(&table);
                }
            })
        })
        .collect();
    table.use_it();
    last(&table);
    for t in threads {
        t.join().unwrap();
    }
    assert_eq!(table.entry.count.count(), 0);
    // SAFETY: everybody has joined.
    table.entry.data.with(|d| unsafe { assert!(!*d, "never released") });
}

fn last(table: &Table) {
    // SAFETY: settled, not held.
    if let Some(mut guard) = unsafe { table.entry.count.put_and_lock(&table.edge) } {
        guard.with(|linked| *linked = false);
        drop(guard);
        table.free();
    }
}
