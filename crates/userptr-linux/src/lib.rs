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
//! What is *not* told, so that the caller must say it with
//! [`Notifier::invalidate`](userptr::Notifier::invalidate): `fallocate(PUNCH_HOLE)` and `ftruncate`
//! on the file behind a mapping, `MADV_REMOVE` through another mapping of the file,
//! `MADV_GUARD_INSTALL`, `shmdt`, and two that end the watch as well: `shmat(SHM_REMAP)` and
//! `remap_file_pages`. [What is told, and what cannot be](docs::told) has every way to change
//! memory, and what the next look-up finds after each, as tested on the running kernel.
//!
//! # Why a look-up never finds a stale page
//! The message comes after the pages are gone. In between, another thread can map the same address
//! anew and look it up. Three things together close that window:
//!
//! 1. **The kernel's counter.** It goes up before the mappings change and down when the message has
//!    been read and its thread runs again. A write-protect call of length zero shows whether it is
//!    zero ([`uffd::Uffd::probe`]). Each userfaultfd has its own.
//! 2. **The gate**, one for each userfaultfd. The monitor raises it, reads all messages, closes the
//!    leases of everything they overlap, and lowers it.
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
//! A mapping belongs to one userfaultfd, and an object's look-up asks those that its range was
//! registered with before the pin. If the range is new to one of them, every other that could still
//! tell of it has been quiet once in between: a discard that began while the mapping was another
//! one's is told there. What is mapped there later, by a strange `mremap` too, has
//! unmapped the old first, which *they* are told.
//!
//! An unmap over memory of several userfaultfds is told by each of them, with its whole range. The
//! last may revoke what was mapped and pinned there since: a lease is lost, and no page is stale.
//!
//! If the lease word is found open after that, it was opened by an acquire that began after *C*,
//! and its pages are new. And if *C* is *not* visible to the looker, it happens while the lease is
//! held: the old pages stay pinned until the lease and the device are done, and nobody else finds
//! them: that is an unmap with I/O in flight, not a stale page.
//!
//! # When a discard is over
//! A discard is told before it happens, nothing tells that it has, and its message does not name
//! the thread. Its window stays open, in which nothing in the range can be acquired, until one of
//! these shows that it is over. Time alone never does.
//!
//! | what is seen, after the message was read | what it is |
//! |---|---|
//! | each thread that existed then, at some moment: asleep interruptibly, stopped, ended | proof: a discarder runs, or waits uninterruptibly |
//! | the thread has taken a page fault since | proof: a discard takes none |
//! | the thread has used 2 ms of processor time since, and 2 µs for each page of the discard | evidence: wrong if a discard takes longer, or if a virtual processor stands still that long in the midst of one |
//! | the range's last page was write-protected after the reading, and is gone | proof, as long as no other change touched that page |
//! | that page is still protected | to come, or done before the page was marked: outweighs the evidence above for a [grace](Options::grace), never the proof |
//! | that page was written, or swapped out | nothing |
//!
//! "Each thread" is each thread of the process, and each thread of a child that shares its memory
//! (`clone(CLONE_VM)`). A task that shares the memory and is neither (made with `CLONE_PARENT`, or
//! left behind by its parent) is not found. More than 2048 threads, or no `/proc`: only the mark
//! says something. What nothing shows to be over is counted ([`Stats::unproved`]), and an acquire
//! in its range ends at its deadline. A thread that hardly ever gets a processor (`SCHED_IDLE`
//! beside several busy threads on the only one it may use) can take that long: seldom asleep, it
//! needs its 2 ms first.
//!
//! # What happens elsewhere
//! Memory that does not adjoin is watched by different userfaultfds, up to 16 of them, so that a
//! storm of unmaps in one mapping does not delay a look-up in another. Beside two threads that map,
//! watch and unmap pages in other mappings as fast as they can, 100.0 % of 100,000
//! [`try_acquire`](userptr::UserPtr::try_acquire) on an untouched object succeed; with one of the
//! two in the very next page, which is the same mapping and the same userfaultfd, about 20 % do
//! (Linux 6.18, two processors, an unoptimised build). A refused look-up is `EAGAIN`;
//! [`acquire`](userptr::UserPtr::acquire) comes again after a pause of up to a millisecond.
//! [`Stats::shared`] counts how often there was no descriptor for another userfaultfd.
//!
//! # Strict mode
//! By default an unmapper goes on at once, while the old pages stay pinned until the device is done
//! with them. With [`Options::strict`] each region, a piece of memory that was registered, has a
//! descriptor of its own: a message waiting there names the region before it is read, so the
//! devices are idled first and the unmapper is let go after that.
//! * Objects may overlap: they share regions, and an object that lies across others needs one more
//!   for each gap between them.
//! * There are [512 regions](MAX_REGIONS) at most; the next watch is refused with
//!   [`Refusal::Regions`], or before that with [`Refusal::DescriptorReserve`]. A descriptor that is
//!   not needed any more is kept for the next region.
//! * An unmapper waits for the objects of its region alone, and a look-up asks only the regions of
//!   its object. An object that was quarantined delays the unmap that met it, and none after that.
//!
//! # Rules for the user
//! * One [`Linux`] per process, shared with [`grab`](userptr::AddressSpace::grab): the kernel lets
//!   a range be watched once.
//! * A context needs a queue for its revocations, with two threads:
//!   [`spawn`](userptr::ContextBuilder::spawn) starts them, and a context without the queue cannot
//!   be made.
//! * Every watched range that adjoins no other costs up to two mappings, its own and the rest of
//!   the one that it splits. A sixteenth of `vm.max_map_count` is left to the program, and a
//!   sixteenth of `RLIMIT_NOFILE`: at the usual 65,530 mappings about 30,700 such ranges can be
//!   watched, and the next one is refused with [`Refusal::MappingReserve`].
//! * A watch of a part splits its mapping. `mremap` of the whole then fails with `EFAULT`, on newer
//!   kernels after it has moved the first part, and `realloc` of a large block copies: register
//!   whole mappings where the program grows them.
//! * A forked child gets `EFAULT`. The child keeps the parent's descriptors open until it calls
//!   `exec`: therefore all of them stay open until the end, where everything is unregistered first,
//!   wherever `mremap` has carried it, and every message is read; or the parent's next `munmap`
//!   would wait for ever.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!(
    "userptr-linux watches the memory of a 64-bit Linux process: make it a dependency for \
     `cfg(all(target_os = \"linux\", target_pointer_width = \"64\"))` only"
);
#[cfg(all(
    feature = "uring",
    target_pointer_width = "64",
    not(any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64",
        target_arch = "loongarch64",
        target_arch = "powerpc64"
    ))
))]
compile_error!(
    "the feature `uring` of userptr-linux needs x86_64, aarch64, riscv64, loongarch64 or powerpc64: \
     take the package with `default-features = false` elsewhere"
);

