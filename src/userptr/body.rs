//! The object behind a [`UserPtr`]: what it holds, how its pages are released.

use crate::address_space::{AddressSpace, Pages, Usage, WatchKey};
use crate::context::Context;
use crate::device::{Device, PlatformOf};
use crate::error::Error;
use crate::flags::Flags;
use crate::has_work;
use crate::mm::MmRef;
use crate::notifier::{Attachment, Event, Notifier, Outcome, Subscriber};
use crate::pages::{Buffer, SgTable};
use crate::platform::{AtomicUsize, Cell, Load, Platform, Rmw, Store};
use crate::range::AddrRange;
use crate::refcount::{Inner, LastPut, Ref, RefCounted};
use crate::work::{HasWork, Work, enqueue};
use core::fmt;
use core::time::Duration;

/// The work item of an object that pins.
pub(super) const PIN: usize = 1;
/// The work item that frees an object whose last reference was a revocation's.
const FREE: usize = 2;

/// What a commit installs.
pub(super) struct Installed<D: Device> {
    pub(super) pages: Pages<D::Space>,
    pub(super) sg: SgTable<PlatformOf<D>>,
    /// `None`: released. The arrays beside it are remains: a revocation frees nothing
    /// ([rule 32](crate::docs::protocol#rule-32)), so the next commit does, an eviction, or the
    /// object's end.
    pub(super) map: Option<D::Map>,
    /// The watch that preceded the pin.
    pub(super) key: WatchKey,
}

pub(super) type Word<D> = <PlatformOf<D> as Platform>::Usize;

/// The shared part of a [`UserPtr`](super::UserPtr). Public in a private module: users hold it, but
/// cannot name it, so they cannot call what only the core may call on a [`Subscriber`].
///
/// # Invariants
/// `installed` is written under the notifier's lock by a commit, or while the object is `Idle`; its
/// mapping is taken by the owner of the revocation after the leases are gone; it is read by lease
/// holders and by the owner of the revocation. Its mapping is there exactly while the pages are
/// pinned.
pub struct Body<D: Device> {
    pub(super) context: Context<D>,
    pub(super) record: MmRef<D::Space>,
    pub(super) attachment: Attachment<PlatformOf<D>>,
    pub(super) flags: Flags,
    /// Whether the notifier is the record's. Set by creation, or once by an export, under the old
    /// notifier's lock.
    watched: Word<D>,
    /// Whether the address space was asked to watch the range.
    pub(super) watching: Word<D>,
    pub(super) installed: <PlatformOf<D> as Platform>::Cell<Option<Installed<D>>>,
    /// The device wrote through a lease since the pages were installed.
    written: Word<D>,
    /// The content is not wanted any more (`MADV_DONTNEED` of the object).
    unwanted: Word<D>,
    /// The error of a worker that failed, until an acquire reports it
    /// ([rule 15](crate::docs::protocol#rule-15)).
    pub(super) report: Word<D>,
    /// The error that sticks while the object is `Failed`; written under the notifier's lock.
    failure: Word<D>,
    pub(super) pin: Work<Self, PlatformOf<D>, PIN>,
    free: Work<Self, PlatformOf<D>, FREE>,
    /// Dropped with the object, so after its pages are released.
    pub(super) memory: Option<<D::Space as AddressSpace>::Memory>,
}

// SAFETY: `installed` is touched as the invariant says, and everything in it is `Send + Sync`.
unsafe impl<D: Device> Send for Body<D> {}
// SAFETY: as for `Send`: writes of `installed` are exclusive by the invariant.
unsafe impl<D: Device> Sync for Body<D> {}

// SAFETY: `init` settles the attachment and the work items; `last_put` detaches.
unsafe impl<D: Device> RefCounted<PlatformOf<D>> for Body<D> {
    unsafe fn init(&self) {
        // SAFETY: called once, at the final address (caller).
        unsafe {
            self.attachment.init();
            self.pin.init();
            self.free.init();
        }
    }

    unsafe fn last_put(&self) -> LastPut {
        // SAFETY: the count is zero, and this is its last put (caller).
        let fate = unsafe { Notifier::detach(self) };
        if fate == LastPut::Drop && self.watching.load(Load::Relaxed) != 0 {
            if let Some(registration) = self.record.registration() {
                // SAFETY: `watching` says that one watch is ours; the object is detached.
                unsafe { self.record.space().unwatch(registration, self.range()) };
            }
        }
        fate
    }
}

// SAFETY: the item is settled by `init`.
unsafe impl<D: Device> HasWork<PlatformOf<D>, FREE> for Body<D> {
    has_work!(free: Work<Body<D>, PlatformOf<D>, FREE>);

    fn run(this: Ref<Self, PlatformOf<D>>) {
        // The last reference, on the release queue: nobody waits for what this frees.
        drop(this);
    }
}

