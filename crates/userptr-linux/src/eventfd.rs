//! A counter that can be polled, to wake a thread.

use super::refusal::{Refusal, errno};
use core::ffi::c_int;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// An `eventfd(2)`, non-blocking and close-on-exec.
#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

impl EventFd {
    pub(crate) fn open() -> Result<Self, Refusal> {
        // SAFETY: takes no pointer.
        let fd: c_int = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(Refusal::of_descriptor(errno()));
        }
        // SAFETY: new, and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Adds to the counter.
    pub(crate) fn add(&self, n: u64) {
        // SAFETY: eight bytes from a word.
        let _ = unsafe { libc::write(self.raw(), (&raw const n).cast(), size_of::<u64>()) };
    }
}
