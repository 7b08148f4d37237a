//! Real memory, real I/O: scenarios 69 to 76. Each runs in a child process of its own with a
//! deadline, because what goes wrong here hangs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_types,
    reason = "tests"
)]

#[path = "../../examples/stale_pages"]
mod stale {
    #![allow(dead_code, reason = "shared with the example")]
    pub(crate) mod guarded;
    pub(crate) mod io;
    pub(crate) mod memory;
    pub(crate) mod naive;
    pub(crate) mod operations;
}

mod awaited;
mod child;
mod child_drops;
mod device;
mod discards;
mod fork;
mod late;
mod limits;
mod locks;
mod monitor;
mod owner;
mod races;
mod reclaim;
mod refused;
mod ring;
mod stack;
mod strict;
#[path = "../../examples/stress"]
mod stress {
    #![allow(dead_code, reason = "shared with the example")]
    pub(crate) mod bracketed;
    pub(crate) mod buffers;
    pub(crate) mod changes;
    pub(crate) mod plan;
    pub(crate) mod run;
    use crate::stale::{io, memory};
}
mod stressed;
mod threads;
mod told;
mod uffd;
mod unmapped;
#[cfg(feature = "vfio")]
mod vfio;
