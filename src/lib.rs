//! User memory for devices: pinned while the device uses it, stopped and released before an unmap is declared done.
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "std")]
extern crate std;

// In dependency order: a file imports only from those above it.
pub mod backend;
pub mod docs;
mod error;
pub mod interval;
pub mod platform;
mod range;
pub mod refcount;
pub mod work;

pub use error::Error;
pub use platform::{Platform, RawQueue};
pub use range::AddrRange;
pub use refcount::{Fate, Object, Ref, Refcount};
pub use work::{HasWork, SoftQueue, SoftWork, Work};
