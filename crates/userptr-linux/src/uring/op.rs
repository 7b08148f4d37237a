//! Requests on a leased buffer.

use super::ring::Shared;
use super::table::Ask;
use super::{Slot, Uring};
use crate::OwnMemory;
use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use userptr::userptr::{Handle, LeaseOf};

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the buffer (`READ_FIXED`).
    FromFile,
    /// Out of the buffer (`WRITE_FIXED`).
    ToFile,
}

/// A part of a buffer and a place in a file, in bytes. A pipe or a socket has the place `u64::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first byte in the buffer.
    pub offset: usize,
    /// The number of bytes.
    pub bytes: usize,
    /// The first byte in the file.
    pub at: u64,
}

/// A request that the kernel has. It needs neither the lease nor the file any more: the kernel
/// holds both pages and file until it is done, and an invalidation waits for the tag of the buffer.
///
/// Wait for the result with [`wait`](Self::wait), or await it: it is a future, for any runtime or
/// none. Dropping it, also in the middle of the I/O, forgets the result, not the request: the pages
/// stay the device's until the kernel is done with them, and what is mapped at their address
/// meanwhile is not touched.
#[must_use = "the result is lost"]
pub struct Op {
    shared: Arc<Shared>,
    number: usize,
}

impl<S: OwnMemory> Uring<S> {
    /// Starts a request on a part of a leased buffer, on the lease's own ring. Returns when the
    /// kernel has taken it.
    ///
    /// # Errors
    /// `EINVAL`: the part is not inside the buffer, or longer than 2 GiB. `EAGAIN`: all requests
    /// are in flight. `EFAULT`: a forked child. `EIO`: the ring is lost. `ECANCELED`, as the
    /// request's result: an invalidation has begun since the lease was taken
    /// ([`LeaseOf::is_revoked`]): drop the lease and acquire again.
    pub fn start<R: Handle<Self>>(
        lease: &LeaseOf<Self, R>,
        direction: Direction,
        part: Part,
        file: impl AsFd,
    ) -> io::Result<Op> {
        let shared = &lease.object().context().device().shared;
        let failed = |errno| Err(io::Error::from_raw_os_error(errno));
        if !shared.owner.is_me() {
            return failed(libc::EFAULT);
        }
        let ask = ask(lease.map(), direction, part, file.as_fd().as_raw_fd());
        let Some(ask) = ask else { return failed(libc::EINVAL) };
        if direction == Direction::FromFile {
            lease.mark_written();
        }
        let number = {
            let mut table = shared.table();
            if table.is_lost() {
                return failed(libc::EIO);
            }
            table.queue(ask)
        };
        let Some(number) = number else { return failed(libc::EAGAIN) };
        shared.wake();
        shared.wait(None, |table| table.is_submitted(number).then_some(()));
        Ok(Op { shared: Arc::clone(shared), number })
    }

    /// Reads from a file into the buffer and waits for the result: the number of bytes.
    ///
    /// # Errors
    /// As [`start`](Self::start), and those of the request itself. `ECANCELED`: as there.
    pub fn read<R: Handle<Self>>(lease: &LeaseOf<Self, R>, part: Part, file: impl AsFd) -> io::Result<usize> {
        Self::start(lease, Direction::FromFile, part, file)?.wait()
    }

    /// Writes from the buffer to a file and waits for the result: the number of bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn write<R: Handle<Self>>(
        lease: &LeaseOf<Self, R>,
        part: Part,
        file: impl AsFd,
    ) -> io::Result<usize> {
        Self::start(lease, Direction::ToFile, part, file)?.wait()
    }
}

fn ask(slot: &Slot, direction: Direction, part: Part, fd: i32) -> Option<Ask> {
    let end = part.offset.checked_add(part.bytes)?;
    let bytes = u32::try_from(part.bytes).ok().filter(|bytes| i32::try_from(*bytes).is_ok())?;
    let address = slot.address.checked_add(part.offset)?;
    let ask = Ask { direction, fd, slot: slot.index, serial: slot.serial, address, bytes, at: part.at };
    (end <= slot.bytes).then_some(ask)
}

impl Op {
    /// Waits for the result: the number of bytes.
    ///
    /// # Errors
    /// Those of the request.
    pub fn wait(self) -> io::Result<usize> {
        loop {
            if let Some(result) = self.wait_for(Duration::MAX) {
                return result;
            }
        }
    }

    /// The result, if it comes in time.
    #[must_use]
    pub fn wait_for(&self, timeout: Duration) -> Option<io::Result<usize>> {
        if !self.shared.owner.is_me() {
            return Some(bytes(-libc::EFAULT));
        }
        let result = self.shared.wait(Some(timeout), |table| table.result(self.number))?;
        Some(bytes(result))
    }
}

/// The number of bytes, or the error of the request. Wakers run in a thread of the ring's that does
/// nothing else.
impl Future for Op {
    type Output = io::Result<usize>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.shared.owner.is_me() {
            return Poll::Ready(bytes(-libc::EFAULT));
        }
        // Cloning and dropping a waker is the user's code: outside of the lock.
        let waker = task.waker().clone();
        let (result, _unused) = {
            let mut table = self.shared.table();
            table.poll(self.number, waker)
        };
        result.map_or(Poll::Pending, |result| Poll::Ready(bytes(result)))
    }
}

fn bytes(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.saturating_neg()))
}

impl Drop for Op {
    fn drop(&mut self) {
        if !self.shared.owner.is_me() {
            // A forked child: a lock may be held forever by a thread that is not here.
            return;
        }
        let waker = {
            let mut table = self.shared.table();
            table.abandon(self.number)
        };
        drop(waker);
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Op({})", self.number)
    }
}
