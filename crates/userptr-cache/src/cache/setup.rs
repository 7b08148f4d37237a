//! How large a cache is, and what a look-up asks for.

use userptr::Flags;

/// What the device will do with the memory. Part of the key of a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// The device reads. Served by any registration.
    Read,
    /// The device writes, or reads and writes. Never served by a read-only registration.
    Write,
}

impl Access {
    /// Returns the flags of a registration, on a device that can be kept from writing or not.
    pub(super) fn flags(self, read_only: bool) -> Flags {
        if self == Self::Read && read_only { Flags::READ_ONLY } else { Flags::NONE }
    }
}

/// The limits of a cache. Start from [`Setup::default`] and change what differs:
///
/// ```
/// use userptr_cache::Setup;
/// let setup = Setup::default().entries(64).bytes(256 << 20);
/// assert!(!setup.merge);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setup {
    /// The most registrations that are kept; at least one. The tables for all of them are
    /// allocated when the cache is made, and none later. Default: 1024.
    pub entries: usize,
    /// The most bytes that are kept registered, in whole pages. A larger request is served by a
    /// registration that is not kept. Default: what [`Setup::default`] says.
    pub bytes: usize,
    /// Whether a miss registers the hull of the request and of the registrations that overlap or
    /// touch it, in their place. Default: no.
    pub merge: bool,
    /// How many counts of users each registration has: threads with different counts write no line
    /// in common. Rounded up to a power of two, at most 64. Default: 16.
    pub shards: usize,
}

impl Default for Setup {
    /// 1024 registrations. In a Linux process at most half of the memory that it may lock
    /// (`RLIMIT_MEMLOCK`, the soft limit, as it is now); without a limit, and elsewhere, as many
    /// bytes as the registrations have.
    fn default() -> Self {
        Self { entries: 1024, bytes: lockable().wrapping_div(2), merge: false, shards: 16 }
    }
}

impl Setup {
    /// Sets [`entries`](Self::entries).
    #[must_use]
    pub const fn entries(mut self, entries: usize) -> Self {
        self.entries = entries;
        self
    }

    /// Sets [`bytes`](Self::bytes).
    #[must_use]
    pub const fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Sets [`merge`](Self::merge).
    #[must_use]
    pub const fn merge(mut self, merge: bool) -> Self {
        self.merge = merge;
        self
    }

    /// Sets [`shards`](Self::shards).
    #[must_use]
    pub const fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }
}

/// Returns how many bytes the process may lock. A privileged process (`CAP_IPC_LOCK`) may lock
/// more: it can say so with [`Setup::bytes`].
#[cfg(all(target_os = "linux", not(any(miri, test))))]
fn lockable() -> usize {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the place is ours and of the right type.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if done != 0 || limit.rlim_cur == libc::RLIM_INFINITY {
        return usize::MAX;
    }
    usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX)
}

#[cfg(not(all(target_os = "linux", not(any(miri, test)))))]
fn lockable() -> usize {
    usize::MAX
}
