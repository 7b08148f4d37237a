//! What the monitor sleeps on.
//!
//! An epoll descriptor of our own, and not `poll(2)`: that one refuses more descriptors than
//! `RLIMIT_NOFILE` allows at the moment, also those that are open, and a program that lowers the
//! limit when it is set up must not lose its monitor.

use super::refusal::{Refusal, errno};
use core::ffi::c_int;
use core::fmt;
use core::time::Duration;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

const BATCH: usize = 64;

/// How often a descriptor is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// As long as there is something to read.
    Level,
    /// Once, until it is armed again.
    Once,
}

/// Descriptors, each with a number.
#[derive(Debug)]
pub(super) struct Epoll(OwnedFd);

impl Epoll {
    pub(super) fn open() -> Result<Self, Refusal> {
        // SAFETY: takes no pointer.
        let fd: c_int = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(Refusal::of_descriptor(errno()));
        }
        // SAFETY: new, and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Reports `fd` as `number` from now on.
    pub(super) fn add(&self, fd: RawFd, number: u64, mode: Mode) -> Result<(), Refusal> {
        self.control(libc::EPOLL_CTL_ADD, fd, number, mode)
    }

    /// Reports `fd` once more.
    pub(super) fn arm(&self, fd: RawFd, number: u64) {
        // It was added, so nothing can be refused but a descriptor that somebody closed.
        let _ = self.control(libc::EPOLL_CTL_MOD, fd, number, Mode::Once);
    }

    fn control(&self, what: c_int, fd: RawFd, number: u64, mode: Mode) -> Result<(), Refusal> {
        let once = if mode == Mode::Once { libc::EPOLLONESHOT } else { 0 };
        let mut event = libc::epoll_event { events: (libc::EPOLLIN | once).cast_unsigned(), u64: number };
        // SAFETY: the argument is the struct that this call reads.
        if unsafe { libc::epoll_ctl(self.0.as_raw_fd(), what, fd, &raw mut event) } == 0 {
            return Ok(());
        }
        Err(match errno() {
            // `fs.epoll.max_user_watches`.
            libc::ENOSPC => Refusal::Descriptors,
            errno => Refusal::of_descriptor(errno),
        })
    }

    /// Waits until something is to be read. `false`: waiting is not possible any more, because
    /// somebody closed the descriptor. Allocates nothing.
    pub(super) fn wait(&self, into: &mut Ready, timeout: Option<Duration>) -> bool {
        into.len = 0;
        let spec = timeout.map(|t| libc::timespec {
            tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        let spec = spec.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        let events = into.events.as_mut_ptr();
        // SAFETY: room for `BATCH` events, a timeout or none, and no mask. By number: the C library
        // has it only where it is new, and the kernel's `epoll_wait` counts in milliseconds.
        let got = unsafe {
            libc::syscall(libc::SYS_epoll_pwait2, self.0.as_raw_fd(), events, BATCH, spec, 0_usize, 0_usize)
        };
        match usize::try_from(got) {
            Ok(got) => into.len = got,
            Err(_) if errno() == libc::ENOSYS => return self.wait_coarsely(into, timeout),
            // A signal, though this thread blocks them all: nothing is ready.
            Err(_) => return errno() == libc::EINTR,
        }
        true
    }

    /// Before Linux 5.11: in whole milliseconds.
    fn wait_coarsely(&self, into: &mut Ready, timeout: Option<Duration>) -> bool {
        let ms = timeout.map_or(-1, |t| c_int::try_from(t.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX));
        let room = c_int::try_from(BATCH).unwrap_or(1);
        // SAFETY: room for `BATCH` events.
        let got = unsafe { libc::epoll_wait(self.0.as_raw_fd(), into.events.as_mut_ptr(), room, ms) };
        match usize::try_from(got) {
            Ok(got) => into.len = got,
            Err(_) => return errno() == libc::EINTR,
        }
        true
    }
}

/// What is ready, so that waiting allocates nothing.
pub(super) struct Ready {
    events: [libc::epoll_event; BATCH],
    len: usize,
}

impl Ready {
    pub(super) const fn new() -> Self {
        Self { events: [libc::epoll_event { events: 0, u64: 0 }; BATCH], len: 0 }
    }

    /// The numbers of what is ready.
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        self.events.iter().take(self.len).map(|event| event.u64)
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
