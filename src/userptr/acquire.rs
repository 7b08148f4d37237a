//! Acquire: take a lease, pinning first if there are no pages.

use super::RETRIES;
use super::body::{Body, Installed, Pinned};
use super::lease::{Lease, Local, OwnedLease, is_held_here};
use super::object::UserPtr;
use super::worker;
use crate::address_space::{AddressSpace, Current, WatchKey};
use crate::device::{Device, PlatformOf, Prepare};
use crate::error::Error;
use crate::notifier::{AttachError, LeaseGuard, Notifier, Ticket};
use crate::pages::SgTable;
use crate::platform::Cell;
use crate::refcount::Ref;
use crate::trace;
use core::mem::ManuallyDrop;

impl<D: Device> UserPtr<D> {
    /// Takes a lease, now or not at all: pins what can be pinned without waiting, leaves the rest
    /// to a worker, and never waits itself.
    ///
    /// # Errors
    /// * [`Error::Again`]: an invalidation is in progress, another thread or a worker is pinning,
    ///   or all workers are busy.
    /// * [`Error::Fault`], [`Error::Unpinnable`]: the range is not memory that can be pinned.
    ///   Sticky until the range is invalidated or [`reset`](Self::reset) is called. Address spaces
    ///   report mappings that disappear, not mappings that appear: after mapping memory into a
    ///   hole, call `reset`.
    /// * [`Error::Gone`]: the address space has ended. [`Error::OtherSpace`]: the caller runs in
    ///   another one.
    /// * Others, once each, from the pin, the device or the allocator; a retry can work.
    ///
    /// Source: `i915_gem_userptr_get_pages`.
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
    /// use userptr::Error;
    ///
    /// let lease = match object.try_acquire() {
    ///     Ok(lease) => lease,
    ///     // A worker pins: come again, or wait where waiting is allowed.
    ///     Err(Error::Again) => object.acquire()?,
    ///     Err(error) => return Err(error),
    /// };
    /// assert_eq!(lease.pages().len(), 1);
    /// # Ok::<(), userptr::Error>(())
    /// ```
    #[inline]
    pub fn try_acquire(&self) -> Result<Lease<'_, D>, Error> {
        let body = self.body();
        // Whose memory is it? A forked child must not get its parent's pages (rule 22).
        let current = body.record.space().current();
        if current == Current::Other {
            return Err(Error::OtherSpace);
        }
        // The fast path: pages are there, one read-modify-write.
        if let Some(lease) = self.try_lease()? {
            return Ok(lease);
        }
        self.miss(current)
    }

    /// The slow path of [`try_acquire`](Self::try_acquire): there were no pages a moment ago. Kept
    /// out of line, so that a hit pays for nothing of it.
    #[cold]
    #[inline(never)]
    fn miss(&self, current: Current) -> Result<Lease<'_, D>, Error> {
        let result = self.attach_and_pin(current);
        trace::acquire(self.range(), false, result.as_ref().map(drop).map_err(|error| *error));
        result
    }

    fn attach_and_pin(&self, current: Current) -> Result<Lease<'_, D>, Error> {
        let body = self.body();
        // An invalidation waits for this thread's own lease. To allocate would be to wait, too:
        // reclaim may start there (rule 28).
        if is_held_here(self) {
            return Err(Error::Again);
        }
        // All that can be needed is allocated before anything is attached (rule 7), outside every
        // lock (rule 27).
        let pinned = Pinned::new(body)?;
        // From here on an invalidation of the range finds the object.
        let ticket = match Notifier::attach(body) {
            Ok(ticket) => ticket,
            Err(AttachError::Ready) => return self.try_lease()?.ok_or(Error::Again),
            Err(AttachError::Failed) => return Err(body.failure()),
            Err(error) => return Err(error.into()),
        };
        let acquiring = Acquiring::new(body, ticket);
        // What the last worker could not do is reported once and forgotten (rule 15). Asked with
        // the ticket in hand: it was left under the lock before this attach, and nobody can leave
        // another.
        if let Some(error) = body.take_report() {
            return Err(error);
        }
        if current == Current::None {
            drop(pinned);
            return Err(worker::schedule(self, acquiring.leave()));
        }
        match Self::pin_here(pinned, ticket) {
            Ok(Some(())) => {
                acquiring.served();
                // SAFETY: the commit left a lease for us.
                self.validate(Lease::new(unsafe { LeaseGuard::adopt(Local::new(self)) }))
            }
            Ok(None) => Err(worker::schedule(self, acquiring.leave())),
            Err(error) => {
                acquiring.abandon_with(error.is_sticky(), || body.leave(error, false));
                Err(error)
            }
        }
    }

    /// Takes a lease; waits for invalidations and workers, with bounded retries. The caller must
    /// hold no lease and no lock ([rule 29](crate::docs::protocol#rule-29)).
    ///
    /// # Errors
    /// As [`try_acquire`](Self::try_acquire), but instead of `Again`: [`Error::Busy`] when the
    /// retries are used up, [`Error::TimedOut`] when one wait took longer than the device's
    /// deadline, [`Error::Deadlock`] when the wait would be for a lease that this thread is known
    /// to hold, [`Error::ShutDown`] when no worker can pin any more.
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
    /// assert_eq!(machine.pins(), 1);
    /// drop(lease);
    /// process.unmap(buffer);
    /// assert_eq!(object.acquire().unwrap_err().errno(), 14);
    /// # Ok::<(), userptr::Error>(())
    /// ```
    pub fn acquire(&self) -> Result<Lease<'_, D>, Error> {
        let body = self.body();
        let deadline = body.context.limits().deadline;
        for _ in 0..RETRIES {
            match self.try_acquire() {
                Err(Error::Again) => {}
                done => return done,
            }
            if is_held_here(self) {
                return Err(Error::Deadlock);
            }
            if let Some(registration) = body.record.registration() {
                body.record.space().wait_quiet(registration, body.range());
            }
            if !Notifier::wait_ready(body, deadline) || !body.context.wait_worker(deadline) {
                return Err(Error::TimedOut);
            }
        }
        Err(Error::Busy)
    }

    /// As [`acquire`](Self::acquire), for work that outlives the caller: the lease has a handle of
    /// its own, and may go to another thread.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn acquire_owned(&self) -> Result<OwnedLease<D>, Error> {
        self.acquire().map(Lease::into_owned)
    }

    /// Takes a lease if the pages are pinned, and pins nothing: for a cache that makes a new object
    /// when the pages are gone. `None`: there are no pages, or they are being released.
    ///
    /// # Errors
    /// [`Error::OtherSpace`]: the caller runs in another address space. [`Error::Again`]: the
    /// address space is not quiet; see [`AddressSpace::quiet`].
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
    /// assert!(object.lease_if_pinned()?.is_none());
    /// drop(object.acquire()?);
    /// assert!(object.lease_if_pinned()?.is_some());
    /// # Ok::<(), userptr::Error>(())
    /// ```
    #[inline]
    pub fn lease_if_pinned(&self) -> Result<Option<Lease<'_, D>>, Error> {
        if self.body().record.space().current() == Current::Other {
            return Err(Error::OtherSpace);
        }
        self.try_lease()
    }

    /// Takes a lease, if the pages are there.
    #[inline]
    fn try_lease(&self) -> Result<Option<Lease<'_, D>>, Error> {
        let guard = Notifier::lease(Local::new(self));
        guard.map(|guard| self.validate(Lease::new(guard))).transpose()
    }

    /// Hands a lease out, unless the address space knows of a change that the notifier does not
    /// know of yet.
    ///
    /// The order matters: lease, then the address space, then the lease word (E9). If the change
    /// was under way when the lease was taken, either the address space still says so, or its
    /// invalidation has begun since and has closed the word.
    #[inline]
    fn validate<'a>(&self, lease: Lease<'a, D>) -> Result<Lease<'a, D>, Error> {
        let body = self.body();
        if let Some(registration) = body.watched_registration() {
            let quiet = body.record.space().quiet(registration, body.range(), lease.watch_key());
            if !quiet || lease.is_revoked() {
                return Err(Error::Again);
            }
        }
        Ok(lease)
    }

    /// Pins and installs in the caller's thread. `Ok(None)`: not everything can be pinned without
    /// waiting; nothing is pinned, and the ticket is still to be used. An error leaves the ticket
    /// to the caller, too; `Again` means that it was superseded.
    fn pin_here(mut pinned: Pinned<'_, D>, ticket: Ticket) -> Result<Option<()>, Error> {
        let body = pinned.owner();
        // The watch comes after the attach: a change between the two finds the object.
        let key = body.watch()?;
        if let Some(pages) = pinned.pages_mut() {
            body.record.space().pin_fast(body.range(), body.writable(), pages)?;
        }
        if pinned.len() < body.page_count() {
            return Ok(None);
        }
        install(pinned, key, ticket, true).map(Some)
    }
}

