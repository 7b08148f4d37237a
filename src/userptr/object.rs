//! The handle that users have of an object.

use super::RETRIES;
use super::body::Body;
use super::lease::is_held_here;
use crate::address_space::AddressSpace;
use crate::context::Context;
use crate::device::{Device, PlatformOf};
use crate::error::{Error, Rejected};
use crate::flags::Flags;
use crate::mm::MmRef;
use crate::notifier::{Notifier, State};
use crate::range::AddrRange;
use crate::refcount::Ref;
use core::fmt;
use core::time::Duration;

/// A registered range of an address space that a device uses: a counted handle, cheap to clone.
///
/// The pages are pinned by the first [`acquire`](Self::acquire) and stay until an invalidation, an
/// eviction or the drop of the last handle. A [`Lease`](super::Lease) keeps them for as long as it
/// lives.
///
/// Made by [`Context::register`].
///
/// Source: `struct drm_i915_gem_object` with `userptr`.
#[repr(transparent)]
pub struct UserPtr<D: Device> {
    body: Ref<Body<D>, PlatformOf<D>>,
}

impl<D: Device> UserPtr<D> {
    pub(crate) fn try_new(
        context: Context<D>,
        record: MmRef<D::Space>,
        range: AddrRange,
        flags: Flags,
    ) -> Result<Self, Error> {
        let body = Ref::try_new(Body::new(context, record, range, flags)?)?;
        Ok(Self { body })
    }

    /// As [`try_new`](Self::try_new), with memory that the object owns.
    pub(crate) fn try_new_owning(
        context: Context<D>,
        record: MmRef<D::Space>,
        range: AddrRange,
        flags: Flags,
        memory: <D::Space as AddressSpace>::Memory,
    ) -> Result<Self, Rejected<<D::Space as AddressSpace>::Memory>> {
        // Room for the object first: what is not made cannot lose the memory.
        let room = match Ref::reserve() {
            Ok(room) => room,
            Err(error) => return Err(Rejected { value: memory, error }),
        };
        let mut body = match Body::new(context, record, range, flags) {
            Ok(body) => body,
            Err(error) => return Err(Rejected { value: memory, error }),
        };
        body.memory = Some(memory);
        Ok(Self { body: room.fill(body) })
    }

    pub(super) fn body(&self) -> &Ref<Body<D>, PlatformOf<D>> {
        &self.body
    }

    /// Returns the range in its address space, in bytes, inclusive.
    #[must_use]
    pub fn range(&self) -> AddrRange {
        self.body.range()
    }

    /// Returns the memory that it owns, if it was made by
    /// [`register_memory`](Context::register_memory).
    #[must_use]
    pub fn memory(&self) -> Option<&<D::Space as AddressSpace>::Memory> {
        self.body.memory.as_ref()
    }

    /// Returns the flags it was created with.
    #[must_use]
    pub fn flags(&self) -> Flags {
        self.body.flags
    }

    /// Returns the number of pages. Never passes through 32 bits
    /// ([rule 18](crate::docs::protocol#rule-18)).
    #[must_use]
    pub fn page_count(&self) -> usize {
        self.body.page_count()
    }

    /// Returns the context that it belongs to.
    #[must_use]
    pub fn context(&self) -> &Context<D> {
        &self.body.context
    }

    /// Returns the record of its address space.
    #[must_use]
    pub fn record(&self) -> &MmRef<D::Space> {
        &self.body.record
    }

    /// Returns where it stands at this moment.
    #[must_use]
    pub fn state(&self) -> State {
        Notifier::state(&self.body)
    }

    /// Returns whether a revocation of it is queued and has not begun. A snapshot.
    #[must_use]
    pub fn is_revoke_pending(&self) -> bool {
        Notifier::is_revoke_pending(&self.body)
    }

    /// Waits until an acquire may succeed: until the object is neither being acquired nor revoked,
    /// and no invalidation of its range is in progress. Returns `false` if `timeout` (`None`:
    /// never) passed first. The caller must hold no lease and no lock
    /// ([rule 29](crate::docs::protocol#rule-29)).
    #[must_use = "`false` means that the time is over"]
    pub fn wait_ready(&self, timeout: Option<Duration>) -> bool {
        Notifier::wait_ready(&self.body, timeout)
    }

