//! The monotonic clock.

use core::time::Duration;
use std::sync::OnceLock;
use std::time::Instant;

extern crate std;

/// The time of the first call: any fixed point will do.
static BEGINNING: OnceLock<Instant> = OnceLock::new();

/// Returns the time since the first call.
pub(super) fn now() -> Duration {
    BEGINNING.get_or_init(Instant::now).elapsed()
}
