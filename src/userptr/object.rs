//! The object: what it holds, how it is cancelled and released.

use super::lease::is_held_here;
use crate::address_space::{AddressSpace, Pages, Usage};
use crate::context::Context;
use crate::device::Device;
use crate::device::Host;
use crate::error::Error;
use crate::flags::Flags;
use crate::mm::MmRef;
use crate::notifier::{Attachment, Notifier, Outcome, State, Subscriber};
use crate::pages::SgTable;
use crate::platform::{AtomicUsize, Cell, Load, Platform, Rmw, Store};
use crate::range::AddrRange;
use crate::refcount::{Fate, Object, Ref};
use crate::work::Work;
use core::fmt;
use core::time::Duration;

/// A counted reference to a [`UserPtr`].
pub type UserPtrRef<D> = Ref<UserPtr<D>, Host<D>>;

/// The work item of an object that pins.
pub(super) const PIN: usize = 1;

/// What a commit installs.
pub(super) struct Installed<D: Device> {
    pub(super) pages: Pages<D::Space>,
    pub(super) sg: SgTable<Host<D>>,
    pub(super) map: D::Map,
}

/// A range of an address space that a device uses.
///
/// The pages are pinned by the first [`try_acquire`](Self::try_acquire) and stay until an invalidation, an eviction or the release
/// of the object. A [`Lease`](super::Lease) keeps them for as long as it lives.
///
/// # Invariants
/// `installed` is written under the home notifier's lock by a commit, taken by the owner of the cancel after the leases are gone,
/// and read by lease holders and by the owner of the cancel.
///
/// Source: `struct drm_i915_gem_object` with `userptr`.
pub struct UserPtr<D: Device> {
    pub(super) context: Ref<Context<D>, Host<D>>,
    pub(super) record: MmRef<D::Space>,
    pub(super) attachment: Attachment<Host<D>>,
    flags: Flags,
    /// Whether the home is the record's notifier. Set by creation, or once by an export, under the old home's lock.
    watched: Word<D>,
    /// Whether the host was asked to watch the range.
    pub(super) watching: Word<D>,
    pub(super) installed: <Host<D> as Platform>::Cell<Option<Installed<D>>>,
    /// The device wrote through a lease since the pages were installed.
    written: Word<D>,
    /// The content is not wanted any more (`MADV_DONTNEED` of the object).
    unwanted: Word<D>,
    /// The errno of a worker that failed, until an acquire reports it (rule 15).
    pub(super) report: Word<D>,
    pub(super) pin: Work<Self, Host<D>, PIN>,
}

pub(super) type Word<D> = <Host<D> as Platform>::Usize;

// SAFETY: `installed` is touched as the invariant says, and everything in it is `Send + Sync`.
unsafe impl<D: Device> Send for UserPtr<D> {}
// SAFETY: as above.
unsafe impl<D: Device> Sync for UserPtr<D> {}

// SAFETY: `settle` settles the attachment and the work item; `last_put` detaches.
unsafe impl<D: Device> Object<Host<D>> for UserPtr<D> {
    unsafe fn settle(&self) {
        // SAFETY: the caller's promise, handed on.
        unsafe {
            self.attachment.settle();
            self.pin.settle();
        }
    }

    fn last_put(&self) -> Fate {
        // SAFETY: called with a count of zero, by the last put.
        let fate = unsafe { Notifier::detach(self) };
        if fate == Fate::Free
            && self.watching.load(Load::Relaxed) != 0
            && let Some(registration) = self.record.registration()
        {
            self.record.space().unwatch(registration, self.range());
        }
        fate
    }
}

// SAFETY: the attachment is a field; the home changes once, from the context's to the record's, both of which live as long as the
// object, and only while the object is detached under the old one's lock (`Notifier::move_home`); `last_put` detaches.
unsafe impl<D: Device> Subscriber<Host<D>> for UserPtr<D> {
    fn attachment(&self) -> &Attachment<Host<D>> {
        &self.attachment
    }

    fn home(&self) -> &Notifier<Host<D>> {
        // ORDERING: pairs with the release in `set_watched`: what the old home's lock guarded is visible under the new one's.
        if self.watched.load(Load::Acquire) != 0
            && let Some(notifier) = self.record.existing_notifier()
        {
            return notifier;
        }
        self.context.unwatched()
    }

    fn deadline(&self) -> Option<Duration> {
        self.context.limits().deadline
    }

    fn stop(&self) {
        self.installed.with(|i| {
            // SAFETY: the caller owns the cancel and has not taken the pages yet (invariant).
            if let Some(installed) = unsafe { &*i } {
                self.context.device().stop(&installed.map);
            }
        });
    }

