//! Address spaces as a device knows them: one record each, found by identity, with the notifier
//! made on first use.
//!
//! ```text
//!   find ──▶ record (count) ──notifier()──▶ allocate ▸ register ▸ publish once, the loser frees its own
//!                │
//!                └─ last put: put_and_lock ▸ unlink under the registry's mutex ▸ a work item on the release queue:
//!                   unregister (waits for callbacks) ▸ drop the address space
//! ```

mod record;
mod registry;

pub use record::{MmRecord, MmRef};
pub use registry::MmRegistry;
