//! The record of one address space.

use super::registry::{MmRegistry, RecordPtr};
use crate::address_space::AddressSpace;
use crate::error::Error;
use crate::has_work;
use crate::notifier::Notifier;
use crate::platform::{AtomicUsize, Cell, Load, Platform, Store};
use crate::refcount::{Ref, RefCounted};
use crate::work::{HasWork, Work, enqueue};
use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::Deref;

/// One address space of a device (an `mmgrab` reference) and, once needed, its registered notifier.
///
/// # Invariants
/// * `next` is touched under the registry's mutex only.
/// * `bound` is written once, under the registry's mutex, before `published` becomes 1; and taken
///   by the release's work item, alone.
///
/// Source: `struct i915_mm_struct`.
pub struct MmRecord<S: AddressSpace> {
    registry: Ref<MmRegistry<S>, S::Platform>,
    /// Returns the identity under which the registry keeps it. Asked of the address space once: an
    /// answer that changed would leave a record in a list that the registry does not look into.
    id: usize,
    space: S,
    next: <S::Platform as Platform>::Cell<Option<RecordPtr<S>>>,
    published: <S::Platform as Platform>::Usize,
    bound: <S::Platform as Platform>::Cell<Option<Bound<S>>>,
    free: Work<Self, S::Platform>,
}

/// A notifier and its registration with the address space.
struct Bound<S: AddressSpace> {
    notifier: Ref<Notifier<S::Platform>, S::Platform>,
    registration: S::Registration,
}

// SAFETY: the cells are touched as the invariants say; everything in them is `Send + Sync`.
unsafe impl<S: AddressSpace> Send for MmRecord<S> {}
// SAFETY: shared access to the cells is under the mutex or after the publication, as the invariants
// say.
unsafe impl<S: AddressSpace> Sync for MmRecord<S> {}

// SAFETY: `init` initialises the work item. The registry's link is cut by `MmRef`'s drop before the
// object is released.
unsafe impl<S: AddressSpace> RefCounted<S::Platform> for MmRecord<S> {
    unsafe fn init(&self) {
        // SAFETY: called once, at the final address (caller).
        unsafe { self.free.init() }
    }
}

// SAFETY: the item is initialised above.
unsafe impl<S: AddressSpace> HasWork<S::Platform> for MmRecord<S> {
    has_work!(free: Work<MmRecord<S>, S::Platform>);

    /// Releases the record: on a queue of its own, outside every lock and callback.
    fn run(this: Ref<Self, S::Platform>) {
        // SAFETY: the count went to zero and came back for this call alone: nobody else has the
        // record.
        let bound = this.bound.with_mut(|b| unsafe { (*b).take() });
        if let Some(bound) = bound {
            // Unregister, wait for callbacks, free: in this order (rule 13). No revocation is left
            // to wait for: each holds its object to its very end, and no object holds this record
            // any more. The queue is shared, so a flush of it would wait for the revocations of
            // other address spaces, and for the holders of leases there (rule 8).
            // SAFETY: every object of this record holds it, so there is none any more.
            unsafe { this.space.unregister(bound.registration) };
            drop(bound.notifier);
        }
    }
}

impl<S: AddressSpace> MmRecord<S> {
    pub(super) fn try_new(
        registry: Ref<MmRegistry<S>, S::Platform>,
        id: usize,
        space: S,
    ) -> Result<Ref<Self, S::Platform>, Error> {
        let this = Self {
            registry,
            id,
            space,
            next: <<S::Platform as Platform>::Cell<_> as Cell<_>>::new(None),
            published: AtomicUsize::new(0),
            bound: <<S::Platform as Platform>::Cell<_> as Cell<_>>::new(None),
            free: Work::uninit(),
        };
        Ok(Ref::try_new(this)?)
    }

    /// Returns the address space.
    #[must_use]
    pub fn space(&self) -> &S {
        &self.space
    }

    /// Returns the identity under which the registry keeps it.
    pub(super) fn id(&self) -> usize {
        self.id
    }

    /// # Safety
    /// The registry's mutex must be held.
    pub(super) unsafe fn next(&self) -> Option<RecordPtr<S>> {
        // SAFETY: the mutex is held: nobody writes.
        self.next.with(|n| unsafe { *n })
    }

    /// # Safety
    /// The registry's mutex must be held.
    pub(super) unsafe fn set_next(&self, next: Option<RecordPtr<S>>) {
        // SAFETY: the mutex is held.
        self.next.with_mut(|n| unsafe { *n = next });
    }

