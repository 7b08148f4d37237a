//! User memory for devices: pinned while the device uses it, stopped and released before an unmap is declared done.
//!
//! A [`UserPtr`] is a range of a process's own memory that a device works on. Nobody copies it and nobody hands it out: the
//! process may unmap it, move it, discard it or exit at any moment. The promise of this crate is that the device has stopped, and the
//! pages are unpinned, **before** such a change of the range is declared done; and that no lease is ever given on pages that are
//! not what the address means now.
//!
//! ```text
//!   register     Client ──▶ MmRegistry ──▶ Notifier ──▶ UserPtr
//!   acquire      UserPtr ──▶ Notifier (attach) ──▶ AddressSpace (pin) ──▶ Device (prepare) ──▶ Notifier (commit) ──▶ Lease
//!   invalidate   host ──▶ Notifier (start) ──▶ Device (stop, idle, unmap) ──▶ AddressSpace (unpin) ──▶ host ──▶ Notifier (end)
//!   release      UserPtr ──▶ Notifier (detach) ──▶ unpin ──▶ MmRecord ──▶ its work item
//! ```
//!
//! A whole life, on the simulated machine:
//!
//! ```
//! use userptr::platforms::std::{Std, Workers};
//! use userptr::{Context, Limits, Queues, UserPtr};
//! use userptr_sim::{DmaDevice, Machine, PAGE, Space};
//!
//! let machine = Machine::new();
//! let process = machine.process();
//! let (frees, pins) = (Workers::<Std>::start("frees", 1)?, Workers::<Std>::start("pins", 1)?);
//! let queues = Queues { pins: pins.queue().clone(), cancels: None, frees: frees.queue().clone() };
//! let context = Context::try_new(DmaDevice::<Std>::new(&machine, Limits::default()), queues).map_err(|(_, e)| e)?;
//!
//! let _inside = machine.enter(&process);
//! let address = process.mmap(2 * PAGE);
//! process.touch(address, 2 * PAGE, 7)?;
//! let object = Context::create(&context, &Space::of(&process), address, 2 * PAGE, 0)?;
//!
//! let lease = UserPtr::acquire(&object)?;
//! assert_eq!(machine.pins(), 2);
//! drop(lease);
//! // The pages stay pinned for the next lease, until the memory changes.
//! process.dontneed(address, PAGE);
//! assert_eq!(machine.pins(), 0);
//! // New pages, new contents: zero after a discard.
//! let lease = UserPtr::acquire(&object)?;
//! assert_eq!(lease.with(|m| context.device().engine().read(m.map, 0)), 0);
//! # Ok::<(), userptr::Error>(())
//! ```
//!
//! # Where to go on
//! * A driver: implement [`Device`], then [`Context`], [`Client`], [`UserPtr::try_acquire`].
//! * Real memory, in a process: the package `userptr-linux`, with its devices `uring` and `vfio`.
//! * To test a driver: the package `userptr-sim`, a simulated machine and a platform that checks locks and allocations.
//! * A new platform: [`platforms`] says what to implement, and which call comes from which context.
//! * The protocol with its rules and their checks: [`docs::protocol`]; memory orderings: [`docs::orderings`].
//! * From the C of the reference driver: [`docs::port_map`]. In a kernel module: [`docs::kernel`].
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
//! | [`Flags`], [`Context`] | flags of creation; what all objects of one device share |
//! | [`userptr`], [`Client`] | the object and its leases; checks of creation, handles |
//! | [`platforms`] | the platforms that stay with the core: `std`, `loom`, and the parts of any other |
//!
//! # Errors and panics
//! Every error has an errno ([`Error::errno`]). The core never panics and never aborts when memory runs out: every allocation can
//! fail, and goes through [`Platform::alloc`].
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

pub use address_space::{AddressSpace, Current, ForeignMemory, NoMemory, OwnedMemory, Usage, Users};
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

/// The example of the README, compiled and run.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../README.md")]
pub mod readme {}
