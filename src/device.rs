//! Devices: what the core asks of the driver.

use crate::address_space::{AddressSpace, Pages};
use crate::error::Error;
use crate::notifier::{Event, Outcome};
use crate::pages::{SgLimits, SgTable};
use crate::platform::Platform;
use core::fmt;
use core::ops::Deref;
use core::time::Duration;

/// The platform of a device.
pub type PlatformOf<D> = <<D as Device>::Space as AddressSpace>::Platform;
/// The work queues of a device's platform.
pub type QueueOf<D> = <PlatformOf<D> as Platform>::Queue;

/// What a device can do. Start from [`Limits::default`] and change what differs:
///
/// ```
/// use core::time::Duration;
/// use userptr::Limits;
/// let limits = Limits::default().max_pages(512).deadline(Some(Duration::from_millis(100)));
/// assert!(!limits.read_only, "a driver says so if it honours `Prepare::write`");
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// The most pages in one object. Default: `u32::MAX`.
    pub max_pages: usize,
    /// The limits of its scatter-gather tables. Default: none.
    pub sg: SgLimits,
    /// Whether the device can be kept from writing: the driver honours [`PinnedRange::write`].
    /// Without it, `READ_ONLY` is refused with `ENODEV`. Default: `false`.
    pub read_only: bool,
    /// Whether its accesses are coherent with the processor's caches. Without it no context can be
    /// made (`ENODEV`). Default: `true`.
    pub coherent: bool,
    /// How long an invalidation waits for leases and devices, all its objects together. `None`:
    /// forever. Default: 10 s.
    pub deadline: Option<Duration>,
    /// The most pin workers in flight at once, over all clients; at least one
    /// ([rule 17](crate::docs::protocol#rule-17)). Default: 16.
    pub max_workers: usize,
    /// Whether each object counts its leases in several words, so that threads that take leases on
    /// one object at once do not write the same cache line. Costs about 1 KiB an object, and makes
    /// a revocation look at each word. Default: `false`.
    pub spread_leases: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_pages: u32::MAX as usize,
            sg: SgLimits::NONE,
            read_only: false,
            coherent: true,
            deadline: Some(Duration::from_secs(10)),
            max_workers: 16,
            spread_leases: false,
        }
    }
}

impl Limits {
    /// Sets [`max_pages`](Self::max_pages).
    #[must_use]
    pub const fn max_pages(mut self, pages: usize) -> Self {
        self.max_pages = pages;
        self
    }

    /// Sets [`sg`](Self::sg).
    #[must_use]
    pub const fn sg(mut self, sg: SgLimits) -> Self {
        self.sg = sg;
        self
    }

    /// Sets [`read_only`](Self::read_only).
    #[must_use]
    pub const fn read_only(mut self, honoured: bool) -> Self {
        self.read_only = honoured;
        self
    }

    /// Sets [`spread_leases`](Self::spread_leases).
    #[must_use]
    pub const fn spread_leases(mut self, spread: bool) -> Self {
        self.spread_leases = spread;
        self
    }

    /// Sets [`coherent`](Self::coherent).
    #[must_use]
    pub const fn coherent(mut self, coherent: bool) -> Self {
        self.coherent = coherent;
        self
    }

    /// Sets [`deadline`](Self::deadline).
    #[must_use]
    pub const fn deadline(mut self, deadline: Option<Duration>) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets [`max_workers`](Self::max_workers).
    #[must_use]
    pub const fn max_workers(mut self, workers: usize) -> Self {
        self.max_workers = workers;
        self
    }
}

/// What the device is given to map: read its fields. They cannot be changed, so that a device that
/// stands in front of another cannot have it map something else.
pub struct Prepare<'a, S: AddressSpace>(PinnedRange<'a, S>);

impl<'a, S: AddressSpace> Deref for Prepare<'a, S> {
    type Target = PinnedRange<'a, S>;
    fn deref(&self) -> &PinnedRange<'a, S> {
        &self.0
    }
}

/// The fields of a [`Prepare`].
#[non_exhaustive]
pub struct PinnedRange<'a, S: AddressSpace> {
    /// The address space.
    pub space: &'a S,
    /// The address of the object's first byte in its address space.
    pub address: usize,
    /// The pinned pages.
    pub pages: &'a Pages<S>,
    /// The same pages as segments.
    pub sg: &'a SgTable<S::Platform>,
    /// Whether the device may write.
    pub write: bool,
}

