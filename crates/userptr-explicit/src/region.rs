//! Memory that the crate owns and that changes under its own brackets only.

use crate::Explicit;
use core::fmt;
use core::ptr::NonNull;
use userptr::platform::Platform;
use userptr::{AddrRange, AddressSpace, Error, OwnedMemory};

/// Whole pages that nothing else uses: no allocator, no value, no reference. Its bytes are copied
/// in and out, and what changes it as a mapping brackets itself. So registering it is safe:
/// [`Context::register_memory`](userptr::Context::register_memory).
///
/// ```
/// use userptr::platforms::std::Std;
/// use userptr_explicit::{Explicit, Region};
///
/// let page = 1 << 16; // a multiple of every page size in use
/// let space = Explicit::<Std>::new(4096)?;
/// # #[cfg(all(unix, not(miri)))] {
/// let region = Region::map(&space, 2 * page)?;
/// region.write_at(page, b"hello")?;
/// region.discard(page, page)?; // devices idle, pages given back, new ones all zero
/// let mut seen = [1; 5];
/// region.read_at(page, &mut seen)?;
/// assert_eq!(seen, [0; 5]);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Region<P: Platform> {
    space: Explicit<P>,
    start: NonNull<u8>,
    range: AddrRange,
    /// The mapping is ours to change and to unmap.
    mapped: bool,
    /// One thread of the process copies at a time: taken by an exchange, for a few bytes.
    copying: core::sync::atomic::AtomicBool,
}

// SAFETY: the bytes are reached by copies under `copying` alone, from any thread.
unsafe impl<P: Platform> Send for Region<P> {}
// SAFETY: as for `Send`: a shared reference gives copies under `copying`, and nothing else.
unsafe impl<P: Platform> Sync for Region<P> {}

// SAFETY: the range is a mapping of our own, or pages borrowed for ever by an exclusive reference
// that is gone; both are reached by copies alone, and stay until the value is dropped.
unsafe impl<P: Platform> OwnedMemory for Region<P> {
    fn range(&self) -> AddrRange {
        self.range
    }
}

/// Bytes outside of a [`Region`]; `EINVAL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the bytes lie outside of the region, or are not whole pages of it (EINVAL)")
    }
}

impl core::error::Error for OutOfRange {}

impl From<OutOfRange> for Error {
    fn from(_: OutOfRange) -> Self {
        Self::Invalid
    }
}

impl<P: Platform> Region<P> {
    /// Takes memory that is borrowed for ever, in whole pages. Its values are given up: from now on
    /// they are bytes.
    ///
    /// # Errors
    /// The memory, if it does not begin and end at a page, or is empty.
    pub fn from_static(space: &Explicit<P>, bytes: &'static mut [u8]) -> Result<Self, &'static mut [u8]> {
        let len = bytes.len();
        let start = NonNull::from(&mut *bytes).cast::<u8>();
        match AddrRange::new(start.addr().get(), len) {
            Ok(range) if range.is_aligned(space.page_shift()) => {
                // A kernel, or a device, uses the address as a number.
                let _ = start.as_ptr().expose_provenance();
                Ok(Self::over(space, start, range, false))
            }
            _ => Err(bytes),
        }
    }

    fn over(space: &Explicit<P>, start: NonNull<u8>, range: AddrRange, mapped: bool) -> Self {
        let copying = core::sync::atomic::AtomicBool::new(false);
        Self { space: space.clone(), start, range, mapped, copying }
    }

    /// Returns the size, in bytes: whole pages.
    #[must_use]
    pub fn size(&self) -> usize {
        self.range.len().unwrap_or(usize::MAX)
    }

    /// Copies bytes out, from `offset`. What a device writes meanwhile may be seen in part.
    ///
    /// # Errors
    /// [`OutOfRange`]; nothing was copied.
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfRange> {
        let from = self.place(offset, into.len())?;
        self.copy(|| {
            for (at, byte) in into.iter_mut().enumerate() {
                // SAFETY: inside the memory (`place`). Volatile: a device may change the byte at
                // any moment; no other thread of the process does (`copy`).
                *byte = unsafe { from.add(at).as_ptr().read_volatile() };
            }
        });
        Ok(())
    }

    /// Copies bytes in, from `offset`. A device that reads meanwhile may see them in part.
    ///
    /// # Errors
    /// [`OutOfRange`]; nothing was copied.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<(), OutOfRange> {
        let to = self.place(offset, bytes.len())?;
        self.copy(|| {
            for (at, byte) in bytes.iter().enumerate() {
                // SAFETY: as in `read_at`.
                unsafe { to.add(at).as_ptr().write_volatile(*byte) };
            }
        });
        Ok(())
    }

    /// Gives pages back: `bytes` bytes from `offset`, whole pages. The next access finds new ones,
    /// all zero. Returns when no device uses the old ones any more.
    ///
    /// Memory of [`from_static`](Self::from_static) is somebody else's mapping: it is filled with
    /// zeros instead, under the same bracket.
    ///
    /// # Errors
    /// Nothing was changed:
    /// * [`Error::Invalid`]: not whole pages of the region.
    /// * [`Error::Deadlock`], [`Error::OtherSpace`]: as [`Explicit::change`].
    /// * [`Error::TimedOut`], [`Error::DeviceLost`]: a device did not stop.
    /// * [`Error::NoMemory`]: the kernel refused.
    pub fn discard(&self, offset: usize, bytes: usize) -> Result<(), Error> {
        self.renew(offset, bytes, false)
    }

