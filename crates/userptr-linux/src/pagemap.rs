//! Has a discard happened yet? The kernel tells before it, and not after.
//!
//! `PAGEMAP_SCAN` (Linux 6.7) can write-protect a page and say later whether it still is. A discard
//! takes the mark away with the page, so a marked page that is gone proves that it has come, unless
//! another change has taken the page: the monitor strikes such marks out ([`super::grace`]). A mark
//! that still stands says that the discard is to come, or that it was done between the reading and
//! the marking, and the page is a new one. A write takes the mark away, too, and says nothing. A
//! marked page costs its next writer one fault, which the kernel
//! resolves by itself (`UFFD_FEATURE_WP_ASYNC`).

use core::ffi::c_ulong;
use core::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use userptr::AddrRange;

// `linux/fs.h`
const IOC_SCAN: c_ulong = 0xc060_6610;
const WP_MATCHING: u64 = 1;
const CHECK_WPASYNC: u64 = 2;
const WRITTEN: u64 = 1 << 1;
const PRESENT: u64 = 1 << 3;
const SWAPPED: u64 = 1 << 4;

#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

#[repr(C)]
#[derive(Default)]
struct Found {
    start: u64,
    end: u64,
    categories: u64,
}

/// A page that was write-protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) page: AddrRange,
    /// It is the range's last page. Discards go upwards, so that all of the range is gone when it
    /// is.
    pub(super) last: bool,
}

/// What a mark says of its discard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The mark stands: it is still to come, or the mark was put on the page that was written anew.
    ToCome,
    /// The marked page is gone: it is over, if nothing else has taken the page.
    Over,
    /// The page was written, or came back, or swapped out.
    Unknown,
}

/// The process's own page map.
pub(super) struct Pagemap {
    file: Option<File>,
    page: usize,
}

impl Pagemap {
    /// Opens it. If that is refused, or the kernel is older, every answer is "unknown".
    pub(super) fn open(page: usize) -> Self {
        Self { file: File::open("/proc/self/pagemap").ok(), page }
    }

    /// Whether the process may ask it. `setuid` takes the right to open it away, not what is open.
    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Bytes in a page.
    pub(super) fn page(&self) -> usize {
        self.page
    }

    /// Marks a page of the range: the last one, or else the first that is there.
    pub(super) fn mark(&self, range: AddrRange) -> Option<Mark> {
        let page = |start: usize| AddrRange::new(start, self.page).ok();
        let flags = WP_MATCHING | CHECK_WPASYNC;
        let end = page(range.last().checked_sub(self.page)?.checked_add(1)?)?;
        if self.scan(end, flags, 0, PRESENT).is_some() {
            return Some(Mark { page: end, last: true });
        }
        let first = page(self.scan(range, flags, 0, PRESENT)?)?;
        Some(Mark { page: first, last: false })
    }

    /// How far the discard is.
    pub(super) fn progress(&self, mark: Mark) -> Progress {
        if self.scan(mark.page, 0, WRITTEN, PRESENT | WRITTEN).is_some() {
            Progress::ToCome
        } else if mark.last && self.scan(mark.page, 0, PRESENT | SWAPPED, PRESENT | SWAPPED).is_some() {
            Progress::Over
        } else {
            Progress::Unknown
        }
    }

    /// The address of the first page of a range that has all of `mask`, of which `inverted` are
    /// looked for absent; only that page is acted upon. Waits for the address space's lock at most,
    /// which nobody holds who waits for the monitor.
    fn scan(&self, range: AddrRange, flags: u64, inverted: u64, mask: u64) -> Option<usize> {
        let mut found = Found::default();
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            flags,
            start: range.start() as u64,
            end: range.last().checked_add(1)? as u64,
            walk_end: 0,
            vec: (&raw mut found).addr() as u64,
            vec_len: 1,
            max_pages: 1,
            category_inverted: inverted,
            category_mask: mask,
            category_anyof_mask: 0,
            return_mask: mask,
        };
        // SAFETY: the argument is the struct that this ioctl reads and writes, and `found` is the
        // one entry it points to. A page keeps its content.
        let got = unsafe { libc::ioctl(self.file.as_ref()?.as_raw_fd(), IOC_SCAN as _, &raw mut arg) };
        (got == 1).then(|| usize::try_from(found.start).ok()).flatten()
    }
}

impl fmt::Debug for Pagemap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pagemap({})", self.file.is_some())
    }
}