    fn cancel(&self, timeout: Option<Duration>) -> Outcome {
        let outcome = self.installed.with(|i| {
            // SAFETY: the leases are gone and the caller owns the cancel (invariant).
            match unsafe { &*i } {
                Some(installed) => self.context.device().wait_idle(&installed.map, timeout),
                None => Outcome::Idle,
            }
        });
        if outcome == Outcome::Idle {
            // SAFETY: as above.
            if let Some(installed) = self.installed.with_mut(|i| unsafe { (*i).take() }) {
                self.put_installed(installed);
            }
        }
        outcome
    }
}

impl<D: Device> UserPtr<D> {
    pub(crate) fn new(
        context: Ref<Context<D>, Host<D>>,
        record: MmRef<D::Space>,
        range: AddrRange,
        flags: Flags,
    ) -> Self {
        let watched = usize::from(!flags.contains(Flags::UNSYNCHRONIZED));
        Self {
            context,
            record,
            attachment: Attachment::blank(range),
            flags,
            watched: AtomicUsize::new(watched),
            watching: AtomicUsize::new(0),
            installed: <<Host<D> as Platform>::Cell<_> as Cell<_>>::new(None),
            written: AtomicUsize::new(0),
            unwanted: AtomicUsize::new(0),
            report: AtomicUsize::new(0),
            pin: Work::blank(),
        }
    }

    /// The range in its address space, in bytes.
    pub fn range(&self) -> AddrRange {
        self.attachment.range()
    }

    /// The flags it was created with.
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// The number of pages. Never passes through 32 bits (rule 18).
    pub fn pages(&self) -> usize {
        self.range().pages(self.record.space().page_shift())
    }

    /// The context that it belongs to.
    pub fn context(&self) -> &Ref<Context<D>, Host<D>> {
        &self.context
    }

    /// The record of its address space.
    pub fn record(&self) -> &MmRef<D::Space> {
        &self.record
    }

    /// Where it stands at this moment.
    pub fn state(this: &UserPtrRef<D>) -> State {
        Notifier::state(this)
    }

    /// The number of leases at this moment, those that a cancel waits for included.
    pub fn leases(&self) -> usize {
        self.attachment.leases()
    }

    /// Whether invalidations reach it.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Load::Relaxed) != 0
    }

    /// Whether the device may write.
    pub(super) fn writable(&self) -> bool {
        !self.flags.contains(Flags::READ_ONLY)
    }

    /// Runs under the old home's lock.
    pub(super) fn set_watched(&self) {
        // ORDERING: releases what the old home's lock guarded; pairs with the acquire in `home`.
        self.watched.store(1, Store::Release);
    }

    pub(super) fn mark_written(&self) {
        if self.writable() {
            // Relaxed: the lease's end releases it to the cancel.
            self.written.store(1, Store::Relaxed);
        }
    }

    /// Says whether the content is still wanted when the pages are released. Unwanted pages are not marked dirty: their content may
    /// be lost.
    ///
    /// Source: `I915_MADV_DONTNEED`.
    pub fn advise_wanted(&self, wanted: bool) {
        self.unwanted.store(usize::from(!wanted), Store::Relaxed);
    }

    /// Unmaps and unpins what was installed. Reclaim class: nothing here allocates.
    pub(super) fn put_installed(&self, installed: Installed<D>) {
        let Installed { pages, sg, map } = installed;
        self.context.device().unmap(map);
        let wanted = self.unwanted.load(Load::Relaxed) == 0;
        // The last lease released it to us.
        let written = self.written.swap(0, Rmw::Relaxed) != 0;
        let usage = Usage { dirty: written && wanted && self.writable(), accessed: wanted };
        self.record.space().unpin(&pages, usage);
        drop(sg);
    }

    /// Releases the pages now, as an invalidation would: for eviction. The next acquire pins again. The caller holds no lease.
    ///
    /// # Errors
    /// [`Error::Deadlock`] if this thread is known to hold a lease on the object (rule 29); [`Error::TimedOut`] or
    /// [`Error::DeviceLost`]: the object is quarantined.
    ///
    /// Source: `i915_gem_userptr_put_pages`.
    pub fn put_pages(this: &UserPtrRef<D>) -> Result<(), Error> {
        if is_held_here(this) {
            return Err(Error::Deadlock);
        }
        Notifier::revoke(this).into_result()
    }

    /// Forgets that the range was found not to be memory, so that the next acquire looks again. `false`: nothing was remembered.
    pub fn reset(this: &UserPtrRef<D>) -> bool {
        Notifier::reset_failed(this)
    }
}

impl<D: Device> fmt::Debug for UserPtr<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserPtr({:?}, {:?})", self.attachment, self.flags)
    }
}