// SAFETY: the attachment is a field. The notifier changes once, from the context's to the record's,
// both of which live as long as the object, and only while the object is detached under the old
// one's lock (`Notifier::rehome`). `last_put` detaches.
unsafe impl<D: Device> Subscriber<PlatformOf<D>> for Body<D> {
    fn attachment(&self) -> &Attachment<PlatformOf<D>> {
        &self.attachment
    }

    fn notifier(&self) -> &Notifier<PlatformOf<D>> {
        // ORDERING: pairs with the release in `set_watched` (E15): what the old notifier's lock
        // guarded is visible under the new one's.
        if self.watched.load(Load::Acquire) != 0 {
            if let Some(notifier) = self.record.existing_notifier() {
                return notifier;
            }
        }
        self.context.unwatched()
    }

    fn deadline(&self) -> Option<Duration> {
        self.context.limits().deadline
    }

    unsafe fn stop(&self) {
        self.installed.with(|i| {
            // SAFETY: the caller owns the revocation and has not taken the mapping yet (invariant).
            if let Some(Installed { map: Some(map), .. }) = unsafe { &*i } {
                self.context.device().stop(map);
            }
        });
    }

    unsafe fn release(&self, timeout: Option<Duration>) -> Outcome {
        let outcome = self.installed.with(|i| {
            // SAFETY: the leases are gone and the caller owns the revocation (invariant).
            match unsafe { &*i } {
                Some(Installed { map: Some(map), .. }) => self.context.device().wait_idle(map, timeout),
                _ => Outcome::Idle,
            }
        });
        if outcome == Outcome::Idle {
            // SAFETY: the leases are gone and the caller owns the revocation (invariant).
            let map = self.installed.with_mut(|i| unsafe { (*i).as_mut()?.map.take() });
            if let Some(map) = map {
                self.put_installed(map);
            }
        }
        outcome
    }

    unsafe fn free_later(&self) -> bool {
        // SAFETY: the caller owns the object, so nobody attaches it.
        let Some(object) = (unsafe { self.attachment.object() }) else { return false };
        // SAFETY: the object around the attachment is this one. Its count is zero and nothing finds
        // it (caller), so the one reference is ours to make.
        let this = unsafe {
            object.as_ref().count().revive();
            Ref::adopt(object.cast::<Inner<Self, PlatformOf<D>>>())
        };
        // Refused: the queue is shut down, and the release is still owed.
        drop(enqueue::<_, _, FREE>(self.context.registry().releases(), this));
        true
    }

    fn is_held_here(&self) -> bool {
        // The address by which `Local` notes it: that of the value behind the reference.
        PlatformOf::<D>::holds_lease(core::ptr::from_ref(self).addr())
    }

    fn event(&self, event: Event) {
        self.context.event(event);
    }
}

impl<D: Device> Body<D> {
    pub(super) fn new(
        context: Context<D>,
        record: MmRef<D::Space>,
        range: AddrRange,
        flags: Flags,
    ) -> Result<Self, Error> {
        let watched = usize::from(!flags.contains(Flags::UNSYNCHRONIZED));
        let attachment = if context.limits().spread_leases {
            Attachment::spread(range)?
        } else {
            Attachment::uninit(range)
        };
        Ok(Self {
            context,
            record,
            attachment,
            flags,
            watched: AtomicUsize::new(watched),
            watching: AtomicUsize::new(0),
            installed: <<PlatformOf<D> as Platform>::Cell<_> as Cell<_>>::new(None),
            written: AtomicUsize::new(0),
            unwanted: AtomicUsize::new(0),
            report: AtomicUsize::new(0),
            failure: AtomicUsize::new(0),
            pin: Work::uninit(),
            free: Work::uninit(),
            memory: None,
        })
    }

    pub(super) fn range(&self) -> AddrRange {
        self.attachment.range()
    }

