//! Memory of every kind, to be changed.

use super::{PAGE, whole};
use crate::stale::io::{Range, memfd};
use crate::stale::memory;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

const BYTES: usize = 4 * PAGE;
/// A huge page of x86-64 and aarch64.
pub(super) const HUGE: usize = 2 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Private,
    /// As much as a huge page.
    Large,
    /// A file in memory, of twice the size.
    Shared,
    /// A SysV segment.
    Segment,
    /// The end of the heap.
    Heap,
}

impl Kind {
    pub(super) fn is_file(self) -> bool {
        matches!(self, Self::Shared | Self::Segment)
    }
}

/// Watched memory with content, and what changes it.
pub(super) struct Ground {
    pub(super) range: Range,
    pub(super) file: File,
    kind: Kind,
}

impl Ground {
    pub(super) fn new(kind: Kind) -> io::Result<Self> {
        let file = memfd()?;
        file.set_len(2 * BYTES as u64)?;
        let range = match kind {
            Kind::Private => memory::map(BYTES)?,
            Kind::Large => memory::map(HUGE)?,
            Kind::Shared => {
                let range = memory::map(BYTES)?;
                map_file(range.address, &file)?;
                range
            }
            Kind::Segment => attach(memory::map(BYTES)?.address)?,
            Kind::Heap => {
                let unaligned = memory::grow_heap(0)?.next_multiple_of(PAGE) - memory::grow_heap(0)?;
                memory::grow_heap(unaligned.cast_signed())?;
                Range { address: memory::grow_heap(BYTES.cast_signed())?, bytes: BYTES }
            }
        };
        let ground = Self { range, file, kind };
        memory::fill(range, whole(range), 1);
        Ok(ground)
    }

    /// What is at the address, if all of it can be read.
    pub(super) fn content(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; self.range.bytes];
        let here = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let there = libc::iovec { iov_base: self.at(0), iov_len: bytes.len() };
        // SAFETY: writes to `bytes` alone; what cannot be read is an error.
        let got =
            unsafe { libc::process_vm_readv(libc::getpid(), &raw const here, 1, &raw const there, 1, 0) };
        (usize::try_from(got) == Ok(bytes.len())).then_some(bytes)
    }

    /// Writes what can be written.
    pub(super) fn write(&self, bytes: &[u8]) {
        // SAFETY: takes no pointer.
        self.write_to(unsafe { libc::getpid() }, bytes);
    }

    /// Writes to the memory of a process at the address.
    pub(super) fn write_to(&self, process: i32, bytes: &[u8]) -> bool {
        let here = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let there = libc::iovec { iov_base: self.at(0), iov_len: bytes.len() };
        // SAFETY: reads `bytes`, and writes to memory that no value lives in.
        let got = unsafe { libc::process_vm_writev(process, &raw const here, 1, &raw const there, 1, 0) };
        usize::try_from(got) == Ok(bytes.len())
    }

    /// A byte of the memory.
    pub(super) fn at(&self, offset: usize) -> *mut libc::c_void {
        std::ptr::without_provenance_mut(self.range.address + offset)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if self.kind == Kind::Heap && memory::grow_heap(0).is_ok_and(|end| end > self.range.address) {
            let _ = memory::grow_heap(-BYTES.cast_signed());
        }
        for address in [self.range.address, memory::ELSEWHERE].into_iter().filter(|_| self.kind != Kind::Heap)
        {
            // Also what has grown. Nothing there is no error.
            let _ = memory::unmap(Range { address, bytes: 2 * self.range.bytes });
        }
    }
}

/// Maps the first half of a file, in the place of whatever is there.
pub(super) fn map_file(address: usize, file: &File) -> io::Result<()> {
    let start = std::ptr::without_provenance_mut(address);
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
    // SAFETY: what is replaced is ours, and nobody has a reference into it.
    let got = unsafe { libc::mmap(start, BYTES, protection, flags, file.as_raw_fd(), 0) };
    if got == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Attaches a new segment in the place of what is there, and removes its name.
pub(super) fn attach(address: usize) -> io::Result<Range> {
    // SAFETY: what is replaced is ours, and nobody has a reference into it.
    let got = unsafe {
        let segment = libc::shmget(libc::IPC_PRIVATE, BYTES, libc::IPC_CREAT | 0o600);
        let got = libc::shmat(segment, std::ptr::without_provenance(address), libc::SHM_REMAP);
        libc::shmctl(segment, libc::IPC_RMID, std::ptr::null_mut());
        got
    };
    if got.addr() == usize::MAX {
        return Err(io::Error::last_os_error());
    }
    Ok(Range { address, bytes: BYTES })
}
