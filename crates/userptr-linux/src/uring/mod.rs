//! A device on every Linux machine: an io_uring whose fixed buffers are `userptr` objects.
//!
//! A fixed buffer is pinned when it is registered, and read and written by its pinned pages ever
//! after, whatever the address means by then: after `munmap` and a new `mmap` the kernel still uses
//! the old pages and reports full success. A [`UserPtr`](userptr::UserPtr) takes the registration
//! away in time.
//!
//! | [`Device`] | io_uring |
//! |---|---|
//! | `prepare` | a slot of the sparse buffer table is filled, with a tag; the pages are marked dirty |
//! | a lease | a request may name the slot |
//! | `stop` | no request that has not been submitted is; the slot is cleared |
//! | `wait_idle` | the tag's completion: no request uses the pages any more |
//!
//! One thread submits all requests and reaps all completions. It is nobody's user thread on
//! purpose: completions run in the thread that submitted, and one that is blocked in `munmap` until
//! its own I/O is done would never complete it. That thread, `stop`, `wait_idle` and `unmap`
//! allocate nothing and take only the device's own lock, across which nothing is allocated.
//!
//! # Over which memory
//! [`Uring::open`] is for objects of [`Linux`]. With the feature `exact`, [`Uring::open_for`] makes
//! one for objects of `userptr_explicit::Explicit<Std>`: memory whose changes are bracketed, by the
//! program or by a listener (`userptr_linux::exact`). A ring's own calls are no covered calls.
//!
//! # What the device wrote
//! The kernel marks no page dirty that it pins for a fixed buffer, so reclaim could drop what the
//! device wrote: after `MADV_FREE`, in shared memory that was only read. `prepare` marks them all
//! ([rule 35](userptr::docs::protocol#rule-35)). `MADV_FREE` on a buffer while a request is in
//! flight gives up what that request writes, also what it writes later.
//!
//! # What comes late
//! An object whose request is still in flight at the deadline is quarantined. When the request is
//! done, the quarantine ends by itself, and the pages are released; an object that is not
//! synchronised waits for [`retry_quarantined`](userptr::Context::retry_quarantined). With
//! [`Setup::cancel`] the request does not last so long.
//!
//! # What the kernel refuses
//! Holes, read-only mappings, shared mappings of files on disk (`EFAULT`); more than 1 GiB in one
//! buffer (`E2BIG`, at registration); more than `RLIMIT_MEMLOCK` without `CAP_IPC_LOCK` (`ENOSPC`;
//! whole folios are charged). [`Uring::refusal`] tells the cause.

mod op;
mod ring;
mod table;

pub use op::{Direction, Op, Part};

use crate::populate::{self, is_mapped, populate_write};
use crate::{Facility, Linux, OwnMemory, Owner, Refusal, helper};
use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;
use ring::{Shared, retries};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use table::{Late, Phase, Table};
use userptr::AddrRange;
use userptr::Error;
use userptr::device::{Device, Limits, Prepare};
use userptr::notifier::{Event, Outcome};

/// The largest fixed buffer, in bytes.
pub const MAX_BYTES: usize = 1 << 30;
/// The most buffers in one table.
pub const MAX_SLOTS: u16 = 1 << 14;
/// The most requests in flight.
pub const MAX_REQUESTS: u16 = 1 << 12;

const DEADLINE: Duration = Duration::from_secs(10);

/// How to set a ring up.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// The number of buffers: 1 to [`MAX_SLOTS`].
    pub slots: u16,
    /// The number of requests in flight: 1 to [`MAX_REQUESTS`].
    pub requests: u16,
    /// How long an invalidation waits for leases and for requests in flight; see
    /// [`Limits::deadline`].
    pub deadline: Option<Duration>,
    /// Whether an invalidation cancels the requests in flight on its buffer, so that it does not
    /// wait for a silent pipe or socket. A request that the kernel is in the middle of, on a disk
    /// for example, ends by itself. The result of a cancelled one is `ECANCELED`. Off by default.
    pub cancel: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { slots: 1024, requests: 64, deadline: Some(DEADLINE), cancel: false }
    }
}

/// An io_uring with a table of fixed buffers, for objects of one kind of address space.
pub struct Uring<S = Linux> {
    shared: Arc<Shared>,
    threads: Option<Threads>,
    deadline: Option<Duration>,
    space: PhantomData<fn() -> S>,
}

