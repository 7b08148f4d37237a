//! What can go wrong, each with the errno that a driver returns for it.

use core::fmt;

/// Declares [`Error`] with one line for each cause: errno, symbol, and the sentence for a person.
macro_rules! errors {
    ($($(#[$doc:meta])* $name:ident = $errno:literal $symbol:literal $text:literal;)*) => {
        /// An error of this crate. Each has an errno ([`Error::errno`]) that a driver can hand to
        /// its caller as it is, and a sentence ([`Display`](fmt::Display)) that says what to do
        /// next.
        ///
        /// Several causes share an errno, because the errno is the contract with a driver's callers
        /// and the cause is for a person. To decide what to do, ask [`errno`](Self::errno) or
        /// [`is_retryable`](Self::is_retryable).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        #[repr(u8)]
        pub enum Error {
            $(
                #[doc = concat!("`", $symbol, "`: ")]
                $(#[$doc])*
                $name,
            )*
        }

        impl Error {
            /// Every error, in the order of their numbers.
            const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Returns the positive Linux errno of this error, for example 14 for [`Error::Fault`].
            ///
            /// ```
            /// assert_eq!(userptr::Error::Fault.errno(), 14);
            /// ```
            #[must_use]
            pub const fn errno(self) -> i32 {
                match self {
                    $(Self::$name => $errno,)*
                }
            }

            /// Returns the errno's name, for example `"EFAULT"`.
            #[must_use]
            pub const fn symbol(self) -> &'static str {
                match self {
                    $(Self::$name => $symbol,)*
                }
            }

            /// Returns one sentence: what happened, and what to do next.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

errors! {
    /// an argument is malformed.
    Invalid = 22 "EINVAL" "an argument is malformed: check it against the method's documentation";
    /// a flag that this crate does not know.
    UnknownFlag = 22 "EINVAL" "unknown flag: use the constants of `Flags`";
    /// an address or a size is not a multiple of the page size.
    Unaligned = 22 "EINVAL" "the address or the size is not a multiple of the page size: round the range outwards to whole pages";
    /// a range of zero bytes.
    Empty = 22 "EINVAL" "the range is empty: register at least one page";
    /// a queue is missing that the address space needs.
    QueueMissing = 22 "EINVAL" "this address space needs a queue for revocations, with threads of its own: give the builder a `revoke_queue`";
    /// one queue was given for two roles that wait for each other.
    SameQueue = 22 "EINVAL" "one queue has two roles, and would wait for itself: give the builder different queues";
    /// the range is not, or no longer, memory of that address space. Sticks to the object until the
    /// range is invalidated or the object is reset ([rule 15](crate::docs::protocol#rule-15)).
    Fault = 14 "EFAULT" "the range is not mapped: map it, then `reset` the object and acquire again";
    /// the memory is there, but cannot be pinned for what the device does. Sticks like
    /// [`Error::Fault`].
    Unpinnable = 14 "EFAULT" "the mapping cannot be pinned for the device: it is read-only, a device's, or shared with a file on disk";
    /// the address space has ended.
    Gone = 14 "EFAULT" "the address space is gone: drop the object";
    /// the caller runs in another address space than the object's, for example in a forked child.
    OtherSpace = 14 "EFAULT" "the object belongs to another address space: register the memory anew in this process";
    /// memory ran out. Nothing was changed; a retry can work.
    NoMemory = 12 "ENOMEM" "out of memory: nothing was changed, try again later";
    /// not now: an invalidation is in progress or a worker is still pinning. Retry later.
    Again = 11 "EAGAIN" "an invalidation or a pin is in progress: try again, or use the waiting `acquire`";
    /// the retries are used up: the range kept being invalidated.
    Busy = 16 "EBUSY" "the range kept being invalidated while it was pinned: stop remapping it, then try again";
    /// another watcher has claimed the memory.
    Claimed = 16 "EBUSY" "another watcher has claimed this memory: share one address space object in the process";
    /// the device or the platform lacks the ability that was asked for.
    NoDevice = 19 "ENODEV" "the device or the platform cannot do this: check its limits";
    /// the device is not coherent with the processor's caches.
    NotCoherent = 19 "ENODEV" "the device is not coherent with the processor's caches: this crate cannot serve it";
    /// a read-only object on a device that cannot be told so.
    NotReadOnly = 19 "ENODEV" "this device cannot be kept from writing: leave `READ_ONLY` out, or set `Limits::read_only` in a driver that honours it";
    /// the address space cannot notify.
    NoNotifications = 19 "ENODEV" "this address space cannot report changes: only unsynchronised objects can be had";
    /// a mapping in the range cannot be watched for changes.
    Unwatchable = 19 "ENODEV" "a mapping in the range cannot be watched for changes: map it privately, or as a memfd";
    /// the caller lacks the privilege.
    Permission = 1 "EPERM" "unsynchronised objects need a privilege: drop `UNSYNCHRONIZED` or raise the privilege";
    /// more pages or more segments than the device can take.
    TooBig = 7 "E2BIG" "more pages or segments than the device takes: split the range";
    /// a signal arrived while waiting. Nothing was changed; a retry can work.
    Interrupted = 4 "EINTR" "interrupted by a signal: nothing was changed, try again";
    /// a deadline passed: the device did not become idle, a lease was still held, or an acquire
    /// waited too long.
    TimedOut = 110 "ETIMEDOUT" "the deadline passed: another thread still pins or holds the object, or it is quarantined until its last lease is dropped or `retry_quarantined`";
    /// the device is lost; what it was using stays pinned.
    DeviceLost = 5 "EIO" "the device is lost: reset it, then call `retry_quarantined`";
    /// no object has that handle.
    NoEntry = 2 "ENOENT" "no object has this handle";
    /// the caller holds a lease on what it asks to invalidate.
    Deadlock = 35 "EDEADLK" "this thread holds a lease on the object: drop the lease first";
    /// a queue that the object needs has been shut down.
    ShutDown = 108 "ESHUTDOWN" "a queue of the context is shut down: keep it running as long as there are objects";
    /// a limit of the platform is reached.
    Limit = 28 "ENOSPC" "a limit of the platform is reached: raise it or register less";
    /// the limit of locked memory is reached.
    LockedMemory = 28 "ENOSPC" "the limit of locked memory is reached: raise RLIMIT_MEMLOCK (`ulimit -l`) or register less";
    /// the limit of mappings is reached.
    Mappings = 28 "ENOSPC" "the process has too many mappings: raise vm.max_map_count or register fewer ranges";
    /// the limit of open files is reached.
    Descriptors = 28 "ENOSPC" "too many open files: raise RLIMIT_NOFILE (`ulimit -n`) or register fewer ranges";
    /// every slot or handle of a table is taken.
    Slots = 28 "ENOSPC" "every slot of the table is taken: make the table larger or drop an object";
    /// a thread cannot be started.
    Threads = 28 "ENOSPC" "no thread can be started: raise RLIMIT_NPROC (`ulimit -u`)";
}

impl Error {
    /// Returns whether the same call can succeed later without anybody changing anything: `EAGAIN`,
    /// `EBUSY`, `EINTR` and `ENOMEM`.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(self.errno(), 4 | 11 | 12 | 16)
    }

    /// Returns whether the error sticks to an object until its range is invalidated or it is reset
    /// ([rule 15](crate::docs::protocol#rule-15)).
    #[must_use]
    pub const fn is_sticky(self) -> bool {
        matches!(self, Self::Fault | Self::Unpinnable | Self::Gone)
    }

    /// Returns the error as a word; 0 is no error.
    pub(crate) fn encode(self) -> usize {
        usize::from(self as u8).saturating_add(1)
    }

    /// Returns the error of a word from [`encode`](Self::encode).
    pub(crate) fn decode(word: usize) -> Option<Self> {
        Self::ALL.get(word.checked_sub(1)?).copied()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.advice(), self.symbol())
    }
}

impl core::error::Error for Error {}

/// A value that could not be used, with the reason. `?` turns it into [`Error`] and drops the
/// value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Rejected<T> {
    /// The value, as it was given.
    pub value: T,
    /// Why it could not be used.
    pub error: Error,
}

impl<T> Rejected<T> {
    /// Keeps the reason and changes the value.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Rejected<U> {
        Rejected { value: f(self.value), error: self.error }
    }
}

impl<T> From<Rejected<T>> for Error {
    fn from(rejected: Rejected<T>) -> Self {
        rejected.error
    }
}

impl<T> fmt::Debug for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rejected({:?})", self.error)
    }
}

impl<T> fmt::Display for Rejected<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.error, f)
    }
}

impl<T> core::error::Error for Rejected<T> {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_survives_its_word() {
        assert!(!Error::ALL.is_empty());
        for error in Error::ALL {
            assert_eq!(Error::decode(error.encode()), Some(*error));
        }
        assert_eq!(Error::decode(0), None);
        assert_eq!(Error::decode(usize::MAX), None);
    }
}
