//! Address spaces: the record (`mm_count`), the users (`mm_users`), the process that owns one.

use super::frames::Page;
use super::lock::MmapLock;
use super::machine::Machine;
use super::notify::{Callbacks, Notify, Subscription};
use super::seam::{Op, Seam};
use super::vma::Tables;
use super::{SHIFT, TOP};
use crate::platform::lockdep;
use core::cell::Cell;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use userptr::Error;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

pub(super) fn set_current(id: usize) -> usize {
    CURRENT.replace(id)
}

/// The identity of the address space that this thread runs in; 0: none.
pub(super) fn current() -> usize {
    CURRENT.get()
}

pub(super) struct Mm {
    pub(super) id: usize,
    pub(super) machine: Machine,
    pub(super) mmap: MmapLock,
    pub(super) notify: Notify,
    tables: Mutex<Tables>,
    users: AtomicUsize,
    count: AtomicUsize,
    /// Pinned pages that this address space is charged for, and how many it may have.
    pub(super) charged: AtomicUsize,
    pub(super) limit: AtomicUsize,
    pub(super) capable: AtomicBool,
}

impl Mm {
    /// The page-table lock. The address-space lock is taken before it; nothing is called while it
    /// is held but the frames.
    pub(super) fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn users_get(&self) -> bool {
        let more = |n: usize| (n != 0).then(|| n + 1);
        // ORDERING: pairs with the `fetch_sub` in `users_put`: who finds zero sees the end of the
        // address space.
        self.users.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok()
    }

    fn users_put(&self) {
        lockdep::nothing_held("mmput");
        self.machine.arrive(Seam::UsersPut, Op::Other, self.id, None);
        // ORDERING: releases this user's work and, as the last, acquires the others': `exit` tears
        // down what they used.
        if self.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.exit();
        }
    }

    /// The last user is gone: callbacks, then the end of all mappings.
    fn exit(&self) {
        let event = |seam| self.machine.arrive(seam, Op::Exit, self.id, None);
        event(Seam::Before);
        // From here on a registration fails. One that is through is told of the end.
        {
            let _mmap = self.mmap.write();
            self.tables().dead = true;
        }
        self.release_callbacks();
        event(Seam::Started);
        let pages = {
            let mut tables = self.tables();
            tables.vmas.clear();
            tables.clear(&(0..usize::MAX))
        };
        event(Seam::Cleared);
        for page in pages {
            self.machine.frames().unmap(page);
        }
        event(Seam::Freed);
    }
}

/// A hold on the record of an address space (`mmgrab`, and `mmdrop` when dropped).
pub struct Record(pub(super) Arc<Mm>);

impl Record {
    /// The identity.
    #[must_use]
    pub fn id(&self) -> usize {
        self.0.id
    }

    /// The machine.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.0.machine
    }

    /// Whether the calling thread runs in this address space.
    #[must_use]
    pub fn is_current(&self) -> bool {
        current() == self.0.id
    }

    /// Whether the calling thread runs in none.
    #[must_use]
    pub fn is_nobody_current() -> bool {
        current() == 0
    }

    /// Whether users are left.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        // ORDERING: pairs with the `fetch_sub` in `users_put`.
        self.0.users.load(Ordering::Acquire) != 0
    }

    /// How many holds on the record there are, this one included.
    #[must_use]
    pub fn count(&self) -> usize {
        // ORDERING: pairs with the `fetch_sub` in `Record`'s drop: a test that reads a count sees
        // what the dropper did.
        self.0.count.load(Ordering::Acquire)
    }

    /// A hold on the users (`mmget_not_zero`), as a process: dropping it is `mmput`.
    #[must_use]
    pub fn users(&self) -> Option<Process> {
        self.0.users_get().then(|| Process(self.clone()))
    }

    /// The most pages that may be pinned (`RLIMIT_MEMLOCK`).
    pub fn set_limit(&self, pages: usize) {
        self.0.limit.store(pages, Ordering::Relaxed);
    }

    /// How many pinned pages it is charged for.
    #[must_use]
    pub fn charged(&self) -> usize {
        self.0.charged.load(Ordering::Relaxed)
    }

    /// Gives or takes the privilege (`CAP_SYS_ADMIN`).
    pub fn set_capable(&self, capable: bool) {
        self.0.capable.store(capable, Ordering::Relaxed);
    }

    /// Whether the privilege is there.
    #[must_use]
    pub fn is_capable(&self) -> bool {
        self.0.capable.load(Ordering::Relaxed)
    }

    /// Registers for notifications.
    ///
    /// # Errors
    /// [`Error::Fault`] if the address space is gone, and what was injected.
    pub fn register(&self, callbacks: Box<dyn Callbacks>) -> Result<Arc<Subscription>, Error> {
        self.0.register(callbacks)
    }

    /// Ends a subscription. Returns when none of its callbacks is in flight.
    pub fn unregister(&self, subscription: &Arc<Subscription>) {
        self.0.unregister(subscription);
    }

    /// How many subscriptions there are.
    #[must_use]
    pub fn registered(&self) -> usize {
        self.0.notify.registered()
    }

    /// Whether a range that ends with the byte `last`, inclusive, can be user memory.
    #[must_use]
    pub fn access_ok(&self, last: usize) -> bool {
        last < TOP
    }

    /// The page that is mapped at an address, if one is.
    #[must_use]
    pub fn page_at(&self, address: usize) -> Option<Page> {
        self.0.tables().ptes.get(&(address >> SHIFT)).map(|pte| pte.page)
    }
}

impl Clone for Record {
    fn clone(&self) -> Self {
        // ORDERING: stronger than a clone needs, so that `count` orders after every clone that it
        // counts.
        self.0.count.fetch_add(1, Ordering::AcqRel);
        Self(self.0.clone())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        // ORDERING: releases to `count`, and as the last acquires from the other droppers.
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.machine.records_add(-1);
        }
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({}, alive: {})", self.id(), self.is_alive())
    }
}

/// A hold on the users of an address space: a process, or somebody who borrows its memory. Dropping
/// the last one ends the address space (`mmput`).
#[derive(Debug)]
pub struct Process(pub(super) Record);

impl Process {
    pub(super) fn new(machine: &Machine) -> Self {
        machine.records_add(1);
        let mm = Arc::new(Mm {
            id: machine.next_mm(),
            machine: machine.clone(),
            mmap: MmapLock::default(),
            notify: Notify::default(),
            tables: Mutex::default(),
            users: AtomicUsize::new(1),
            count: AtomicUsize::new(1),
            charged: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            capable: AtomicBool::new(false),
        });
        Self(Record(mm))
    }

    /// The record, which outlives the process.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.0
    }

    pub(super) fn mm(&self) -> &Mm {
        &self.0.0
    }

    /// Runs this thread in the process until the guard is dropped.
    pub fn enter(&self) -> super::Entered {
        self.record().machine().enter(self)
    }

    /// Ends this hold; the last one ends the address space.
    pub fn exit(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.mm().users_put();
    }
}
