//! What to do, and what came of it.

use std::time::Duration;
use userptr::Error;

/// Who looks after the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Default,
    Strict,
    /// The program brackets its changes.
    #[cfg(feature = "exact")]
    Explicit,
    /// A seccomp listener brackets them.
    #[cfg(feature = "exact")]
    Exact,
    /// Nobody: unsynchronised objects, which need `CAP_SYS_ADMIN`. What shows that the check can
    /// fail.
    Control,
}

impl Mode {
    /// Whether changes have an exact start and end.
    pub(crate) fn is_bracketed(self) -> bool {
        !matches!(self, Self::Default | Self::Strict | Self::Control)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) threads: usize,
    /// Ends when one of the two is reached.
    pub(crate) operations: u64,
    pub(crate) time: Duration,
    pub(crate) seed: u64,
    pub(crate) mode: Mode,
    /// Of a thousand operations, so many are discards.
    pub(crate) discards: u32,
    /// Every so manieth hit is verified by content.
    pub(crate) verify: u64,
    /// A thread ends after so many operations, and another begins.
    pub(crate) life: u64,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            threads: 2,
            operations: u64::MAX,
            time: Duration::from_secs(30),
            seed: 1,
            mode: Mode::Default,
            discards: 5,
            verify: 8,
            life: 5_000,
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) operations: u64,
    pub(crate) lookups: u64,
    pub(crate) hits: u64,
    /// Hits whose I/O was compared with the memory.
    pub(crate) verified: u64,
    /// Of those: the device was on other pages.
    pub(crate) stale: u64,
    /// Hits at an address where nothing was mapped, and where the I/O went well.
    pub(crate) on_nothing: u64,
    /// Requests that were cancelled, because the buffer was taken away after the look-up.
    pub(crate) cancelled: u64,
    pub(crate) io_errors: u64,
    /// Look-ups on memory that was mapped, and that no operation had changed for 100 ms.
    pub(crate) untouched: u64,
    pub(crate) untouched_hits: u64,
    /// Refused look-ups, by their error.
    pub(crate) again: u64,
    pub(crate) busy: u64,
    pub(crate) fault: u64,
    pub(crate) timed_out: u64,
    pub(crate) other: u64,
    /// What an operating system call refused, so that nothing was changed.
    pub(crate) skipped: u64,
    pub(crate) unmaps: u64,
    pub(crate) moves: u64,
    pub(crate) discards: u64,
    pub(crate) heaps: u64,
    pub(crate) forks: u64,
    /// Another thread unmapped while this one mapped anew.
    pub(crate) reuses: u64,
    /// Threads that have come and gone.
    pub(crate) threads: u64,
    /// Objects that were quarantined, and unmappers that strict mode let go at last.
    pub(crate) quarantined: u64,
    pub(crate) overdue: u64,
}

impl Tally {
    pub(crate) fn refuse(&mut self, error: Error) {
        *match error {
            Error::Again => &mut self.again,
            Error::Busy => &mut self.busy,
            Error::Fault | Error::Unpinnable => &mut self.fault,
            Error::TimedOut => &mut self.timed_out,
            _ => &mut self.other,
        } += 1;
    }

    /// Every field, by its name.
    fn fields(&mut self) -> [(&'static str, &mut u64); 25] {
        [
            ("operations", &mut self.operations),
            ("look-ups", &mut self.lookups),
            ("  hits", &mut self.hits),
            ("  hits verified by content", &mut self.verified),
            ("  STALE", &mut self.stale),
            ("  STALE, on nothing", &mut self.on_nothing),
            ("  cancelled requests", &mut self.cancelled),
            ("  other I/O errors", &mut self.io_errors),
            ("look-ups, untouched for 100 ms", &mut self.untouched),
            ("  hits", &mut self.untouched_hits),
            ("refused: EAGAIN", &mut self.again),
            ("refused: EBUSY", &mut self.busy),
            ("refused: EFAULT", &mut self.fault),
            ("refused: ETIMEDOUT", &mut self.timed_out),
            ("refused: other", &mut self.other),
            ("skipped by the kernel", &mut self.skipped),
            ("unmaps", &mut self.unmaps),
            ("moves", &mut self.moves),
            ("discards", &mut self.discards),
            ("heap", &mut self.heaps),
            ("forks", &mut self.forks),
            ("reuses before the unmap returned", &mut self.reuses),
            ("threads", &mut self.threads),
            ("quarantined", &mut self.quarantined),
            ("overdue (strict mode)", &mut self.overdue),
        ]
    }

    pub(crate) fn add(&mut self, mut other: Self) {
        for ((_, to), (_, from)) in self.fields().into_iter().zip(other.fields()) {
            *to += *from;
        }
    }

    /// The number of accesses to pages that were not those at the address.
    pub(crate) fn wrong(&self) -> u64 {
        self.stale + self.on_nothing
    }

    pub(crate) fn rows(mut self) -> Vec<(&'static str, u64)> {
        self.fields().into_iter().map(|(name, n)| (name, *n)).collect()
    }
}
