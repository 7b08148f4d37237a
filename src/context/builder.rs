//! How a context is made, and what it refuses.

use super::{Context, Counts, Shared};
use crate::address_space::AddressSpace;
use crate::device::{Device, Limits, PlatformOf, QueueOf};
use crate::error::{Error, Rejected};
use crate::mm::MmRegistry;
use crate::notifier::Notifier;
use crate::platform::{AtomicUsize, RawQueue, WaitQueue};
use crate::refcount::Ref;
use core::fmt;
use crossbeam_utils::CachePadded;

/// Makes a [`Context`]. A program with the standard library calls `spawn`, which starts the
/// threads; a kernel module gives its queues and calls [`build`](Self::build).
///
/// What cannot work is refused here, and not at the first object.
#[must_use = "call `spawn` or `build`"]
pub struct ContextBuilder<D: Device> {
    pub(crate) device: D,
    limits: Limits,
    pins: Option<QueueOf<D>>,
    revokes: Option<QueueOf<D>>,
    releases: Option<QueueOf<D>>,
}

impl<D: Device> ContextBuilder<D> {
    pub(super) fn new(device: D) -> Self {
        let limits = device.limits();
        Self { device, limits, pins: None, revokes: None, releases: None }
    }

    /// Changes the device's limits, for example the deadline of an invalidation.
    pub fn limits(mut self, change: impl FnOnce(Limits) -> Limits) -> Self {
        self.limits = change(self.limits);
        self
    }

    /// Gives the queue where pages are pinned. Its items take the address space's locks and users,
    /// so it must not be the queue of the revocations ([rule 8](crate::docs::protocol#rule-8)).
    pub fn pin_queue(mut self, queue: QueueOf<D>) -> Self {
        self.pins = Some(queue);
        self
    }

    /// Gives the queue where pages are released in an invalidation. Without one that happens in the
    /// thread that invalidates, if the address space allows it ([`AddressSpace::REVOKE_THREADS`]).
    pub fn revoke_queue(mut self, queue: QueueOf<D>) -> Self {
        self.revokes = Some(queue);
        self
    }

    /// Gives the queue where records of address spaces are freed: neither of the other two, since
    /// such an item waits for them ([rule 13](crate::docs::protocol#rule-13)).
    pub fn release_queue(mut self, queue: QueueOf<D>) -> Self {
        self.releases = Some(queue);
        self
    }

    /// Makes the context.
    ///
    /// # Errors
    /// With the device, and nothing is left behind: [`Error::QueueMissing`] if there is no queue
    /// for pins or releases, or none for revocations on an address space that needs one;
    /// [`Error::SameQueue`] if two roles have the same queue; [`Error::ShutDown`] if one is shut
    /// down; [`Error::Invalid`] if the limits allow no worker; [`Error::NotCoherent`];
    /// [`Error::NoMemory`].
    pub fn build(self) -> Result<Context<D>, Rejected<D>> {
        let Self { device, limits, pins, revokes, releases } = self;
        let error = match (pins, releases) {
            (Some(pins), Some(releases)) => match Self::check(&limits, &pins, revokes.as_ref(), &releases) {
                Ok(()) => return Self::make(device, limits, pins, revokes, releases),
                Err(error) => error,
            },
            _ => Error::QueueMissing,
        };
        Err(Rejected { value: device, error })
    }

    fn check(
        limits: &Limits,
        pins: &QueueOf<D>,
        revokes: Option<&QueueOf<D>>,
        releases: &QueueOf<D>,
    ) -> Result<(), Error> {
        if !limits.coherent {
            return Err(Error::NotCoherent);
        }
        if limits.max_workers == 0 {
            return Err(Error::Invalid);
        }
        if revokes.is_none() && D::Space::REVOKE_THREADS != 0 {
            return Err(Error::QueueMissing);
        }
        let same = |queue: &QueueOf<D>| queue.is_same(pins) || queue.is_same(releases);
        if pins.is_same(releases) || revokes.is_some_and(same) {
            return Err(Error::SameQueue);
        }
        if pins.is_shut_down() || releases.is_shut_down() || revokes.is_some_and(QueueOf::<D>::is_shut_down) {
            return Err(Error::ShutDown);
        }
        Ok(())
    }

    fn make(
        device: D,
        limits: Limits,
        pins: QueueOf<D>,
        revokes: Option<QueueOf<D>>,
        releases: QueueOf<D>,
    ) -> Result<Context<D>, Rejected<D>> {
        let registry = match MmRegistry::try_new(revokes.clone(), releases) {
            Ok(registry) => registry,
            Err(error) => return Err(Rejected { value: device, error }),
        };
        let unwatched = match Notifier::<PlatformOf<D>>::try_new(revokes.clone()) {
            Ok(unwatched) => unwatched,
            Err(error) => return Err(Rejected { value: device, error }),
        };
        let counts = Counts {
            revoked: AtomicUsize::new(0),
            quarantined: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
        };
        let workers = CachePadded::new(AtomicUsize::new(0));
        let worker_slots = WaitQueue::uninit();
        let shared =
            Shared { device, limits, registry, unwatched, pins, revokes, workers, worker_slots, counts };
        match Ref::try_new(shared) {
            Ok(shared) => Ok(Context { shared }),
            Err(rejected) => Err(rejected.map(|shared| shared.device)),
        }
    }
}

impl<D: Device> fmt::Debug for ContextBuilder<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContextBuilder({:?})", self.limits)
    }
}