    /// Puts a new mapping in the place of `bytes` bytes from `offset`, whole pages: what the kernel
    /// keeps by mapping (`mlock`, a memory policy, `MADV_HUGEPAGE`) is forgotten with the content.
    /// Otherwise as [`discard`](Self::discard).
    ///
    /// # Errors
    /// As [`discard`](Self::discard).
    pub fn replace(&self, offset: usize, bytes: usize) -> Result<(), Error> {
        self.renew(offset, bytes, true)
    }

    fn renew(&self, offset: usize, bytes: usize, map: bool) -> Result<(), Error> {
        let start = self.place(offset, bytes)?;
        let range = AddrRange::new(start.addr().get(), bytes)?;
        if !range.is_aligned(self.space.page_shift()) {
            return Err(Error::Invalid);
        }
        let change = self.space.change(range)?;
        change.outcome().into_result()?;
        if self.mapped {
            kernel::renew(start, bytes, map)?;
        } else {
            self.copy(|| {
                for at in 0..bytes {
                    // SAFETY: as in `read_at`; no device has the pages, by the bracket.
                    unsafe { start.add(at).as_ptr().write_volatile(0) };
                }
            });
        }
        drop(change);
        Ok(())
    }

    fn place(&self, offset: usize, bytes: usize) -> Result<NonNull<u8>, OutOfRange> {
        match offset.checked_add(bytes) {
            // SAFETY: `offset <= size`, so the place is inside the memory or at its end.
            Some(end) if end <= self.size() => Ok(unsafe { self.start.add(offset) }),
            _ => Err(OutOfRange),
        }
    }

    /// Runs a copy alone.
    fn copy(&self, f: impl FnOnce()) {
        use core::sync::atomic::Ordering;
        // ORDERING: a lock of one word; the release is the store below.
        while self.copying.swap(true, Ordering::Acquire) {
            core::hint::spin_loop();
        }
        f();
        // ORDERING: pairs with the acquire above.
        self.copying.store(false, Ordering::Release);
    }
}

impl<P: Platform> Drop for Region<P> {
    fn drop(&mut self) {
        if !self.mapped {
            return;
        }
        // An object over it that does not own it may still have pages. If a device does not let go
        // of them, the memory is leaked rather than given away under it.
        if let Ok(change) = self.space.change(self.range) {
            if change.outcome().into_result().is_ok() {
                kernel::unmap(self.start, self.size());
            }
        }
    }
}

impl<P: Platform> fmt::Debug for Region<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({:?})", self.range)
    }
}

#[cfg(all(feature = "std", unix))]
impl<P: Platform> Region<P> {
    /// Maps new memory, zero, of at least `bytes` bytes, rounded up to whole pages of the kernel
    /// and of the address space.
    ///
    /// # Errors
    /// [`Error::NoMemory`], also for a size that does not fit; [`Error::Empty`] for a size of zero;
    /// [`Error::Invalid`] if the address space's pages are larger than the kernel's.
    pub fn map(space: &Explicit<P>, bytes: usize) -> Result<Self, Error> {
        let page = kernel::page_size();
        if space.page_shift() > page.trailing_zeros() {
            return Err(Error::Invalid);
        }
        if bytes == 0 {
            return Err(Error::Empty);
        }
        let bytes = bytes.checked_next_multiple_of(page).ok_or(Error::NoMemory)?;
        let start = kernel::map(core::ptr::null_mut(), bytes, 0)?;
        Ok(Self::over(space, start, AddrRange::new(start.addr().get(), bytes)?, true))
    }
}

#[cfg(all(feature = "std", unix))]
mod kernel {
    use core::ptr::NonNull;
    use userptr::Error;

    pub(super) fn page_size() -> usize {
        // SAFETY: takes no pointer.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(size).unwrap_or(4096)
    }

    pub(super) fn map(at: *mut u8, bytes: usize, flags: i32) -> Result<NonNull<u8>, Error> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANON;
        // SAFETY: a new mapping: at a place of the kernel's choice, or over pages of a region,
        // whose bytes are nobody's values.
        let got = unsafe { libc::mmap(at.cast(), bytes, protection, flags, -1, 0) };
        if got == libc::MAP_FAILED {
            Err(Error::NoMemory)
        } else {
            NonNull::new(got.cast()).ok_or(Error::NoMemory)
        }
    }

    /// New pages, all zero, in the place of those of a region that is mapped.
    pub(super) fn renew(start: NonNull<u8>, bytes: usize, map_anew: bool) -> Result<(), Error> {
        // Only Linux promises zeros after `MADV_DONTNEED`.
        #[cfg(target_os = "linux")]
        if !map_anew {
            // SAFETY: whole pages of the region, whose bytes are nobody's values.
            let done = unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_DONTNEED) };
            return if done == 0 { Ok(()) } else { Err(Error::NoMemory) };
        }
        let _ = map_anew;
        map(start.as_ptr(), bytes, libc::MAP_FIXED).map(drop)
    }

    pub(super) fn unmap(start: NonNull<u8>, bytes: usize) {
        // SAFETY: the mapping is the region's, which is being dropped; nobody has a pointer into
        // it.
        unsafe { libc::munmap(start.as_ptr().cast(), bytes) };
    }
}

/// There is no mapped region.
#[cfg(not(all(feature = "std", unix)))]
mod kernel {
    use core::ptr::NonNull;
    use userptr::Error;

    pub(super) fn renew(_: NonNull<u8>, _: usize, _: bool) -> Result<(), Error> {
        Err(Error::Invalid)
    }

    pub(super) fn unmap(_: NonNull<u8>, _: usize) {}
}
