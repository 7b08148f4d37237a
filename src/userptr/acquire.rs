//! Acquire: take a lease, pinning first if there are no pages.

use super::lease::{Lease, Local, OwnedLease, is_held_here};
use super::object::{Installed, UserPtr, UserPtrRef};
use super::{RETRIES, worker};
use crate::address_space::{AddressSpace, Caller, Pages, Usage};
use crate::device::Host;
use crate::device::{Device, Prepare};
use crate::error::Error;
use crate::notifier::{Hold, Notifier, Refused, Ticket};
use crate::pages::{Buffer, SgTable};
use crate::platform::{AtomicUsize, Cell, Rmw};

impl<D: Device> UserPtr<D> {
    /// A lease, now or not at all: pins what can be pinned without waiting, leaves the rest to a worker, and never waits itself.
    ///
    /// # Errors
    /// * [`Error::Again`]: an invalidation is in progress, somebody else or a worker is pinning, or all workers are taken.
    /// * [`Error::Fault`]: the range is not memory; the address space is gone; or the caller lives in another one. The first sticks
    ///   until an invalidation of the range or a [`reset`](Self::reset). A host does not tell of a mapping that comes into a hole, so
    ///   a caller who has just mapped something there resets.
    /// * Others, once each, from the pin, the device or the allocator; a retry can work.
    ///
    /// Source: `i915_gem_userptr_get_pages`.
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
    /// use userptr::{Error, UserPtr};
    ///
    /// let lease = match UserPtr::try_acquire(&object) {
    ///     Ok(lease) => lease,
    ///     Err(Error::Again) => UserPtr::acquire(&object)?, // a worker pins: come again, or wait where waiting is allowed
    ///     Err(error) => return Err(error),
    /// };
    /// assert_eq!(lease.with(|m| m.pages.len()), 1);
    /// # Ok::<(), userptr::Error>(())
    /// ```
    pub fn try_acquire(this: &UserPtrRef<D>) -> Result<Lease<'_, D>, Error> {
        let caller = this.record.space().caller();
        if caller == Caller::Stranger {
            return Err(Error::Fault);
        }
        if let Some(lease) = Self::try_lease(this)? {
            return Ok(lease);
        }
        // (1) All that can be needed is allocated before anything is attached (rule 7) and outside every lock (rule 27).
        let pages = Buffer::with_capacity(this.pages())?;
        // (2)
        let ticket = match Notifier::attach(this) {
            Ok(ticket) => ticket,
            Err(Refused::Ready) => return Self::try_lease(this)?.ok_or(Error::Again),
            Err(Refused::Window | Refused::Busy) => return Err(Error::Again),
            Err(Refused::Dead | Refused::Failed) => return Err(Error::Fault),
            Err(Refused::NoMemory) => return Err(Error::NoMemory),
        };
        // What the last worker could not do is reported once and forgotten (rule 15). Asked with the ticket in hand: it was left
        // under the lock before this attach, and nobody can leave another.
        if let Some(error) = this.take_report() {
            Notifier::abandon(this, ticket, false);
            return Err(error);
        }
        if caller == Caller::Nobody {
            return Err(worker::schedule(this, ticket));
        }
        match Self::pin_here(this, ticket, pages) {
            Ok(Some(())) => {
                // SAFETY: the commit left a lease for us.
                Self::validate(Lease::new(unsafe { Hold::adopt(Local::new(this)) }))
            }
            Ok(None) => Err(worker::schedule(this, ticket)),
            Err(error) => {
                Notifier::abandon(this, ticket, error == Error::Fault);
                Err(error)
            }
        }
    }

    /// A lease; waits for invalidations and workers, with bounded retries. The caller holds no lease and no lock (rule 29).
    ///
    /// # Errors
    /// As [`try_acquire`](Self::try_acquire), but instead of `Again`: [`Error::Busy`] when the retries are used up, [`Error::TimedOut`]
    /// when one wait took longer than the device's deadline, [`Error::Deadlock`] when the wait would be for a lease that this thread
    /// is known to hold.
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
    /// use userptr::{Error, UserPtr};
    ///
    /// let lease = UserPtr::acquire(&object)?;
    /// assert_eq!(machine.pins(), 1);
    /// drop(lease);
    /// process.munmap(address, PAGE);
    /// assert_eq!(UserPtr::acquire(&object).unwrap_err(), Error::Fault);
    /// # Ok::<(), userptr::Error>(())
    /// ```
    pub fn acquire(this: &UserPtrRef<D>) -> Result<Lease<'_, D>, Error> {
        let deadline = this.context.limits().deadline;
        for _ in 0..RETRIES {
            match Self::try_acquire(this) {
                Err(Error::Again) => {}
                done => return done,
            }
            if is_held_here(this) {
                return Err(Error::Deadlock);
            }
            if let Some(registration) = this.record.registration() {
                this.record.space().wait_quiet(registration);
            }
            if !Notifier::wait_ready(this, deadline) || !this.context.wait_worker(deadline) {
                return Err(Error::TimedOut);
            }
        }
        Err(Error::Busy)
    }

    /// As [`acquire`](Self::acquire), for work that outlives the caller.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn acquire_owned(this: &UserPtrRef<D>) -> Result<OwnedLease<D>, Error> {
        Self::acquire(this).map(Lease::into_owned)
    }

    /// A lease, if the pages are there.
    fn try_lease(this: &UserPtrRef<D>) -> Result<Option<Lease<'_, D>>, Error> {
        Notifier::lease(Local::new(this)).map(|hold| Self::validate(Lease::new(hold))).transpose()
    }

    /// Hands a lease out, unless the host knows of a change that the notifier does not know of yet.
    ///
    /// The order matters: lease, then the host, then the lease word. If the change was under way when the lease was taken, either
    /// the host still says so, or its invalidation has begun since and has closed the word.
    fn validate(lease: Lease<'_, D>) -> Result<Lease<'_, D>, Error> {
        let this = lease.object();
        if this.is_watched()
            && let Some(registration) = this.record.registration()
            && (!this.record.space().quiet(registration) || lease.is_revoked())
        {
            return Err(Error::Again);
        }
        Ok(lease)
    }

    /// (3) to (5) in the caller's thread. `Ok(None)`: not everything can be pinned without waiting; nothing is pinned, and the
    /// ticket is still to be used. An error leaves the ticket to the caller, too; `Again` means that it was superseded.
    fn pin_here(
        this: &UserPtrRef<D>,
        ticket: Ticket,
        mut pages: Pages<D::Space>,
    ) -> Result<Option<()>, Error> {
        this.watch()?;
        let space = this.record.space();
        let pinned = space.pin_fast(this.range(), this.writable(), &mut pages);
        if pinned.is_err() || pages.len() < this.pages() {
            this.unpin_unused(&pages);
            return pinned.map(|()| None);
        }
        Self::install(this, ticket, pages, true).map(Some)
    }

    /// Asks the host to watch the range.
    pub(super) fn watch(&self) -> Result<(), Error> {
        if self.is_watched()
            && let Some(registration) = self.record.registration()
        {
            self.record.space().watch(registration, self.range())?;
            if self.watching.swap(1, Rmw::Relaxed) != 0 {
                // One watch an object: the earlier one is given back after the new one stands.
                self.record.space().unwatch(registration, self.range());
            }
        }
        Ok(())
    }

    /// Gives pages back that no device ever used.
    pub(super) fn unpin_unused(&self, pages: &Pages<D::Space>) {
        if !pages.is_empty() {
            self.record.space().unpin(pages, Usage { dirty: false, accessed: false });
        }
    }

    /// Maps the pages for the device and commits. On an error nothing stays pinned or mapped, and the ticket is the caller's to
    /// abandon.
    pub(super) fn install(
        this: &UserPtrRef<D>,
        ticket: Ticket,
        pages: Pages<D::Space>,
        lease: bool,
    ) -> Result<(), Error> {
        let (space, device) = (this.record.space(), this.context.device());
        let frames = pages.iter().map(|page| space.frame(*page));
        let sg = match SgTable::<Host<D>>::build(frames, this.context.limits().sg) {
            Ok(sg) => sg,
            Err(error) => {
                this.unpin_unused(&pages);
                return Err(error);
            }
        };
        let what = Prepare { address: this.range().start(), pages: &pages, sg: &sg, write: this.writable() };
        let map = match device.prepare(what) {
            Ok(map) => map,
            Err(error) => {
                this.unpin_unused(&pages);
                return Err(error);
            }
        };
        // The closure owns it until it runs; not run, it comes back.
        let mut installed = Some(Installed { pages, sg, map });
        let committed = Notifier::commit(this, ticket, lease, || {
            this.installed.with_mut(|slot| {
                // SAFETY: under the home's lock, `Acquiring` with our ticket: nobody else touches it (invariant).
                unsafe { *slot = installed.take() };
            });
        });
        match committed {
            Ok(()) => Ok(()),
            Err(_) => {
                // Superseded. Nobody had a lease, so the device never used it.
                if let Some(Installed { pages, map, .. }) = installed {
                    device.unmap(map);
                    this.unpin_unused(&pages);
                }
                Err(Error::Again)
            }
        }
    }

    /// The error that a worker left, once.
    fn take_report(&self) -> Option<Error> {
        // Relaxed: a bare number.
        match self.report.swap(0, Rmw::Relaxed) {
            0 => None,
            code => Some(worker::decode(code)),
        }
    }
}
