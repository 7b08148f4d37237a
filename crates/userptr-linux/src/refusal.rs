//! Why the kernel said no, by its cause.

use core::fmt;
use userptr::Error;

/// Why the host refused something, naming the cause rather than the errno, because one errno has
/// many causes and each has a cure of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// `ENOSYS`: the kernel was built without it, or is too old.
    Missing(Facility),
    /// `EPERM`, `EACCES` or `ENOSYS` in a process with a seccomp filter: most container runtimes
    /// filter both calls.
    Seccomp(Facility),
    /// `EPERM` or `EACCES`: a sysctl or a security module forbids it.
    Denied(Facility),
    /// `EINVAL` from `userfaultfd(2)`: a kernel before 5.11, which cannot limit one to faults of
    /// user mode.
    UserModeOnly,
    /// The kernel has it, but not the features that are needed; these bits are missing.
    Features(u64),
    /// `EMFILE` or `ENFILE`: no more descriptors (`RLIMIT_NOFILE`).
    Descriptors,
    /// Another watch would take one of the last descriptors: a sixteenth of `RLIMIT_NOFILE` is left
    /// to the program.
    DescriptorReserve {
        /// The number that the new descriptor would have.
        number: usize,
        /// `RLIMIT_NOFILE`.
        most: usize,
    },
    /// `ENOMEM` where locked memory is charged: `RLIMIT_MEMLOCK`, in bytes, is too low and there is
    /// no `CAP_IPC_LOCK`.
    LockedMemory(u64),
    /// `ENOMEM` where a mapping would be split: the process has as many as `vm.max_map_count`
    /// allows.
    Mappings,
    /// Another watch may split mappings, and the process has nearly as many as `vm.max_map_count`
    /// allows: a sixteenth is left to the program, whose own `mmap` and `std::thread::spawn` would
    /// fail.
    MappingReserve {
        /// The mappings of the process.
        mapped: usize,
        /// `vm.max_map_count`.
        most: usize,
    },
    /// Memory is being changed all the time: what began before the watch was not told in time
    /// (`EAGAIN`). Try again.
    Changing,
    /// `EAGAIN`: no more threads.
    Threads,
    /// `ENOSPC`: the VFIO container takes no more mappings.
    DmaEntries,
    /// `EEXIST`: the VFIO container has a mapping at the addresses already that is not ours.
    /// Somebody else maps in it.
    Overlap,
    /// The answer of the VFIO container about itself was not understood.
    #[cfg(feature = "vfio")]
    Malformed(crate::vfio::Malformed),
    /// No free range of device addresses (IOVA) is large enough for this many bytes.
    Iova(u64),
    /// The smallest page of the IOMMU, in bytes, is larger than the processor's.
    LargePages(u64),
    /// Memory that may only be read cannot be pinned so that it stays what it is: a kernel before
    /// 6.2.
    ReadOnlyPages,
    /// A mapping of the device could not be taken away, with this errno: the device may still reach
    /// its pages, which stay pinned.
    Stuck(i32),
    /// The io_uring answers no more, for this errno. `EBADF`: something in this process closed its
    /// descriptors.
    RingLost(i32),
    /// The crate's own table is full; it holds this many.
    Table(usize),
    /// Strict mode watches this many pieces of memory at most, each with a descriptor of its own.
    Regions(usize),
    /// A table of this size cannot be made (`EINVAL`): its entries are 1 to `max`.
    Size {
        /// The entries that were asked for.
        asked: u16,
        /// The most that there can be.
        max: u16,
    },
    /// `EBUSY`: another userfaultfd has registered the range already: that of a second
    /// [`Linux`](super::Linux), where one per process, shared by
    /// [`grab`](userptr::AddressSpace::grab), would do; or one of the program's own.
    Claimed,
    /// Nothing is mapped in the range, or a part of it is not (`EFAULT`).
    Unmapped,
    /// The kernel does not pin the range for the device (`EFAULT`), though all of it is mapped: a
    /// part is read-only, memory of a device, or shared with a file on disk.
    Unpinnable,
    /// A mapping in the range cannot be watched: without `UFFD_FEATURE_WP_ASYNC` that is every file
    /// and every SysV segment, with it, a shared mapping of a file that was opened for reading
    /// only.
    Unwatchable,
    /// Another process than the one that opened it: a forked child (`EFAULT`).
    Forked,
    /// `ENOMEM`: the kernel ran out of memory.
    Memory,
    /// Any other errno, positive.
    Errno(i32),
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Facility {
    /// `userfaultfd(2)`.
    Userfaultfd,
    /// `io_uring_setup(2)` and its kin.
    IoUring,
    /// A VFIO container with an IOMMU of type 1.
    Vfio,
    /// `MADV_POPULATE_WRITE`: Linux 5.14.
    PopulateWrite,
}

