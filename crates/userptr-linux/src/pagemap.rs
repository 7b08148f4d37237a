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

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows panics")]
mod tests {
    use super::*;
    use std::os::fd::FromRawFd;

    // `linux/userfaultfd.h`
    const API: c_ulong = 0xc018_aa3f;
    const REGISTER: c_ulong = 0xc020_aa00;
    const MODE_WP: u64 = 2;
    const WP_UNPOPULATED_AND_ASYNC: u64 = 1 << 13 | 1 << 15;
    const PAGE: usize = 4096;
    const PAGES: usize = 4;

    /// Memory of its own, registered for marks. `None`, and said aloud: the kernel has none.
    fn memory() -> Option<(File, AddrRange)> {
        let flags = libc::O_CLOEXEC | 1;
        // SAFETY: takes no pointer; the descriptor is new.
        let file = unsafe {
            let number = libc::syscall(libc::SYS_userfaultfd, flags);
            File::from_raw_fd(i32::try_from(number).ok().filter(|number| *number >= 0)?)
        };
        let mut api = [0xaa_u64, WP_UNPOPULATED_AND_ASYNC, 0];
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: new memory, which nobody else knows; the arguments are those of the ioctls.
        unsafe {
            let memory = libc::mmap(std::ptr::null_mut(), PAGES * PAGE, access, flags, -1, 0);
            assert_ne!(memory, libc::MAP_FAILED);
            libc::madvise(memory, PAGES * PAGE, libc::MADV_NOHUGEPAGE);
            let range = AddrRange::new(memory.addr(), PAGES * PAGE).unwrap();
            let mut register = [range.start() as u64, (PAGES * PAGE) as u64, MODE_WP, 0];
            let done = libc::ioctl(file.as_raw_fd(), API as _, &raw mut api) == 0
                && libc::ioctl(file.as_raw_fd(), REGISTER as _, &raw mut register) == 0;
            done.then_some((file, range))
        }
    }

    fn write(page: usize, range: AddrRange) {
        let at = range.start().checked_add(page * PAGE).unwrap();
        // SAFETY: mapped, and nobody else's.
        unsafe { std::ptr::with_exposed_provenance_mut::<u8>(at).write_volatile(1) };
    }

    fn discard(range: AddrRange) {
        let start = std::ptr::with_exposed_provenance_mut(range.start());
        // SAFETY: nothing refers to the memory.
        assert_eq!(unsafe { libc::madvise(start, range.len().unwrap(), libc::MADV_DONTNEED) }, 0);
    }

    #[test]
    fn what_a_mark_says() {
        let map = Pagemap::open(PAGE);
        let Some((_file, range)) = memory().filter(|_| map.is_open()) else {
            println!("SKIPPED: no write-protection that the kernel resolves, or no page map");
            return;
        };
        let all = |range| (0..PAGES).for_each(|page| write(page, range));
        assert_eq!(map.mark(range), None, "nothing is there");
        all(range);
        let Some(mark) = map.mark(range) else {
            println!("SKIPPED: no PAGEMAP_SCAN");
            return;
        };
        assert_eq!(mark.page.last(), range.last());
        assert!(mark.last);
        assert_eq!(map.progress(mark), Progress::ToCome, "nothing has happened");
        write(PAGES - 1, range);
        assert_eq!(map.progress(mark), Progress::Unknown, "written");
        let mark = map.mark(range).unwrap();
        write(0, range);
        assert_eq!(map.progress(mark), Progress::ToCome, "another page was written");
        discard(range);
        assert_eq!(map.progress(mark), Progress::Over, "discarded");
        all(range);
        assert_eq!(map.progress(mark), Progress::Unknown, "discarded and written anew");
        // Without a last page another one is marked, and never says that all is over.
        discard(range);
        write(1, range);
        let mark = map.mark(range).unwrap();
        assert_eq!((mark.page.start(), mark.last), (range.start() + PAGE, false));
        assert_eq!(map.progress(mark), Progress::ToCome);
        discard(range);
        assert_eq!(map.progress(mark), Progress::Unknown, "part of it may be left");
    }
}
