//! The driver of a made-up accelerator: it counts the jobs on each mapping, and `wait_idle` waits for
//! them. `main.rs` runs it on the simulated machine, `../model_your_driver` in a model checker.

use core::time::Duration;
use userptr::device::{Device, PinnedRange, Prepare};
use userptr::platform::{AtomicUsize, Load, Platform, Rmw, Store};
use userptr::{AddressSpace, Error, Outcome, Ref, ref_counted, work::Waiter};

/// The hardware that the driver drives.
pub(crate) trait Hardware: Send + Sync + 'static {
    type Space: AddressSpace;
    type Table: Send + Sync + 'static;
    fn map(&self, what: &PinnedRange<'_, Self::Space>) -> Result<Self::Table, Error>;
    fn dma(table: &Self::Table) -> u8;
    fn unmap(&self, _: &Self::Table) {}
}
type PlatformOf<H> = <<H as Hardware>::Space as AddressSpace>::Platform;

pub(crate) struct Npu<H> {
    pub(crate) hardware: H,
    pub(crate) careless: bool, // the planted bug: it says that the device is idle, and does not look
}

/// A mapping: the table in the hardware, and the jobs on it.
pub(crate) struct Slot<H: Hardware> {
    table: H::Table,
    jobs: <PlatformOf<H> as Platform>::Usize,
    stopping: <PlatformOf<H> as Platform>::Usize,
    idle: Ref<Waiter<PlatformOf<H>>, PlatformOf<H>>,
}
type SlotRef<H> = Ref<Slot<H>, PlatformOf<H>>;
ref_counted! { impl[H: Hardware] RefCounted<PlatformOf<H>> for Slot<H> {} }

impl<H: Hardware> Device for Npu<H> {
    type Space = H::Space;
    type Map = SlotRef<H>;

    fn prepare(&self, what: Prepare<'_, H::Space>) -> Result<Self::Map, Error> {
        let (jobs, stopping) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let slot = Slot { idle: Waiter::try_new()?, jobs, stopping, table: self.hardware.map(&what)? };
        Ok(Ref::try_new(slot).inspect_err(|slot| self.hardware.unmap(&slot.value.table))?)
    }
    fn stop(&self, slot: &Self::Map) {
        slot.stopping.store(1, Store::Relaxed);
    }
    fn wait_idle(&self, slot: &Self::Map, timeout: Option<Duration>) -> Outcome {
        let idle = || slot.jobs.load(Load::Acquire) == 0;
        if self.careless || slot.idle.wait_until(timeout, idle) { Outcome::Idle } else { Outcome::TimedOut }
    }
    fn unmap(&self, slot: Self::Map) {
        self.hardware.unmap(&slot.table);
    }
}

/// A job in flight, until it is dropped. The lease that it was made under may be gone by then.
pub(crate) struct Job<H: Hardware>(SlotRef<H>);

impl<H: Hardware> Job<H> {
    /// Under a lease, so that no job begins once `wait_idle` has found none.
    pub(crate) fn submit(slot: &SlotRef<H>) -> Self {
        slot.jobs.fetch_add(1, Rmw::Relaxed);
        Self(slot.clone())
    }
    pub(crate) fn dma(&self) -> u8 {
        H::dma(&self.0.table)
    }
    pub(crate) fn is_stopping(&self) -> bool {
        self.0.stopping.load(Load::Relaxed) != 0
    }
}

impl<H: Hardware> Drop for Job<H> {
    fn drop(&mut self) {
        // Releases the accesses of the job to the `Acquire` in `wait_idle`.
        if self.0.jobs.fetch_sub(1, Rmw::Release) == 1 {
            self.0.idle.wake_all();
        }
    }
}
