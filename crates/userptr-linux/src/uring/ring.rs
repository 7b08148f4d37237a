//! The ring and the thread that works it.

use super::table::{Ask, Next, Table};
use super::{Direction, Facility, Owner, Refusal};
use crate::memory::page_size;
use crate::{EventFd, errno};
use core::cell::Cell;
use core::time::Duration;
use core::{mem, ptr};
use io_uring::{IoUring, opcode, squeue, types};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Marks a completion as a buffer's tag: `TAG | serial << 16 | slot`. A request's is its number.
const TAG: u64 = 1 << 63;
/// The bits of a serial.
pub(super) const SERIAL: u64 = (1 << 47) - 1;
/// Marks the completion of the poll of [`Shared::wake`].
const WAKE: u64 = 1 << 62;
/// Marks the completion of a cancel. What became of the request is in the request's own.
const CANCEL: u64 = 1 << 61;

std::thread_local! {
    /// Whether the thread tries objects again that were given up. It comes when a tag came, and
    /// waits for no other.
    static RETRIES: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is such a one.
pub(super) fn retries() -> bool {
    // A thread that is ending has lost its thread-local data: it is none.
    RETRIES.try_with(Cell::get).unwrap_or(false)
}

pub(super) struct Shared {
    /// # Invariants
    /// Its two queues are touched by the ring's thread only.
    ring: IoUring,
    table: Mutex<Table>,
    changed: Condvar,
    /// An awaited request is done, or the ring has ended.
    done: Condvar,
    /// An object that was given up is to be tried again, or the ring has ended.
    late: Condvar,
    /// Polled by the ring itself, so that its thread waits for one thing only, and needs no call
    /// that the limit of descriptors could refuse.
    wake: EventFd,
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
        // A completion for each request and its cancel, for each tag, and for the wake-up. More
        // come when a slot is filled and cleared again and again while the ring's thread does not
        // run: the kernel keeps those, and gives them out when it is asked (`sleep`). The child of
        // a fork has no use of the queues.
        let requests_twice = u32::from(requests).saturating_mul(2);
        let completions = u32::from(slots).saturating_add(requests_twice).saturating_add(1);
        let ring = IoUring::builder()
            .setup_cqsize(completions)
            .dontfork()
            .build(requests.into())
            .map_err(refused)?;
        ring.submitter().register_buffers_sparse(slots.into()).map_err(refused)?;
        let page = page_size();
        Ok(Self {
            ring,
            table: Mutex::new(table),
            changed: Condvar::new(),
            done: Condvar::new(),
            late: Condvar::new(),
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

    /// Clears a slot. Requests in flight keep the pages; the tag comes when the last is done. The
    /// errno if the kernel does not do it.
    pub(super) fn clear(&self, slot: u16) -> Result<(), i32> {
        self.update(slot, libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }, 0)
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

    /// Wakes the ring's thread. `false`: it cannot be woken, because its descriptor was closed; the
    /// ring is lost.
    pub(super) fn wake(&self) -> bool {
        let one = 1_u64;
        // SAFETY: eight bytes from a word.
        let done = unsafe { libc::write(self.wake.raw(), (&raw const one).cast(), size_of::<u64>()) };
        // A full counter wakes as well.
        let woken = done >= 0 || errno() == libc::EAGAIN;
        if !woken {
            self.lose(errno());
        }
        woken
    }

    /// Takes the wake-ups that have come.
    fn take_wakes(&self) -> Result<(), i32> {
        let mut n = 0_u64;
        // SAFETY: eight bytes into a word.
        let done = unsafe { libc::read(self.wake.raw(), (&raw mut n).cast(), size_of::<u64>()) };
        if done >= 0 || errno() == libc::EAGAIN { Ok(()) } else { Err(errno()) }
    }

    /// Lets the ring's thread end. `false`: it does not learn of it.
    pub(super) fn end(&self) -> bool {
        self.table().shut_down();
        self.wake()
    }

    /// The ring answers no more, for the errno; 0: it was ended. Whoever waits learns of it.
    fn lose(&self, errno: i32) {
        self.table().lose(errno);
        self.changed.notify_all();
        self.done.notify_all();
        self.late.notify_all();
    }

    /// The ring's thread.
    pub(super) fn run(&self) {
        let mut poll = Poll { armed: false };
        let errno = loop {
            if self.table().is_shut_down() {
                break 0;
            }
            if let Err(errno) = self.turn(&mut poll) {
                break errno;
            }
        };
        self.lose(errno);
    }

    /// One turn of the ring's thread, which ends by a wait for the next completion.
    fn turn(&self, poll: &mut Poll) -> Result<(), i32> {
        self.submit(poll)?;
        self.reap(poll)?;
        loop {
            let slot = self.table().next_to_clear();
            let Some(slot) = slot else { break };
            match self.clear(slot) {
                Ok(()) => {}
                // Tried again when somebody asks for it, or anything else wakes the thread.
                Err(libc::ENOMEM | libc::EAGAIN | libc::EINTR) => {
                    self.table().clear_again(slot);
                    break;
                }
                Err(errno) => return Err(errno),
            }
        }
        // Tags of idle slots have come with the clearing.
        self.reap(poll)?;
        if poll.armed && !self.table().has_cancels() { self.sleep() } else { Ok(()) }
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

    /// Has the objects tried again that were given up and whose tag has come since.
    pub(super) fn retry(&self) {
        self.table().retry = true;
        self.late.notify_one();
    }

    /// The thread that tries them again. Not the ring's: the end of a quarantine frees memory, and
    /// may drop the device.
    pub(super) fn run_retries(&self) {
        RETRIES.set(true);
        let mut table = self.table();
        while !table.is_lost() {
            if !table.take_retry() {
                table = self.late.wait(table).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let mut index = 0;
            while let Some((at, late)) = table.next_late(index) {
                index = at.saturating_add(1);
                drop(table);
                // Another device of the address space may be the user's code.
                let retry = AssertUnwindSafe(|| late.quarantine.retry(late.range));
                if let Err(payload) = catch_unwind(retry) {
                    mem::forget(payload);
                }
                drop(late);
                table = self.table();
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

    /// Submits what is queued, and first the poll of the wake-ups if it is not there.
    fn submit(&self, poll: &mut Poll) -> Result<(), i32> {
        let mut any = false;
        loop {
            // SAFETY: this is the ring's thread (invariant of `ring`).
            let mut queue = unsafe { self.ring.submission_shared() };
            while !queue.is_full() {
                let entry = if poll.armed {
                    let next = self.table().next_to_submit();
                    let Some(next) = next else { break };
                    any = true;
                    match next {
                        Next::Request(number, ask) => entry(number, ask),
                        Next::Cancel(number) => {
                            opcode::AsyncCancel::new(number as u64).build().user_data(CANCEL)
                        }
                    }
                } else {
                    poll.armed = true;
                    let events = u32::from(libc::POLLIN.cast_unsigned());
                    opcode::PollAdd::new(types::Fd(self.wake.raw()), events).build().user_data(WAKE)
                };
                // SAFETY: of a request: the slot holds the pages (it is live, and stays so until
                // `submitted`), and the asker keeps the file open until then. The others name no
                // memory.
                let _ = unsafe { queue.push(&entry) };
            }
            queue.sync();
            let left = queue.len();
            drop(queue);
            if left == 0 {
                break;
            }
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => self.reap(poll)?,
                    errno => return Err(errno.unwrap_or(libc::EIO)),
                },
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
        Ok(())
    }

    /// Takes in the completions.
    fn reap(&self, poll: &mut Poll) -> Result<(), i32> {
        // SAFETY: this is the ring's thread (invariant of `ring`).
        let queue = unsafe { self.ring.completion_shared() };
        let mut any = false;
        for completion in queue {
            let data = completion.user_data();
            if data == WAKE {
                if completion.result() < 0 {
                    return Err(completion.result().saturating_neg());
                }
                self.take_wakes()?;
                poll.armed = false;
                continue;
            }
            if data == CANCEL {
                continue;
            }
            let mut table = self.table();
            any = true;
            if data & TAG == 0 {
                table.complete(usize::try_from(data).unwrap_or(usize::MAX), completion.result());
            } else if let Ok(slot) = u16::try_from(data & u64::from(u16::MAX)) {
                table.tagged(slot, data.wrapping_shr(16) & SERIAL);
                if table.retry {
                    self.late.notify_one();
                }
            }
        }
        if any {
            let awaited = self.table().is_awaited();
            self.notify(awaited);
        }
        Ok(())
    }

    /// Waits for a completion. The call also has the kernel hand out what the completion queue had
    /// no room for.
    fn sleep(&self) -> Result<(), i32> {
        match self.ring.submit_and_wait(1) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // What cannot be waited for is looked at again.
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => Ok(()),
                errno => Err(errno.unwrap_or(libc::EIO)),
            },
        }
    }
}

/// Whether the ring polls [`Shared::wake`].
struct Poll {
    armed: bool,
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