/// Maps the pages for the device and commits. On an error nothing stays pinned or mapped, and the
/// ticket is the caller's to abandon.
pub(super) fn install<D: Device>(
    mut pinned: Pinned<'_, D>,
    key: WatchKey,
    ticket: Ticket,
    lease: bool,
) -> Result<(), Error> {
    let body = pinned.owner();
    let (space, device) = (body.record.space(), body.context.device());
    // Segments, then the device's own mapping: both may allocate and sleep, and both can still be
    // undone, since nobody has a lease.
    let Some(pages) = pinned.pages() else { return Err(Error::Again) };
    let frames = pages.iter().map(|page| space.frame(*page));
    let sg = SgTable::<PlatformOf<D>>::build(frames, body.context.limits().sg)?;
    // SAFETY: they were pinned by this acquire, and are unpinned after the mapping was taken away:
    // the object keeps them together (`Installed`). The device's use is what the object was
    // registered for.
    let what = unsafe { Prepare::new(space, body.range().start(), pages, &sg, body.writable()) };
    let map = device.prepare(what)?;
    let Some(pages) = pinned.take() else { return Err(Error::Again) };
    // Commit: one store under the notifier's lock. The closure owns what it installs until it runs;
    // not run, it comes back.
    let mut installed = Some(Installed { pages, sg, map: Some(map), key });
    // SAFETY: the closure moves a few words into the place that lease holders read. A lease that it
    // leaves is adopted by the caller, `try_acquire`.
    let committed = unsafe {
        Notifier::commit(body, ticket, lease, || {
            body.installed.with_mut(|slot| {
                // Under the notifier's lock, `Acquiring` with our ticket: nobody else touches it
                // (invariant). What the last revocation left is freed by us, after the lock.
                installed = core::mem::replace(&mut *slot, installed.take());
            });
        })
    };
    match committed {
        Ok(()) => Ok(()),
        Err(_) => {
            // Superseded. Nobody had a lease, so the device never used it.
            if let Some(Installed { pages, map: Some(map), .. }) = installed {
                pinned.put_back(pages);
                device.unmap(map);
            }
            Err(Error::Again)
        }
    }
}

