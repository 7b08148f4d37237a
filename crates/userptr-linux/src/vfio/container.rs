//! What is asked of a VFIO container.

use super::info::Capabilities;
use crate::{Refusal, errno};
use core::ffi::c_ulong;
use core::fmt;
use std::os::fd::AsRawFd;
use vfio_bindings::bindings::vfio;

/// Addresses of a device: where a mapping lies for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first address as the device sees it.
    pub iova: u64,
    /// The size, in bytes.
    pub bytes: u64,
}

/// The three calls on a container. Errors are positive errnos.
///
/// # Safety
/// * [`map`](Self::map) either makes the whole mapping and pins its pages until it is unmapped, or
///   leaves nothing behind.
/// * When [`unmap`](Self::unmap) has returned a size, no device reaches anything through the span,
///   accesses in flight included; if it has returned an errno, nothing has changed.
///
/// The crate's promise rests on both.
pub unsafe trait Container: Send + Sync + 'static {
    /// Fills the buffer with what the container says of itself, and returns how many bytes there
    /// are to say: `VFIO_IOMMU_GET_INFO`.
    ///
    /// # Errors
    /// The errno.
    fn info(&self, into: &mut [u8]) -> Result<usize, i32>;

    /// Pins the pages at `address` and maps them: `VFIO_IOMMU_MAP_DMA`. The device may always read.
    ///
    /// # Errors
    /// The errno; nothing is pinned or mapped.
    ///
    /// # Safety
    /// Until it is unmapped, the device may read the memory and, if `write`, write it:
    /// [`register_unchecked`](userptr::Context::register_unchecked) says what that asks. Nobody
    /// else has mapped the span.
    unsafe fn map(&self, at: Span, address: usize, write: bool) -> Result<(), i32>;

    /// Takes a whole mapping away and unpins its pages: `VFIO_IOMMU_UNMAP_DMA`. The number of bytes
    /// that were mapped there. *Reclaim class.*
    ///
    /// # Errors
    /// The errno; everything is as before.
    ///
    /// # Safety
    /// The mapping is the caller's: no [`Mapping`](super::Mapping) of another lies at the span.
    unsafe fn unmap(&self, at: Span) -> Result<u64, i32>;
}

/// Asks a container for its limits.
pub(super) fn capabilities(container: &impl Container) -> Result<Capabilities, Refusal> {
    let mut bytes = Vec::new();
    let mut size = size_of::<vfio::vfio_iommu_type1_info>();
    // The answer may grow between two questions: a device was added.
    for _ in 0..8 {
        bytes.clear();
        bytes.try_reserve_exact(size).map_err(|_| Refusal::Memory)?;
        bytes.resize(size, 0);
        size =
            container.info(&mut bytes).map_err(|errno| Refusal::of_facility(crate::Facility::Vfio, errno))?;
        if size <= bytes.len() {
            return Ok(Capabilities::parse(&bytes)?);
        }
    }
    Err(Refusal::Errno(libc::EAGAIN))
}

/// A container of the kernel with an IOMMU of type 1, version 2.
///
/// `F` is whatever keeps the descriptor open: an `OwnedFd`, or the `Arc<VfioContainer>` of the
/// crate `vfio-ioctls`, in a type of yours that has `AsRawFd`.
pub struct Type1<F>(F);

impl<F: AsRawFd> Type1<F> {
    /// Takes a container over that has its devices and its IOMMU (`VFIO_SET_IOMMU` with
    /// `VFIO_TYPE1v2_IOMMU`).
    ///
    /// # Safety
    /// The descriptor is such a container for as long as the value lives, and nobody else maps or
    /// unmaps in the window of addresses that the device is opened with.
    pub unsafe fn new(container: F) -> Self {
        Self(container)
    }

    /// What it was made of.
    pub fn get_ref(&self) -> &F {
        &self.0
    }
}

impl<F> fmt::Debug for Type1<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Type1")
    }
}

/// The number of a request: type and number, without direction or size.
const fn request(number: u32) -> c_ulong {
    (vfio::VFIO_TYPE as c_ulong) << 8 | (vfio::VFIO_BASE as c_ulong).wrapping_add(number as c_ulong)
}

const GET_INFO: c_ulong = request(12);
const MAP_DMA: c_ulong = request(13);
const UNMAP_DMA: c_ulong = request(14);

fn size_u32<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

// SAFETY: of the kernel's type 1 driver: a failed map is undone; an unmap flushes the IOMMU's
// caches, which waits for accesses in flight, before it unpins; version 2 unmaps whole mappings or
// answers `EINVAL`.
unsafe impl<F: AsRawFd + Send + Sync + 'static> Container for Type1<F> {
    fn info(&self, into: &mut [u8]) -> Result<usize, i32> {
        let size = u32::try_from(into.len()).map_err(|_| libc::E2BIG)?;
        let head = into.get_mut(..size_of::<u32>()).ok_or(libc::EINVAL)?;
        head.copy_from_slice(&size.to_ne_bytes());
        // SAFETY: the kernel writes no more than the size that the first field gives, and that is
        // the buffer's.
        if unsafe { libc::ioctl(self.0.as_raw_fd(), GET_INFO as _, into.as_mut_ptr()) } != 0 {
            return Err(errno());
        }
        let size = into.first_chunk().map_or(0, |head| u32::from_ne_bytes(*head));
        Ok(usize::try_from(size).unwrap_or(usize::MAX))
    }

    unsafe fn map(&self, at: Span, address: usize, write: bool) -> Result<(), i32> {
        let write = if write { vfio::VFIO_DMA_MAP_FLAG_WRITE } else { 0 };
        let mut arg = vfio::vfio_iommu_type1_dma_map {
            argsz: size_u32::<vfio::vfio_iommu_type1_dma_map>(),
            flags: vfio::VFIO_DMA_MAP_FLAG_READ | write,
            vaddr: address as u64,
            iova: at.iova,
            size: at.bytes,
        };
        // SAFETY: the argument is the struct that this request reads. The kernel checks the range
        // and pins the pages; whether the memory is still the user's is what the whole crate looks
        // after.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), MAP_DMA as _, &raw mut arg) };
        if done == 0 { Ok(()) } else { Err(errno()) }
    }

    unsafe fn unmap(&self, at: Span) -> Result<u64, i32> {
        let mut arg = vfio::vfio_iommu_type1_dma_unmap {
            argsz: size_u32::<vfio::vfio_iommu_type1_dma_unmap>(),
            iova: at.iova,
            size: at.bytes,
            ..Default::default()
        };
        // SAFETY: the argument is the struct that this request reads and writes.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), UNMAP_DMA as _, &raw mut arg) };
        if done == 0 { Ok(arg.size) } else { Err(errno()) }
    }
}
