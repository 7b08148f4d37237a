//! Register and hope: what every cache does that is not told of changes.

use super::io::{Cache, Part, Range, Way};
use io_uring::{IoUring, opcode, types};
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

const SLOTS: u16 = 16;

pub(crate) struct Naive {
    ring: IoUring,
    slots: HashMap<Range, u16>,
}

impl Naive {
    pub(crate) fn open() -> Result<Self, String> {
        let ring = IoUring::new(8).map_err(|why| why.to_string())?;
        ring.submitter().register_buffers_sparse(SLOTS.into()).map_err(|why| why.to_string())?;
        Ok(Self { ring, slots: HashMap::new() })
    }

    fn update(&self, slot: u16, address: usize, bytes: usize) -> io::Result<()> {
        let buffer = libc::iovec { iov_base: ptr::without_provenance_mut(address), iov_len: bytes };
        // SAFETY: not safe at all, which is what this half shows: nothing keeps the memory what it
        // is.
        unsafe { self.ring.submitter().register_buffers_update(slot.into(), &[buffer], None) }
    }

    fn slot(&mut self, buffer: Range) -> io::Result<u16> {
        if let Some(slot) = self.slots.get(&buffer) {
            return Ok(*slot);
        }
        let slot = u16::try_from(self.slots.len())
            .ok()
            .filter(|slot| *slot < SLOTS)
            .ok_or(io::ErrorKind::OutOfMemory)?;
        self.update(slot, buffer.address, buffer.bytes).map_err(|why| match why.raw_os_error() {
            Some(libc::ENOMEM) => std::io::Error::other(userptr_linux::Refusal::of_pinning()),
            _ => why,
        })?;
        self.slots.insert(buffer, slot);
        Ok(slot)
    }
}

impl Cache for Naive {
    fn run(&mut self, buffer: Range, part: Part, way: Way, file: &File) -> io::Result<usize> {
        let slot = self.slot(buffer)?;
        let (file, bytes) = (types::Fd(file.as_raw_fd()), u32::try_from(part.bytes).unwrap());
        let address = ptr::without_provenance_mut::<u8>(buffer.address + part.offset);
        let entry = match way {
            Way::ToFile => opcode::WriteFixed::new(file, address, bytes, slot).build(),
            Way::FromFile => opcode::ReadFixed::new(file, address, bytes, slot).build(),
        };
        // SAFETY: the kernel uses the pages that it pinned; the file is open until the request is
        // done, below.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| io::ErrorKind::WouldBlock)?;
        self.ring.submit_and_wait(1)?;
        let done = self.ring.completion().next().ok_or(io::ErrorKind::BrokenPipe)?;
        usize::try_from(done.result()).map_err(|_| io::Error::from_raw_os_error(-done.result()))
    }

    fn forget(&mut self) {
        for (_, slot) in std::mem::take(&mut self.slots) {
            self.update(slot, 0, 0).unwrap();
        }
    }
}
