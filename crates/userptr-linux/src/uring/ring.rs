//! The ring and the thread that works it.

use super::table::{Ask, Table};
use super::{Direction, Facility, Owner, Refusal};
use crate::{EventFd, errno};
use core::time::Duration;
use core::{mem, ptr};
use io_uring::{IoUring, opcode, squeue, types};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Marks a completion as a buffer's tag: `TAG | serial << 16 | slot`. A request's is its number.
const TAG: u64 = 1 << 63;
/// The bits of a serial.
pub(super) const SERIAL: u64 = (1 << 47) - 1;

pub(super) struct Shared {
    /// # Invariants
    /// Its two queues are touched by the ring's thread only.
    ring: IoUring,
    table: Mutex<Table>,
    changed: Condvar,
    /// An awaited request is done, or the ring has ended.
    done: Condvar,
    pub(super) wake: EventFd,
    pub(super) owner: Owner,
    pub(super) page: usize,
    pub(super) refusal: Mutex<Option<Refusal>>,
}

impl Shared {
    pub(super) fn open(table: Table, slots: u16, requests: u16) -> Result<Self, Refusal> {
        let refused = |error: std::io::Error| match error.raw_os_error() {
            Some(libc::ENOMEM) => Refusal::of_pinning(),
            Some(errno) => Refusal::of_facility(Facility::IoUring, errno),
            None => Refusal::Missing(Facility::IoUring),
        };
        // A completion for each request and for each tag. The child of a fork has no use of the
        // queues.
        let completions = u32::from(slots).saturating_add(requests.into());
        let ring = IoUring::builder()
            .setup_cqsize(completions)
            .dontfork()
            .build(requests.into())
            .map_err(refused)?;
        ring.submitter().register_buffers_sparse(slots.into()).map_err(refused)?;
        // SAFETY: takes no pointer.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        Ok(Self {
            ring,
            table: Mutex::new(table),
            changed: Condvar::new(),
            done: Condvar::new(),
            wake: EventFd::open()?,
            owner: Owner::mark(page)?,
            page,
            refusal: Mutex::new(None),
        })
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills a slot: the kernel pins the pages. The errno if it does not.
    pub(super) fn fill(&self, slot: u16, serial: u64, address: usize, bytes: usize) -> Result<(), i32> {
        let buffer = libc::iovec { iov_base: ptr::without_provenance_mut(address), iov_len: bytes };
        self.update(slot, buffer, TAG | serial.wrapping_shl(16) | u64::from(slot))
    }

    /// Clears a slot. Requests in flight keep the pages; the tag comes when the last is done.
    pub(super) fn clear(&self, slot: u16) {
        // A slot of the table can always be cleared: there is nothing to pin.
        let _ = self.update(slot, libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }, 0);
    }

    fn update(&self, slot: u16, buffer: libc::iovec, tag: u64) -> Result<(), i32> {
        // SAFETY: the kernel checks the range and holds the pages by itself; whether the memory is
        // still the user's is what the whole crate looks after.
        let done =
            unsafe { self.ring.submitter().register_buffers_update(slot.into(), &[buffer], Some(&[tag])) };
        done.map_err(|error| error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// Waits until `answer` answers. `None`: the time is over.
    pub(super) fn wait<R>(
        &self,
        timeout: Option<Duration>,
        mut answer: impl FnMut(&mut Table) -> Option<R>,
    ) -> Option<R> {
        // A timeout too long for the clock is none.
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut table = self.table();
        loop {
            if let Some(answer) = answer(&mut table) {
                return Some(answer);
            }
            table = match deadline {
                None => self.changed.wait(table).unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.changed.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Lets the ring's thread end.
    pub(super) fn end(&self) {
        self.table().shut_down();
        self.wake.add(1);
    }

    /// The ring's thread.
    pub(super) fn run(&self) {
        while !self.table().is_shut_down() {
            if !self.submit() {
                break;
            }
            self.reap();
            loop {
                let slot = self.table().next_to_clear();
                let Some(slot) = slot else { break };
                self.clear(slot);
            }
            // Tags of idle slots have come with the clearing.
            self.reap();
            self.sleep();
        }
        self.table().lose();
        self.changed.notify_all();
        self.done.notify_all();
    }

    /// The thread that wakes tasks. Not the ring's: a waker is the user's code, which may free
    /// memory or wait for a lock that an unmapper holds, and the unmapper may wait for the ring.
    pub(super) fn run_wakers(&self) {
        let mut table = self.table();
        loop {
            if let Some(waker) = table.next_to_wake() {
                drop(table);
                // A panic of the user's is the user's: the other tasks are woken all the same. What
                // it carries is not dropped here, where that could panic again.
                if let Err(payload) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
                    mem::forget(payload);
                }
                table = self.table();
            } else if table.is_lost() {
                // Every request is done, so nobody comes to wait any more.
                table.wakers_ended = true;
                drop(table);
                self.changed.notify_all();
                return;
            } else {
                table = self.done.wait(table).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Something changed: whoever waits looks again.
    fn notify(&self, awaited: bool) {
        self.changed.notify_all();
        if awaited {
            self.done.notify_one();
        }
    }

    /// Submits what is queued. `false`: the ring is broken.
    fn submit(&self) -> bool {
        let mut any = false;
        loop {
            // SAFETY: this is the ring's thread (invariant of `ring`).
            let mut queue = unsafe { self.ring.submission_shared() };
            while !queue.is_full() {
                let next = self.table().next_to_submit();
                let Some((number, ask)) = next else { break };
                any = true;
                // SAFETY: the slot holds the pages (it is live, and stays so until `submitted`),
                // and the asker keeps the file open until then.
                let _ = unsafe { queue.push(&entry(number, ask)) };
            }
            queue.sync();
            let left = queue.len();
            drop(queue);
            if left == 0 {
                break;
            }
            match self.ring.submit() {
                Ok(_) => {}
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)) =>
                {
                    self.reap();
                }
                Err(_) => return false,
            }
        }
        let mut table = self.table();
        if any {
            table.submitted();
        }
        // A request for a slot that was taken away meanwhile is done: its asker waits for that.
        if table.take_cancelled() || any {
            let awaited = table.is_awaited();
            drop(table);
            self.notify(awaited);
        }
        true
    }

    /// Takes in the completions.
    fn reap(&self) {
        // SAFETY: this is the ring's thread (invariant of `ring`).
        let queue = unsafe { self.ring.completion_shared() };
        let mut any = false;
        for completion in queue {
            let data = completion.user_data();
            let mut table = self.table();
            any = true;
            if data & TAG == 0 {
                table.complete(usize::try_from(data).unwrap_or(usize::MAX), completion.result());
            } else if let Ok(slot) = u16::try_from(data & u64::from(u16::MAX)) {
                table.tagged(slot, data.wrapping_shr(16) & SERIAL);
            }
        }
        if any {
            let awaited = self.table().is_awaited();
            self.notify(awaited);
        }
    }

    /// Waits for a wake-up or a completion.
    fn sleep(&self) {
        let wait = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut fds = [wait(self.wake.raw()), wait(self.ring.as_raw_fd())];
        // SAFETY: two initialised entries. A signal ends the wait early, which is harmless.
        let got = unsafe { libc::poll(fds.as_mut_ptr(), 2, -1) };
        if got < 0 && errno() != libc::EINTR {
            self.table().shut_down();
        }
        EventFd::take(self.wake.raw());
    }
}

fn entry(number: usize, ask: Ask) -> squeue::Entry {
    let file = types::Fd(ask.fd);
    let address = ptr::without_provenance_mut::<u8>(ask.address);
    let entry = match ask.direction {
        Direction::FromFile => {
            opcode::ReadFixed::new(file, address, ask.bytes, ask.slot).offset(ask.at).build()
        }
        Direction::ToFile => {
            opcode::WriteFixed::new(file, address.cast_const(), ask.bytes, ask.slot).offset(ask.at).build()
        }
    };
    entry.user_data(number as u64)
}
