//! The cache on the simulated machine, and on real memory.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod deaf;
mod limits;
#[cfg(all(target_os = "linux", not(miri)))]
mod linux;
mod lookup;
mod random;
mod sets;
mod storms;
mod world;