struct Threads {
    ring: JoinHandle<()>,
    wakers: JoinHandle<()>,
    retries: JoinHandle<()>,
}

/// A filled slot of the buffer table.
#[derive(Debug)]
pub struct Slot {
    index: u16,
    serial: u64,
    address: usize,
    bytes: usize,
    /// Whom to tell if the pages become idle too late.
    late: Late,
}

impl Slot {
    /// The size of the buffer, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Uring {
    /// A ring of the calling process, for objects of [`Linux`].
    ///
    /// # Errors
    /// [`Refusal`], with the cause. [`Refusal::Size`]: a number in `setup` is zero or too large.
    pub fn open(setup: Setup) -> Result<Self, Refusal> {
        Self::open_for(setup)
    }
}

impl<S: OwnMemory> Uring<S> {
    /// A ring of the calling process, for objects of another kind of address space.
    ///
    /// # Errors
    /// As [`open`](Uring::open).
    pub fn open_for(setup: Setup) -> Result<Self, Refusal> {
        let Setup { slots, requests, deadline, cancel } = setup;
        for (asked, max) in [(slots, MAX_SLOTS), (requests, MAX_REQUESTS)] {
            if asked == 0 || asked > max {
                return Err(Refusal::Size { asked, max });
            }
        }
        if !populate::is_supported() {
            // Without it, what a device writes can be lost (rule 35).
            return Err(Refusal::Missing(Facility::PopulateWrite));
        }
        let table = Table::new(slots, requests, cancel)?;
        let shared = Arc::new(Shared::open(table, slots, requests)?);
        let ring = {
            let shared = Arc::clone(&shared);
            helper::spawn("userptr-uring", move || shared.run())?
        };
        let wakers = {
            let shared = Arc::clone(&shared);
            helper::spawn("userptr-wakers", move || shared.run_wakers())
        };
        let retries = {
            let shared = Arc::clone(&shared);
            helper::spawn("userptr-retries", move || shared.run_retries())
        };
        let (wakers, retries) = match (wakers, retries) {
            (Ok(wakers), Ok(retries)) => (wakers, retries),
            (Err(why), _) | (_, Err(why)) => {
                // A thread that was started ends with the ring.
                if shared.end() {
                    let _ = ring.join();
                }
                return Err(why);
            }
        };
        let threads = Some(Threads { ring, wakers, retries });
        Ok(Self { shared, threads, deadline, space: PhantomData })
    }
}

impl<S> Uring<S> {
    /// Why the last buffer was refused that was refused.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        if !self.shared.owner.is_me() {
            return None;
        }
        if let Some(errno) = self.shared.table().lost() {
            return Some(Refusal::RingLost(errno));
        }
        *self.shared.refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of buffers that are registered, and of requests that are in flight.
    #[must_use]
    pub fn in_use(&self) -> (usize, usize) {
        if !self.shared.owner.is_me() {
            return (0, 0);
        }
        self.shared.table().in_use()
    }

    fn refuse(&self, why: Refusal) -> Error {
        *self.shared.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        why.into()
    }
}

impl<S: OwnMemory> Device for Uring<S> {
    type Space = S;
    type Map = Slot;

    fn limits(&self) -> Limits {
        // The kernel pins every fixed buffer for writing, so read-only stays off.
        let pages = MAX_BYTES.checked_div(self.shared.page).unwrap_or(0);
        Limits::default().max_pages(pages).deadline(self.deadline)
    }

