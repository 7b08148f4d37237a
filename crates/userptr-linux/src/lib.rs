//! The memory of a Linux process: [`Linux`].
//!
//! Userfaultfd tells of every `munmap`, `mremap`, `brk` and `madvise` on watched memory, whoever
//! calls it and however: no function of the C library is patched, so raw system calls are seen too.
//! It needs no privilege.
//!
//! ```
//! use userptr_linux::Linux;
//! match Linux::open() {
//!     Ok(space) => println!("watching: {:?}", space.stats()),
//!     Err(why) => eprintln!("no userfaultfd: {why}"),
//! }
//! ```
//!
//! # What the kernel promises
//! | change | told | pages | end |
//! |---|---|---|---|
//! | `munmap`, `mmap(MAP_FIXED)` over it, `brk` shrink | unmap, of the whole call's range | gone already | none needed |
//! | `mremap` | remap, then unmap of the old range (not with `MREMAP_DONTUNMAP`) | moved already | none needed |
//! | `madvise`: `DONTNEED`, `FREE`, `REMOVE` | remove | **still there**: they go after the message was read | none |
//!
//! The thread that makes the change waits until the monitor has **read** the message; it does not
//! wait for what the monitor does then.
//!
//! Not told, so that the caller of these must say it with
//! [`Notifier::invalidate`](userptr::Notifier::invalidate): `fallocate(PUNCH_HOLE)` and `ftruncate`
//! on the file behind a mapping, `MADV_GUARD_INSTALL`, `shmdt`, `shmat(SHM_REMAP)`, `mprotect`,
//! `MADV_REMOVE` through another mapping of the same file, and `remap_file_pages`, which also ends
//! the watch of what it moves. A write to private memory after `fork` may move the *parent's* page:
//! pin after the fork, or not at all across it.
//!
//! # Why a look-up never finds a stale page
//! The message comes after the pages are gone. In between, another thread can map the same address
//! anew and look it up. Three things together close that window:
//!
//! 1. **The kernel's counter.** It goes up before the mappings change and down when the message has
//!    been read. A write-protect call of length zero shows whether it is zero
//!    ([`uffd::Uffd::probe`]).
//! 2. **The gate.** The monitor raises it, reads all messages, closes the leases of everything they
//!    overlap, and lowers it.
//! 3. **The order of a look-up.** First the lease (a read-modify-write on the lease word), then
//!    [`quiet`](userptr::AddressSpace::quiet): the probe, then the gate; then the lease word again:
//!    is it still open?
//!
//! Suppose a change *C* of the mappings is visible to the thread that looks up: it has itself
//! mapped something there anew, or knows from the one who has. Then *C*'s counter went up before
//! the look-up began.
//! * *C*'s message was not read yet: the counter is up, the probe says so, the lease is given back.
//! * It was read, and the leases are not closed yet: the gate was raised before the reading, and is
//!   lowered after the closing: the look-up, which asks the gate after the probe, finds it up.
//!   (Asked the other way round, the gate could be found down, then the message read, then the
//!   probe found quiet.)
//! * The leases are closed: the look-up finds the gate down, and with it the closed lease word: it
//!   backs out.
//!
//! If the lease word is found open after that, it was opened by an acquire that began after *C*,
//! and its pages are new. And if *C* is *not* visible to the looker, it happens while the lease is
//! held: the old pages stay pinned until the lease and the device are done, and nobody else finds
//! them: that is an unmap with I/O in flight, not a stale page.
//!
//! Discards are told before they happen, and nothing tells that they have. Their window stays open
//! for a while, in which nothing in the range can be acquired:
//! * The discarding thread is runnable from the reading of its message until it is done. Once every
//!   other thread of the process was seen asleep, the discard is over, and the window closes:
//!   usually a fraction of a millisecond later.
//! * Where the kernel has `PAGEMAP_SCAN` (6.7) and `UFFD_FEATURE_WP_ASYNC`, the monitor
//!   write-protects the range's last page. While that mark is there the discard may be still to
//!   come, and the window stays open, up to ten graces; when the page is gone the discard is over.
//! * When neither says anything (other threads are busy, and the page was not there, or was written
//!   since, or came back), the window closes after a grace ([`Options::grace`]). Should the
//!   discarding thread not get a processor for longer than that, pages pinned after the grace can
//!   be discarded under the device. That is the one promise here that rests on time. With the grace
//!   alone, 16 busy threads on two processors let 1 discard of 60 through; with the mark, none.
//!
//! # Strict mode
//! By default an unmapper goes on at once, while the old pages stay pinned until the device is done
//! with them. With [`Options::strict`] each range gets a descriptor of its own: a message waiting
//! there names the range before it is read, so the devices are idled first and the unmapper is let
//! go after that.
//!
//! # Rules for the user
//! * One [`Linux`] per process, shared with [`grab`](userptr::AddressSpace::grab): the kernel lets
//!   a range be watched once.
//! * A context needs a queue for its revocations, with two threads:
//!   [`spawn`](userptr::ContextBuilder::spawn) starts them, and a context without the queue cannot
//!   be made.
//! * Every watched range is a mapping of its own: `vm.max_map_count` limits them.
//! * A forked child gets `EFAULT`. The child keeps the parent's descriptor open until it calls
//!   `exec`: therefore everything is unregistered before a descriptor is closed, or the parent's
//!   next `munmap` would wait for ever.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "userptr-linux watches the memory of a Linux process: make it a dependency for `cfg(target_os = \"linux\")` only"
);

