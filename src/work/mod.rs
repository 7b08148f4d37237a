//! Work items that carry the type they work on, over the raw items and queues of the platform; and
//! a software queue for platforms that have none.
//!
//! ```text
//!            enqueue (takes a Ref)            worker: clear PENDING, then run
//!   idle ───────────────────────▶ pending ─────────────────────────────────▶ running ──▶ idle
//!            enqueue again: refused, the Ref comes back       enqueue: pending again, runs once more after
//! ```

mod item;
mod list;
mod shared;
mod soft;
mod waiter;

#[doc(hidden)]
pub use item::Settled;
pub use item::{HasWork, Work, cancel, enqueue, flush_item, is_pending};
pub use shared::SharedQueue;
pub use soft::{SoftQueue, SoftWork};
pub use waiter::Waiter;
