//! Events for `tracing`, behind the feature of that name. Without it these functions are empty.
//!
//! All of them are called with no lock of this crate held. Those of a revocation come from inside
//! an invalidation: a collector that allocates there must not need what the invalidation holds up.

use crate::error::Error;
use crate::notifier::Event;
use crate::range::AddrRange;

/// The target of every event.
#[cfg(feature = "tracing")]
const TARGET: &str = "userptr";

/// Reports what became of an object's pages.
#[cfg(feature = "tracing")]
pub(crate) fn event(event: Event) {
    match event {
        Event::Revoked(range) => {
            tracing::debug!(target: TARGET, start = range.start(), last = range.last(), "revoked");
        }
        Event::Quarantined(range, outcome) => {
            tracing::warn!(
                target: TARGET, start = range.start(), last = range.last(), outcome = ?outcome, "quarantined"
            );
        }
        Event::Finished(range) => {
            tracing::debug!(target: TARGET, start = range.start(), last = range.last(), "finished");
        }
    }
}

/// Reports how an acquire that found no pages ended: in the caller's thread (`worker` is `false`),
/// where `EAGAIN` also says that a worker goes on, or on a worker.
#[cfg(feature = "tracing")]
pub(crate) fn acquire(range: AddrRange, worker: bool, result: Result<(), Error>) {
    let (start, last) = (range.start(), range.last());
    match result {
        Ok(()) => tracing::debug!(target: TARGET, start, last, worker, "pinned"),
        Err(error) => {
            tracing::debug!(target: TARGET, start, last, worker, error = error.symbol(), "not pinned");
        }
    }
}

#[cfg(not(feature = "tracing"))]
pub(crate) fn event(_: Event) {}

#[cfg(not(feature = "tracing"))]
pub(crate) fn acquire(_: AddrRange, _: bool, _: Result<(), Error>) {}
