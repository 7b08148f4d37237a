//! Slots: where registrations lie, and who uses them.
//!
//! A slot never moves and is never freed before the cache is. Its object is put in and taken out by
//! one thread alone: the one that fills it, or the one that has closed it and found no user.

use super::{Handle, Word};
use alloc::vec::Vec;
use userptr::device::PlatformOf;
use userptr::platform::{AtomicUsize, Cell, Load, Platform, Rmw, Store};
use userptr::{Device, Error, UserPtr};

extern crate alloc;

/// Words between the counts of two shards, so that no line has counts of both: two lines, since
/// processors fetch them in pairs.
const APART: usize = 16;

/// Opened, and not found by anybody since.
const NEW: usize = 1;
/// Found by a look-up.
const FOUND: usize = 2;

type CellOf<D> = <PlatformOf<D> as Platform>::Cell<Option<UserPtr<D>>>;

pub(super) struct Slot<D: Device> {
    /// Counts fillings and closings: odd while the registration is open to look-ups.
    generation: Word<PlatformOf<D>>,
    /// The clock's mark: [`NEW`] or [`FOUND`] since the hand passed, else 0.
    used: Word<PlatformOf<D>>,
    object: CellOf<D>,
}

pub(super) struct Slots<D: Device> {
    slots: Vec<Slot<D>>,
    /// How many users each slot has, a row for each shard.
    users: Vec<Word<PlatformOf<D>>>,
    stride: usize,
    shards: usize,
}

// SAFETY: an object is put in and taken out under the protocol of this module, and read by users
// only; it is `Send + Sync` itself.
unsafe impl<D: Device> Send for Slots<D> {}
// SAFETY: as for `Send`.
unsafe impl<D: Device> Sync for Slots<D> {}

impl<D: Device> Slots<D> {
    pub(super) fn new(entries: usize, shards: usize) -> Result<Self, Error> {
        let shards = shards.clamp(1, 64).next_power_of_two();
        let stride = entries.checked_add(APART).ok_or(Error::TooBig)?;
        let total = stride.checked_mul(shards).ok_or(Error::TooBig)?;
        let (mut slots, mut users) = (Vec::new(), Vec::new());
        slots.try_reserve_exact(entries).map_err(|_| Error::NoMemory)?;
        users.try_reserve_exact(total).map_err(|_| Error::NoMemory)?;
        slots.resize_with(entries, || Slot {
            generation: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            object: <CellOf<D> as Cell<_>>::new(None),
        });
        users.resize_with(total, || Word::<PlatformOf<D>>::new(0));
        Ok(Self { slots, users, stride, shards })
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns the shard of the calling thread. Which one it is matters for speed only, since a
    /// hold knows the count that it raised.
    pub(super) fn shard(&self) -> usize {
        PlatformOf::<D>::shard() & self.shards.wrapping_sub(1)
    }

    fn count(&self, shard: usize, slot: usize) -> Option<&Word<PlatformOf<D>>> {
        let row = (shard & self.shards.wrapping_sub(1)).wrapping_mul(self.stride);
        self.users.get(row.wrapping_add(slot))
    }

    /// Counts a user in. The object may be touched only once the slot is known to have been open
    /// after a full fence.
    pub(super) fn hold(&self, shard: usize, slot: usize) -> Option<Hold<'_, D>> {
        let place = self.slots.get(slot)?;
        let count = self.count(shard, slot)?;
        // Relaxed: what orders it is the fence that the caller makes next (C3), or the lock.
        count.fetch_add(1, Rmw::Relaxed);
        Some(Hold { slots: self, place, count, slot })
    }

    /// Returns the generation of a slot, if it is open.
    pub(super) fn generation(&self, slot: usize) -> usize {
        // ORDERING: pairs with the release in `open` (C1): the object is visible to who finds the
        // slot by its handle.
        self.slots.get(slot).map_or(0, |place| place.generation.load(Load::Acquire))
    }

    /// Opens a slot that was filled. Called under the lock.
    pub(super) fn open(&self, slot: usize) {
        if let Some(place) = self.slots.get(slot) {
            let next = place.generation.load(Load::Relaxed).wrapping_add(1);
            place.used.store(NEW, Store::Relaxed);
            // ORDERING: publishes the object; pairs with the acquire in `generation` (C1).
            place.generation.store(next, Store::Release);
        }
    }

