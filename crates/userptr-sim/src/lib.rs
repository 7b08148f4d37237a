//! A simulated machine: page frames, page tables, processes, and a device that does DMA behind
//! everybody's back.
//!
//! It is what a scenario runs on that needs no real kernel. The real operations (`munmap`,
//! `mremap`, `fork`, copy-on-write, reclaim, exit) are made of the steps that a kernel makes them
//! of: start callbacks, page-table clear, free, end callbacks. Between any two a test can run code
//! ([`Machine::once`]), so that a race is a line of the test and not luck.
//!
//! A [`Machine`] remembers what must never happen as [`Violation`]s: a page given back twice, a
//! freed frame touched, a device that reads what the process does not map there any more.
//! [`Machine::assert_clean`] ends every test.
//!
//! The fidelity is that of Linux where it matters here: the zero page is replaced on the first
//! write, inside an invalidation; a fork write-protects the parent; a frame that is unmapped while
//! it is pinned lives until the last unpin; a reclaimed page that is still pinned stays; reclaim
//! and the OOM reaper take no address-space lock; registration excludes open invalidations.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod engine;
mod fault;
mod frames;
mod inject;
mod lock;
mod machine;
mod mm;
mod notify;
mod ops;
mod pin;
pub mod platform;
mod ranges;
mod seam;
mod space;
mod vma;

pub use engine::{DmaMap, Engine, Job};
pub use frames::{CONTENT, Page, PageState};
pub use inject::{Inject, PinFault};
pub use machine::{Entered, Machine, Violation};
pub use mm::{Process, Record};
pub use notify::{Callbacks, Finish, Refused, Subscription};
pub use pin::Pinned;
pub use seam::{Event, Op, Seam};
pub use space::{DmaDevice, Space, SpaceUsers, UserPage};
pub use vma::{Prot, Shared};

/// The page size is `1 << SHIFT` bytes: 4096.
pub const SHIFT: u32 = 12;
/// The page size in bytes.
pub const PAGE: usize = 1 << SHIFT;
/// User addresses lie below this, in bytes; exclusive.
pub const TOP: usize = 1 << if usize::BITS == 64 { 47 } else { usize::BITS - 1 };

#[cfg(test)]
mod tests;

/// The example of the README, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub mod readme {}