#[cfg(all(doctest, feature = "uring"))]
#[doc = include_str!("../README.md")]
pub struct Readme;

mod channels;
mod coverage;
pub mod docs;
mod epoll;
mod eventfd;
#[cfg(all(feature = "exact", any(target_arch = "x86_64", target_arch = "aarch64")))]
pub mod exact;
mod grace;
mod helper;
mod maps;
mod memory;
mod monitor;
#[cfg(feature = "uring")]
mod own_memory;
mod owner;
mod pagemap;
#[cfg(any(feature = "uring", feature = "vfio"))]
mod populate;
mod refusal;
mod regions;
mod reserve;
mod shards;
mod space;
mod strict;
mod threads;
pub mod uffd;
#[cfg(feature = "uring")]
pub mod uring;
#[cfg(feature = "vfio")]
pub mod vfio;

pub use memory::{Memory, OutOfRange};
pub use monitor::MAX_NOTIFIERS;
#[cfg(feature = "uring")]
pub use own_memory::OwnMemory;
#[cfg(feature = "uring")]
pub(crate) use own_memory::Quarantine;
pub use refusal::{Facility, Refusal};
pub use regions::MAX_REGIONS;
pub use space::{LinuxUsers, Registration};

#[cfg_attr(not(feature = "uring"), allow(unused_imports, reason = "for the devices of this host"))]
pub(crate) use {eventfd::EventFd, owner::Owner, refusal::errno};

use channels::Channels;
use core::fmt;
use core::sync::atomic::Ordering;
use core::time::Duration;
use monitor::{Counters, Told};
use pagemap::Pagemap;
use regions::Regions;
use shards::Shards;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use userptr::AddrRange;
use userptr::address_space::WatchKey;

/// How to watch.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a mark that stands outweighs the evidence that a discard is over
    /// ([the table](crate#when-a-discard-is-over)), and after how long a discard that nothing shows
    /// to be over is counted ([`Stats::unproved`]). 100 ms by default. It never ends a window by
    /// itself; [`Duration::MAX`] asks for proof wherever there is a mark.
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
#[non_exhaustive]
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
    /// Discards that were taken to be over by evidence, not by proof: see [the
    /// documentation](crate#when-a-discard-is-over).
    pub evidence: u64,
    /// Discards that nothing had shown to be over after a [grace](Options::grace). While that is
    /// so, nothing in their range can be acquired: an acquire ends at its deadline.
    pub unproved: u64,
    /// Whether a page can be marked, to see its discard: `PAGEMAP_SCAN`, and a `/proc/self/pagemap`
    /// that could be opened, which `setuid` before that forbids. Without it only the threads are
    /// asked.
    pub marks: bool,
    /// Unmappers that strict mode let go though a device was not idle: their time was over, or the
    /// object was quarantined.
    pub overdue: u64,
    /// Userfaultfds that are open. In the default mode memory that does not adjoin has one each, as
    /// long as there are fewer than 17; in strict mode each region.
    pub descriptors: usize,
    /// How often, in the default mode, memory had to share a descriptor because another could not
    /// be opened: what happens in one place delays look-ups in the other.
    pub shared: u64,
    /// Whether mappings of files and SysV segments can be watched (`UFFD_FEATURE_WP_ASYNC`, Linux
    /// 6.7).
    pub files: bool,
    /// Ranges whose watch could not be ended, because the mappings could not be read.
    pub left: u64,
    /// Panics of drivers in the monitor's thread, which goes on: what they had to stop is
    /// quarantined.
    pub panics: u64,
}

