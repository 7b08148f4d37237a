//! What is left to the program of the limits that it shares with us: a sixteenth.
//!
//! At the limit of mappings the program's own `mmap` fails and no thread can be spawned, at the
//! limit of descriptors nothing can be opened: a watch is refused before that.

use super::maps::Maps;
use super::refusal::Refusal;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Watches that are made without counting the mappings, at least: a small part of the reserve.
const UNCOUNTED: usize = 64;

/// How many mappings the process may have before a watch is refused.
#[derive(Debug)]
pub(super) struct Mappings {
    /// `vm.max_map_count`, if it can be read.
    most: Option<usize>,
    /// Watches that can be made before the mappings are counted again. To count them takes time in
    /// proportion, so it is done the more seldom, the farther the limit is.
    uncounted: AtomicUsize,
}

impl Mappings {
    pub(super) fn new() -> Self {
        let most = std::fs::read_to_string("/proc/sys/vm/max_map_count").ok();
        let most = most.and_then(|most| most.trim().parse().ok());
        Self { most, uncounted: AtomicUsize::new(0) }
    }

    /// Whether one more watch, which may split two mappings, leaves the reserve alone. For whoever
    /// holds the lock of the watches.
    pub(super) fn check(&self, maps: &Maps) -> Result<(), Refusal> {
        let Some(most) = self.most else { return Ok(()) };
        let uncounted = self.uncounted.load(Ordering::Relaxed);
        if let Some(less) = uncounted.checked_sub(1) {
            self.uncounted.store(less, Ordering::Relaxed);
            return Ok(());
        }
        let mut mapped = 0_usize;
        if !maps.each(|_| mapped = mapped.saturating_add(1)) {
            return Ok(());
        }
        let room =
            without_reserve(most).checked_sub(mapped).ok_or(Refusal::MappingReserve { mapped, most })?;
        // Half of them may be split by watches, the other half is for what the program maps.
        self.uncounted.store((room / 4).max(UNCOUNTED), Ordering::Relaxed);
        Ok(())
    }
}

/// Whether a descriptor of this number leaves the reserve alone: a new one has the lowest number
/// that is free.
pub(super) fn check_descriptor(number: i32) -> Result<(), Refusal> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the answer.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Ok(());
    }
    let most = usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX);
    let number = usize::try_from(number).unwrap_or(0);
    if number < without_reserve(most) { Ok(()) } else { Err(Refusal::DescriptorReserve { number, most }) }
}

fn without_reserve(most: usize) -> usize {
    most.saturating_sub(most / 16)
}
