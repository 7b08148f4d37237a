//! The exact address space: every change of a few arenas, by any thread of the process and by any
//! means, lies between a start and an end.
//!
//! A seccomp filter hands the memory calls on the arenas to a listener of the process itself. One
//! of its threads makes the bracket ([`Explicit::change`]): devices idle, pages released; makes the
//! call in the caller's stead, in the same address space and with the same descriptors; ends the
//! bracket; and answers with the result. The caller sleeps meanwhile. So `munmap` returns when the
//! device has stopped, a discard has an end, and a look-up asks nobody.
//!
//! The address space is [`Explicit`]: [`open`] makes the brackets for it, so that the promise of
//! [`register_unchecked`](userptr::Context::register_unchecked) over it, that every change is
//! bracketed, is kept for the arenas but for [what is not seen](#what-is-not-seen).
//!
//! ```no_run
//! use userptr::{AddrRange, platforms::std::Std};
//! use userptr_explicit::Explicit;
//! # fn reserve() -> Result<AddrRange, userptr::Error> { AddrRange::new(1 << 40, 1 << 30) }
//!
//! let space = Explicit::<Std>::new(4096)?;
//! let arena = reserve()?; // a large mapping, made once
//! let exact = userptr_linux::exact::open(&space, &[arena])?;
//! // From here on a `munmap` in the arena waits for the devices.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is seen
//! | call | notified if |
//! |---|---|
//! | `munmap`, `madvise`, `mprotect`, `pkey_mprotect`, `remap_file_pages` | the range overlaps an arena |
//! | `mmap` | with `MAP_FIXED`, over an arena |
//! | `mremap` | the source overlaps an arena, or with `MREMAP_FIXED` the target |
//! | `shmdt`, `shmat(SHM_REMAP)` | the address lies in an arena |
//! | `process_madvise` | always |
//!
//! By every thread, also those older than the filter; as raw calls, too; signals wait. An advice
//! that changes no page (`WILLNEED`), and `mprotect` that leaves reading and writing, are made
//! without a bracket. `brk` moves the heap alone, and a heap is no arena.
//!
//! # What is not seen
//! Calls of other processes on our memory (`process_madvise`, a hole punched into shared memory),
//! `MADVISE` of io_uring, `fallocate` and `ftruncate` of the file behind a mapping, a `fork` with
//! private pages pinned, and memory outside of the arenas. Bracket them with [`Explicit::change`].
//!
//! # What it costs, for ever
//! `no_new_privs` is set, and the filter stays until the process ends: there is nothing to close.
//! Arenas are named once. A process has one listener: where a container manager has put one, this is
//! [`Refused::Busy`].
//!
//! * A forked child is not served: its calls continue as they are, as long as its parent lives. The
//!   listener is closed in it by a fork handler; when the parent is gone, its calls on the
//!   addresses of an arena get `ENOSYS`. A child of a raw `clone` that outlives its parent waits
//!   for ever instead.
//! * [`WORKERS`] calls can wait for devices at the same time; the next one waits for one of them.
//! * Nothing that a device does when it is stopped or unmapped may be a covered call: an allocator
//!   must not have its memory in an arena.
//! * A thread that holds a lease and changes its range waits for itself until the deadline.
//! * A driver that panics is quarantined by the core; the call is made all the same, and counted
//!   ([`Stats::panics`]).
//! * `MAP_POPULATE` places pages by the memory policy of the thread that makes the call.

mod call;
mod filter;
mod worker;

use core::fmt;
use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use userptr::AddrRange;
use userptr::platforms::std::Std;
use userptr_explicit::Explicit;

use crate::{errno, helper};
use worker::Shared;

/// How many calls can wait for devices at the same time.
pub const WORKERS: usize = 8;
/// The most arenas.
pub const MAX_ARENAS: usize = filter::MAX_ARENAS;

/// Why there is no listener. Nothing was changed, but that `no_new_privs` may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refused {
    /// No arena, more than [`MAX_ARENAS`], one that is not whole pages, or one below 4 GiB, where
    /// 32-bit calls reach.
    Arenas,
    /// `EBUSY`: the process has a listener already, this one or a container manager's.
    Busy,
    /// The kernel is older than 5.19: a signal would interrupt a call that has been made already.
    Old,
    /// `ESRCH`: a thread has a filter of its own, so that not all of them can be covered.
    Threads,
    /// Not enough memory, or too many threads.
    Memory,
    /// Any other errno, positive: `EACCES` or `ENOSYS` where seccomp is forbidden.
    Errno(i32),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arenas => write!(f, "1 to {MAX_ARENAS} arenas of whole pages, above 4 GiB (EINVAL)"),
            Self::Busy => f.write_str("the process has a seccomp listener already (EBUSY)"),
            Self::Old => {
                f.write_str("the kernel is older than 5.19 (no SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)")
            }
            Self::Threads => f.write_str("a thread has a seccomp filter of its own (ESRCH)"),
            Self::Memory => f.write_str("out of memory or threads (ENOMEM)"),
            Self::Errno(errno) => write!(f, "no seccomp listener: errno {errno}"),
        }
    }
}

