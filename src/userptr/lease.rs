//! Leases: the right to use the pages right now.

use super::object::{UserPtr, UserPtrRef};
use crate::address_space::Pages;
use crate::device::{Device, Host};
use crate::notifier::Hold;
use crate::pages::SgTable;
use crate::platform::{Cell, Platform};
use crate::refcount::Ref;
use core::borrow::Borrow;
use core::fmt;
use core::marker::PhantomData;

/// What a lease gives access to.
pub struct Mapped<'a, D: Device> {
    /// The device's mapping.
    pub map: &'a D::Map,
    /// The pinned pages.
    pub pages: &'a Pages<D::Space>,
    /// The same as segments.
    pub sg: &'a SgTable<Host<D>>,
}

/// The right to use an object's pages: while it lives they stay pinned and mapped, and an invalidation of the range waits.
///
/// A holder does not wait in an acquire, fault, take the host's address-space lock or unmap its own buffer (rule 29). One that keeps
/// it past the deadline gets its object quarantined. Dropping it wakes the cancel that waits for it; dropping the last lease of a
/// quarantined object finishes the cancel and may sleep. Forgetting it leaks the pages, nothing worse.
///
/// ```
/// # use userptr::platforms::std::{Std, Workers};
/// # use userptr_sim::{DmaDevice, Machine, PAGE, Space};
/// # use userptr::{Context, Limits, Queues};
/// # let machine = Machine::new();
/// # let process = machine.process();
/// # let (frees, pins) = (Workers::<Std>::start("frees", 1)?, Workers::<Std>::start("pins", 1)?);
/// # let queues = Queues { pins: pins.queue().clone(), cancels: None, frees: frees.queue().clone() };
/// # let context = Context::try_new(DmaDevice::<Std>::new(&machine, Limits::default()), queues).map_err(|(_, e)| e)?;
/// # let _inside = machine.enter(&process);
/// # let address = process.mmap(PAGE);
/// # process.touch(address, PAGE, 7)?;
/// # let space = Space::of(&process);
/// # let object = Context::create(&context, &space, address, PAGE, 0)?;
/// use userptr::UserPtr;
///
/// let lease = UserPtr::acquire(&object)?;
/// let engine = context.device().engine();
/// lease.mark_written();
/// lease.with(|mapped| engine.write(mapped.map, 0, 42));
/// assert_eq!(process.load(address)?, 42, "the process sees what the device wrote");
///
/// // For work that outlives the caller: a lease with a reference of its own.
/// let owned = lease.into_owned();
/// drop(object);
/// assert!(!owned.is_revoked());
/// # Ok::<(), userptr::Error>(())
/// ```
#[must_use = "the pages may be released as soon as the lease is dropped"]
pub struct LeaseOf<D: Device, R: Borrow<UserPtrRef<D>>> {
    hold: Hold<UserPtr<D>, Host<D>, R>,
}

/// A lease that borrows its object and stays in its thread: the host remembers who holds it, so that its holder is refused
/// (`EDEADLK`) what would wait for it.
pub type Lease<'a, D> = LeaseOf<D, Local<'a, D>>;
/// A lease with a reference of its own, for work that outlives the caller.
pub type OwnedLease<D> = LeaseOf<D, UserPtrRef<D>>;

/// The borrowed object of a lease that the host knows the thread of.
pub struct Local<'a, D: Device> {
    object: &'a UserPtrRef<D>,
    /// Given back by the thread that took it.
    _not_send: PhantomData<*const ()>,
}

// SAFETY: sharing it gives a reference to the object, which may be shared.
unsafe impl<D: Device> Sync for Local<'_, D> {}

impl<'a, D: Device> Local<'a, D> {
    pub(super) fn new(object: &'a UserPtrRef<D>) -> Self {
        Host::<D>::note_lease(identity(object), true);
        Self { object, _not_send: PhantomData }
    }
}

/// What the host knows an object by.
fn identity<D: Device>(object: &UserPtrRef<D>) -> usize {
    Ref::as_ptr(object).addr()
}

/// Whether the calling thread is known to hold a lease on the object.
pub(super) fn is_held_here<D: Device>(object: &UserPtrRef<D>) -> bool {
    Host::<D>::holds_lease(identity(object))
}

impl<D: Device> Borrow<UserPtrRef<D>> for Local<'_, D> {
    fn borrow(&self) -> &UserPtrRef<D> {
        self.object
    }
}

impl<D: Device> Drop for Local<'_, D> {
    fn drop(&mut self) {
        Host::<D>::note_lease(identity(self.object), false);
    }
}

impl<D: Device> fmt::Debug for Local<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Local({:?})", &**self.object)
    }
}

impl<D: Device, R: Borrow<UserPtrRef<D>>> LeaseOf<D, R> {
    pub(super) fn new(hold: Hold<UserPtr<D>, Host<D>, R>) -> Self {
        Self { hold }
    }

    /// The object.
    pub fn object(&self) -> &UserPtrRef<D> {
        self.hold.object()
    }

    /// Whether an invalidation waits for this lease.
    pub fn is_revoked(&self) -> bool {
        self.hold.is_revoked()
    }

    /// Runs `f` on what is mapped.
    pub fn with<U>(&self, f: impl FnOnce(Mapped<'_, D>) -> U) -> U {
        self.object().installed.with(|i| {
            // SAFETY: a lease was taken from an open word, after the commit installed the pages, and the cancel takes them
            // only after this lease is gone (invariant of `UserPtr`).
            let installed = unsafe { (*i).as_ref().unwrap_unchecked() };
            f(Mapped { map: &installed.map, pages: &installed.pages, sg: &installed.sg })
        })
    }

    /// Says that the device wrote, or will, under this lease: the pages are marked dirty when they are released. Nothing
    /// happens for a read-only object (rule 20).
    pub fn mark_written(&self) {
        self.object().mark_written();
    }
}

impl<D: Device> Lease<'_, D> {
    /// The same lease with a reference of its own, free to go to another thread.
    pub fn into_owned(self) -> OwnedLease<D> {
        LeaseOf { hold: self.hold.into_owned() }
    }
}

impl<D: Device, R: Borrow<UserPtrRef<D>>> fmt::Debug for LeaseOf<D, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({:?})", &**self.object())
    }
}

impl<D: Device> fmt::Debug for Mapped<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapped({} pages, {} segments)", self.pages.len(), self.sg.segments().len())
    }
}
