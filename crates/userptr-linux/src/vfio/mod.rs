//! A device behind an IOMMU, driven from user space through VFIO: [`Vfio`].
//!
//! `VFIO_IOMMU_MAP_DMA` pins pages of the process and makes them reachable for a device under
//! addresses of its own. It pins them as they are at that moment: after `munmap` and a new `mmap`,
//! after `MADV_DONTNEED`, `mremap` or a discard by a balloon the device still reads and writes the
//! old pages, and every access succeeds. That is why virtual machine monitors switch discards off
//! when such a device is plugged in, and why caches of such mappings go stale. A
//! [`UserPtr`](userptr::UserPtr) takes the mapping away in time; in [strict
//! mode](crate::Options::strict) before the `munmap` returns.
//!
//! | [`Device`] | VFIO |
//! |---|---|
//! | `prepare` | addresses are chosen in the container's ranges; `VFIO_IOMMU_MAP_DMA` pins and maps |
//! | a lease | the driver may tell the hardware the addresses: [`Mapping::span`] |
//! | `stop`, `wait_idle` | the driver's own: [`Quiesce`]. After that, within `wait_idle`, `VFIO_IOMMU_UNMAP_DMA` |
//! | `unmap` | the same, if it has not been done: the mapping was never used |
//!
//! The unmap belongs to `wait_idle` because it can fail: the object is quarantined then, as if the
//! device had not stopped, keeps its pages, and
//! [`Context::retry_quarantined`](userptr::Context::retry_quarantined) tries again.
//!
//! ```
//! use std::os::fd::OwnedFd;
//! use userptr_linux::Refusal;
//! use userptr_linux::vfio::{IovaRange, Quiesce, Setup, Type1, Vfio};
//!
//! /// The container has its device and its IOMMU; the device has 32 address lines.
//! fn open<Q: Quiesce>(container: OwnedFd, driver: Q) -> Result<Vfio<Q, Type1<OwnedFd>>, Refusal> {
//!     // SAFETY: it is such a container, and nobody else maps in it.
//!     let container = unsafe { Type1::new(container) };
//!     let window = IovaRange { first: 0x1000, last: u64::from(u32::MAX) };
//!     let device = Vfio::open(container, driver, Setup { window, ..Setup::default() })?;
//!     println!("{:?}", device.capabilities());
//!     Ok(device)
//! }
//! ```
//!
//! Then as with any device: a [`Context`](userptr::Context) of it, an object over a range, a lease,
//! and within the lease `lease.with(|mapped| mapped.map.span())` is what the hardware is told.
//!
//! # What the IOMMU gives
//! When `VFIO_IOMMU_UNMAP_DMA` has returned, the device reaches nothing through these addresses:
//! the kernel has removed the translation, emptied the IOMMU's cache of it, waited for accesses in
//! flight, and unpinned the pages after that. An access that comes later is blocked and logged as a
//! fault; the device sees an error, and may need a reset. So memory is safe even from hardware that
//! does not stop, but the hardware is not: [`Quiesce`] is there to spare it the fault. With
//! [`Setup::cut_off`] a device that does not stop by the deadline is cut off; without, its object
//! is quarantined.
//!
//! # Limits
//! | limit | what is said |
//! |---|---|
//! | `dma_entry_limit` of `vfio_iommu_type1`, for each container ([`Capabilities::entries`]) | `ENOSPC`, [`Refusal::DmaEntries`] |
//! | `RLIMIT_MEMLOCK` without `CAP_IPC_LOCK`: every page counts, once for each mapping | `ENOSPC`, [`Refusal::LockedMemory`] |
//! | ranges of addresses ([`Capabilities::ranges`]) and the window of [`Setup`] | `ENOSPC`, [`Refusal::Iova`] |
//! | [`Setup::mappings`] | `ENOSPC`, [`Refusal::Table`] |
//! | page sizes of the IOMMU ([`Capabilities::page_sizes`]): one above the processor's | `ENODEV` at the start, [`Refusal::LargePages`] |
//! | a hole | `EFAULT`, [`Refusal::Unmapped`] |
//! | read-only memory for an object that the device may write, memory of a device | `EFAULT`, [`Refusal::Unpinnable`] |
//! | read-only memory before Linux 6.2, for a read-only object | `ENODEV`, [`Refusal::ReadOnlyPages`] |
//!
//! None of them sticks but `EFAULT`, and nothing is left behind. [`Vfio::refusal`] tells the cause.
//!
//! # What of rust-vmm is used
//! `vfio-bindings` for the kernel's structs. Not `vfio-ioctls` for the mappings: its
//! `VfioContainer` does not ask for the limits (`VFIO_IOMMU_GET_INFO`), maps everything for reading
//! and writing, and brings six crates. It is good for what comes before: open the group, the
//! container and the device with it, and give the container to [`Type1::new`]; the tests in
//! `kernel/tests/vfio-guest` do that. iommufd (Linux 6.2) can be another [`Container`].
//!
//! # Rules for the user
//! * Open [`Vfio`] when the container has its devices and its IOMMU: each device may take away from
//!   the ranges.
//! * A lease is held until the driver's own books have the command: until [`Quiesce`] waits for it.
//! * Strict mode watches [512 ranges](crate::MAX_REGIONS). In the default mode `munmap` returns at
//!   once; the old pages stay pinned and mapped until the hardware is done, and nobody is given a
//!   lease on them.
//! * A forked child inherits neither the mappings nor the right to take them away. If it inherits
//!   the container's descriptor, the kernel keeps the mappings after the parent's death; Rust's
//!   descriptors are close-on-exec.