#[derive(Debug)]
enum Watch {
    /// A few descriptors, each for several pieces of memory.
    Shards(Box<Shards>),
    /// Strict mode: one for each piece.
    Regions(Box<Regions>),
    /// Nothing is told: only unsynchronised objects.
    Nothing(Refusal),
}

impl Watch {
    fn channels(&self) -> Option<&Channels> {
        match self {
            Self::Shards(shards) => Some(shards.channels()),
            Self::Regions(regions) => Some(regions.channels()),
            Self::Nothing(_) => None,
        }
    }
}

/// What the monitor works on.
#[derive(Debug)]
struct Shared {
    owner: Owner,
    options: Options,
    watch: Watch,
    pagemap: Pagemap,
    told: Mutex<Told>,
    /// Registrations wait here for a place in `told`.
    vacancy: Condvar,
    counters: Counters,
}

impl Shared {
    /// See [`AddressSpace::quiet`](userptr::AddressSpace::quiet), and [the
    /// argument](crate#why-a-look-up-never-finds-a-stale-page). Without a key, for a moment that
    /// may take a lock.
    fn quiet(&self, range: AddrRange, key: Option<WatchKey>) -> bool {
        let probe = self.options.probe;
        self.owner.is_me()
            && match (&self.watch, key) {
                (Watch::Shards(shards), Some(key)) => shards.quiet(key, probe),
                (Watch::Shards(shards), None) => shards.quiet_range(range, probe),
                (Watch::Regions(regions), key) => regions.quiet(range, key, probe),
                (Watch::Nothing(_), _) => true,
            }
    }
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
        let watch = if options.strict {
            Watch::Regions(Box::new(Regions::new()?))
        } else {
            Watch::Shards(Box::new(Shards::new()?))
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
        let page = memory::page_size();
        let shared = Arc::new(Shared {
            owner: Owner::mark(page)?,
            options,
            watch,
            pagemap: Pagemap::open(page),
            told: Mutex::new(Told::new()),
            vacancy: Condvar::new(),
            counters: Counters::default(),
        });
        // Room for every channel that can be held: the monitor allocates nothing.
        let held = match shared.watch {
            Watch::Nothing(_) => None,
            Watch::Shards(_) => Some(Vec::new()),
            Watch::Regions(_) => Some(Vec::with_capacity(MAX_REGIONS)),
        };
        let monitor = held.map(|held| {
            let shared = Arc::clone(&shared);
            helper::spawn("userptr-monitor", move || shared.run(held))
        });
        let monitor = monitor.transpose()?;
        Ok(Self { space: Arc::new(Space { shared, monitor, shift: page.trailing_zeros() }) })
    }

    /// Why nothing is watched, for [`unwatched`](Self::unwatched).
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self.space.shared.watch {
            Watch::Nothing(cause) => Some(cause),
            Watch::Shards(_) | Watch::Regions(_) => None,
        }
    }

    /// What it has seen so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let shared = &self.space.shared;
        let counters = &shared.counters;
        let channels = shared.watch.channels();
        Stats {
            watched: match &shared.watch {
                Watch::Shards(shards) => shards.len(),
                Watch::Regions(regions) => regions.len(),
                Watch::Nothing(_) => 0,
            },
            descriptors: channels.map_or(0, Channels::len),
            shared: match &shared.watch {
                Watch::Shards(shards) => shards.shared(),
                Watch::Regions(_) | Watch::Nothing(_) => 0,
            },
            files: channels.is_some_and(Channels::watches_files),
            left: channels.map_or(0, Channels::left),
            panics: counters.panics.load(Ordering::Relaxed),
            unmaps: counters.unmaps.load(Ordering::Relaxed),
            remaps: counters.remaps.load(Ordering::Relaxed),
            discards: counters.discards.load(Ordering::Relaxed),
            evidence: counters.evidence.load(Ordering::Relaxed),
            unproved: counters.unproved.load(Ordering::Relaxed),
            marks: shared.pagemap.is_open(),
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
    pub(crate) fn start_watching(&self, range: AddrRange) -> Result<WatchKey, Refusal> {
        let shared = &self.space.shared;
        if !shared.owner.is_me() {
            return Err(Refusal::Forked);
        }
        let range = self.whole_pages(range);
        match &shared.watch {
            Watch::Shards(shards) => shards.watch(range),
            Watch::Regions(regions) => regions.watch(range),
            Watch::Nothing(_) => Ok(WatchKey::MIN),
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
            Watch::Shards(shards) => shards.unwatch(range),
            Watch::Regions(regions) => regions.unwatch(range),
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
            Watch::Shards(shards) => shards.end(),
            Watch::Regions(regions) => regions.end(),
            Watch::Nothing(_) => {}
        }
        // A monitor that panicked has said so already.
        let _ = monitor.join();
    }
}
