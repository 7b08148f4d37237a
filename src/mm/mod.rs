//! Address spaces as a device knows them: one record each, found by identity, with the notifier made on first use.
//!
//! ```text
//!   find ──▶ record (count) ──notifier()──▶ allocate ▸ register with the host ▸ publish once, the loser frees its own
//!                │
//!                └─ last put: put_and_lock ▸ unlink under the registry's mutex ▸ a work item on the free queue:
//!                   unregister (waits for callbacks) ▸ drop the hold on the address space
//! ```

mod record;
mod registry;

pub use record::{MmRecord, MmRef};
pub use registry::MmRegistry;
