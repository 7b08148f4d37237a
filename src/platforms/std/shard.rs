//! Numbers the threads, so that they spread over the lease words of an object.

use core::cell::Cell;
use core::sync::atomic::{AtomicUsize, Ordering};

extern crate std;

/// The number of the next thread that asks. 0: has not asked.
static NEXT: AtomicUsize = AtomicUsize::new(1);

std::thread_local! {
    static OWN: Cell<usize> = const { Cell::new(0) };
}

/// Returns the number of the calling thread.
#[inline]
pub(super) fn current() -> usize {
    // A thread that is ending has lost its thread-local data: any number will do.
    OWN.try_with(|own| if own.get() == 0 { number(own) } else { own.get() }).unwrap_or(0)
}

#[cold]
fn number(own: &Cell<usize>) -> usize {
    own.set(NEXT.fetch_add(1, Ordering::Relaxed));
    own.get()
}
