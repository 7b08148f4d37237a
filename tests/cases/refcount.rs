//! The count alone.

use super::Stage;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use userptr::platform::{Cell, LockClass, Platform, SpinLock};
use userptr::refcount::{LastPut, Ref, RefCounted, Refcount};

struct Data<P: Platform>(P::Cell<u32>);
// SAFETY: the model's threads write before their drop, and the release reads: the checker looks.
unsafe impl<P: Platform> Send for Data<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for Data<P> {}
// SAFETY: nothing to settle, nothing points to it.
unsafe impl<P: Platform> RefCounted<P> for Data<P> {
    unsafe fn last_put(&self) -> LastPut {
        // Everything that any holder did happens before the release.
        self.0.with_mut(|_| ());
        LastPut::Drop
    }
}

/// Bare drops, with no lock to hide a missing ordering.
pub fn two_drops<P: Stage>() {
    let a: Ref<Data<P>, P> = Ref::try_new(Data(<P::Cell<_> as Cell<_>>::new(7))).unwrap();
    let b = a.clone();
    let t = P::spawn(move || {
        b.0.with(|_| ());
        drop(b);
    });
    a.0.with(|_| ());
    drop(a);
    P::join(t);
}

/// A table with one weak edge: a count and the data that its zero releases.
struct Entry<P: Platform> {
    count: Refcount<P>,
    data: P::Cell<bool>,
}

struct Table<P: Platform> {
    edge: SpinLock<P, bool>,
    entry: Entry<P>,
}
// SAFETY: `data` is written by the release only, after the edge is cut under the lock: the checker
// looks.
unsafe impl<P: Platform> Send for Table<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for Table<P> {}

impl<P: Platform> Table<P> {
    fn new() -> Arc<Self> {
        let this = Arc::new(Self {
            edge: SpinLock::<P, _>::uninit(LockClass::NOTIFIER, true),
            entry: Entry { count: Refcount::new(), data: <P::Cell<_> as Cell<_>>::new(true) },
        });
        // SAFETY: once, in place.
        unsafe { this.edge.init() };
        this
    }

    fn release(&self) {
        // SAFETY: settled, not held.
        unsafe { self.edge.with(|linked| *linked = false) };
        self.free();
    }

    fn free(&self) {
        // SAFETY: the last reference is gone: the checker looks.
        self.entry.data.with_mut(|d| unsafe {
            assert!(*d, "freed twice");
            *d = false;
        });
    }

    fn use_it(&self) {
        // SAFETY: under a reference: the checker looks.
        self.entry.data.with(|d| unsafe { assert!(*d, "used after the release") });
    }
}

pub fn upgrade_against_last_put<P: Stage>() {
    upgrade::<P>(|| ());
}

/// Whether the upgrade came before the last put, which comes after `pause`.
pub fn upgrade<P: Stage>(pause: impl FnOnce()) -> bool {
    let table = Table::<P>::new();
    let upgraded = Arc::new(AtomicBool::new(false));
    let t = {
        let (table, upgraded) = (table.clone(), upgraded.clone());
        P::spawn(move || {
            // SAFETY: settled, not held.
            let got = unsafe { table.edge.with(|linked| *linked && table.entry.count.get_unless_zero()) };
            upgraded.store(got, Ordering::Relaxed);
            if got {
                table.use_it();
                if table.entry.count.put() {
                    table.release();
                }
            }
        })
    };
    pause();
    table.use_it();
    if table.entry.count.put() {
        table.release();
    }
    P::join(t);
    assert_eq!(table.entry.count.count(), 0);
    // SAFETY: everybody has joined.
    table.entry.data.with(|d| unsafe { assert!(!*d, "never released") });
    let upgraded = upgraded.load(Ordering::Relaxed);
    P::met(if upgraded { "upgraded" } else { "too late" });
    upgraded
}

/// The look-up takes a plain count: allowed, because `put_and_lock` lets no look-up meet a zero.
pub fn put_and_lock_against_lookup<P: Stage>() {
    let table = Table::<P>::new();
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let table = table.clone();
            P::spawn(move || {
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
                P::met(if got { "found" } else { "too late" });
            })
        })
        .collect();
    table.use_it();
    last(&table);
    for t in threads {
        P::join(t);
    }
    assert_eq!(table.entry.count.count(), 0);
    // SAFETY: everybody has joined.
    table.entry.data.with(|d| unsafe { assert!(!*d, "never released") });
}

fn last<P: Platform>(table: &Table<P>) {
    // SAFETY: settled, not held.
    if let Some(mut guard) = unsafe { table.entry.count.put_and_lock(&table.edge) } {
        guard.with(|linked| *linked = false);
        drop(guard);
        table.free();
    }
}
