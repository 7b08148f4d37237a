//! Leases: the right to use the pages right now.

use super::body::{Body, Installed};
use super::object::UserPtr;
use crate::address_space::{Pages, WatchKey};
use crate::device::{Device, PlatformOf};
use crate::notifier::{Holder, LeaseGuard, sealed};
use crate::pages::SgTable;
use crate::platform::{Cell, Platform};
use crate::refcount::Ref;
use core::fmt;
use core::marker::PhantomData;

/// What a lease gives access to.
#[non_exhaustive]
pub struct Mapped<'a, D: Device> {
    /// The device's mapping.
    pub map: &'a D::Map,
    /// The pinned pages.
    pub pages: &'a Pages<D::Space>,
    /// The same as segments.
    pub sg: &'a SgTable<PlatformOf<D>>,
}

/// The right to use an object's pages: while it lives they stay pinned and mapped, and an
/// invalidation of the range waits.
///
/// While it holds a lease, a thread must not call a waiting acquire, take a page fault, take the
/// address-space lock, or unmap the buffer ([rule 29](crate::docs::protocol#rule-29)). A lease kept
/// past the deadline gets its object quarantined. Dropping it wakes the revocation that waits for
/// it; dropping the last lease of a quarantined object finishes the revocation and may sleep.
/// Forgetting it leaks the pages, nothing worse.
///
/// A [`Lease`] borrows its handle and stays in its thread; an [`OwnedLease`] has a handle of its
/// own, for work that outlives the caller ([`into_owned`](Lease::into_owned)).
///
/// ```
/// # use userptr::platforms::std::Std;
/// # use userptr_sim::{DmaDevice, Machine, PAGE};
/// # use userptr::{Context, Flags};
/// # let machine = Machine::new();
/// # let process = machine.process();
/// # let context = Context::builder(DmaDevice::<Std>::new(&machine)).spawn()?;
/// # let _inside = machine.enter(&process);
/// # let buffer = process.map(PAGE);
/// # let object = context.register(&process.space(), buffer, Flags::NONE)?;
/// let lease = object.acquire()?;
/// lease.mark_written();
/// context.device().write(lease.map(), 0, 42);
/// assert_eq!(process.load(buffer.start())?, 42, "the process sees what the device wrote");
///
/// let owned = lease.into_owned();
/// drop(object);
/// assert!(!owned.is_revoked());
/// # Ok::<(), userptr::Error>(())
/// ```
#[must_use = "the pages may be released as soon as the lease is dropped"]
pub struct LeaseOf<D: Device, R: Handle<D>> {
    guard: LeaseGuard<Body<D>, PlatformOf<D>, R>,
}

/// A lease that borrows its object and is not `Send`. The platform records the holding thread; a
/// call from that thread that would wait for this lease fails with `EDEADLK`.
pub type Lease<'a, D> = LeaseOf<D, Local<'a, D>>;
/// A lease with a handle of its own, for work that outlives the caller.
pub type OwnedLease<D> = LeaseOf<D, Own<D>>;

/// The handle that a lease has, borrowed or owned. Only this crate implements it.
pub trait Handle<D: Device>: Holder<Body<D>, PlatformOf<D>> {
    /// Returns the object.
    fn handle(&self) -> &UserPtr<D>;
}

/// The handle of a lease that has one of its own.
pub struct Own<D: Device>(UserPtr<D>);

impl<D: Device> sealed::Sealed for Own<D> {}
impl<D: Device> Holder<Body<D>, PlatformOf<D>> for Own<D> {
    fn held(&self) -> &Ref<Body<D>, PlatformOf<D>> {
        self.0.body()
    }
}

impl<D: Device> Handle<D> for Own<D> {
    fn handle(&self) -> &UserPtr<D> {
        &self.0
    }
}

impl<D: Device> fmt::Debug for Own<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Own({:?})", self.0)
    }
}

/// Not `Send`: the platform records which thread holds the lease. To move it to another thread, use
/// [`into_owned`](Lease::into_owned).
struct StaysInItsThread(PhantomData<*const ()>);

/// The borrowed handle of a lease whose thread the platform knows.
pub struct Local<'a, D: Device> {
    object: &'a UserPtr<D>,
    _stays: StaysInItsThread,
}