mod container;
mod info;
mod iova;
mod mapping;
mod settle;

pub use container::{Container, Span, Type1};
pub use info::{Capabilities, Malformed};
pub use iova::IovaRange;
pub use mapping::Mapping;

use crate::memory::page_size;
use crate::{Linux, Owner, Refusal};
use core::fmt;
use core::time::Duration;
use iova::Iovas;
use mapping::{Kept, Shared};
use std::sync::Arc;
use userptr::Error;
use userptr::device::{Device, Limits, Prepare};
use userptr::notifier::Outcome;

/// How a driver stops its hardware.
///
/// All calls are *reclaim class*: they allocate nothing, and take no lock that is held across an
/// allocation or a fault; a cancel may run while a thread of the process is blocked in `munmap`.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use std::time::{Duration, Instant};
/// use userptr::Outcome;
/// use userptr_linux::vfio::{Quiesce, Span};
///
/// /// Counts commands in flight, whichever mapping they name: simple, and right.
/// struct MyDriver {
///     in_flight: AtomicUsize,
/// }
///
/// impl Quiesce for MyDriver {
///     fn wait_idle(&self, _: Span, timeout: Option<Duration>) -> Outcome {
///         let began = Instant::now();
///         while self.in_flight.load(Ordering::Acquire) != 0 {
///             if timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
///                 return Outcome::TimedOut;
///             }
///             std::thread::yield_now();
///         }
///         Outcome::Idle
///     }
/// }
/// ```
pub trait Quiesce: Send + Sync + 'static {
    /// Asks the hardware to stop using the span: no command that names it is given any more. Never
    /// waits. May come more than once, and does not come before every `wait_idle`.
    fn stop(&self, span: Span) {
        let _ = span;
    }

    /// Waits until the hardware has finished every command that names an address in the span.
    /// Nobody has a lease at that time, so none can be added. Called again if the unmap failed, or
    /// the deadline passed and the cancel is tried again. `None`: for ever.
    ///
    /// `Idle` must be true: it is the driver's word that no access will come. If it is not, memory
    /// stays safe, but the hardware gets faults, or, when the addresses have been given again,
    /// another buffer.
    fn wait_idle(&self, span: Span, timeout: Option<Duration>) -> Outcome;
}

/// A driver that others know, too.
impl<Q: Quiesce + ?Sized> Quiesce for Arc<Q> {
    fn stop(&self, span: Span) {
        (**self).stop(span);
    }

    fn wait_idle(&self, span: Span, timeout: Option<Duration>) -> Outcome {
        (**self).wait_idle(span, timeout)
    }
}

/// How to use a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setup {
    /// Which addresses the device can put out: a device with 28 address lines has
    /// `last: (1 << 28) - 1`. Only what the container allows of them is used. The first page is
    /// left out by default, as zero means "none" to much hardware.
    pub window: IovaRange,
    /// The most mappings at once, at least one; a table of that size is made.
    pub mappings: usize,
    /// How long an invalidation waits for leases and for the hardware; see [`Limits::deadline`].
    pub deadline: Option<Duration>,
    /// Whether hardware that does not stop by the deadline, or is lost, is cut off by the unmap.
    /// Its addresses are not given again before [`Vfio::reclaim`].
    pub cut_off: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            window: IovaRange { first: 1 << 12, last: u64::MAX },
            mappings: 1024,
            deadline: Some(Duration::from_secs(10)),
            cut_off: false,
        }
    }
}

/// What a device has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Spans of addresses that are not free: mappings, and those below.
    pub taken: usize,
    /// Mappings that nobody has any more and that could not be taken away: the device still reaches
    /// their pages, which stay pinned.
    pub stuck: usize,
    /// Spans that the device may still use, though it was cut off.
    pub in_use: usize,
    /// Mappings that were cut off before the device had stopped, in all.
    pub cut_off: u64,
    /// Mappings of which the container had less than was made when they were taken away, in all:
    /// somebody else works on its addresses.
    pub foreign: u64,
}

/// A device behind an IOMMU: its container, and the driver that can stop it.
pub struct Vfio<Q: Quiesce, C: Container> {
    shared: Arc<Shared<C>>,
    driver: Q,
    capabilities: Capabilities,
    setup: Setup,
    page: usize,
}

