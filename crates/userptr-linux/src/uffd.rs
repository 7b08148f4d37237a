//! `userfaultfd(2)`: what is needed of it, and no more.
//!
//! Ranges are registered for write protection and never protected, so there are never faults to
//! answer: the descriptor only tells of unmaps, remaps and discards.

use super::refusal::{Facility, Refusal, errno};
use core::ffi::{c_int, c_ulong};
use core::fmt;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use userptr::AddrRange;

// `linux/userfaultfd.h`. The numbers of the ioctls use the generic encoding (x86, arm, riscv, s390,
// loongarch).
const API: u64 = 0xaa;
const IOC_NEW: c_ulong = 0xaa00;
const IOC_API: c_ulong = 0xc018_aa3f;
const IOC_REGISTER: c_ulong = 0xc020_aa00;
const IOC_UNREGISTER: c_ulong = 0x8010_aa01;
const IOC_WRITEPROTECT: c_ulong = 0xc018_aa06;
const USER_MODE_ONLY: c_int = 1;
const MODE_WP: u64 = 2;

const PAGEFAULT_FLAG_WP: u64 = 1;
const EVENT_REMAP: u64 = 1 << 2;
const EVENT_REMOVE: u64 = 1 << 3;
const EVENT_UNMAP: u64 = 1 << 6;
const WP_ASYNC: u64 = 1 << 15;
/// Without these nothing works. `EVENT_FORK` is never asked for: it needs a privilege, and a child
/// is a stranger anyway.
const NEEDED: u64 = PAGEFAULT_FLAG_WP | EVENT_REMAP | EVENT_REMOVE | EVENT_UNMAP;

const MSG_REMAP: u8 = 0x14;
const MSG_REMOVE: u8 = 0x15;
const MSG_UNMAP: u8 = 0x16;
const MSG_WORDS: usize = 4;
const MSG_BYTES: usize = size_of::<[u64; MSG_WORDS]>();
/// Messages read at once.
const BATCH: usize = 16;

/// A change to the mappings, as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The pages are gone already; the thread that unmapped them is blocked until the message is
    /// read.
    Unmap(AddrRange),
    /// The pages have moved. An unmap of the old range follows.
    Remap {
        /// Where they were.
        from: AddrRange,
        /// Where they are now.
        to: AddrRange,
    },
    /// The pages will go when the message has been read: at once, or whenever the thread that
    /// discards them runs again.
    Remove(AddrRange),
}

/// What the probe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Every change that has begun has been read by the monitor, to the end.
    Quiet,
    /// A change is between its first effect and the reading of its message.
    Changing,
    /// The descriptor does not work.
    Broken,
}

/// A buffer for messages, so that reading them allocates nothing.
#[derive(Debug)]
pub struct Events {
    words: [u64; MSG_WORDS * BATCH],
    len: usize,
}

impl Events {
    /// An empty buffer.
    #[must_use]
    pub const fn new() -> Self {
        Self { words: [0; MSG_WORDS * BATCH], len: 0 }
    }

    /// The messages of the last read.
    pub fn iter(&self) -> impl Iterator<Item = Event> {
        self.words.chunks_exact(MSG_WORDS).take(self.len).filter_map(|msg| match *msg {
            [head, a, b, c] => decode(head, a, b, c),
            _ => None,
        })
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new()
    }
}

fn decode(head: u64, a: u64, b: u64, c: u64) -> Option<Event> {
    let [kind, ..] = head.to_ne_bytes();
    let word = |v: u64| usize::try_from(v).ok();
    match kind {
        // Start and exclusive end.
        MSG_UNMAP => Some(Event::Unmap(AddrRange::from_bounds(word(a)?, word(b)?)?)),
        MSG_REMOVE => Some(Event::Remove(AddrRange::from_bounds(word(a)?, word(b)?)?)),
        MSG_REMAP => Some(Event::Remap {
            from: AddrRange::new(word(a)?, word(c)?).ok()?,
            to: AddrRange::new(word(b)?, word(c)?).ok()?,
        }),
        _ => None,
    }
}

