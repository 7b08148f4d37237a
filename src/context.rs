//! The device context: what all clients and objects of one device share.

use crate::device::{Device, Host, Limits};
use crate::error::Error;
use crate::mm::MmRegistry;
use crate::notifier::{Notifier, Outcome};
use crate::platform::{AtomicUsize, Load, Platform, RawQueue, Rmw, WaitQueue};
use crate::refcount::{Object, Ref};
use core::fmt;
use core::time::Duration;
use crossbeam_utils::CachePadded;

type QueueOf<D> = <Host<D> as Platform>::Queue;

/// The queues that a context works on. A queue must outlive every object of the context.
///
/// Shut them down in the order of the fields: a pin worker or a cancel may hold the last reference to an object, whose record then goes
/// to the queue of the frees. With locals, which are dropped in reverse, that means: `frees` is declared first.
pub struct Queues<P: Platform> {
    /// Where workers pin. They take users and the host's locks; never the queue of the cancels (rule 8).
    pub pins: P::Queue,
    /// Where cancels run; `None`: in the thread that starts the invalidation.
    pub cancels: Option<P::Queue>,
    /// Where records of address spaces are freed; neither of the other two (rule 13).
    pub frees: P::Queue,
}

impl<P: Platform> fmt::Debug for Queues<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Queues")
    }
}

/// A device with its registry of address spaces and its queues. Share it as a [`Ref`].
pub struct Context<D: Device> {
    device: D,
    limits: Limits,
    registry: Ref<MmRegistry<D::Space>, Host<D>>,
    /// The home of unsynchronised objects: nobody ever starts an invalidation on it.
    unwatched: Ref<Notifier<Host<D>>, Host<D>>,
    pins: QueueOf<D>,
    cancels: Option<QueueOf<D>>,
    /// Pin workers that are queued or running.
    workers: CachePadded<<Host<D> as Platform>::Usize>,
    /// Waiting acquires sleep here while all workers are taken.
    vacancy: WaitQueue<<Host<D> as Platform>::Wait>,
}

/// A snapshot of a context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextStats {
    /// Address spaces with a record.
    pub spaces: usize,
    /// Pin workers that are queued or running.
    pub workers: usize,
}

// SAFETY: `settle` settles the wait. Clients and objects hold counted references.
unsafe impl<D: Device> Object<Host<D>> for Context<D> {
    unsafe fn settle(&self) {
        // SAFETY: the caller's promise, handed on.
        unsafe { self.vacancy.settle() }
    }
}

impl<D: Device> Context<D> {
    /// A context for a device.
    ///
    /// # Errors
    /// The device, and [`Error::NoMemory`], or [`Error::Invalid`] if its limits allow for no pin worker: what cannot be pinned at once
    /// would never be.
    pub fn try_new(device: D, queues: Queues<Host<D>>) -> Result<Ref<Self, Host<D>>, (D, Error)> {
        let limits = device.limits();
        if limits.workers == 0 {
            return Err((device, Error::Invalid));
        }
        let Queues { pins, cancels, frees } = queues;
        let registry = match Ref::try_new(MmRegistry::blank(cancels.clone(), frees)) {
            Ok(registry) => registry,
            Err((_, e)) => return Err((device, e)),
        };
        let unwatched = match Ref::try_new(Notifier::blank(cancels.clone())) {
            Ok(unwatched) => unwatched,
            Err((_, e)) => return Err((device, e)),
        };
        let workers = CachePadded::new(AtomicUsize::new(0));
        let vacancy = WaitQueue::blank();
        let this = Self { device, limits, registry, unwatched, pins, cancels, workers, vacancy };
        Ref::try_new(this).map_err(|(this, e)| (this.device, e))
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device's limits, as it gave them when the context was made.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The registry of address spaces.
    pub fn registry(&self) -> &Ref<MmRegistry<D::Space>, Host<D>> {
        &self.registry
    }

    /// Numbers for reports.
    pub fn stats(&self) -> ContextStats {
        // ORDERING: none needed; a snapshot.
        ContextStats { spaces: self.registry.len(), workers: self.workers.load(Load::Relaxed) }
    }

    /// Waits until every pin, cancel and free that is queued now has run (rule 26). The caller has stopped making new ones, and is
    /// on none of the queues.
    pub fn flush(&self) {
        self.pins.flush();
        if let Some(cancels) = &self.cancels {
            cancels.flush();
        }
        self.registry.flush();
    }

    /// Tries the cancel of every quarantined object again whose device did not stop in time, in every address space, ended ones
    /// included: for a driver that has reset its device. Returns the worst outcome. An address space that is added or given back
    /// meanwhile may be passed over.
    pub fn retry_quarantined(&self) -> Outcome {
        let mut worst = self.unwatched.retry_quarantined();
        self.registry.each(|record| {
            if let Some(notifier) = record.existing_notifier() {
                worst = worst.max(notifier.retry_quarantined());
            }
        });
        worst
    }

    pub(crate) fn unwatched(&self) -> &Notifier<Host<D>> {
        &self.unwatched
    }

    pub(crate) fn pins(&self) -> &QueueOf<D> {
        &self.pins
    }

    /// Takes a worker's place, if there is one (rule 17).
    pub(crate) fn take_worker(&self) -> bool {
        let mut old = self.workers.load(Load::Relaxed);
        while old < self.limits.workers {
            // Relaxed: a bare limit; the queue orders the work.
            match self.workers.compare_exchange(old, old.wrapping_add(1), Rmw::Relaxed, Load::Relaxed) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
        false
    }

    /// Gives a worker's place back.
    pub(crate) fn give_worker(&self) {
        self.workers.fetch_sub(1, Rmw::Relaxed);
        // SAFETY: settled by `Ref::try_new`; the caller's borrow keeps the context in place.
        unsafe { self.vacancy.wake_all() };
    }

    /// Waits until a worker's place is free. No lock is held.
    pub(crate) fn wait_worker(&self, timeout: Option<Duration>) -> bool {
        let free = || self.workers.load(Load::Relaxed) < self.limits.workers;
        // SAFETY: settled by `Ref::try_new`; no lock is held.
        unsafe { self.vacancy.wait_until(timeout, free) }
    }
}

impl<D: Device> fmt::Debug for Context<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.stats(), f)
    }
}