impl<Q: Quiesce, C: Container> Vfio<Q, C> {
    /// The device of a container, for the calling process.
    ///
    /// # Errors
    /// [`Refusal`], with the cause: no container of type 1 ([`Refusal::Missing`]), its pages are
    /// too large ([`Refusal::LargePages`]), it has no addresses in the window ([`Refusal::Iova`] of
    /// one page), no memory.
    pub fn open(container: C, driver: Q, setup: Setup) -> Result<Self, Refusal> {
        let page = page_size();
        let capabilities = container::capabilities(&container)?;
        let smallest = capabilities.smallest_page();
        if smallest > page as u64 {
            return Err(Refusal::LargePages(smallest));
        }
        let most = setup.mappings.max(1);
        let iovas = Iovas::new(&capabilities.ranges, setup.window, page.trailing_zeros(), most)?;
        let shared = Arc::new(Shared::new(container, Owner::mark(page)?, iovas, most)?);
        Ok(Self { shared, driver, capabilities, setup, page })
    }

    /// The driver.
    pub fn driver(&self) -> &Q {
        &self.driver
    }

    /// The container.
    pub fn container(&self) -> &C {
        &self.shared.container
    }

    /// The limits of the container, as they were at the start.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// How many more mappings the container takes at this moment; `None`: it does not say.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn entries(&self) -> Result<Option<u32>, Refusal> {
        Ok(container::capabilities(&self.shared.container)?.entries)
    }

    /// Why the last mapping was refused, or could not be taken away.
    pub fn refusal(&self) -> Option<Refusal> {
        self.shared.books().refusal
    }

    /// Numbers for reports.
    pub fn stats(&self) -> Stats {
        let books = self.shared.books();
        let count = |which| books.kept.iter().filter(|(_, why)| *why == which).count();
        Stats {
            taken: books.iovas.taken(),
            stuck: count(Kept::Mapped),
            in_use: count(Kept::InUse),
            cut_off: books.cut_off,
            foreign: books.foreign,
        }
    }

    /// For a driver that has reset its device: tries the unmaps again that have failed, and gives
    /// the addresses free that the device used when it was cut off. The number of mappings that
    /// still cannot be taken away. Objects that are quarantined are the context's:
    /// [`retry_quarantined`](userptr::Context::retry_quarantined).
    pub fn reclaim(&self) -> usize {
        if self.shared.owner.is_me() { self.shared.reclaim() } else { 0 }
    }

    fn span(&self, bytes: u64, address: usize) -> Result<Span, Refusal> {
        let like = address as u64;
        let mut books = self.shared.books();
        let large = books.iovas.take(bytes, self.capabilities.largest_page(bytes), like);
        let taken = match large {
            // The addresses are too much in pieces for large pages.
            Err(Refusal::Iova(_)) => books.iovas.take(bytes, 1, 0),
            taken => taken,
        };
        drop(books);
        taken.map(|iova| Span { iova, bytes }).map_err(|why| self.shared.refuse(why))
    }
}

impl<Q: Quiesce, C: Container> Device for Vfio<Q, C> {
    type Space = Linux;
    type Map = Mapping<C>;

    fn limits(&self) -> Limits {
        Limits::default().max_pages(usize::MAX).read_only(true).deadline(self.setup.deadline)
    }

    fn prepare(&self, what: Prepare<'_, Linux>) -> Result<Mapping<C>, Error> {
        if !self.shared.owner.is_me() {
            return Err(Error::OtherSpace);
        }
        let bytes = what.pages.len().checked_mul(self.page).ok_or(Error::TooBig)?;
        if !what.write {
            settle::settle(what.address, bytes).map_err(|why| self.shared.refuse(why))?;
        }
        let span = self.span(bytes as u64, what.address)?;
        Ok(Mapping::make(&self.shared, span, what.address, what.write)?)
    }

    fn stop(&self, map: &Mapping<C>) {
        if self.shared.owner.is_me() {
            self.driver.stop(map.span());
        }
    }

    fn wait_idle(&self, map: &Mapping<C>, timeout: Option<Duration>) -> Outcome {
        if !self.shared.owner.is_me() {
            return Outcome::Idle;
        }
        let outcome = self.driver.wait_idle(map.span(), timeout);
        if outcome != Outcome::Idle && !self.setup.cut_off {
            return outcome;
        }
        match map.unmap(outcome != Outcome::Idle) {
            Ok(()) => Outcome::Idle,
            // Noted in the books. The pages are still the device's.
            Err(_) => Outcome::DeviceLost,
        }
    }

    fn unmap(&self, map: Mapping<C>) {
        drop(map);
    }
}

impl<Q: Quiesce, C: Container> fmt::Debug for Vfio<Q, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vfio({:?})", self.stats())
    }
}
