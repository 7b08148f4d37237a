//! Pages about the whole.
//!
//! * [`protocol`]: states, flows, lock order, the 30 rules with the place and the check of each.
//! * [`orderings`]: every non-relaxed ordering, as numbered edges.
//! * [`port_map`]: the reference driver's functions and ours; its holes.
//! * [`kernel`]: how a driver author adopts the core in a kernel module.

#[doc = include_str!("protocol.md")]
pub mod protocol {}

#[doc = include_str!("orderings.md")]
pub mod orderings {}

#[doc = include_str!("port_map.md")]
pub mod port_map {}

#[doc = include_str!("kernel.md")]
pub mod kernel {}

/// Programs that must not compile.
#[cfg(all(doctest, feature = "std"))]
pub mod soundness;
