//! A look-up that finds nothing: registers, outside of every lock.

use super::evict::Released;
use super::lease::{CacheLease, Kind};
use super::slots::Hold;
use super::table::Table;
use super::{Access, Shared};
use userptr::notifier::State;
use userptr::platform::{AtomicUsize, Load, Store};
use userptr::{AddrRange, Device, Error, UserPtr};

/// How many registrations a miss looks at, whether they were invalidated.
const SWEPT: usize = 4;

/// What a miss has to do.
pub(super) enum Plan<'c, D: Device> {
    /// Nothing: it is there.
    Serve(Hold<'c, D>),
    /// To wait for the thread that fills this slot.
    Wait { slot: usize, ended: usize },
    /// To fill this slot.
    Fill(Filling<'c, D>),
    /// To register without keeping it.
    Once,
}

/// A slot that this thread fills. Dropped without [`open`](Self::open), also by a driver that
/// unwinds, it is free again and nothing stays behind.
pub(super) struct Filling<'c, D: Device> {
    shared: &'c Shared<D>,
    slot: usize,
    range: AddrRange,
    access: Access,
}

impl<D: Device> Filling<'_, D> {
    /// Returns what is to be registered: more than was asked for, if neighbours are merged in.
    pub(super) fn range(&self) -> AddrRange {
        self.range
    }

    /// Opens the slot to look-ups.
    fn open(self) {
        let this = core::mem::ManuallyDrop::new(self);
        let (shared, slot) = (this.shared, this.slot);
        shared.locked(|table| {
            table.open(slot);
            shared.slots.open(slot);
            shared.index.publish(&mut table.draft);
            shared.end_filling(slot);
        });
        shared.wake_fillers();
    }
}

impl<D: Device> Drop for Filling<'_, D> {
    fn drop(&mut self) {
        // SAFETY: the slot is reserved for this thread.
        let object = unsafe { self.shared.slots.take(self.slot) };
        self.shared.locked(|table| {
            table.release(self.slot);
            self.shared.end_filling(self.slot);
        });
        self.shared.wake_fillers();
        drop(object);
    }
}

impl<D: Device> Shared<D> {
    /// Counts the end of a filling. Called under the lock.
    fn end_filling(&self, slot: usize) {
        if let Some(ended) = self.ended.get(slot) {
            let next = ended.load(Load::Relaxed).wrapping_add(1);
            // Relaxed: who sees it takes the lock next.
            ended.store(next, Store::Relaxed);
        }
    }

    /// Lets those go on who wait for a filling.
    fn wake_fillers(&self) {
        // SAFETY: initialised with `Shared`, which stays in place; no spinlock is held.
        unsafe { self.filled.wake_all() };
    }

    /// Waits until the slot is filled, or was given up.
    pub(super) fn wait_filled(&self, slot: usize, ended: usize) -> Result<(), Error> {
        let Some(word) = self.ended.get(slot) else { return Ok(()) };
        let deadline = self.context.limits().deadline;
        // SAFETY: initialised with `Shared`; no spinlock is held.
        let done = unsafe { self.filled.wait_until(deadline, || word.load(Load::Relaxed) != ended) };
        if done { Ok(()) } else { Err(Error::TimedOut) }
    }