    fn prepare(&self, what: Prepare<'_, S>) -> Result<Slot, Error> {
        if !self.shared.owner.is_me() {
            return Err(Error::OtherSpace);
        }
        let page = self.shared.page;
        let bytes =
            what.pages.len().checked_mul(page).filter(|bytes| *bytes <= MAX_BYTES).ok_or(Error::TooBig)?;
        let late = Late { range: AddrRange::new(what.address, bytes)?, quarantine: what.space.quarantine() };
        let (lost, slot) = {
            let mut table = self.shared.table();
            (table.lost(), table.take_slot())
        };
        if let Some(errno) = lost {
            return Err(self.refuse(Refusal::RingLost(errno)));
        }
        let Some((index, serial, _before)) = slot else {
            return Err(self.refuse(Refusal::Table(self.shared.table().slots())));
        };
        if let Err(errno) = self.shared.fill(index, serial, what.address, bytes) {
            self.shared.table().free_slot(index, serial);
            return Err(match errno {
                libc::EFAULT | libc::EOPNOTSUPP if is_mapped(what.address, bytes) => {
                    self.refuse(Refusal::Unpinnable)
                }
                libc::EFAULT | libc::EOPNOTSUPP => self.refuse(Refusal::Unmapped),
                libc::ENOMEM => self.refuse(Refusal::of_pinning()),
                errno => self.refuse(Refusal::Errno(errno)),
            });
        }
        let slot = Slot { index, serial, address: what.address, bytes, late };
        if let Err(why) = populate_write(what.address, bytes) {
            // What refuses a write was mapped after the pin, or made read-only.
            self.unmap(slot);
            return Err(self.refuse(why));
        }
        Ok(slot)
    }

    fn stop(&self, map: &Slot) {
        if self.shared.owner.is_me() && self.shared.table().stop(map.index, map.serial) {
            self.shared.wake();
        }
    }

    fn wait_idle(&self, map: &Slot, timeout: Option<Duration>) -> Outcome {
        if !self.shared.owner.is_me() {
            // A forked child: the ring, its thread and the pins are the parent's.
            return Outcome::Idle;
        }
        // A release without an invalidation comes without a stop.
        self.stop(map);
        let timeout = if retries() { Some(Duration::ZERO) } else { timeout };
        let outcome = self
            .shared
            .wait(timeout, |table| match table.phase(map.index, map.serial) {
                _ if table.is_lost() => Some(Outcome::DeviceLost),
                Phase::Idle | Phase::Free => Some(Outcome::Idle),
                Phase::Live | Phase::Stopping | Phase::Cleared => None,
            })
            .unwrap_or(Outcome::TimedOut);
        if outcome == Outcome::TimedOut {
            // The tag will come, or has come a moment ago.
            let _before = {
                let mut table = self.shared.table();
                table.give_up(map.index, map.serial, map.late.clone())
            };
        }
        outcome
    }

    fn event(&self, event: Event) {
        // A tag that came between the timeout and the quarantine found nothing to try again.
        if matches!(event, Event::Quarantined(_, Outcome::TimedOut)) && self.shared.owner.is_me() {
            self.shared.retry();
        }
    }

    fn unmap(&self, map: Slot) {
        if !self.shared.owner.is_me() {
            return;
        }
        // Live: it never began, and no request ever named the slot.
        if self.shared.table().phase(map.index, map.serial) == Phase::Live
            && self.shared.clear(map.index).is_err()
        {
            // The ring is lost, or the kernel had no memory, which the ring's thread tries again.
            // The place in the table is not used again.
            self.stop(&map);
            return;
        }
        self.shared.table().free_slot(map.index, map.serial);
    }
}

impl<S> Drop for Uring<S> {
    fn drop(&mut self) {
        let Some(threads) = self.threads.take() else { return };
        if !self.shared.owner.is_me() {
            // A forked child: the threads are not here, and their references to the ring are never
            // dropped. So it does not unmap the queues, which it did not inherit: what lies at
            // their addresses by now is the child's own.
            core::mem::forget(threads);
            return;
        }
        if self.shared.end() {
            // A thread that panicked has said so already.
            let _ = threads.ring.join();
        }
        if self.shared.table().lost() == Some(libc::EBADF) {
            // Somebody closed the descriptors: their numbers are not ours to close any more.
            core::mem::forget(Arc::clone(&self.shared));
        }
        let me = std::thread::current().id();
        // Dropped at the end of a quarantine: the thread ends after that by itself.
        if threads.retries.thread().id() != me {
            let _ = threads.retries.join();
        }
        if threads.wakers.thread().id() == me {
            // Dropped in a waker: its thread ends after that by itself.
            return;
        }
        // A waker that does not return keeps its thread, not us.
        let ended =
            self.shared.wait(self.deadline.or(Some(DEADLINE)), |table| table.wakers_ended.then_some(()));
        if ended.is_some() {
            let _ = threads.wakers.join();
        }
    }
}

impl<S> fmt::Debug for Uring<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (slots, requests) = self.in_use();
        write!(f, "Uring({slots} buffers, {requests} requests)")
    }
}
