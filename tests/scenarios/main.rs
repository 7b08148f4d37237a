//! The numbered scenarios on the simulated machine, each on the plain host and on the one that
//! checks.
//!
//! | scenarios | file |
//! |---|---|
//! | 1-10 | `inputs` |
//! | 11-13 | `tests/interval` |
//! | 14-19 | `pinning` |
//! | 20-26 | `windows` (24: unit test of `notifier::windows`) |
//! | 27-37 | `workers` |
//! | 38-46 | `lifetime` |
//! | 47-52 | `endings` |
//! | 53-59, 85 | `locks` |
//! | 60-68 | `sharing` (66: `memory`) |
//! | 69-76 | `crates/userptr-linux/tests/linux`, on real memory |
//! | 77-82 | `corners` |
//! | 83, 84, 86 | `deadlines` |
//! | 140-142 | `reclaim` |
//! | 160-164, 169-179, 186-189, 191 | `tests/cases`, on loom and under Miri |
//! | 165-168 | `edges` |
//! | 180-184 | `faulty` |
//! | 210, 211 | `awaited` |
//! | 260-263 | `records` (262: `faulty`) |
//! | rule 29 | `holders` |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test: it runs on the standard library, and stops where something is wrong"
)]

mod awaited;
mod bare;
mod corners;
mod deadlines;
mod edges;
mod endings;
#[path = "../cases/ext.rs"]
mod ext;
mod faulty;
mod frees;
mod holders;
mod inputs;
mod lifetime;
mod locks;
mod memory;
mod pinning;
mod reclaim;
mod records;
mod sharing;
mod windows;
mod workers;
mod world;
