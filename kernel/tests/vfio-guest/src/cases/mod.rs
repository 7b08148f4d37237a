//! The subtests.

mod device;
mod limits;
mod process;
mod stale;

use crate::Case;

pub fn all() -> Vec<Case> {
    [stale::cases(), device::cases(), process::cases(), limits::cases()].into_iter().flatten().collect()
}

/// One row.
const fn case(name: &'static str, faults: usize, run: fn() -> String) -> Case {
    Case { name, faults, run }
}