    /// Returns the number of pages. Never passes through 32 bits
    /// ([rule 18](crate::docs::protocol#rule-18)).
    pub(super) fn page_count(&self) -> usize {
        self.range().pages(self.record.space().page_shift())
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Load::Relaxed) != 0
    }

    /// Returns whether the device may write.
    pub(super) fn writable(&self) -> bool {
        !self.flags.contains(Flags::READ_ONLY)
    }

    /// Runs under the old notifier's lock.
    pub(super) fn set_watched(&self) {
        // ORDERING: releases what the old notifier's lock guarded; pairs with the acquire in
        // `notifier` (E15).
        self.watched.store(1, Store::Release);
    }

    pub(super) fn mark_written(&self) {
        if self.writable() {
            // Relaxed: the lease's end releases it to the revocation.
            self.written.store(1, Store::Relaxed);
        }
    }

    pub(super) fn set_wanted(&self, wanted: bool) {
        self.unwanted.store(usize::from(!wanted), Store::Relaxed);
    }

    /// Unmaps and unpins what was installed. Reclaim class: nothing here allocates or frees. The
    /// caller owns the revocation, and has taken `map` out of `installed`.
    fn put_installed(&self, map: D::Map) {
        self.context.device().unmap(map);
        let wanted = self.unwanted.load(Load::Relaxed) == 0;
        // The last lease released it to us.
        let written = self.written.swap(0, Rmw::Relaxed) != 0;
        let usage = Usage { dirty: written && wanted && self.writable(), accessed: wanted };
        self.installed.with(|i| {
            // SAFETY: the caller owns the revocation (invariant).
            if let Some(Installed { pages, .. }) = unsafe { &*i } {
                // SAFETY: pinned for this object, once: their mapping was there, and is unmapped.
                unsafe { self.record.space().unpin(pages, usage) };
            }
        });
    }

    /// Frees what a revocation left behind, if the object is `Idle`.
    pub(super) fn free_remains(this: &Ref<Self, PlatformOf<D>>) {
        let mut remains = None;
        Notifier::while_idle(this, || {
            // SAFETY: `Idle`, under the notifier's lock: no lease, no revocation, no commit.
            this.installed.with_mut(|i| remains = unsafe { (*i).take() });
        });
        // Freed outside the lock.
        drop(remains);
    }

    /// Asks the address space to watch the range.
    pub(super) fn watch(&self) -> Result<WatchKey, Error> {
        let Some(registration) = self.watched_registration() else { return Ok(WatchKey::MIN) };
        let key = self.record.space().watch(registration, self.range())?;
        if self.watching.swap(1, Rmw::Relaxed) != 0 {
            // One watch an object: the earlier one is ended after the new one stands.
            // SAFETY: there were two, and one stays.
            unsafe { self.record.space().unwatch(registration, self.range()) };
        }
        Ok(key)
    }

    /// Returns the registration that changes of the range are reported to. `None`: unsynchronised.
    pub(super) fn watched_registration(&self) -> Option<&<D::Space as AddressSpace>::Registration> {
        if self.is_watched() { self.record.registration() } else { None }
    }

    /// Leaves the error of an acquire that is given up: one that sticks for everybody who finds the
    /// object `Failed`, another, if `report`, for the next acquire. Runs under the notifier's lock,
    /// in the step that gives the ticket up.
    pub(super) fn leave(&self, error: Error, report: bool) {
        // Relaxed: the lock orders it.
        if error.is_sticky() {
            self.failure.store(error.encode(), Store::Relaxed);
        } else if report {
            self.report.store(error.encode(), Store::Relaxed);
        }
    }

    /// Returns the error of a `Failed` object.
    pub(super) fn failure(&self) -> Error {
        Error::decode(self.failure.load(Load::Relaxed)).unwrap_or(Error::Fault)
    }

    /// Returns the error that a worker left, once.
    pub(super) fn take_report(&self) -> Option<Error> {
        // Relaxed: a bare number.
        Error::decode(self.report.swap(0, Rmw::Relaxed))
    }
}

/// Pages that are pinned for an acquire, and that no device uses yet: dropping it unpins them.
pub(super) struct Pinned<'a, D: Device> {
    owner: &'a Ref<Body<D>, PlatformOf<D>>,
    pages: Option<Pages<D::Space>>,
}

impl<'a, D: Device> Pinned<'a, D> {
    /// Returns room for every page of the object. Nothing is pinned.
    pub(super) fn new(owner: &'a Ref<Body<D>, PlatformOf<D>>) -> Result<Self, Error> {
        let pages = Some(Buffer::with_capacity(owner.page_count())?);
        Ok(Self { owner, pages })
    }

    /// Returns the object that the pages are pinned for.
    pub(super) fn owner(&self) -> &'a Ref<Body<D>, PlatformOf<D>> {
        self.owner
    }

    /// Returns the page array. `None` once it was taken.
    pub(super) fn pages(&self) -> Option<&Pages<D::Space>> {
        self.pages.as_ref()
    }

    /// Returns the page array, to pin into. `None` once it was taken.
    pub(super) fn pages_mut(&mut self) -> Option<&mut Pages<D::Space>> {
        self.pages.as_mut()
    }

    /// Returns the number of pages that are pinned.
    pub(super) fn len(&self) -> usize {
        self.pages.as_ref().map_or(0, |pages| pages.len())
    }

    /// Takes the pages out: the caller must unpin them.
    pub(super) fn take(&mut self) -> Option<Pages<D::Space>> {
        self.pages.take()
    }

    /// Puts pages back that were taken.
    pub(super) fn put_back(&mut self, pages: Pages<D::Space>) {
        self.pages = Some(pages);
    }
}

impl<D: Device> Drop for Pinned<'_, D> {
    fn drop(&mut self) {
        if let Some(pages) = self.pages.take().filter(|pages| !pages.is_empty()) {
            let usage = Usage { dirty: false, accessed: false };
            // SAFETY: pinned for this acquire, and no device ever had them.
            unsafe { self.owner.record.space().unpin(&pages, usage) };
        }
    }
}

impl<D: Device> fmt::Debug for Body<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserPtr({:?}, {:?})", self.attachment, self.flags)
    }
}