    /// Closes a slot to look-ups by handle. Called under the lock.
    pub(super) fn close(&self, slot: usize) {
        if let Some(place) = self.slots.get(slot) {
            // Relaxed: the caller's fence orders it before the look at the users (C3).
            let next = place.generation.load(Load::Relaxed).wrapping_add(1);
            place.generation.store(next, Store::Relaxed);
        }
    }

    /// Returns whether nobody uses the slot, which was closed, with a full fence since: nobody
    /// will.
    pub(super) fn is_unused(&self, slot: usize) -> bool {
        (0..self.shards).all(|shard| {
            // ORDERING: pairs with the release of a hold's drop (C4): its use of the object is
            // over.
            self.count(shard, slot).is_none_or(|count| count.load(Load::Acquire) == 0)
        })
    }

    /// Puts an object into a slot.
    ///
    /// # Safety
    /// The slot is reserved for this thread, and empty.
    pub(super) unsafe fn put(&self, slot: usize, object: UserPtr<D>) {
        if let Some(place) = self.slots.get(slot) {
            // SAFETY: nobody else touches a reserved slot (caller).
            place.object.with_mut(|object_of| unsafe { *object_of = Some(object) });
        }
    }

    /// Takes the object out.
    ///
    /// # Safety
    /// The slot is reserved for this thread, or closed and unused.
    pub(super) unsafe fn take(&self, slot: usize) -> Option<UserPtr<D>> {
        // SAFETY: nobody else touches it (caller).
        self.slots.get(slot)?.object.with_mut(|object| unsafe { (*object).take() })
    }

    /// Returns the object of an open slot. Called under the lock, which closing needs.
    ///
    /// # Safety
    /// The slot is open, and the lock is held for as long as the reference lives.
    pub(super) unsafe fn peek(&self, slot: usize) -> Option<&UserPtr<D>> {
        // SAFETY: an open slot is not written (caller).
        self.slots.get(slot)?.object.with(|object| unsafe { (*object).as_ref() })
    }

    /// Returns whether nobody has found it since it was opened.
    pub(super) fn is_new(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|place| place.used.load(Load::Relaxed) == NEW)
    }

    /// Returns whether it was found since the last call: the clock's hand. What is new and was not
    /// found gets no second turn, so that a scan of new ranges does not drive out what is used.
    pub(super) fn take_found(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|place| {
            let found = place.used.load(Load::Relaxed) == FOUND;
            if found {
                place.used.store(0, Store::Relaxed);
            }
            found
        })
    }
}

/// A user of a slot: while it lives the object stays where it is. Forgetting it keeps the slot for
/// ever, nothing worse.
pub(super) struct Hold<'c, D: Device> {
    slots: &'c Slots<D>,
    place: &'c Slot<D>,
    count: &'c Word<PlatformOf<D>>,
    slot: usize,
}

impl<'c, D: Device> Hold<'c, D> {
    pub(super) fn slot(&self) -> usize {
        self.slot
    }

    /// Returns the object.
    ///
    /// # Safety
    /// The slot is reserved for this thread and was filled, or it was open after a full fence that
    /// followed [`Slots::hold`]; and the reference is not used after the hold is gone.
    pub(super) unsafe fn object(&self) -> Option<&'c UserPtr<D>> {
        // SAFETY: written before the slot was opened, and taken out only after a fence that follows
        // its closing and finds our count at zero (caller, C3).
        self.place.object.with(|object| unsafe { (*object).as_ref() })
    }

    /// Sets the clock's mark. Writes only if it is not set.
    pub(super) fn mark_used(&self) {
        if self.place.used.load(Load::Relaxed) != FOUND {
            self.place.used.store(FOUND, Store::Relaxed);
        }
    }

    /// Returns the handle of the registration.
    pub(super) fn handle(&self) -> Handle {
        let generation = self.slots.generation(self.slot);
        Handle { slot: self.slot, generation }
    }
}

impl<D: Device> Drop for Hold<'_, D> {
    fn drop(&mut self) {
        // ORDERING: releases the use of the object; pairs with the acquire in `is_unused` (C4).
        self.count.fetch_sub(1, Rmw::Release);
    }
}