#[repr(C)]
struct ApiArg {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct RangeArg {
    start: u64,
    len: u64,
}

#[repr(C)]
struct RegisterArg {
    range: RangeArg,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct ProtectArg {
    range: RangeArg,
    mode: u64,
}

/// A userfaultfd for the address space of the process that opened it.
///
/// A forked child that inherits the descriptor keeps the kernel's side of it alive: what is still
/// registered when the parent closes its copy blocks the parent's next unmap for ever. Unregister
/// everything first.
pub struct Uffd {
    fd: OwnedFd,
    features: u64,
}

impl Uffd {
    /// Opens one, close-on-exec and non-blocking, for faults of user mode only, which needs no
    /// privilege whatever `vm.unprivileged_userfaultfd` says.
    ///
    /// # Errors
    /// [`Refusal`], with the cause.
    pub fn open() -> Result<Self, Refusal> {
        // Features are settled by the first call and cannot be asked for again: one descriptor
        // asks, another one is used.
        let offered = negotiate(&descriptor()?, 0)?;
        if offered & NEEDED != NEEDED {
            return Err(Refusal::Features(NEEDED & !offered));
        }
        let features = NEEDED | offered & WP_ASYNC;
        let fd = descriptor()?;
        negotiate(&fd, features)?;
        Ok(Self { fd, features })
    }

    /// Whether mappings of files and SysV segments can be watched too.
    #[must_use]
    pub fn watches_files(&self) -> bool {
        self.features & WP_ASYNC != 0
    }

    /// Watches a page-aligned range that is mapped from end to end.
    ///
    /// Registering passes over holes, and what is mapped into a hole afterwards is not watched. So:
    /// register, see that there is no hole, register what was a hole the first time. From the first
    /// call on, an unmap of what was mapped then is told.
    ///
    /// # Errors
    /// [`Refusal`], with the cause. A part of the range may be watched then, which is harmless.
    pub fn register_whole(&self, range: AddrRange) -> Result<(), Refusal> {
        self.register(range)?;
        if !is_mapped(range) {
            return Err(Refusal::Unmapped);
        }
        self.register(range)
    }

    /// Watches what is mapped in a page-aligned range. Whole mappings inside it become watched;
    /// holes are passed over. Doing it twice is harmless.
    ///
    /// # Errors
    /// [`Refusal`], with the cause.
    pub fn register(&self, range: AddrRange) -> Result<(), Refusal> {
        let mut arg = RegisterArg { range: range_arg(range)?, mode: MODE_WP, ioctls: 0 };
        // SAFETY: the argument is the struct that this ioctl reads and writes. Registering changes
        // no content.
        if unsafe { libc::ioctl(self.raw(), IOC_REGISTER as _, &raw mut arg) } == 0 {
            return Ok(());
        }
        Err(match errno() {
            // A mapping at an edge of the range must be split.
            libc::ENOMEM if is_mapped(range) => Refusal::Mappings,
            libc::EINVAL | libc::EPERM if is_mapped(range) => Refusal::Unwatchable,
            libc::ENOMEM | libc::EINVAL | libc::EPERM => Refusal::Unmapped,
            libc::EBUSY => Refusal::Claimed,
            errno => Refusal::Errno(errno),
        })
    }

    /// Ends the watch of a page-aligned range. What is not watched is passed over.
    ///
    /// # Errors
    /// [`Refusal`]: nothing is mapped there, or a mapping could not have been watched at all.
    pub fn unregister(&self, range: AddrRange) -> Result<(), Refusal> {
        let mut arg = range_arg(range)?;
        // SAFETY: the argument is the struct that this ioctl reads.
        if unsafe { libc::ioctl(self.raw(), IOC_UNREGISTER as _, &raw mut arg) } == 0 {
            return Ok(());
        }
        Err(Refusal::Errno(errno()))
    }

