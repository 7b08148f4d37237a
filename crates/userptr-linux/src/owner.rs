//! Who is asking: the process itself, or a forked child.

use super::refusal::{Refusal, errno};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

/// A mark that the process has and a forked child has not: a page that the kernel empties in every
/// child, whichever way it was forked. A process identity would be a system call per question, and
/// a fork handler misses raw `clone`. A `vfork`ed child shares the memory and keeps the mark, which
/// is right: it sees the very same address space.
#[derive(Debug)]
pub(crate) struct Owner {
    page: NonNull<AtomicUsize>,
    bytes: usize,
}

// SAFETY: an atomic word in a mapping that lives as long as this value.
unsafe impl Send for Owner {}
// SAFETY: as above.
unsafe impl Sync for Owner {}

impl Owner {
    /// Marks the calling process.
    pub(crate) fn mark(bytes: usize) -> Result<Self, Refusal> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping at no particular place.
        let page =
            unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        let page = if page == libc::MAP_FAILED { None } else { NonNull::new(page) };
        let this = Self { page: page.ok_or(Refusal::Memory)?.cast(), bytes };
        // SAFETY: the mapping that was just made.
        if unsafe { libc::madvise(this.page.as_ptr().cast(), bytes, libc::MADV_WIPEONFORK) } != 0 {
            return Err(Refusal::Errno(errno()));
        }
        this.word().store(1, Ordering::Relaxed);
        Ok(this)
    }

    /// Whether the calling thread belongs to the process that was marked.
    #[inline]
    pub(crate) fn is_me(&self) -> bool {
        self.word().load(Ordering::Relaxed) != 0
    }

    fn word(&self) -> &AtomicUsize {
        // SAFETY: mapped, aligned to a page, zero or one, until `drop`.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used again.
        unsafe { libc::munmap(self.page.as_ptr().cast(), self.bytes) };
    }
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAP_VERSION_3: u32 = 0x2008_0522;

/// Whether the calling thread has the capability in force (`capable()`), as far as a process can
/// tell.
pub(super) fn capable(cap: u32) -> bool {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 reads the header and writes two entries.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    let word = data.get(cap as usize / 32).map_or(0, |d| d.effective);
    got == 0 && word & 1_u32.wrapping_shl(cap) != 0
}