    fn bound(&self) -> Option<&Bound<S>> {
        // ORDERING: pairs with the release in `publish` (E14): a thread that sees 1 sees the
        // notifier, registered.
        if self.published.load(Load::Acquire) == 0 {
            return None;
        }
        // SAFETY: written once, before the 1 that was read; taken only after the last reference is
        // gone. So no write can come while `self` is borrowed, and the pointer may outlive the
        // closure (`Cell::with`).
        self.bound.with(|b| unsafe { &*b }).as_ref()
    }

    /// Returns the notifier, if it was made.
    #[must_use]
    pub fn existing_notifier(&self) -> Option<&Ref<Notifier<S::Platform>, S::Platform>> {
        self.bound().map(|b| &b.notifier)
    }

    /// Returns the registration, if it was made.
    #[must_use]
    pub fn registration(&self) -> Option<&S::Registration> {
        self.bound().map(|b| &b.registration)
    }

    /// Returns the notifier, made and registered on first use
    /// ([rule 12](crate::docs::protocol#rule-12)).
    ///
    /// # Errors
    /// [`Error::NoNotifications`] if the address space cannot notify, [`Error::NoMemory`], and what
    /// [`AddressSpace::register`] gives. Nothing stays behind, and a retry can work.
    ///
    /// Source: `i915_mmu_notifier_find`.
    pub fn notifier(&self) -> Result<&Ref<Notifier<S::Platform>, S::Platform>, Error> {
        if let Some(bound) = self.bound() {
            return Ok(&bound.notifier);
        }
        if !self.space.notifies() {
            return Err(Error::NoNotifications);
        }
        // Outside every lock: this allocates, and the address space takes its own locks.
        let notifier = Notifier::try_new(self.registry.revokes.clone())?;
        let registration = self.space.register(notifier.clone())?;
        if let Some(lost) = self.publish(Bound { notifier, registration }) {
            // Nothing can be attached to it: nobody else ever saw it.
            // SAFETY: it was made a moment ago for a notifier that nobody else has.
            unsafe { self.space.unregister(lost.registration) };
        }
        self.bound().map(|b| &b.notifier).ok_or(Error::NoDevice)
    }

    /// Publishes once. Returns what came too late.
    fn publish(&self, mine: Bound<S>) -> Option<Bound<S>> {
        self.registry.with(|_| {
            if self.published.load(Load::Relaxed) != 0 {
                return Some(mine);
            }
            // SAFETY: the mutex is held and nothing was published, so nobody reads or writes it.
            self.bound.with_mut(|b| unsafe { *b = Some(mine) });
            // ORDERING: publishes the notifier, which is registered by now; pairs with the acquire
            // in `bound` (E14).
            self.published.store(1, Store::Release);
            None
        })
    }
}

impl<S: AddressSpace> fmt::Debug for MmRecord<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MmRecord({:#x}, {:?})", self.id, self.existing_notifier())
    }
}

/// A counted reference to a record. The last one takes the registry's mutex before the count
/// reaches zero, unlinks the record and leaves its release to a work item, because it may be
/// dropped inside a revocation, inside a callback of the very registration that the release must
/// end (scenarios [46](crate::docs::scenarios#scenario-46) and
/// [86](crate::docs::scenarios#scenario-86)).
///
/// Source: `kref_put_mutex(&mm->kref, __i915_mm_struct_free, ...)`.
pub struct MmRef<S: AddressSpace> {
    record: ManuallyDrop<Ref<MmRecord<S>, S::Platform>>,
}

impl<S: AddressSpace> MmRef<S> {
    pub(super) fn new(record: Ref<MmRecord<S>, S::Platform>) -> Self {
        Self { record: ManuallyDrop::new(record) }
    }
}

impl<S: AddressSpace> Clone for MmRef<S> {
    fn clone(&self) -> Self {
        Self { record: self.record.clone() }
    }
}

impl<S: AddressSpace> Deref for MmRef<S> {
    type Target = MmRecord<S>;
    fn deref(&self) -> &MmRecord<S> {
        &self.record
    }
}

impl<S: AddressSpace> Drop for MmRef<S> {
    fn drop(&mut self) {
        // SAFETY: taken once, here.
        let record = unsafe { ManuallyDrop::take(&mut self.record) };
        let registry = record.registry.clone();
        // SAFETY: initialised by `Ref::try_new`; a thread that drops a record holds no lock of this
        // crate.
        let Some((last, mut guard)) = (unsafe { Ref::put_and_lock(record, &registry.buckets) }) else {
            return;
        };
        guard.with(|buckets| buckets.unlink(&last));
        drop(guard);
        if let Err(refused) = enqueue::<_, S::Platform, 0>(&registry.releases, last.revive()) {
            // The release queue was shut down from outside. Freeing here could wait for the
            // callback that we are in; leak it instead: the registration stays, and finds no
            // object.
            core::mem::forget(refused);
        }
    }
}

impl<S: AddressSpace> fmt::Debug for MmRef<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}
