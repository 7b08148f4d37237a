//! What is under test: something that turns an address into I/O on pinned pages.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::FileExt;

/// A registered buffer, by its address and size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Range {
    pub(crate) address: usize,
    pub(crate) bytes: usize,
}

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The device reads the memory.
    ToFile,
    /// The device writes to the memory.
    FromFile,
}

/// A part of a buffer that one request touches, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) offset: usize,
    pub(crate) bytes: usize,
}

/// A registration cache.
pub(crate) trait Cache {
    /// Looks the buffer up, registers it if it is not there, and runs one request on it.
    fn run(&mut self, buffer: Range, part: Part, way: Way, file: &File) -> io::Result<usize>;
    /// Drops every registration, so that attempts do not help each other.
    fn forget(&mut self);
}

/// A file in memory.
pub(crate) fn memfd() -> io::Result<File> {
    // SAFETY: a C string; the descriptor is new.
    let fd = unsafe { libc::memfd_create(c"stale_pages".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// The first bytes of a file.
pub(crate) fn content(file: &File, bytes: usize) -> io::Result<Vec<u8>> {
    let mut content = vec![0; bytes];
    file.read_exact_at(&mut content, 0)?;
    Ok(content)
}
