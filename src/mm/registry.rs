//! The registry: from an address space's identity to its record.

use super::record::{MmRecord, MmRef};
use crate::address_space::AddressSpace;
use crate::error::Error;
use crate::platform::{LockClass, Mutex, Platform, RawQueue};
use crate::refcount::{Inner, Ref, RefCounted};
use core::fmt;
use core::ptr::NonNull;

const BUCKETS: usize = 64;

pub(super) type RecordPtr<S> = NonNull<Inner<MmRecord<S>, <S as AddressSpace>::Platform>>;

/// The address spaces that a device works on.
///
/// # Invariants
/// A linked record's count is above zero whenever the mutex is free: its last put takes the mutex
/// first and unlinks it.
///
/// Source: `mm_structs`, `mm_lock`, `__i915_mm_struct_find`.
pub struct MmRegistry<S: AddressSpace> {
    pub(super) buckets: Mutex<S::Platform, Buckets<S>>,
    /// The queue of its notifiers' revocations.
    pub(super) revokes: Option<<S::Platform as Platform>::Queue>,
    /// The queue on which records are freed, and objects whose last reference was a revocation's
    /// ([rule 32](crate::docs::protocol#rule-32)): another than the one that a record's release
    /// waits for ([rule 13](crate::docs::protocol#rule-13)).
    pub(super) releases: <S::Platform as Platform>::Queue,
}

/// Intrusive lists by identity.
pub(super) struct Buckets<S: AddressSpace> {
    heads: [Option<RecordPtr<S>>; BUCKETS],
}

// SAFETY: the pointers are followed under the registry's mutex, while the records live (invariant
// of the registry).
unsafe impl<S: AddressSpace> Send for Buckets<S> {}

// SAFETY: `init` initialises the mutex. Records hold counted references to the registry.
unsafe impl<S: AddressSpace> RefCounted<S::Platform> for MmRegistry<S> {
    unsafe fn init(&self) {
        // SAFETY: called once, at the final address (caller).
        unsafe { self.buckets.init() }
    }
}

impl<S: AddressSpace> MmRegistry<S> {
    /// Makes a registry. `releases` is a queue that runs no revocations
    /// ([rule 13](crate::docs::protocol#rule-13)).
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn try_new(
        revokes: Option<<S::Platform as Platform>::Queue>,
        releases: <S::Platform as Platform>::Queue,
    ) -> Result<Ref<Self, S::Platform>, Error> {
        let buckets = Buckets { heads: [None; BUCKETS] };
        let buckets = Mutex::<S::Platform, _>::uninit(LockClass::REGISTRY, buckets);
        Ok(Ref::try_new(Self { buckets, revokes, releases })?)
    }

    /// Returns the record of an address space, made if there is none.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn find(this: &Ref<Self, S::Platform>, space: &S) -> Result<MmRef<S>, Error> {
        let id = space.id();
        if let Some(found) = this.with(|buckets| buckets.get(id)) {
            return Ok(found);
        }
        // Made with no lock held, because an allocation may reclaim (rule 27); then look again.
        let made = MmRecord::try_new(this.clone(), id, space.grab())?;
        let found = this.with(|buckets| match buckets.get(id) {
            Some(found) => Some(found),
            None => {
                // SAFETY: fresh, so in no list; alive until its last put unlinks it.
                unsafe { buckets.link(id, &made) };
                None
            }
        });
        match found {
            // The loser was never linked: it goes as a plain object, here, outside the lock.
            Some(found) => Ok(found),
            None => Ok(MmRef::new(made)),
        }
    }

    /// Calls `f` for each record, with no lock held. A record that is linked or unlinked meanwhile
    /// may be missed.
    pub fn each(&self, mut f: impl FnMut(&MmRef<S>)) {
        for bucket in 0..BUCKETS {
            let mut place = 0_usize;
            while let Some(record) = self.with(|buckets| buckets.at(bucket, place)) {
                f(&record);
                place = place.saturating_add(1);
            }
        }
    }

    /// Returns the number of records: a snapshot.
    #[must_use]
    pub fn len(&self) -> usize {
        self.with(|buckets| {
            let mut n = 0_usize;
            for head in &buckets.heads {
                let mut at = *head;
                while let Some(record) = at {
                    n = n.saturating_add(1);
                    // SAFETY: the mutex is held: linked records are alive.
                    at = unsafe { record.as_ref().value().next() };
                }
            }
            n
        })
    }

    /// Returns whether there is no record: a snapshot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until every object and record that was dropped so far is freed. Must not be called on
    /// the release queue.
    pub fn flush(&self) {
        // An object's release queues its record's.
        self.releases.drain();
    }

    /// Returns the queue on which is freed what a revocation may not free.
    pub(crate) fn releases(&self) -> &<S::Platform as Platform>::Queue {
        &self.releases
    }

    pub(super) fn with<R>(&self, f: impl FnOnce(&mut Buckets<S>) -> R) -> R {
        // SAFETY: initialised by `Ref::try_new`. No section allocates, calls out or enters another.
        unsafe { self.buckets.with(f) }
    }
}

impl<S: AddressSpace> Buckets<S> {
    fn head(&mut self, id: usize) -> Option<&mut Option<RecordPtr<S>>> {
        // Identities are addresses of large structures: mix the bits before taking some.
        let mixed = id.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as usize);
        self.heads.get_mut((mixed >> (usize::BITS / 2)) % BUCKETS)
    }

    fn get(&mut self, id: usize) -> Option<MmRef<S>> {
        let mut at = *self.head(id)?;
        while let Some(record) = at {
            // SAFETY: the mutex is held: linked records are alive, and their counts are above zero.
            unsafe {
                let value = record.as_ref().value();
                if value.id() == id {
                    record.as_ref().count().get();
                    return Some(MmRef::new(Ref::adopt(record)));
                }
                at = value.next();
            }
        }
        None
    }

    /// Returns the record at a place of a list.
    fn at(&self, bucket: usize, place: usize) -> Option<MmRef<S>> {
        let mut record = (*self.heads.get(bucket)?)?;
        // SAFETY: the mutex is held: linked records are alive, and their counts are above zero.
        unsafe {
            for _ in 0..place {
                record = record.as_ref().value().next()?;
            }
            record.as_ref().count().get();
            Some(MmRef::new(Ref::adopt(record)))
        }
    }

    /// # Safety
    /// The record must be in no list.
    unsafe fn link(&mut self, id: usize, record: &Ref<MmRecord<S>, S::Platform>) {
        if let Some(head) = self.head(id) {
            // SAFETY: the mutex is held.
            unsafe { record.set_next(*head) };
            *head = Some(Ref::inner(record));
        }
    }

    /// Takes a record out.
    pub(super) fn unlink(&mut self, record: &MmRecord<S>) {
        let Some(head) = self.head(record.id()) else { return };
        // SAFETY: the mutex is held: what is linked is alive.
        unsafe {
            let mut before: Option<RecordPtr<S>> = None;
            let mut at = *head;
            while let Some(here) = at {
                let value = here.as_ref().value();
                let next = value.next();
                if core::ptr::eq(value, record) {
                    match before {
                        Some(before) => before.as_ref().value().set_next(next),
                        None => *head = next,
                    }
                    return;
                }
                before = at;
                at = next;
            }
        }
    }
}

impl<S: AddressSpace> fmt::Debug for MmRegistry<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MmRegistry({} records)", self.len())
    }
}
