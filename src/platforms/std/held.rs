//! Which objects the calling thread holds leases on: so that asking for what a lease of one's own prevents is refused, and does
//! not wait for ever.

use core::cell::Cell;
extern crate std;

/// More leases in one thread than this are not remembered: then the host answers "not that I know".
const REMEMBERED: usize = 8;

std::thread_local! {
    static HELD: [Cell<usize>; REMEMBERED] = const { [const { Cell::new(0) }; REMEMBERED] };
}

/// Puts `with` where `what` stands first, if it stands anywhere.
#[inline]
fn replace(what: usize, with: usize) {
    // A thread that is ending has no memory any more; nothing is remembered then.
    let _ = HELD.try_with(|held| {
        if let Some(slot) = held.iter().find(|slot| slot.get() == what) {
            slot.set(with);
        }
    });
}

/// The thread took a lease on the object at `object`, or gave one back.
#[inline]
pub(crate) fn note(object: usize, taken: bool) {
    if taken { replace(0, object) } else { replace(object, 0) }
}

/// Whether the thread is known to hold a lease on the object at `object`.
pub(crate) fn holds(object: usize) -> bool {
    HELD.try_with(|held| held.iter().any(|slot| slot.get() == object)).unwrap_or(false)
}
