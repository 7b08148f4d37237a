//! Which objects the calling thread holds leases on: so that asking for what a lease of one's own prevents is refused, and does
//! not wait for ever.

use core::cell::Cell;

/// More leases in one thread than this are not remembered: then the host answers "not that I know".
const REMEMBERED: usize = 8;

std::thread_local! {
    static HELD: Cell<[usize; REMEMBERED]> = const { Cell::new([0; REMEMBERED]) };
}

extern crate std;

/// Puts `with` where `what` stands. `false`: it stands nowhere.
fn replace(what: usize, with: usize) -> bool {
    // A thread that is ending has no memory any more; nothing is remembered then.
    HELD.try_with(|held| {
        let mut all = held.get();
        let Some(slot) = all.iter_mut().find(|slot| **slot == what) else { return false };
        *slot = with;
        held.set(all);
        true
    })
    .unwrap_or(false)
}

/// The thread took a lease on the object at `object`, or gave one back.
pub(crate) fn note(object: usize, taken: bool) {
    let _ = if taken { replace(0, object) } else { replace(object, 0) };
}

/// Whether the thread is known to hold a lease on the object at `object`.
pub(crate) fn holds(object: usize) -> bool {
    HELD.try_with(|held| held.get().contains(&object)).unwrap_or(false)
}
