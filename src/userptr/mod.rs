//! The userptr object: a range of user memory that a device uses.

mod acquire;
mod export;
mod lease;
mod object;
mod worker;

pub use lease::{Lease, LeaseOf, Local, Mapped, OwnedLease};
pub use object::{UserPtr, UserPtrRef};

/// How often the waiting acquire tries before it reports [`Error::Busy`](crate::Error::Busy) (rule 16).
pub const RETRIES: usize = 64;