#[cfg(all(doctest, feature = "uring"))]
#[doc = include_str!("../README.md")]
pub struct Readme;

mod coverage;
pub mod docs;
#[cfg(all(feature = "exact", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub mod exact;
mod grace;
mod helper;
mod memory;
mod monitor;
mod owner;
mod pagemap;
mod refusal;
mod regions;
mod space;
mod threads;
pub mod uffd;
#[cfg(feature = "uring")]
pub mod uring;
#[cfg(feature = "vfio")]
pub mod vfio;

pub use memory::{Memory, OutOfRange};
pub use monitor::MAX_NOTIFIERS;
pub use refusal::{Facility, Refusal};
pub use regions::MAX_REGIONS;
pub use space::{LinuxUsers, Registration};

#[cfg_attr(not(feature = "uring"), allow(unused_imports, reason = "for the devices of this host"))]
pub(crate) use {owner::Owner, refusal::errno, regions::EventFd};

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use coverage::Coverage;
use monitor::{Counters, Told};
use pagemap::Pagemap;
use regions::{Regions, STOP};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use uffd::Uffd;
use userptr::AddrRange;

/// How to watch.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long nothing in a discarded range can be acquired after the discard was told, if nothing
    /// shows that it is over. 100 ms by default.
    pub grace: Duration,
    /// Whether an unmapper waits until the devices are idle.
    pub strict: bool,
    /// In strict mode: how long it waits at most, before it is let go all the same, which is
    /// counted ([`Stats::overdue`]). 30 s by default. A thread that unmaps what it has a lease for
    /// waits that long: nothing else ends its lease.
    pub hold: Duration,
    /// Whether a look-up asks the kernel. Only a test that shows what happens otherwise switches it
    /// off.
    #[doc(hidden)]
    pub probe: bool,
    /// Whether threads and page map are asked how far a discard is. Only a test that shows what
    /// happens otherwise switches it off.
    #[doc(hidden)]
    pub marks: bool,
    /// How long the monitor sleeps between reading messages and passing them on. For a test that
    /// needs a slow one.
    #[doc(hidden)]
    pub lag: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            grace: Duration::from_millis(100),
            strict: false,
            hold: Duration::from_secs(30),
            probe: true,
            marks: true,
            lag: Duration::ZERO,
        }
    }
}

/// What an address space has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Ranges that are watched, in segments with one number of watchers each; in strict mode,
    /// regions.
    pub watched: usize,
    /// Unmaps told by the kernel.
    pub unmaps: u64,
    /// Remaps told by the kernel.
    pub remaps: u64,
    /// Discards told by the kernel.
    pub discards: u64,
    /// Unmappers that strict mode let go though a device was not idle.
    pub overdue: u64,
}