    /// Decides what a miss has to do. What it takes out goes to `released`.
    pub(super) fn plan(
        &self,
        shard: usize,
        range: AddrRange,
        access: Access,
        merge: bool,
        released: &mut Released<D>,
    ) -> Plan<'_, D> {
        let found = self.locked(|table| {
            self.sweep(table, SWEPT, released);
            // Under the lock nothing is closed, so what the index says is true.
            if let Some(slot) = self.index.search(self.index.version(), range, access) {
                return Found::Open(self.slots.hold(shard, slot));
            }
            if let Some(slot) = table.filling(range, access) {
                return Found::Filling(
                    slot,
                    self.ended.get(slot).map_or(0, |ended| ended.load(Load::Relaxed)),
                );
            }
            if table.is_storm(range) {
                return Found::Nothing;
            }
            let range = if merge { self.merge(table, range, access) } else { range };
            let bytes = range.len().unwrap_or(usize::MAX);
            while bytes <= self.setup.bytes && !table.has_room(bytes, self.setup.bytes) {
                if released.room() == 0 || !self.evict(table, released) {
                    break;
                }
            }
            if !table.has_room(bytes, self.setup.bytes) {
                return Found::Nothing;
            }
            match table.reserve(range, access) {
                Some(slot) => Found::Free(slot, range),
                None => Found::Nothing,
            }
        });
        match found {
            Found::Open(Some(hold)) => Plan::Serve(hold),
            Found::Filling(slot, ended) => Plan::Wait { slot, ended },
            Found::Free(slot, range) => Plan::Fill(Filling { shared: self, slot, range, access }),
            Found::Open(None) | Found::Nothing => Plan::Once,
        }
    }

    /// Returns the hull of the range and its neighbours, and closes those that it takes in.
    fn merge(&self, table: &mut Table, range: AddrRange, access: Access) -> AddrRange {
        let same = |slot: usize, table: &Table| {
            // SAFETY: the slot is open, and the lock is held.
            let ready = unsafe { self.slots.peek(slot) }.is_some_and(|o| o.state() == State::Ready);
            ready && table.entry(slot).is_some_and(|entry| entry.access == access)
        };
        let most = self.setup.bytes;
        let mut hull = range;
        for (slot, near) in table.neighbours(range) {
            let wider = hull.hull(near);
            if same(slot, table) && wider.len().is_some_and(|bytes| bytes <= most) {
                hull = wider;
            }
        }
        // One at a time: closing changes what is iterated over.
        while let Some(slot) = {
            let mut inside = table.neighbours(range).filter(|(_, near)| hull.contains(*near));
            inside.find(|(slot, _)| same(*slot, table)).map(|(slot, _)| slot)
        } {
            self.close(table, slot);
        }
        hull
    }

    /// Fills a slot: registers, pins, and opens it with a lease for the caller.
    ///
    /// # Safety
    /// As [`Context::register_unchecked`](userptr::Context::register_unchecked) for the range.
    pub(super) unsafe fn fill<'c>(
        &'c self,
        shard: usize,
        filling: Filling<'c, D>,
    ) -> Result<Kind<'c, D>, Error> {
        let (slot, range) = (filling.slot, filling.range);
        // SAFETY: the caller's promise.
        let object = unsafe { self.register(range, filling.access)? };
        // SAFETY: the slot is reserved for this thread, and empty.
        unsafe { self.slots.put(slot, object) };
        let hold = self.slots.hold(shard, slot).ok_or(Error::Invalid)?;
        // SAFETY: reserved for this thread and filled; the lease is dropped before the hold.
        let object = unsafe { hold.object() }.ok_or(Error::Invalid)?;
        let lease = self.with_room(|| object.acquire())?;
        filling.open();
        Ok(Kind::Kept { lease, hold })
    }

    /// Registers and pins a range that is not kept.
    ///
    /// # Safety
    /// As [`fill`](Self::fill).
    pub(super) unsafe fn once(&self, range: AddrRange, access: Access) -> Result<UserPtr<D>, Error> {
        self.locked(|table| table.counts.once = table.counts.once.wrapping_add(1));
        // SAFETY: the caller's promise.
        unsafe { self.register(range, access) }
    }

    /// # Safety
    /// As [`fill`](Self::fill).
    unsafe fn register(&self, range: AddrRange, access: Access) -> Result<UserPtr<D>, Error> {
        let flags = access.flags(self.context.limits().read_only);
        // SAFETY: the caller's promise.
        self.with_room(|| unsafe { self.context.register_unchecked(&self.space, range, flags) })
    }
}

enum Found<'c, D: Device> {
    Open(Option<Hold<'c, D>>),
    Filling(usize, usize),
    Free(usize, AddrRange),
    Nothing,
}

impl<'c, D: Device> Kind<'c, D> {
    /// Makes the lease of a request.
    pub(super) fn lease(self, range: AddrRange) -> CacheLease<'c, D> {
        let mut lease = CacheLease { kind: self, offset: 0 };
        lease.offset = range.start().saturating_sub(lease.range().start());
        lease
    }
}
