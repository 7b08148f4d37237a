//! Tracks the objects that the current thread holds leases on, so that a call that would wait for
//! one of them fails with `EDEADLK` instead of deadlocking.

use core::cell::Cell;
extern crate std;

/// The most leases of one thread that are tracked. A lease beyond is not: `holds` returns `false`
/// for it.
const REMEMBERED: usize = 8;

std::thread_local! {
    static HELD: [Cell<usize>; REMEMBERED] = const { [const { Cell::new(0) }; REMEMBERED] };
}

/// Replaces the first `what` by `with`, if there is one.
#[inline]
fn replace(what: usize, with: usize) {
    // A thread that is ending has lost its thread-local data; nothing is tracked then.
    let _ = HELD.try_with(|held| {
        if let Some(slot) = held.iter().find(|slot| slot.get() == what) {
            slot.set(with);
        }
    });
}

/// Records that the thread took a lease on the object at `object`, or dropped one.
#[inline]
pub(crate) fn note(object: usize, taken: bool) {
    if taken { replace(0, object) } else { replace(object, 0) }
}

/// Returns whether the thread is known to hold a lease on the object at `object`.
pub(crate) fn holds(object: usize) -> bool {
    HELD.try_with(|held| held.iter().any(|slot| slot.get() == object)).unwrap_or(false)
}