impl fmt::Display for Facility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Userfaultfd => "userfaultfd",
            Self::IoUring => "io_uring",
            Self::Vfio => "VFIO container of type 1",
            Self::PopulateWrite => "MADV_POPULATE_WRITE (Linux 5.14)",
        })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(what) => write!(f, "this kernel has no {what} (ENOSYS)"),
            Self::Seccomp(what) => {
                write!(f, "a seccomp filter forbids {what}: allow it in the container's profile")
            }
            Self::Denied(Facility::Userfaultfd) => f.write_str(
                "userfaultfd is forbidden (EPERM): a security module, or the rights of /dev/userfaultfd",
            ),
            Self::Denied(Facility::IoUring) => {
                f.write_str("io_uring is forbidden (EPERM): see kernel.io_uring_disabled")
            }
            Self::Denied(Facility::Vfio) => {
                f.write_str("VFIO is forbidden (EPERM): see the rights of /dev/vfio and the group's devices")
            }
            Self::UserModeOnly => f.write_str(
                "this kernel's userfaultfd cannot be limited to faults of user mode (EINVAL): Linux 5.11 can",
            ),
            Self::Denied(what @ Facility::PopulateWrite) => write!(f, "{what} is forbidden (EPERM)"),
            Self::Features(bits) => write!(f, "this kernel's userfaultfd lacks the features {bits:#x}"),
            Self::Descriptors => f.write_str("out of file descriptors (EMFILE): raise RLIMIT_NOFILE"),
            Self::LockedMemory(limit) => {
                write!(f, "over the limit of locked memory, {limit} bytes (ENOMEM): raise RLIMIT_MEMLOCK")
            }
            Self::Mappings => f.write_str("too many mappings (ENOMEM): raise vm.max_map_count"),
            Self::MappingReserve { mapped, most } => write!(
                f,
                "{mapped} mappings of {most}, and the last sixteenth is left to the program: raise vm.max_map_count, or register fewer, larger ranges"
            ),
            Self::DescriptorReserve { number, most } => write!(
                f,
                "descriptor {number} of {most}, and the last sixteenth is left to the program: raise RLIMIT_NOFILE, or register fewer, larger ranges"
            ),
            Self::Threads => f.write_str("out of threads (EAGAIN): raise RLIMIT_NPROC"),
            Self::DmaEntries => f.write_str(
                "the container takes no more mappings (ENOSPC): map fewer, larger ranges, or raise dma_entry_limit of vfio_iommu_type1",
            ),
            Self::Overlap => {
                f.write_str("the container has another mapping there (EEXIST): share one Vfio per container")
            }
            #[cfg(feature = "vfio")]
            Self::Malformed(why) => write!(f, "the container's answer about itself: {why}"),
            Self::Iova(bytes) => write!(
                f,
                "no {bytes} bytes of device addresses are free: release mappings, or widen the window"
            ),
            Self::LargePages(bytes) => {
                write!(f, "the IOMMU maps {bytes} bytes at least, more than a page of the processor")
            }
            Self::ReadOnlyPages => {
                f.write_str("read-only memory cannot be pinned before Linux 6.2: make it writable to the process")
            }
            Self::Stuck(errno) => write!(
                f,
                "a mapping could not be taken away (errno {errno}): reset the device, then try again"
            ),
            Self::RingLost(libc::EBADF) => f.write_str(
                "the io_uring is lost (EBADF): something in this process closed its descriptors; open a new one",
            ),
            Self::RingLost(errno) => write!(f, "the io_uring is lost (errno {errno}): open a new one"),
            Self::Table(size) => write!(f, "all {size} entries of the table are taken"),
            Self::Regions(most) => {
                write!(f, "strict mode watches {most} pieces of memory at most: register fewer, larger ranges")
            }
            Self::Size { asked, max } => write!(f, "a table of {asked} entries (EINVAL): ask for 1 to {max}"),
            Self::Changing => {
                f.write_str("memory is being changed all the time (EAGAIN): try again, or with fewer threads that unmap")
            }
            Self::Claimed => {
                f.write_str("another userfaultfd watches the range (EBUSY): share one Linux per process, or end the watch of the program's own")
            }
            Self::Unmapped => f.write_str("the range is not mapped (EFAULT)"),
            Self::Unpinnable => f.write_str(
                "the kernel does not pin this range for the device (EFAULT): a part is read-only, memory of a device, or shared with a file on disk",
            ),
            Self::Unwatchable => {
                f.write_str("a mapping in the range cannot be watched: map it privately or as memfd")
            }
            Self::Forked => {
                f.write_str("a forked child has no use of its parent's memory (EFAULT): open a new Linux")
            }
            Self::Memory => f.write_str("the kernel is out of memory (ENOMEM)"),
            Self::Errno(errno) => write!(f, "errno {errno}"),
        }
    }
}

