//! The device context: what all clients and objects of one device share.

mod builder;

pub use builder::ContextBuilder;

use crate::device::{Device, Limits, PlatformOf, QueueOf};
use crate::mm::MmRegistry;
use crate::notifier::{Event, Notifier, Outcome};
use crate::platform::{AtomicUsize, Load, Platform, RawQueue, Rmw, WaitQueue};
use crate::refcount::{Ref, RefCounted};
use crate::trace;
use core::fmt;
use core::time::Duration;
use crossbeam_utils::CachePadded;

/// A device with its registry of address spaces and its queues: a counted handle, cheap to clone.
/// Made by [`Context::builder`].
pub struct Context<D: Device> {
    shared: Ref<Shared<D>, PlatformOf<D>>,
}

/// What the handles of a context share. Every object holds one, so nothing in here goes before the
/// objects.
struct Shared<D: Device> {
    device: D,
    limits: Limits,
    registry: Ref<MmRegistry<D::Space>, PlatformOf<D>>,
    /// The notifier of unsynchronised objects: nothing ever invalidates on it.
    unwatched: Ref<Notifier<PlatformOf<D>>, PlatformOf<D>>,
    pins: QueueOf<D>,
    revokes: Option<QueueOf<D>>,
    /// Pin workers that are queued or running.
    workers: CachePadded<<PlatformOf<D> as Platform>::Usize>,
    /// Waiting acquires sleep here while all workers are busy.
    worker_slots: WaitQueue<<PlatformOf<D> as Platform>::Wait>,
    counts: Counts<D>,
}

/// Event counts, for reports.
struct Counts<D: Device> {
    revoked: <PlatformOf<D> as Platform>::Usize,
    quarantined: <PlatformOf<D> as Platform>::Usize,
    finished: <PlatformOf<D> as Platform>::Usize,
}

/// A snapshot of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContextStats {
    /// Address spaces with a record.
    pub spaces: usize,
    /// Pin workers that are queued or running.
    pub workers: usize,
    /// How often the pages of an object were released.
    pub revoked: usize,
    /// How often an object was quarantined.
    pub quarantined: usize,
    /// How often a quarantined object was released by its last lease.
    pub finished: usize,
}

// SAFETY: `init` settles the wait. Clients and objects hold counted references.
unsafe impl<D: Device> RefCounted<PlatformOf<D>> for Shared<D> {
    unsafe fn init(&self) {
        // SAFETY: called once, at the final address (caller).
        unsafe { self.worker_slots.init() }
    }
}

impl<D: Device> Context<D> {
    /// Begins to make a context for a device.
    pub fn builder(device: D) -> ContextBuilder<D> {
        ContextBuilder::new(device)
    }

    /// Returns the device.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.shared.device
    }

    /// Returns the device's limits, as it gave them when the context was made.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Returns the registry of address spaces.
    #[must_use]
    pub fn registry(&self) -> &Ref<MmRegistry<D::Space>, PlatformOf<D>> {
        &self.shared.registry
    }

    /// Returns numbers for reports: a snapshot, without any order between them.
    #[must_use]
    pub fn stats(&self) -> ContextStats {
        let shared = &*self.shared;
        ContextStats {
            spaces: shared.registry.len(),
            workers: shared.workers.load(Load::Relaxed),
            revoked: shared.counts.revoked.load(Load::Relaxed),
            quarantined: shared.counts.quarantined.load(Load::Relaxed),
            finished: shared.counts.finished.load(Load::Relaxed),
        }
    }

    /// Returns the number of handles, those of the objects included.
    #[must_use]
    pub fn handles(&self) -> usize {
        Ref::count(&self.shared)
    }

    /// Returns whether both are handles of the same context.
    #[must_use]
    pub fn ptr_eq(a: &Self, b: &Self) -> bool {
        Ref::ptr_eq(&a.shared, &b.shared)
    }

    /// Waits until every pin, revocation and release that is queued now has run
    /// ([rule 26](crate::docs::protocol#rule-26)). The caller must have stopped making new ones,
    /// and run on none of the queues.
    pub fn drain(&self) {
        self.shared.pins.drain();
        if let Some(revokes) = &self.shared.revokes {
            revokes.drain();
        }
        self.shared.registry.flush();
    }

    /// Tries the revocation of every quarantined object again, on every address space: for a driver
    /// that has reset its device. Runs in this thread, and returns the worst outcome. An address
    /// space that comes or goes meanwhile may be passed over.
    pub fn retry_quarantined(&self) -> Outcome {
        let mut worst = self.shared.unwatched.retry_quarantined();
        self.shared.registry.each(|record| {
            if let Some(notifier) = record.existing_notifier() {
                worst = worst.max(notifier.retry_quarantined());
            }
        });
        worst
    }

    pub(crate) fn unwatched(&self) -> &Notifier<PlatformOf<D>> {
        &self.shared.unwatched
    }

    pub(crate) fn pin_queue(&self) -> &QueueOf<D> {
        &self.shared.pins
    }

    /// Counts an event and hands it to the driver.
    pub(crate) fn event(&self, event: Event) {
        let counts = &self.shared.counts;
        let count = match event {
            Event::Revoked(_) => &counts.revoked,
            Event::Quarantined(..) => &counts.quarantined,
            Event::Finished(_) => &counts.finished,
        };
        // Relaxed: a bare number.
        count.fetch_add(1, Rmw::Relaxed);
        trace::event(event);
        self.shared.device.event(event);
    }

    /// Takes a worker's place, if there is one ([rule 17](crate::docs::protocol#rule-17)).
    pub(crate) fn take_worker(&self) -> bool {
        let shared = &*self.shared;
        let mut old = shared.workers.load(Load::Relaxed);
        while old < shared.limits.max_workers {
            // Relaxed: a bare limit; the queue orders the work.
            match shared.workers.compare_exchange(old, old.wrapping_add(1), Rmw::Relaxed, Load::Relaxed) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
        false
    }

    /// Gives a worker's place back.
    pub(crate) fn give_worker(&self) {
        self.shared.workers.fetch_sub(1, Rmw::Relaxed);
        // SAFETY: settled by `Ref::try_new`; the caller's borrow keeps the context in place.
        unsafe { self.shared.worker_slots.wake_all() };
    }

    /// Waits until a worker's place is free. The caller must hold no lock.
    pub(crate) fn wait_worker(&self, timeout: Option<Duration>) -> bool {
        let free = || self.shared.workers.load(Load::Relaxed) < self.shared.limits.max_workers;
        // SAFETY: settled by `Ref::try_new`; no lock is held.
        unsafe { self.shared.worker_slots.wait_until(timeout, free) }
    }
}

impl<D: Device> Clone for Context<D> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<D: Device> fmt::Debug for Context<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.stats(), f)
    }
}
