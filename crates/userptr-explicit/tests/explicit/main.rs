//! The explicit address space on the standard platform: scenarios 220 to 229.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::undocumented_unsafe_blocks,
    reason = "tests"
)]

#[path = "../cases/mod.rs"]
mod cases;
mod changes;
#[cfg(all(target_os = "linux", not(miri)))]
mod processes;
