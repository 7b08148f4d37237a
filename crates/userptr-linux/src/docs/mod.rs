//! Pages.

#[doc = include_str!("memory.md")]
pub mod memory {}