    /// Reads messages, as many as fit. Each thread whose message was read goes on. Never waits,
    /// never allocates. The number of messages, understood or not; 0: there are none.
    pub fn read(&self, into: &mut Events) -> usize {
        into.len = 0;
        let bytes = size_of_val(&into.words);
        // SAFETY: the buffer is ours for that many bytes, and any content is a valid array of
        // words.
        let got = unsafe { libc::read(self.raw(), into.words.as_mut_ptr().cast(), bytes) };
        into.len = usize::try_from(got).unwrap_or(0) / MSG_BYTES;
        into.len
    }

    /// Whether a change of the mappings is in flight.
    ///
    /// The kernel counts changes that have begun and whose messages have not been read to the end.
    /// A write-protect call with a valid struct looks at that counter before it looks at the range,
    /// and a range of length 0 is refused: `EAGAIN` says that the counter is not zero, `EINVAL`
    /// that it is. Neither changes anything. Costs one system call, about half a microsecond.
    #[must_use]
    pub fn probe(&self) -> Probe {
        let mut arg = ProtectArg { range: RangeArg { start: 0, len: 0 }, mode: 1 };
        // SAFETY: the argument is the struct that this ioctl reads; a length of 0 is always
        // refused.
        let got = unsafe { libc::ioctl(self.raw(), IOC_WRITEPROTECT as _, &raw mut arg) };
        match if got == 0 { 0 } else { errno() } {
            libc::EINVAL => Probe::Quiet,
            libc::EAGAIN => Probe::Changing,
            _ => Probe::Broken,
        }
    }

    /// The descriptor, to poll.
    pub(super) fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl fmt::Debug for Uffd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uffd({}, features {:#x})", self.raw(), self.features)
    }
}

fn descriptor() -> Result<OwnedFd, Refusal> {
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY;
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
    if let Ok(fd @ 0..) = c_int::try_from(fd) {
        // SAFETY: new, and nobody else's.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let cause = Refusal::of_facility(Facility::Userfaultfd, errno());
    if matches!(cause, Refusal::Descriptors | Refusal::Memory) {
        return Err(cause);
    }
    // The device gives them to whoever may open it, even where the call is filtered.
    device(flags).ok_or(cause)
}

fn device(flags: c_int) -> Option<OwnedFd> {
    let device = std::fs::File::open("/dev/userfaultfd").ok()?;
    // SAFETY: the argument of this ioctl is the flags themselves.
    let fd = unsafe { libc::ioctl(device.as_raw_fd(), IOC_NEW as _, flags) };
    // SAFETY: new, and nobody else's.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Settles the features and returns those on offer.
fn negotiate(fd: &OwnedFd, features: u64) -> Result<u64, Refusal> {
    let mut arg = ApiArg { api: API, features, ioctls: 0 };
    // SAFETY: the argument is the struct that this ioctl reads and writes.
    if unsafe { libc::ioctl(fd.as_raw_fd(), IOC_API as _, &raw mut arg) } == 0 {
        return Ok(arg.features);
    }
    Err(Refusal::Errno(errno()))
}

fn range_arg(range: AddrRange) -> Result<RangeArg, Refusal> {
    let len = range.len().ok_or(Refusal::Unmapped)?;
    Ok(RangeArg { start: range.start() as u64, len: len as u64 })
}

/// Whether every page of the range is mapped.
pub(crate) fn is_mapped(range: AddrRange) -> bool {
    // `msync` with `MS_ASYNC` does nothing but walk the mappings; `ENOMEM` says that some are
    // missing.
    let Some(len) = range.len() else { return false };
    // SAFETY: changes nothing.
    unsafe { libc::msync(range.start() as *mut _, len, libc::MS_ASYNC) == 0 }
}
