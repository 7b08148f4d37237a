//! The exact address space: every call, every caller. Each in a child process of its own with a
//! deadline: a filter is for ever, and what goes wrong hangs.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::undocumented_unsafe_blocks,
    clippy::disallowed_types,
    reason = "tests"
)]

#[allow(dead_code, reason = "shared with the other tests")]
#[path = "../linux/child.rs"]
mod child;
mod calls;
mod callers;
#[cfg(feature = "uring")]
mod device;
#[cfg(feature = "uring")]
#[allow(dead_code, reason = "shared with the examples")]
#[path = "../../examples/stale_pages/io.rs"]
mod io;
mod world;