impl core::error::Error for Refused {}

/// What the listener has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Calls that were made inside a bracket.
    pub bracketed: u64,
    /// Calls that were notified and change no page of an arena.
    pub passed: u64,
    /// Calls of other processes (forked children), continued as they were.
    pub foreign: u64,
    /// Brackets in which a driver panicked.
    pub panics: u64,
    /// Whether the caller wakes the listener on its own processor (6.6): it saves microseconds.
    pub sync_wake_up: bool,
}

#[derive(Debug, Default)]
struct Counters {
    bracketed: AtomicU64,
    passed: AtomicU64,
    foreign: AtomicU64,
    panics: AtomicU64,
}

/// The listener. It lives until the process ends, whether or not this is dropped.
#[derive(Debug)]
pub struct Exact {
    shared: Arc<Shared>,
    sync_wake_up: bool,
}

impl Exact {
    /// Returns what the listener has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Counters { bracketed, passed, foreign, panics } = &self.shared.counters;
        Stats {
            bracketed: bracketed.load(Ordering::Relaxed),
            passed: passed.load(Ordering::Relaxed),
            foreign: foreign.load(Ordering::Relaxed),
            panics: panics.load(Ordering::Relaxed),
            sync_wake_up: self.sync_wake_up,
        }
    }
}

/// `MADV_POPULATE_WRITE`, past the filter: it takes no page away. Returns its errno, or 0.
#[cfg(any(feature = "uring", feature = "vfio"))]
pub(crate) fn populate_write(address: usize, bytes: usize) -> i32 {
    let advice = u64::from(libc::MADV_POPULATE_WRITE.cast_unsigned());
    let arguments = [address as u64, bytes as u64, advice, 0, 0, 0];
    let call = call::Call { number: libc::SYS_madvise, arguments };
    // SAFETY: this call faults pages in and changes no content, whoever makes it.
    let result = unsafe { call.make() };
    i32::try_from(result).map_or(0, i32::wrapping_neg)
}

/// The listener's descriptor, for the fork handler. -1: none.
static LISTENER: AtomicI32 = AtomicI32::new(-1);

extern "C" fn close_in_child() {
    let fd = LISTENER.swap(-1, Ordering::Relaxed);
    if fd >= 0 {
        // SAFETY: the child's copy of the descriptor, which nothing in the child uses: its threads
        // are not there.
        unsafe { libc::close(fd) };
    }
}

/// Covers the arenas from now on, for the life of the process.
///
/// # Errors
/// [`Refused`], with the cause.
pub fn open(space: &Explicit<Std>, arenas: &[AddrRange]) -> Result<Exact, Refused> {
    let fits = |arena: &AddrRange| arena.is_aligned(12) && arena.start() > 0xffff_ffff;
    if arenas.is_empty() || arenas.len() > MAX_ARENAS || !arenas.iter().all(fits) {
        return Err(Refused::Arenas);
    }
    static HANDLER: OnceLock<bool> = OnceLock::new();
    // SAFETY: the handler makes one system call.
    let install = || unsafe { libc::pthread_atfork(None, None, Some(close_in_child)) == 0 };
    if !*HANDLER.get_or_init(install) {
        return Err(Refused::Memory);
    }
    let shared = Arc::new(Shared {
        space: space.clone(),
        arenas: arenas.to_vec(),
        counters: Counters::default(),
        listener: Mutex::new(None),
        opened: Condvar::new(),
    });
    // The threads first: once the filter is there, a call that nobody serves would wait for ever.
    for _ in 0..WORKERS {
        let worker = shared.clone();
        if helper::spawn("userptr-exact", move || worker.run()).is_err() {
            shared.tell(Err(()));
            return Err(Refused::Memory);
        }
    }
    match install_filter(&filter::program(arenas, call::exempt())) {
        Ok(listener) => {
            let sync_wake_up = worker::sync_wake_up(&listener);
            LISTENER.store(listener.as_raw_fd(), Ordering::Relaxed);
            shared.tell(Ok(listener));
            Ok(Exact { shared, sync_wake_up })
        }
        Err(why) => {
            shared.tell(Err(()));
            Err(why)
        }
    }
}

impl Shared {
    fn tell(&self, listener: Result<OwnedFd, ()>) {
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
        self.opened.notify_all();
    }
}

fn install_filter(program: &[libc::sock_filter]) -> Result<OwnedFd, Refused> {
    let len = u16::try_from(program.len()).map_err(|_| Refused::Arenas)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
        | libc::SECCOMP_FILTER_FLAG_TSYNC
        | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH
        | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV;
    // SAFETY: takes no pointer.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(Refused::Errno(errno()));
    }
    // SAFETY: the kernel reads the program, which lives until the call returns.
    let got =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match i32::try_from(got) {
        // SAFETY: new, and nobody else's.
        Ok(fd @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(match errno() {
            libc::EBUSY => Refused::Busy,
            libc::EINVAL => Refused::Old,
            libc::ESRCH => Refused::Threads,
            libc::ENOMEM => Refused::Memory,
            errno => Refused::Errno(errno),
        }),
    }
}
