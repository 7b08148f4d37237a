//! What can go wrong, each with the errno that a driver returns for it.

use core::fmt;

/// An error of this crate. Each one has an errno ([`Error::errno`]) that a driver can hand to its caller as it is.
///
/// The names follow the errno rather than the place, because the errno is the contract: `EFAULT` sticks to an
/// object until its mapping changes, everything else is reported once and forgotten (rule 15).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Error {
    /// `EINVAL`: an argument is malformed: an unknown flag, an unaligned address or size, a size of zero.
    Invalid,
    /// `EFAULT`: the range is not, or no longer, memory of that address space.
    Fault,
    /// `ENOMEM`: memory ran out. Nothing was changed; a retry can work.
    NoMemory,
    /// `EAGAIN`: not now: an invalidation is in progress or a worker is still pinning. Retry later.
    Again,
    /// `EBUSY`: retries are used up: the range kept being invalidated.
    Busy,
    /// `ENODEV`: the device or the host lacks the ability that was asked for.
    NoDevice,
    /// `EPERM`: the caller lacks the privilege.
    Permission,
    /// `E2BIG`: more pages or more segments than the device can take.
    TooBig,
    /// `EINTR`: a signal arrived while waiting. Nothing was changed; a retry can work.
    Interrupted,
    /// `ETIMEDOUT`: a deadline passed: the device did not become idle, a lease was still held, or an acquire waited too long.
    TimedOut,
    /// `EIO`: the device is lost; what it was using stays pinned.
    DeviceLost,
    /// `ENOENT`: no object has that handle.
    NoEntry,
    /// `EDEADLK`: the caller holds a lease on what it asks to invalidate.
    Deadlock,
    /// `ENOSPC`: a limit of the host is reached: locked memory, mappings, descriptors or handles.
    Limit,
}

impl Error {
    /// The positive Linux errno of this error, for example 14 for [`Error::Fault`].
    ///
    /// ```
    /// assert_eq!(userptr::Error::Fault.errno(), 14);
    /// ```
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::Permission => 1,
            Self::NoEntry => 2,
            Self::Interrupted => 4,
            Self::DeviceLost => 5,
            Self::TooBig => 7,
            Self::Again => 11,
            Self::NoMemory => 12,
            Self::Fault => 14,
            Self::Busy => 16,
            Self::NoDevice => 19,
            Self::Invalid => 22,
            Self::Limit => 28,
            Self::Deadlock => 35,
            Self::TimedOut => 110,
        }
    }

    /// One sentence that says what happened and what to do next.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Invalid => "malformed argument (EINVAL): check flags, alignment and size",
            Self::Fault => "not memory of this address space (EFAULT): map the range, then try again",
            Self::NoMemory => "out of memory (ENOMEM): nothing was changed, try again later",
            Self::Again => "an invalidation or a pin is in progress (EAGAIN): try again",
            Self::Busy => "the range kept being invalidated (EBUSY): stop remapping it, then try again",
            Self::NoDevice => "the device or the host cannot do this (ENODEV): check its abilities",
            Self::Permission => "this needs a privilege (EPERM): drop UNSYNCHRONIZED or raise the privilege",
            Self::TooBig => "more pages or segments than the device takes (E2BIG): split the range",
            Self::Interrupted => "interrupted by a signal (EINTR): nothing was changed, try again",
            Self::TimedOut => {
                "deadline passed (ETIMEDOUT): try again; if a cancel gave up, the object is quarantined and its pages stay pinned"
            }
            Self::DeviceLost => "the device is lost (EIO): reset it, then retry the quarantined objects",
            Self::NoEntry => "no such handle (ENOENT)",
            Self::Deadlock => "the caller holds a lease on this range (EDEADLK): drop the lease first",
            Self::Limit => "a limit of the host is reached (ENOSPC): raise it or register less",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.advice())
    }
}

impl core::error::Error for Error {}