impl<'a, S: AddressSpace> Prepare<'a, S> {
    /// Returns what the core would give a device, for a test of [`Device::prepare`] alone.
    ///
    /// # Safety
    /// The pages are pinned in `space`, from `address`, and stay so until the mapping that is made
    /// of them is given to [`Device::unmap`]; `sg` says the same. The device may use them, and
    /// write them if `write`, as [`register_unchecked`](crate::Context::register_unchecked) says.
    pub unsafe fn new(
        space: &'a S,
        address: usize,
        pages: &'a Pages<S>,
        sg: &'a SgTable<S::Platform>,
        write: bool,
    ) -> Self {
        Self(PinnedRange { space, address, pages, sg, write })
    }
}

/// A driver: what the core asks of it.
///
/// # Locks
/// A lock that `stop`, `wait_idle` or `unmap` takes must not be held across anything that can start
/// an invalidation: an allocation, a fault, a copy from or to user memory
/// ([rule 28](crate::docs::protocol#rule-28)). These three are *reclaim class*: they must not
/// allocate, nor free: an unmapper that waits for them may hold the allocator's lock
/// ([rule 32](crate::docs::protocol#rule-32)).
///
/// # Two ways to know that the device is busy
/// The core revokes an object in this order: `stop`, then every lease is dropped, then `wait_idle`,
/// then `unmap`. A job may keep the device busy in either of two ways.
///
/// | | a lease for each job | a counter of jobs |
/// |---|---|---|
/// | who keeps it | the job owns an [`OwnedLease`](crate::OwnedLease), dropped at its completion | the driver counts up under a lease, drops the lease, counts down at the completion |
/// | who waits | the core, for the leases | `wait_idle`, for the counter to reach zero |
/// | at the deadline | the object is quarantined; the last lease releases it | `wait_idle` returns [`Outcome::TimedOut`]; [`retry_quarantined`](crate::Context::retry_quarantined) releases it |
/// | good for | few, long jobs; completions in a thread that may sleep | many, short jobs; completions in an interrupt, where a lease must not be dropped |
///
/// A submit may follow a `stop`: a thread that had its lease before goes on until it drops it. But
/// no submit follows the last lease, so none comes during `wait_idle`, and a counter that is raised
/// under a lease only and has reached zero there stays zero. With leases alone `wait_idle` has
/// nothing to wait for, and returns [`Outcome::Idle`].
#[diagnostic::on_unimplemented(message = "`{Self}` is not a device: implement `Device` for it")]
pub trait Device: Sized + Send + Sync + 'static {
    /// The memory it works on.
    type Space: AddressSpace;
    /// What it needs to use the pages: an IOMMU mapping, a table in the device, a slot.
    type Map: Send + Sync + 'static;

    /// What the device can do. Asked once, when the context is made.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// Maps pages. The device cannot use the mapping before the commit, because there is no lease
    /// yet. May allocate and sleep.
    ///
    /// # Errors
    /// Any; nothing stays mapped. `NoMemory` is reported once and forgotten
    /// ([rule 15](crate::docs::protocol#rule-15)).
    fn prepare(&self, what: Prepare<'_, Self::Space>) -> Result<Self::Map, Error>;

    /// Asks the device to stop using the mapping. Must not wait: all devices are asked before one
    /// is waited for ([rule 24](crate::docs::protocol#rule-24)).
    fn stop(&self, map: &Self::Map) {
        let _ = map;
    }

    /// Waits until the device has stopped using the mapping, for good. `None`: forever; zero: look
    /// once, without waiting.
    fn wait_idle(&self, map: &Self::Map, timeout: Option<Duration>) -> Outcome;

    /// Removes the mapping. The device is idle, or never used it. Must not fail. What the mapping
    /// owns in memory is left to a thread that no unmapper waits for
    /// ([rule 32](crate::docs::protocol#rule-32)).
    fn unmap(&self, map: Self::Map);

    /// Learns what became of an object, for a log or counters of the driver's own; [`ContextStats`]
    /// counts all of them. Called in an invalidation, with no lock held: it must not wait, allocate
    /// or call into this crate. Does nothing by default.
    ///
    /// [`ContextStats`]: crate::ContextStats
    fn event(&self, event: Event) {
        let _ = event;
    }
}

impl<S: AddressSpace> fmt::Debug for PinnedRange<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedRange({:#x}, {} pages, write: {})", self.address, self.pages.len(), self.write)
    }
}

impl<S: AddressSpace> fmt::Debug for Prepare<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prepare({:#x}, {} pages, write: {})", self.address, self.pages.len(), self.write)
    }
}