/// An acquire in progress: dropping it gives the ticket back, on every path and when a driver
/// unwinds.
pub(super) struct Acquiring<'a, D: Device> {
    body: &'a Ref<Body<D>, PlatformOf<D>>,
    ticket: Ticket,
}

impl<'a, D: Device> Acquiring<'a, D> {
    pub(super) fn new(body: &'a Ref<Body<D>, PlatformOf<D>>, ticket: Ticket) -> Self {
        Self { body, ticket }
    }

    /// Leaves the ticket to the caller.
    pub(super) fn leave(self) -> Ticket {
        ManuallyDrop::new(self).ticket
    }

    /// Ends the acquire: its ticket was committed, or another thread serves it.
    pub(super) fn served(self) {
        let _ = ManuallyDrop::new(self);
    }

    /// Gives the acquire up; a sticky failure is remembered. If the ticket is current, also runs
    /// `report` under the notifier's lock.
    pub(super) fn abandon_with(self, sticky: bool, report: impl Fn()) {
        let this = ManuallyDrop::new(self);
        Notifier::abandon_with(this.body, this.ticket, sticky, report);
    }
}

impl<D: Device> Drop for Acquiring<'_, D> {
    fn drop(&mut self) {
        Notifier::abandon(self.body, self.ticket, false);
    }
}
