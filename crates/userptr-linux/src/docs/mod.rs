//! Pages.

#[doc = include_str!("memory.md")]
pub mod memory {}

#[doc = include_str!("told.md")]
pub mod told {}

#[doc = include_str!("performance.md")]
pub mod performance {}
