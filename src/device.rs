//! Devices: what the core asks of the driver.

use crate::address_space::{AddressSpace, Pages};
use crate::error::Error;
use crate::notifier::Outcome;
use crate::pages::{SgLimits, SgTable};
use core::fmt;
use core::time::Duration;

/// The host of a device.
pub type Host<D> = <<D as Device>::Space as AddressSpace>::Platform;

/// What a device can do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most pages in one object.
    pub pages: usize,
    /// The limits of its scatter-gather tables.
    pub sg: SgLimits,
    /// Whether it can be told that pages are read-only. Without it, `READ_ONLY` is refused with `ENODEV`.
    pub read_only: bool,
    /// Whether its accesses are coherent with the processor's caches. Without it nothing can be created (`ENODEV`).
    pub coherent: bool,
    /// How long an invalidation waits for leases and for the device. `None`: for ever.
    pub deadline: Option<Duration>,
    /// The most pin workers in flight at once, over all clients (rule 17). At least one.
    pub workers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pages: u32::MAX as usize,
            sg: SgLimits::NONE,
            read_only: true,
            coherent: true,
            deadline: Some(Duration::from_secs(10)),
            workers: 16,
        }
    }
}

/// What the device is given to map.
pub struct Prepare<'a, S: AddressSpace> {
    /// The address of the object's first byte in its address space.
    pub address: usize,
    /// The pinned pages.
    pub pages: &'a Pages<S>,
    /// The same pages as segments.
    pub sg: &'a SgTable<S::Platform>,
    /// Whether the device may write.
    pub write: bool,
}

/// A driver.
///
/// # Locks
/// A lock that `stop`, `wait_idle` or `unmap` takes may not be held across anything that can start an invalidation: an allocation,
/// a fault, a copy from or to user memory (rule 28). These three are *reclaim class*: they do not allocate.
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

    /// Maps pages. The device cannot use the mapping before the commit, because nobody has a lease yet. May allocate and sleep.
    ///
    /// # Errors
    /// Any; nothing stays mapped. `NoMemory` is reported once and forgotten (rule 15).
    fn prepare(&self, what: Prepare<'_, Self::Space>) -> Result<Self::Map, Error>;

    /// Asks the device to stop using the mapping. Never waits: all devices are asked before one is waited for (rule 24).
    fn stop(&self, map: &Self::Map) {
        let _ = map;
    }

    /// Waits until the device has stopped using the mapping, for good. `None`: for ever.
    fn wait_idle(&self, map: &Self::Map, timeout: Option<Duration>) -> Outcome;

    /// Takes the mapping away. The device is idle, or never began. Cannot fail.
    fn unmap(&self, map: Self::Map);
}

impl<S: AddressSpace> fmt::Debug for Prepare<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Prepare({:#x}, {} pages, write: {})", self.address, self.pages.len(), self.write)
    }
}
