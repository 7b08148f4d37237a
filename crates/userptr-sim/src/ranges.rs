//! The operations of a process on a whole [`AddrRange`]: the short way for drivers' tests and
//! examples. Those in `ops` take an address and a length, as the system calls do.

use super::mm::Process;
use super::space::Space;
use userptr::platform::Platform;
use userptr::{AddrRange, Error};

impl Process {
    /// Maps private memory of `bytes` bytes, anywhere. Its pages appear when they are touched.
    ///
    /// # Panics
    /// If `bytes` is zero.
    #[must_use]
    pub fn map(&self, bytes: usize) -> AddrRange {
        AddrRange::new(self.mmap(bytes), bytes).expect("a mapping of at least one page")
    }

    /// Unmaps a range; returns when every device is off its pages.
    pub fn unmap(&self, range: AddrRange) {
        self.munmap(range.start(), bytes(range));
    }

    /// Discards the pages of a range (`MADV_DONTNEED`): the next touch finds zeros.
    pub fn discard(&self, range: AddrRange) {
        self.dontneed(range.start(), bytes(range));
    }

    /// Writes `value` to the first byte of each page of a range.
    ///
    /// # Errors
    /// [`Error::Fault`] if the range is not mapped for writing.
    pub fn fill(&self, range: AddrRange, value: u8) -> Result<(), Error> {
        self.touch(range.start(), bytes(range), value)
    }

    /// Returns its address space, as a context registers memory of it.
    #[must_use]
    pub fn space<P: Platform>(&self) -> Space<P> {
        Space::of(self)
    }
}

fn bytes(range: AddrRange) -> usize {
    range.len().expect("not the whole address space")
}
