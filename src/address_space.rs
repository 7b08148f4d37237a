//! Address spaces: what the core asks of the memory management beneath it.
//!
//! Two kinds of reference are two types. An [`AddressSpace`] references the *record* (`mm_count`):
//! it may be kept for any time and keeps no memory alive. A [`Users`] references the *users*
//! (`mm_users`): it keeps the mappings alive, is taken for the moment of a pin, and must not be
//! dropped under a lock, since the last one tears the address space down
//! ([rule 3](crate::docs::protocol#rule-3)).

use crate::error::Error;
use crate::notifier::Notifier;
use crate::pages::Buffer;
use crate::platform::Platform;
use crate::range::AddrRange;
use crate::refcount::Ref;
use core::num::NonZeroUsize;

/// The page array of an address space.
pub type Pages<S> = Buffer<<S as AddressSpace>::Page, <S as AddressSpace>::Platform>;

/// What an address space finds a watched range by: a number of its own, handed back in
/// [`AddressSpace::quiet`].
pub type WatchKey = NonZeroUsize;

/// Whose memory the calling thread sees, compared with an address space (`current->mm`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Current {
    /// This address space: a fast pin is possible.
    This,
    /// No address space of its own (a kernel thread, a worker): a worker pins.
    None,
    /// Another address space (a forked child): refused with `EFAULT`
    /// ([rule 22](crate::docs::protocol#rule-22)).
    Other,
}

/// How pages were used, when they are unpinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// The device wrote to them and the content is wanted: mark them dirty. Never set for a
    /// read-only object ([rule 20](crate::docs::protocol#rule-20)).
    pub dirty: bool,
    /// They will be needed again: mark them accessed.
    pub accessed: bool,
}

/// A reference to the record of an address space (`mmgrab`); dropping it is `mmdrop`.
///
/// Calls marked *reclaim class* come from inside an invalidation: they must not allocate, fault, or
/// take a lock that is ever held across an allocation.
pub trait AddressSpace: Sized + Send + Sync + 'static {
    /// The platform.
    type Platform: Platform;
    /// A pinned page (`struct page *`), or its number.
    type Page: Copy + Send + Sync + 'static;
    /// A reference to the users.
    type Users<'a>: Users<Space = Self>;
    /// A registration for notifications.
    type Registration: Send + Sync + 'static;
    /// Memory of this address space that an object can own ([`Context::register_memory`]).
    /// [`NoMemory`] where there is none: a kernel's user memory belongs to the process.
    ///
    /// [`Context::register_memory`]: crate::Context::register_memory
    type Memory: OwnedMemory;

    /// How many threads the queue of the revocations must have, for an address space whose
    /// notifying thread may neither free memory nor wait for a device. Zero: revocations may run in
    /// the invalidating thread, without a queue.
    const REVOKE_THREADS: usize = 0;

    /// Returns the identity: equal for two references to the same address space, and not reused
    /// while one of them is held.
    fn id(&self) -> usize;

    /// Returns another reference to the record (`mmgrab`). Must not fail or sleep.
    #[must_use]
    fn grab(&self) -> Self;

    /// Returns a reference to the users (`mmget_not_zero`), or `None` if the address space is gone.
    fn users(&self) -> Option<Self::Users<'_>>;

    /// Returns whose memory the calling thread sees (`current->mm`).
    fn current(&self) -> Current;

    /// Returns the page size as a shift: pages have `1 << page_shift()` bytes.
    fn page_shift(&self) -> u32;

    /// Returns whether the range can be user memory at all (`access_ok`), whatever is mapped there.
    fn access_ok(&self, range: AddrRange, write: bool) -> bool;

    /// Returns whether the calling thread may have unsynchronised objects
    /// (`capable(CAP_SYS_ADMIN)`).
    fn privileged(&self) -> bool;

    /// Returns whether this address space can notify at all (`CONFIG_MMU_NOTIFIER`). If not, only
    /// unsynchronised objects can be registered.
    fn notifies(&self) -> bool {
        true
    }

    /// Registers the notifier for the whole address space. Called with no lock held. No attach may
    /// miss a window that is open at the registration ([rule 12](crate::docs::protocol#rule-12)):
    /// the implementation excludes invalidations while it registers, or relies on the notifier not
    /// being published yet, so that its first attach comes later.
    ///
    /// # Errors
    /// [`Error::Fault`] if the address space is gone, [`Error::Interrupted`], [`Error::NoMemory`],
    /// [`Error::Limit`]; the reference is dropped and nothing stays behind.
    fn register(
        &self,
        notifier: Ref<Notifier<Self::Platform>, Self::Platform>,
    ) -> Result<Self::Registration, Error>;

    /// Ends a registration. Must return only when no callback runs and none will
    /// ([rule 13](crate::docs::protocol#rule-13)). Called with no lock held, from a work item or
    /// from a caller that is in no callback.
    ///
    /// # Safety
    /// The registration must come from [`register`](Self::register) of this address space. No
    /// object may be attached to its notifier, now or later: changes of its memory would go
    /// unnoticed.
    unsafe fn unregister(&self, registration: Self::Registration);

    /// Watches a range that is about to be pinned. Called before every pin, with no lock held, and
    /// after the attach, so that a change between the two finds the object. An implementation that
    /// watches the whole address space has nothing to do. May fail, for example at a limit.
    ///
    /// Returns a key for [`quiet`](Self::quiet): any number but zero that helps to find what is to
    /// be asked about this range.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    fn watch(&self, registration: &Self::Registration, range: AddrRange) -> Result<WatchKey, Error> {
        let _ = (registration, range);
        Ok(WatchKey::MIN)
    }

    /// Ends one [`watch`](Self::watch) of the range: called once for each that succeeded. No lock
    /// is held, but this may come from inside a revocation, when that drops the last reference: an
    /// implementation whose own locks forbid that must defer it.
    ///
    /// # Safety
    /// One [`watch`](Self::watch) of exactly this range must have succeeded and not been ended
    /// since, and no object with pages may rely on it: changes of its memory would go unnoticed.
    unsafe fn unwatch(&self, registration: &Self::Registration, range: AddrRange) {
        let _ = (registration, range);
    }

    /// Returns whether the notifier has been notified of every change to the mappings in `range`
    /// that is already visible to this thread.
    ///
    /// An address space whose start runs before the change (a kernel) is always quiet. One that is
    /// notified afterwards (userfaultfd) has a moment in which the pages are gone and the notifier
    /// does not know: it must return `false` then. Asked after a lease was taken and before it is
    /// returned; on `false` the lease is released and `EAGAIN` reported. No lock is held.
    ///
    /// Ordering: the implementation's. What preceded the notification in the notifying thread (the
    /// start that closed the object to new leases) must happen before a `true` that relies on it.
    ///
    /// What happens elsewhere should not make it `false`
    /// ([rule 39](crate::docs::protocol#rule-39)). `key` came from the [`watch`](Self::watch) that
    /// preceded the pin of the pages; a later watch of the range may have replaced that one.
    fn quiet(&self, registration: &Self::Registration, range: AddrRange, key: WatchKey) -> bool {
        let _ = (registration, range, key);
        true
    }

    /// Waits until [`quiet`](Self::quiet) may be true again for the range, for a moment at most. No
    /// lock is held.
    fn wait_quiet(&self, registration: &Self::Registration, range: AddrRange) {
        let _ = (registration, range);
    }

    /// Pins what can be pinned without waiting, from the start of the range, into `out`; fewer
    /// pages than the range has are no error. Called only when [`current`](Self::current) is
    /// [`Current::This`].
    ///
    /// # Errors
    /// [`Error::Fault`] and others, with nothing pinned by this call.
    fn pin_fast(&self, range: AddrRange, write: bool, out: &mut Pages<Self>) -> Result<(), Error>;

    /// Unpins pages. *Reclaim class.* Marking a page dirty must not wait for a page lock that the
    /// invalidating thread may hold ([rule 20](crate::docs::protocol#rule-20)): try the lock. If it
    /// is taken, mark the page all the same, unless the pin had done so: who holds it may be about
    /// to drop what is clean ([rule 35](crate::docs::protocol#rule-35)).
    ///
    /// # Safety
    /// The pages must come from a pin of this address space, each must be unpinned once for each
    /// time it was pinned, and no device may use them any more.
    unsafe fn unpin(&self, pages: &[Self::Page], usage: Usage);

    /// Returns the frame number of a page: consecutive numbers are contiguous for a device.
    fn frame(&self, page: Self::Page) -> usize;
}

