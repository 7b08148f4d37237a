//! Pages about the whole.
//!
//! * [`kernel`]: how a driver author adopts the core in a kernel module.
//! * [`process`]: how a program uses it on its own memory, with VFIO, io_uring or a registration
//!   cache.
//! * [`model`]: how to model-check a driver of your own, in 60 lines.
//! * [`protocol`]: flows, lock order, the rules with the place and the check of each.
//! * [`scenarios`]: what the numbers of scenarios stand for, and the test of each.
//! * [`orderings`]: every non-relaxed ordering, as numbered edges.
//! * [`performance`]: what was measured, where, and by which command.
//! * [`port_map`]: the reference driver's functions and ours; its holes.

#[doc = include_str!("protocol.md")]
pub mod protocol {}

#[doc = include_str!("scenarios.md")]
pub mod scenarios {}

#[doc = include_str!("orderings.md")]
pub mod orderings {}

#[doc = include_str!("performance.md")]
pub mod performance {}

#[doc = include_str!("port_map.md")]
pub mod port_map {}

#[doc = include_str!("kernel.md")]
pub mod kernel {}

#[doc = include_str!("process.md")]
pub mod process {}

#[doc = include_str!("model.md")]
pub mod model {}

/// Programs that must not compile.
#[cfg(all(doctest, feature = "std"))]
pub mod soundness;
