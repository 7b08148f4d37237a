//! Marks pages dirty that the kernel has pinned for a device without doing so.
//!
//! A fixed buffer of io_uring is pinned by the kernel's fast path, which takes a writable page as
//! it is: a clean page table entry stays clean, the device writes to the page behind its back, and
//! unpinning marks nothing. A clean page can be dropped by reclaim, and what the device wrote with
//! it: in memory that was freed lazily (`MADV_FREE`), in shared memory that was only read, in a
//! page that was read in from swap. `MADV_POPULATE_WRITE` marks every page dirty, as a write by the
//! processor would, and changes no byte.
//!
//! It comes after the pin and before the first lease:
//!
//! * Not before the pin: what is refused is left as it was, a shared file's times included.
//!   Reclaim takes and cleans no page that is pinned, so what is marked stays marked.
//! * What makes a pinned page clean again is `MADV_FREE`, which is told. Before the commit it
//!   supersedes the acquire; under a lease it revokes the pages, and the next acquire comes here
//!   again. It gives up what was written before it. What a request in flight writes *after* it may
//!   be lost with the rest: free a buffer when its requests are done.
//! * Not before the unpin: that runs inside a revocation. The range may mean other memory by then,
//!   or none, or memory that was just given back: to populate it would take new pages there, change
//!   the times of a file, or wait for another userfaultfd.
//!
//! VFIO needs it for nothing that the device may write: it pins by the slow path, which marks
//! dirty, and marks again what it unpins (`put_pfn` in `drivers/vfio/vfio_iommu_type1.c`).

use crate::{Refusal, uffd};
use core::ptr;
use userptr::AddrRange;

/// Returns whether the kernel has `MADV_POPULATE_WRITE`: since Linux 5.14.
#[cfg(feature = "uring")]
pub(crate) fn is_supported() -> bool {
    // SAFETY: an empty range: nothing is touched, and the advice is looked at all the same.
    unsafe { libc::madvise(ptr::null_mut(), 0, libc::MADV_POPULATE_WRITE) == 0 }
}

/// Faults in every page of the range for writing and marks it dirty. Takes the mmap lock for
/// reading, and may sleep: call it in an acquire, never in a revocation.
///
/// # Errors
/// [`Refusal::Unmapped`]: a part of the range is not mapped. [`Refusal::Unpinnable`]: a part may
/// not be written, or lies past the end of its file; before Linux 5.14, always.
/// [`Refusal::Memory`].
pub(crate) fn populate_write(address: usize, bytes: usize) -> Result<(), Refusal> {
    loop {
        return match advise(address, bytes) {
            0 => Ok(()),
            libc::EINTR | libc::EAGAIN => continue,
            libc::ENOMEM if is_mapped(address, bytes) => Err(Refusal::Memory),
            libc::ENOMEM => Err(Refusal::Unmapped),
            libc::EINVAL | libc::EFAULT => Err(Refusal::Unpinnable),
            errno => Err(Refusal::Errno(errno)),
        };
    }
}

/// The call; returns its errno, or 0. A listener of this process does not see it: a thread that
/// holds a lease makes it, and would wait for a worker that waits for the lease.
#[cfg(all(feature = "exact", any(target_arch = "x86_64", target_arch = "aarch64")))]
fn advise(address: usize, bytes: usize) -> i32 {
    crate::exact::populate_write(address, bytes)
}

#[cfg(not(all(feature = "exact", any(target_arch = "x86_64", target_arch = "aarch64"))))]
fn advise(address: usize, bytes: usize) -> i32 {
    let start = ptr::without_provenance_mut(address);
    // SAFETY: it faults pages in and changes no content.
    let done = unsafe { libc::madvise(start, bytes, libc::MADV_POPULATE_WRITE) };
    if done == 0 { 0 } else { crate::errno() }
}

/// Returns whether every page of the range is mapped.
pub(crate) fn is_mapped(address: usize, bytes: usize) -> bool {
    AddrRange::new(address, bytes).is_ok_and(uffd::is_mapped)
}