impl core::error::Error for Refusal {}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing(_)
            | Refusal::UserModeOnly
            | Refusal::Features(_)
            | Refusal::LargePages(_)
            | Refusal::ReadOnlyPages => Self::NoDevice,
            Refusal::Unwatchable => Self::Unwatchable,
            Refusal::Stuck(_) | Refusal::RingLost(_) => Self::DeviceLost,
            Refusal::Seccomp(_) | Refusal::Denied(_) => Self::Permission,
            Refusal::Descriptors | Refusal::DescriptorReserve { .. } => Self::Descriptors,
            Refusal::LockedMemory(_) => Self::LockedMemory,
            Refusal::Mappings | Refusal::MappingReserve { .. } => Self::Mappings,
            Refusal::Threads => Self::Threads,
            Refusal::Changing => Self::Again,
            Refusal::Table(_) | Refusal::Regions(_) => Self::Slots,
            Refusal::DmaEntries | Refusal::Iova(_) => Self::Limit,
            #[cfg(feature = "vfio")]
            Refusal::Malformed(_) => Self::NoDevice,
            Refusal::Claimed => Self::Claimed,
            Refusal::Unmapped => Self::Fault,
            Refusal::Unpinnable => Self::Unpinnable,
            Refusal::Forked => Self::OtherSpace,
            Refusal::Memory => Self::NoMemory,
            Refusal::Errno(libc::EINTR) => Self::Interrupted,
            Refusal::Errno(libc::EAGAIN) => Self::Again,
            Refusal::Size { .. } | Refusal::Overlap | Refusal::Errno(_) => Self::Invalid,
        }
    }
}

impl Refusal {
    /// The cause of an errno with which the whole facility was refused.
    pub(crate) fn of_facility(what: Facility, errno: i32) -> Self {
        match errno {
            libc::ENOSYS | libc::EPERM | libc::EACCES if filtered() => Self::Seccomp(what),
            libc::ENOSYS => Self::Missing(what),
            libc::EPERM | libc::EACCES => Self::Denied(what),
            libc::EINVAL if what == Facility::Userfaultfd => Self::UserModeOnly,
            libc::EMFILE | libc::ENFILE => Self::Descriptors,
            libc::ENOMEM => Self::Memory,
            errno => Self::Errno(errno),
        }
    }

    /// The cause of an errno of a call that makes a descriptor.
    pub(crate) fn of_descriptor(errno: i32) -> Self {
        match errno {
            libc::EMFILE | libc::ENFILE => Self::Descriptors,
            libc::ENOMEM => Self::Memory,
            errno => Self::Errno(errno),
        }
    }

    /// The cause of an `ENOMEM` from a driver that pins memory for this process and charges it as
    /// locked.
    #[must_use]
    pub fn of_pinning() -> Self {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a valid place for the answer.
        let got = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
        if got == 0 && limit.rlim_cur != libc::RLIM_INFINITY && !super::owner::capable(CAP_IPC_LOCK) {
            return Self::LockedMemory(limit.rlim_cur);
        }
        Self::Memory
    }
}

const CAP_IPC_LOCK: u32 = 14;
const PR_GET_SECCOMP_FILTER: i32 = 2;

/// Whether a seccomp filter is in force. (A strict-mode process could not ask.)
fn filtered() -> bool {
    // SAFETY: takes no pointer.
    unsafe { libc::prctl(libc::PR_GET_SECCOMP, 0, 0, 0, 0) == PR_GET_SECCOMP_FILTER }
}

/// The calling thread's errno.
pub(crate) fn errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}