// SAFETY: sharing it gives a reference to the handle, which may be shared.
unsafe impl<D: Device> Sync for Local<'_, D> {}

impl<'a, D: Device> Local<'a, D> {
    pub(super) fn new(object: &'a UserPtr<D>) -> Self {
        PlatformOf::<D>::note_lease(identity(object), true);
        Self { object, _stays: StaysInItsThread(PhantomData) }
    }
}

/// Returns what the platform knows an object by.
fn identity<D: Device>(object: &UserPtr<D>) -> usize {
    Ref::as_ptr(object.body()).addr()
}

/// Returns whether the calling thread is known to hold a lease on the object.
pub(super) fn is_held_here<D: Device>(object: &UserPtr<D>) -> bool {
    PlatformOf::<D>::holds_lease(identity(object))
}

impl<D: Device> sealed::Sealed for Local<'_, D> {}
impl<D: Device> Holder<Body<D>, PlatformOf<D>> for Local<'_, D> {
    fn held(&self) -> &Ref<Body<D>, PlatformOf<D>> {
        self.object.body()
    }
}

impl<D: Device> Handle<D> for Local<'_, D> {
    fn handle(&self) -> &UserPtr<D> {
        self.object
    }
}

impl<D: Device> Drop for Local<'_, D> {
    fn drop(&mut self) {
        PlatformOf::<D>::note_lease(identity(self.object), false);
    }
}

impl<D: Device> fmt::Debug for Local<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Local({:?})", self.object)
    }
}

impl<D: Device, R: Handle<D>> LeaseOf<D, R> {
    pub(super) fn new(guard: LeaseGuard<Body<D>, PlatformOf<D>, R>) -> Self {
        Self { guard }
    }

    /// Returns the object.
    pub fn object(&self) -> &UserPtr<D> {
        self.guard.holder().handle()
    }

    /// Returns whether an invalidation waits for this lease.
    pub fn is_revoked(&self) -> bool {
        self.guard.is_revoked()
    }

    fn installed(&self) -> &Installed<D> {
        self.guard.object().installed.with(|i| {
            // SAFETY: a lease was taken from an open word, after the commit installed the pages,
            // and the revocation takes the mapping only after this lease is gone (invariant of
            // `Body`): the place is full, and nobody writes it while `self` is borrowed.
            unsafe { (*i).as_ref().unwrap_unchecked() }
        })
    }

    /// Returns the watch that preceded the pin of the pages.
    pub(super) fn watch_key(&self) -> WatchKey {
        self.installed().key
    }

    /// Returns all that is mapped.
    pub fn mapped(&self) -> Mapped<'_, D> {
        let installed = self.installed();
        // SAFETY: the mapping is there as long as the lease (invariant of `Body`).
        let map = unsafe { installed.map.as_ref().unwrap_unchecked() };
        Mapped { map, pages: &installed.pages, sg: &installed.sg }
    }

    /// Returns the device's mapping.
    pub fn map(&self) -> &D::Map {
        self.mapped().map
    }

    /// Returns the pinned pages, in the order of their addresses.
    pub fn pages(&self) -> &Pages<D::Space> {
        self.mapped().pages
    }

    /// Returns the pinned pages as segments.
    pub fn sg(&self) -> &SgTable<PlatformOf<D>> {
        self.mapped().sg
    }

    /// Says that the device wrote, or will, under this lease: the pages are marked dirty when they
    /// are released. Nothing happens for a read-only object
    /// ([rule 20](crate::docs::protocol#rule-20)).
    pub fn mark_written(&self) {
        self.guard.object().mark_written();
    }
}

impl<D: Device> Lease<'_, D> {
    /// Converts it into a lease with a handle of its own, free to go to another thread.
    pub fn into_owned(self) -> OwnedLease<D> {
        let object = Own(self.object().clone());
        // SAFETY: a clone of the same handle.
        LeaseOf { guard: unsafe { self.guard.rehold(object) } }
    }
}

impl<D: Device, R: Handle<D>> fmt::Debug for LeaseOf<D, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({:?})", self.object())
    }
}

impl<D: Device> fmt::Debug for Mapped<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapped({} pages, {} segments)", self.pages.len(), self.sg.segments().len())
    }
}
