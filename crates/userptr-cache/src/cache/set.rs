//! Sets: leases on many ranges, all or none.

use super::evict::Released;
use super::lease::{CacheLease, Kind};
use super::lookup::{ROUNDS, wait_quiet};
use super::miss::Plan;
use super::slots::Hold;
use super::stats::Count;
use super::{Access, Shared};
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;
use userptr::{AddrRange, Device, Error, UserPtr};

extern crate alloc;

/// One range of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The bytes.
    pub range: AddrRange,
    /// What the device does with them.
    pub access: Access,
}

/// Leases on all ranges of a set, in the order in which they were asked for.
#[must_use = "the pages may be released as soon as the leases are dropped"]
pub struct LeaseSet<'c, D: Device>(Vec<CacheLease<'c, D>>);

impl<'c, D: Device> Deref for LeaseSet<'c, D> {
    type Target = [CacheLease<'c, D>];
    fn deref(&self) -> &[CacheLease<'c, D>] {
        &self.0
    }
}

impl<D: Device> fmt::Debug for LeaseSet<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A registration of a set. It stays registered, and no lease is held: an invalidation waits for
/// nobody here.
enum Member<'c, D: Device> {
    Kept(Hold<'c, D>),
    Once(UserPtr<D>),
    None,
}

impl<D: Device> Shared<D> {
    /// Takes leases on all of `wants`, or on none.
    ///
    /// First every range is registered, and held in its place without a lease. Then all leases are
    /// taken, without waiting in between; if one cannot be had, all are given back, its range is
    /// registered anew, and it begins again, a bounded number of times. So nobody waits while he
    /// holds a lease, and two sets cannot wait for each other.
    ///
    /// # Safety
    /// As [`Context::register_unchecked`](userptr::Context::register_unchecked) for each range.
    pub(super) unsafe fn set(&self, shard: usize, wants: &[Want]) -> Result<LeaseSet<'_, D>, Error> {
        let mut members = Vec::new();
        let mut leases = Vec::new();
        members.try_reserve_exact(wants.len()).map_err(|_| Error::NoMemory)?;
        leases.try_reserve_exact(wants.len()).map_err(|_| Error::NoMemory)?;
        members.resize_with(wants.len(), || Member::None);
        for _ in 0..ROUNDS {
            for (want, member) in wants.iter().zip(&mut members) {
                if matches!(member, Member::None) {
                    // SAFETY: the caller's promise.
                    *member = unsafe { self.member(shard, *want)? };
                }
            }
            if self.lease_all(wants, &mut members, &mut leases)? {
                return Ok(LeaseSet(leases));
            }
            // The leases are back, so this thread may wait.
            leases.clear();
        }
        Err(Error::Busy)
    }

    /// Registers one range, or finds it registered.
    ///
    /// # Safety
    /// As [`set`](Self::set).
    unsafe fn member(&self, shard: usize, want: Want) -> Result<Member<'_, D>, Error> {
        let (range, access) = (self.whole_pages(want.range)?, want.access);
        if let Some(hold) = self.find(shard, range, access) {
            self.counters.add(shard, Count::Hits);
            return Ok(Member::Kept(hold));
        }
        self.counters.add(shard, Count::Misses);
        let mut merge = self.setup.merge;
        for _ in 0..ROUNDS {
            let mut released = Released::new();
            let plan = self.plan(shard, range, access, merge, &mut released);
            drop(released);
            match plan {
                Plan::Serve(hold) => return Ok(Member::Kept(hold)),
                Plan::Wait { slot, ended } => self.wait_filled(slot, ended)?,
                Plan::Fill(filling) => {
                    let merged = filling.range() != range;
                    // SAFETY: as for a look-up of one range.
                    let kind = unsafe { self.fill(shard, filling) };
                    if merged && kind.is_err() {
                        merge = false;
                        continue;
                    }
                    // The lease is given back, the hold stays.
                    if let Kind::Kept { lease, hold } = kind? {
                        drop(lease);
                        return Ok(Member::Kept(hold));
                    }
                }
                Plan::Once => {
                    // SAFETY: the caller's promise.
                    let object = unsafe { self.once(range, access)? };
                    drop(self.with_room(|| object.acquire())?);
                    return Ok(Member::Once(object));
                }
            }
        }
        Err(Error::Busy)
    }

    /// Takes all leases, without waiting. `false`: one cannot be had; a member without pages is
    /// given up, the others stay. The caller drops the leases that were taken.
    fn lease_all<'c>(
        &'c self,
        wants: &[Want],
        members: &mut [Member<'c, D>],
        leases: &mut Vec<CacheLease<'c, D>>,
    ) -> Result<bool, Error> {
        for (want, member) in wants.iter().zip(members.iter_mut()) {
            let kind = match core::mem::replace(member, Member::None) {
                Member::None => return Ok(false),
                Member::Once(object) => match object.lease_if_pinned() {
                    Ok(Some(lease)) => Kind::Once(lease.into_owned()),
                    _ => return Ok(false),
                },
                Member::Kept(hold) => {
                    let generation = hold.handle().generation;
                    // SAFETY: the hold was validated; the lease is dropped before it.
                    let object = unsafe { hold.object() }.ok_or(Error::Invalid)?;
                    match object.lease_if_pinned() {
                        Ok(Some(lease)) => Kind::Kept { lease, hold },
                        Ok(None) => {
                            leases.clear();
                            self.retire(hold, generation);
                            return Ok(false);
                        }
                        Err(Error::Again) => {
                            leases.clear();
                            wait_quiet(object);
                            return Ok(false);
                        }
                        Err(error) => return Err(error),
                    }
                }
            };
            leases.push(kind.lease(want.range));
        }
        Ok(true)
    }
}
