//! User memory for devices: pinned while the device uses it, stopped and released before an unmap is declared done.
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "std")]
extern crate std;

// In dependency order: a file imports only from those above it.
mod error;
mod range;
pub mod platform;
pub mod refcount;
pub mod work;
pub mod interval;
pub mod notifier;
pub mod pages;
pub mod memory;
pub mod device;
pub mod mm;
mod flags;
mod context;
pub mod object;
mod client;
pub mod backend;
pub mod docs;

pub use client::Client;
pub use context::{Context, ContextStats, Queues};
pub use device::{Device, Host, Limits, Prepare};
pub use error::Error;
pub use flags::Flags;
pub use memory::{AddressSpace, Caller, Usage, Users};
pub use mm::{MmRecord, MmRef, MmRegistry};
pub use notifier::{Blockable, Notifier, Outcome, WouldBlock};
pub use object::{Lease, Mapped, OwnedLease, UserPtr, UserPtrRef};
pub use pages::{Buffer, Segment, SgLimits, SgTable};
pub use platform::{Platform, RawQueue};
pub use range::AddrRange;
pub use refcount::{Fate, Object, Ref, Refcount};
pub use work::{HasWork, SoftQueue, SoftWork, Work};
