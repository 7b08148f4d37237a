// The links of the README, which are files there, are pages here: the first definition of a name
// counts. Included for rustdoc alone: the copies that the mutants are built from have no README.
//! [kernel]: docs::kernel
//! [vfio]: docs::process#vfio
//! [uring]: docs::process#io_uring
//! [model]: docs::model
//! [platforms]: platforms
//! [protocol]: docs::protocol
//! [orderings]: docs::orderings
//! [scenarios]: docs::scenarios
//! [port_map]: docs::port_map
#![doc = ""]
#![cfg_attr(doc, doc = include_str!("../README.md"))]
//!
//! # Modules, in dependency order
//! A file imports only from modules above its own; `tests/rooms.rs` checks it.
//!
//! | module | what |
//! |---|---|
//! | [`Error`], [`AddrRange`] | plain values: an errno each; ranges with an inclusive last byte |
//! | [`platform`] | what the core asks of its platform |
//! | [`refcount`], [`work`], [`interval`] | the three mechanisms, each usable alone |
//! | [`notifier`] | the invalidation protocol; knows a [`Subscriber`](notifier::Subscriber), not the object |
//! | [`pages`], [`address_space`], [`device`] | page arrays and segments; what is asked of address spaces and of drivers |
//! | [`mm`] | address spaces as a device knows them |
//! | [`Flags`], [`Context`] | flags of registration; what all objects of one device share |
//! | [`userptr`], [`Client`] | the object and its leases; handles for ioctl drivers |
//! | [`platforms`] | the platforms that stay with the core: `std`, `loom`, and the parts of any other |
//!
//! Every error has an errno ([`Error::errno`]). Every allocation can fail, and goes through
//! [`Platform::alloc`].
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "std")]
extern crate std;

// In dependency order: a file imports only from those above it. `tests/rooms.rs` reads this list.
mod error;
mod range;
pub mod platform;
pub mod refcount;
pub mod work;
pub mod interval;
pub mod notifier;
mod trace;
pub mod pages;
pub mod address_space;
pub mod device;
pub mod mm;
mod flags;
mod context;
pub mod userptr;
mod client;
pub mod platforms;
pub mod docs;
#[cfg(feature = "std")]
mod promises;

pub use address_space::{
    AddressSpace, Current, ForeignMemory, NoMemory, OwnedMemory, Usage, Users, WatchKey,
};
pub use client::Client;
pub use context::{Context, ContextBuilder, ContextStats};
pub use device::{Device, Limits, PinnedRange, PlatformOf, Prepare, QueueOf};
pub use error::{Error, Rejected};
pub use flags::Flags;
pub use mm::{MmRecord, MmRef, MmRegistry};
pub use notifier::{Blockable, Event, Notifier, Outcome, WouldBlock};
pub use pages::{Buffer, Segment, SgLimits, SgTable};
pub use platform::{Platform, RawQueue};
pub use range::AddrRange;
pub use refcount::{LastPut, Ref, RefCounted, Refcount};
pub use userptr::{Lease, Mapped, OwnedLease, UserPtr};
pub use work::{HasWork, SharedQueue, SoftQueue, SoftWork, Work};