/// Memory that belongs to a value: the safe way to register memory of the program's own.
///
/// # Safety
/// [`range`](Self::range) is the same at every call. Until the value is dropped, the range is
/// memory of the address space it is registered in, and nothing in the program relies on its bytes
/// or has a reference to them: a device may read and write them at any moment.
pub unsafe trait OwnedMemory: Send + Sync + 'static {
    /// Returns the range, in bytes, inclusive.
    fn range(&self) -> AddrRange;
}

/// For address spaces whose memory nobody in this program owns. There is no value of this type.
#[derive(Clone, Copy, Debug)]
pub enum NoMemory {}

// SAFETY: there is no value of this type.
unsafe impl OwnedMemory for NoMemory {
    fn range(&self) -> AddrRange {
        match *self {}
    }
}

/// An address space whose memory is foreign to this program: no Rust reference of the program can
/// point into it. A kernel's user memory is, and a simulated machine's; a process's own memory is
/// not.
///
/// # Safety
/// No bytes that [`AddressSpace::pin_fast`] or [`Users::pin`] pin may ever be the target of a Rust
/// reference, or owned by an allocator or a value, of the program that this code runs in.
pub unsafe trait ForeignMemory: AddressSpace {}

/// A reference to the users of an address space (`mm_users`): its mappings stay while it is held.
/// Dropping it may tear the address space down, so it must be dropped outside every lock
/// (`mmput_async`).
pub trait Users {
    /// The address space.
    type Space: AddressSpace;

    /// Pins the pages of `range` into `out`, waiting as needed; takes the address-space lock for
    /// read, and releases it before it returns. Fewer pages than asked for are no error, none at
    /// all are ([rule 16](crate::docs::protocol#rule-16)).
    ///
    /// # Errors
    /// [`Error::Fault`], [`Error::NoMemory`], [`Error::Interrupted`], with nothing pinned by this
    /// call.
    fn pin(&self, range: AddrRange, write: bool, out: &mut Pages<Self::Space>) -> Result<(), Error>;
}
