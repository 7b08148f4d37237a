//! The userptr object: a registered range of user memory that a device uses, and leases on it.
//!
//! | file | what |
//! |---|---|
//! | `object` | the handle |
//! | `body` | what all handles share, and how its pages are released |
//! | `register` | `Context::register`: how an object is made, and what is refused |
//! | `acquire` | the way to a lease: attach, pin, prepare, commit |
//! | `worker` | the same on a queue, where a pin has to wait |
//! | `lease` | the lease |

mod acquire;
mod body;
mod lease;
mod object;
mod register;
mod worker;

pub use lease::{Handle, Lease, LeaseOf, Local, Mapped, Own, OwnedLease};
pub use object::UserPtr;

/// How often the waiting acquire tries before it reports [`Error::Busy`](crate::Error::Busy)
/// ([rule 16](crate::docs::protocol#rule-16)).
pub const RETRIES: usize = 64;