#[derive(Debug)]
enum Watch {
    /// One descriptor for all. Its lock is taken by watch and unwatch only, never by the monitor or
    /// a cancel.
    Whole { uffd: Uffd, coverage: Mutex<Coverage> },
    /// Strict mode: one for each region.
    Regions(Box<Regions>),
    /// Nothing is told: only unsynchronised objects.
    Nothing(Refusal),
}

/// What the monitor works on.
#[derive(Debug)]
struct Shared {
    owner: Owner,
    options: Options,
    watch: Watch,
    pagemap: Pagemap,
    /// Up while messages are being read and passed on.
    gate: AtomicBool,
    told: Mutex<Told>,
    /// Registrations wait here for a place in `told`.
    vacancy: Condvar,
    stop: EventFd,
    counters: Counters,
}

#[derive(Debug)]
struct Space {
    shared: Arc<Shared>,
    monitor: Option<JoinHandle<()>>,
    shift: u32,
}

/// The address space of this process.
///
/// A value is a hold on the record; the last one ends the watch and joins the monitor, so it is
/// dropped in no work item that the monitor's notifiers wait for.
#[derive(Clone)]
pub struct Linux {
    space: Arc<Space>,
}

impl Linux {
    /// The address space of the calling process, watched.
    ///
    /// # Errors
    /// [`Refusal`], with the cause. [`unwatched`](Self::unwatched) is the fallback, if you choose
    /// it.
    pub fn open() -> Result<Self, Refusal> {
        Self::with(Options::default())
    }

    /// As [`open`](Self::open), with options.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn with(options: Options) -> Result<Self, Refusal> {
        let uffd = Uffd::open()?;
        let watch = if options.strict {
            // That was to see whether it can be had at all.
            drop(uffd);
            Watch::Regions(Box::new(Regions::new()))
        } else {
            Watch::Whole { uffd, coverage: Mutex::default() }
        };
        Self::build(options, watch)
    }

    /// The address space without a watch, for hosts that refuse userfaultfd for the given cause:
    /// the caller promises to tell of every change himself, so only unsynchronised objects can be
    /// had, and they need a privilege.
    ///
    /// # Errors
    /// [`Refusal`]: no descriptor or no memory.
    pub fn unwatched(cause: Refusal) -> Result<Self, Refusal> {
        Self::build(Options::default(), Watch::Nothing(cause))
    }

    fn build(options: Options, watch: Watch) -> Result<Self, Refusal> {
        // SAFETY: takes no pointer.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).map_err(|_| Refusal::Errno(libc::EINVAL))?;
        let shared = Arc::new(Shared {
            owner: Owner::mark(page)?,
            options,
            watch,
            pagemap: Pagemap::open(page),
            gate: AtomicBool::new(false),
            told: Mutex::new(Told::new()),
            vacancy: Condvar::new(),
            stop: EventFd::open()?,
            counters: Counters::default(),
        });
        let monitor = match shared.watch {
            Watch::Nothing(_) => None,
            Watch::Whole { .. } | Watch::Regions(_) => {
                let shared = Arc::clone(&shared);
                Some(helper::spawn("userptr-monitor", move || shared.run())?)
            }
        };
        Ok(Self { space: Arc::new(Space { shared, monitor, shift: page.trailing_zeros() }) })
    }

    /// Why nothing is watched, for [`unwatched`](Self::unwatched).
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self.space.shared.watch {
            Watch::Nothing(cause) => Some(cause),
            Watch::Whole { .. } | Watch::Regions(_) => None,
        }
    }

    /// What it has seen so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.space.shared;
        let counters = &shared.counters;
        Stats {
            watched: match &shared.watch {
                Watch::Whole { coverage, .. } => {
                    coverage.lock().unwrap_or_else(PoisonError::into_inner).len()
                }
                Watch::Regions(regions) => regions.len(),
                Watch::Nothing(_) => 0,
            },
            unmaps: counters.unmaps.load(Ordering::Relaxed),
            remaps: counters.remaps.load(Ordering::Relaxed),
            discards: counters.discards.load(Ordering::Relaxed),
            overdue: counters.overdue.load(Ordering::Relaxed),
        }
    }

    /// Watches the pages of a range until the guard is dropped, as an acquire does: to learn the
    /// cause behind an acquire's error, or to keep a range watched while objects come and go.
    ///
    /// # Errors
    /// [`Refusal`], with the cause; nothing is watched by this call then.
    pub fn watch_range(&self, range: AddrRange) -> Result<Watched, Refusal> {
        self.start_watching(range)?;
        Ok(Watched { space: self.clone(), range })
    }

    /// Watches the pages of a range once more. Undone by [`stop_watching`](Self::stop_watching).
    pub(crate) fn start_watching(&self, range: AddrRange) -> Result<(), Refusal> {
        let shared = &self.space.shared;
        if !shared.owner.is_me() {
            return Err(Refusal::Forked);
        }
        let range = self.whole_pages(range);
        match &shared.watch {
            Watch::Whole { uffd, coverage } => {
                let mut coverage = coverage.lock().unwrap_or_else(PoisonError::into_inner);
                // Even if others watch it: what is mapped there may be new.
                uffd.register_whole(range)?;
                coverage.add(range);
                Ok(())
            }
            Watch::Regions(regions) => {
                regions.watch(range)?;
                shared.stop.add(1);
                Ok(())
            }
            Watch::Nothing(_) => Ok(()),
        }
    }

    /// One watch of the range less.
    pub(crate) fn stop_watching(&self, range: AddrRange) {
        let shared = &self.space.shared;
        if !shared.owner.is_me() {
            // The descriptor would act on the parent's memory.
            return;
        }
        let range = self.whole_pages(range);
        match &shared.watch {
            Watch::Whole { uffd, coverage } => {
                let mut coverage = coverage.lock().unwrap_or_else(PoisonError::into_inner);
                // What is mapped there by now may be of a kind that was never watched: nothing to
                // do then.
                coverage.remove(range, |part| {
                    let _ = uffd.unregister(part);
                });
            }
            Watch::Regions(regions) => {
                regions.unwatch(range);
                shared.stop.add(1);
            }
            Watch::Nothing(_) => {}
        }
    }

    fn whole_pages(&self, range: AddrRange) -> AddrRange {
        let low = 1_usize.wrapping_shl(self.space.shift).wrapping_sub(1);
        AddrRange::inclusive(range.start() & !low, range.last() | low).unwrap_or(range)
    }
}

