//! A look-up: in the index, without a lock; then, if need be, with it.

use super::evict::Released;
use super::lease::{CacheLease, Handle, Kind};
use super::miss::Plan;
use super::slots::Hold;
use super::stats::Count;
use super::{Access, Shared};
use userptr::address_space::AddressSpace;
use userptr::device::PlatformOf;
use userptr::platform::Platform;
use userptr::{AddrRange, Device, Error, UserPtr};

/// How often a look-up begins anew after a change that came between, before it is refused with
/// [`Error::Busy`].
pub(super) const ROUNDS: usize = 32;
/// How often it reads the index without the lock.
const GLANCES: usize = 8;

impl<D: Device> Shared<D> {
    /// Returns the whole pages of a range.
    pub(super) fn whole_pages(&self, range: AddrRange) -> Result<AddrRange, Error> {
        let inside = usize::MAX.checked_shl(self.space.page_shift()).map_or(usize::MAX, |mask| !mask);
        AddrRange::inclusive(range.start() & !inside, range.last() | inside).ok_or(Error::Invalid)
    }

    /// Finds the registration that serves whole pages, and holds it in its place.
    pub(super) fn find(&self, shard: usize, range: AddrRange, access: Access) -> Option<Hold<'_, D>> {
        for _ in 0..GLANCES {
            let version = self.index.version();
            let slot = self.index.search(version, range, access);
            // Any number, as long as the version is not known to be current.
            let hold = slot.and_then(|slot| self.slots.hold(shard, slot));
            // ORDERING: after the reads of the index (C2), and between the count and the version
            // (C3, in `close`).
            PlatformOf::<D>::fence();
            if self.index.is_current(version) {
                return hold;
            }
        }
        None
    }

    /// # Safety
    /// As [`Cache::get_unchecked`].
    pub(super) unsafe fn get(
        &self,
        shard: usize,
        range: AddrRange,
        access: Access,
    ) -> Result<CacheLease<'_, D>, Error> {
        let pages = self.whole_pages(range)?;
        if let Some(hold) = self.find(shard, pages, access) {
            if let Some(kind) = self.lease(shard, hold)? {
                self.counters.add(shard, Count::Hits);
                return Ok(kind.lease(range));
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.miss(shard, pages, access) }.map(|kind| kind.lease(range))
    }

    /// # Safety
    /// As [`Cache::get_unchecked`].
    #[cold]
    unsafe fn miss(&self, shard: usize, pages: AddrRange, access: Access) -> Result<Kind<'_, D>, Error> {
        let mut merge = self.setup.merge;
        let mut missed = false;
        let mut miss = || {
            if !core::mem::replace(&mut missed, true) {
                self.counters.add(shard, Count::Misses);
            }
        };
        for _ in 0..ROUNDS {
            let mut released = Released::new();
            let plan = self.plan(shard, pages, access, merge, &mut released);
            // Before the pin: that may need the room.
            drop(released);
            match plan {
                Plan::Serve(hold) => {
                    if let Some(kind) = self.lease(shard, hold)? {
                        if !missed {
                            self.counters.add(shard, Count::Hits);
                        }
                        return Ok(kind);
                    }
                }
                Plan::Wait { slot, ended } => {
                    miss();
                    self.wait_filled(slot, ended)?;
                }
                Plan::Fill(filling) => {
                    miss();
                    let merged = filling.range() != pages;
                    // SAFETY: the caller's promise. The hull of a merge covers what was asked for
                    // by other calls, with the same promise.
                    let kind = unsafe { self.fill(shard, filling) };
                    if merged && kind.is_err() {
                        // Perhaps a neighbour's fault: the request alone is tried before it fails.
                        merge = false;
                        continue;
                    }
                    return kind;
                }
                Plan::Once => {
                    miss();
                    // SAFETY: the caller's promise.
                    let object = unsafe { self.once(pages, access)? };
                    return self.with_room(|| object.acquire_owned()).map(Kind::Once);
                }
            }
        }
        Err(Error::Busy)
    }

    /// Takes a lease on a registration that was found. `None`: its pages are gone, and it is taken
    /// out; or its memory is being changed.
    fn lease<'c>(&'c self, shard: usize, hold: Hold<'c, D>) -> Result<Option<Kind<'c, D>>, Error> {
        let generation = hold.handle().generation;
        // SAFETY: the slot was open after the fence that followed the count, or the lock was held;
        // the lease is dropped before the hold.
        let object = unsafe { hold.object() }.ok_or(Error::Invalid)?;
        match object.lease_if_pinned() {
            Ok(Some(lease)) => {
                hold.mark_used();
                return Ok(Some(Kind::Kept { lease, hold }));
            }
            Ok(None) => self.retire(hold, generation),
            Err(Error::Again) => wait_quiet(object),
            Err(error) => return Err(error),
        }
        self.counters.add(shard, Count::Races);
        Ok(None)
    }

    pub(super) fn at(
        &self,
        shard: usize,
        handle: Handle,
        range: AddrRange,
    ) -> Result<CacheLease<'_, D>, Error> {
        let hold = self.slots.hold(shard, handle.slot).ok_or(Error::NoEntry)?;
        // ORDERING: between the count and the generation (C3, in `close`).
        PlatformOf::<D>::fence();
        if handle.generation & 1 == 0 || self.slots.generation(handle.slot) != handle.generation {
            return Err(Error::NoEntry);
        }
        // SAFETY: the slot was open after the fence that followed the count.
        let object = unsafe { hold.object() }.ok_or(Error::NoEntry)?;
        if !object.range().contains(range) {
            return Err(Error::Invalid);
        }
        match object.lease_if_pinned()? {
            Some(lease) => {
                hold.mark_used();
                self.counters.add(shard, Count::Hits);
                Ok(Kind::Kept { lease, hold }.lease(range))
            }
            None => {
                self.retire(hold, handle.generation);
                Err(Error::NoEntry)
            }
        }
    }
}

/// Waits until the address space may have told of a change that is under way.
pub(super) fn wait_quiet<D: Device>(object: &UserPtr<D>) {
    let record = object.record();
    if let Some(registration) = record.registration() {
        record.space().wait_quiet(registration, object.range());
    }
}