    /// Returns the number of leases at this moment.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.body.attachment.leases()
    }

    /// Returns the number of handles and owned leases at this moment.
    #[must_use]
    pub fn handles(&self) -> usize {
        Ref::count(&self.body)
    }

    /// Returns whether both are handles of the same object.
    #[must_use]
    pub fn ptr_eq(a: &Self, b: &Self) -> bool {
        Ref::ptr_eq(&a.body, &b.body)
    }

    /// Returns whether invalidations reach it: not so for [`Flags::UNSYNCHRONIZED`] before an
    /// [`export`](Self::export).
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.body.is_watched()
    }

    /// Says whether the content is still wanted when the pages are released. Unwanted pages are not
    /// marked dirty: their content may be lost.
    ///
    /// Source: `I915_MADV_DONTNEED`.
    pub fn advise_wanted(&self, wanted: bool) {
        self.body.set_wanted(wanted);
    }

    /// Releases the pages now, as an invalidation would: for eviction. The next acquire pins again.
    /// The caller must hold no lease.
    ///
    /// # Errors
    /// [`Error::Deadlock`] if this thread is known to hold a lease on the object
    /// ([rule 29](crate::docs::protocol#rule-29)); [`Error::TimedOut`] or [`Error::DeviceLost`]:
    /// the object is quarantined.
    ///
    /// Source: `i915_gem_userptr_put_pages`.
    pub fn put_pages(&self) -> Result<(), Error> {
        if is_held_here(self) {
            return Err(Error::Deadlock);
        }
        Notifier::revoke(&self.body).into_result()?;
        Body::free_remains(&self.body);
        Ok(())
    }

    /// Forgets that the range was found not to be memory, so that the next acquire looks again.
    /// Returns `false` if nothing was remembered.
    pub fn reset(&self) -> bool {
        Notifier::reset_failed(&self.body)
    }

    /// Checks whether every page of the range is memory that can be pinned: for callers who want
    /// the error at creation. It acquires and drops the lease, so the pages stay pinned as after
    /// any acquire.
    ///
    /// # Errors
    /// [`Error::Fault`] if the first, the last or any page between is not; those of
    /// [`acquire`](Self::acquire).
    ///
    /// Source: `I915_USERPTR_PROBE`.
    pub fn probe(&self) -> Result<(), Error> {
        self.acquire().map(drop)
    }

    /// Makes sure that invalidations reach an unsynchronised object before it is shared. Once is
    /// enough, twice is the same ([rule 21](crate::docs::protocol#rule-21)).
    ///
    /// Pages that it has are revoked: they predate the watch and may be stale already. The next
    /// acquire pins again. The caller must hold no lease.
    ///
    /// # Errors
    /// [`Error::NoNotifications`] if the address space cannot notify, those of the registration,
    /// [`Error::TimedOut`] or [`Error::DeviceLost`] if the pages cannot be revoked, [`Error::Busy`]
    /// if the object kept being acquired, [`Error::Deadlock`] if this thread is known to hold a
    /// lease on it.
    ///
    /// Source: `i915_gem_userptr_dmabuf_export`.
    pub fn export(&self) -> Result<(), Error> {
        if self.is_watched() {
            return Ok(());
        }
        if is_held_here(self) {
            return Err(Error::Deadlock);
        }
        self.record().notifier()?;
        for _ in 0..RETRIES {
            Notifier::revoke(&self.body).into_result()?;
            // Fails if another thread has acquired it meanwhile.
            if Notifier::rehome(&self.body, self.context().unwatched(), || self.body.set_watched()) {
                return Ok(());
            }
        }
        Err(Error::Busy)
    }

    /// Returns a pointer that owns this handle, for a foreign structure. Pair with
    /// [`from_raw`](Self::from_raw).
    #[must_use = "the handle goes with the pointer"]
    pub fn into_raw(self) -> *const () {
        Ref::into_raw(self.body).cast()
    }

    /// Returns the handle again.
    ///
    /// # Safety
    /// `raw` came from [`into_raw`](Self::into_raw) of the same type, once for each call.
    #[must_use]
    pub unsafe fn from_raw(raw: *const ()) -> Self {
        // SAFETY: it came from `Ref::into_raw` and owns a count (caller).
        Self { body: unsafe { Ref::from_raw(raw.cast()) } }
    }
}

impl<D: Device> Clone for UserPtr<D> {
    fn clone(&self) -> Self {
        Self { body: self.body.clone() }
    }
}

impl<D: Device> fmt::Debug for UserPtr<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.body, f)
    }
}