/// A watched range. Dropping it takes the watch back; forgetting it leaves the range watched,
/// nothing worse.
#[derive(Debug)]
#[must_use = "the range is watched until this is dropped"]
pub struct Watched {
    space: Linux,
    range: AddrRange,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.space.stop_watching(self.range);
    }
}

impl fmt::Debug for Linux {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux({:?})", self.stats())
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let Some(monitor) = self.monitor.take() else { return };
        if !self.shared.owner.is_me() {
            // A forked child: the thread is not here, and the descriptor acts on the parent's
            // memory.
            core::mem::forget(monitor);
            return;
        }
        // The monitor still reads: nobody who unmaps meanwhile waits for long.
        match &self.shared.watch {
            Watch::Whole { uffd, .. } => unregister_everywhere(uffd),
            Watch::Regions(regions) => regions.clear(),
            Watch::Nothing(_) => {}
        }
        self.shared.stop.add(STOP);
        // A monitor that panicked has said so already.
        let _ = monitor.join();
    }
}

/// Ends every watch of a descriptor, wherever `mremap` has carried it.
fn unregister_everywhere(uffd: &Uffd) {
    // Mapping by mapping: one that cannot be watched would make a call over all of them fail.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for line in maps.lines() {
        let bounds = line.split_whitespace().next().and_then(|bounds| bounds.split_once('-'));
        let Some((start, end)) = bounds else { continue };
        if let (Ok(start), Ok(end)) = (usize::from_str_radix(start, 16), usize::from_str_radix(end, 16))
            && let Some(range) = AddrRange::from_bounds(start, end)
        {
            let _ = uffd.unregister(range);
        }
    }
}
