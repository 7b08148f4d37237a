//! Reference counts and counted references: `kref` and `refcount_t`.
//!
//! ```text
//!            get (relaxed)                      last put: release, then acquire
//!   count n ────────────────▶ n + 1    count 1 ───────────────────────────────▶ count 0
//!            get_unless_zero                                                      │
//!   count 0 ────────────────▶ refused                                             ▼
//!                                                            last_put(&self): unlink, stop, release
//!   count ≥ MAX/2: saturated forever,                                             │
//!   never freed                                              Drop ◀───────────────┴─────────▶ Revived
//!                                                            drop, free the memory            the count was raised
//! ```

mod count;
mod reference;

pub use count::Refcount;
pub(crate) use reference::Inner;
pub use reference::{Dying, LastPut, Ref, RefCounted};
