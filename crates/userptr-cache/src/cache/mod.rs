//! The cache: [`Cache`] and its modules.

mod evict;
mod index;
mod lease;
mod lookup;
mod miss;
mod set;
mod setup;
mod slots;
mod stats;
mod table;

pub use lease::{CacheLease, Handle};
pub use set::{LeaseSet, Want};
pub use setup::{Access, Setup};
pub use stats::Stats;

use alloc::vec::Vec;
use core::fmt;
use evict::Released;
use index::Index;
use slots::Slots;
use stats::{Count, Counters};
use table::Table;
use userptr::address_space::{AddressSpace, ForeignMemory};
use userptr::device::PlatformOf;
use userptr::platform::{AtomicUsize, LockClass, Mutex, Platform, WaitQueue};
use userptr::{AddrRange, Context, Device, Error, Ref, RefCounted};

extern crate alloc;

type Word<P> = <P as Platform>::Usize;

/// The place of the cache's lock in the lock order: before every lock of the core.
const LOCK: LockClass = LockClass { name: "userptr_cache", rank: 5 };

/// A registration cache for one device and one address space. A counted handle, cheap to clone.
///
/// ```
/// # use userptr::platforms::std::Std;
/// # use userptr_sim::{DmaDevice, Machine, PAGE};
/// # use userptr::Context;
/// # let machine = Machine::new();
/// # let process = machine.process();
/// # let context = Context::builder(DmaDevice::<Std>::new(&machine)).spawn()?;
/// # let _inside = machine.enter(&process);
/// # let buffer = process.map(4 * PAGE);
/// use userptr::AddrRange;
/// use userptr_cache::{Access, Cache, Setup};
///
/// let cache = Cache::new(&context, &process.space(), Setup::default())?;
/// drop(cache.get(buffer, Access::Write)?);
/// // A part of it, at any byte, is served by the same registration.
/// let part = AddrRange::new(buffer.start() + 5000, 100)?;
/// assert_eq!(cache.get(part, Access::Read)?.offset(), 5000);
/// assert_eq!((cache.stats().misses, cache.stats().hits), (1, 1));
/// # Ok::<(), userptr::Error>(())
/// ```
pub struct Cache<D: Device> {
    shared: Ref<Shared<D>, PlatformOf<D>>,
}

struct Shared<D: Device> {
    context: Context<D>,
    space: D::Space,
    setup: Setup,
    index: Index<PlatformOf<D>>,
    slots: Slots<D>,
    counters: Counters<PlatformOf<D>>,
    table: Mutex<PlatformOf<D>, Table>,
    /// Counts the ends of fillings, for each slot.
    ended: Vec<Word<PlatformOf<D>>>,
    /// Threads wait here for the end of another's filling.
    filled: WaitQueue<<PlatformOf<D> as Platform>::Wait>,
}

// SAFETY: `init` initialises the lock and the wait; nothing points to it but references.
unsafe impl<D: Device> RefCounted<PlatformOf<D>> for Shared<D> {
    unsafe fn init(&self) {
        // SAFETY: called once, at the final address (caller).
        unsafe {
            self.table.init();
            self.filled.init();
        }
    }
}

// SAFETY: every part is shared under its own rules: the words are atomic, the slots have their
// protocol, the table its lock, and the wait queue is made to be shared.
unsafe impl<D: Device> Send for Shared<D> {}
// SAFETY: as for `Send`.
unsafe impl<D: Device> Sync for Shared<D> {}

impl<D: Device> Cache<D> {
    /// Makes an empty cache. Allocates everything that the cache itself will ever need.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no entries; [`Error::NoMemory`], [`Error::TooBig`].
    pub fn new(context: &Context<D>, space: &D::Space, setup: Setup) -> Result<Self, Error> {
        let entries = setup.entries;
        if entries == 0 || entries > usize::MAX.wrapping_shr(2) {
            return Err(Error::Invalid);
        }
        let mut ended = Vec::new();
        ended.try_reserve_exact(entries).map_err(|_| Error::NoMemory)?;
        ended.resize_with(entries, || Word::<PlatformOf<D>>::new(0));
        let shared = Shared {
            context: context.clone(),
            space: space.grab(),
            setup,
            index: Index::new(entries)?,
            slots: Slots::new(entries, setup.shards)?,
            counters: Counters::new()?,
            table: Mutex::<PlatformOf<D>, _>::uninit(LOCK, Table::new(entries)?),
            ended,
            filled: WaitQueue::uninit(),
        };
        Ok(Self { shared: Ref::try_new(shared)? })
    }

    /// Looks memory up that is foreign to this program, and takes a lease on its registration;
    /// registers it if it is not there. Any bytes: what is registered is their whole pages.
    ///
    /// May wait for a change of that range, and for another thread that registers it. The caller
    /// must hold no lease and no lock ([rule 29](userptr::docs::protocol#rule-29)): for many ranges
    /// at once see [`get_set`](Self::get_set).
    ///
    /// # Errors
    /// Those of [`Context::register`] and [`UserPtr::acquire`](userptr::UserPtr::acquire):
    /// [`Error::Fault`] if the range is not mapped, [`Error::Busy`] if it keeps being changed,
    /// [`Error::TimedOut`], and a limit of the platform that evicting everything else did not help.
    /// Nothing is left behind.
    pub fn get(&self, range: AddrRange, access: Access) -> Result<CacheLease<'_, D>, Error>
    where
        D::Space: ForeignMemory,
    {
        // SAFETY: no reference of this program points into foreign memory.
        unsafe { self.get_unchecked(range, access) }
    }

    /// As [`get`](Self::get), for any address space: also one whose memory is this program's own.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    ///
    /// # Safety
    /// The contract of [`Context::register_unchecked`], for the whole pages of the range, from this
    /// call on for as long as they are mapped and a clone of this cache or a lease of it is left:
    /// whenever a lease on a registration exists that covers them, the device may read them, and
    /// write them if [`Access::Write`] was asked for in any of these calls.
    pub unsafe fn get_unchecked(&self, range: AddrRange, access: Access) -> Result<CacheLease<'_, D>, Error> {
        // SAFETY: the caller's promise.
        unsafe { self.shared.get(self.shared.slots.shard(), range, access) }
    }

    /// Takes leases on many ranges, or on none of them. Bounded, and without holding a lease while
    /// it waits: two sets that overlap cannot wait for each other.
    ///
    /// # Errors
    /// As [`get`](Self::get), for the first range that cannot be had; no lease is left.
    pub fn get_set(&self, wants: &[Want]) -> Result<LeaseSet<'_, D>, Error>
    where
        D::Space: ForeignMemory,
    {
        // SAFETY: no reference of this program points into foreign memory.
        unsafe { self.get_set_unchecked(wants) }
    }

    /// As [`get_set`](Self::get_set), for any address space.
    ///
    /// # Errors
    /// As [`get_set`](Self::get_set).
    ///
    /// # Safety
    /// As [`get_unchecked`](Self::get_unchecked), for each range.
    pub unsafe fn get_set_unchecked(&self, wants: &[Want]) -> Result<LeaseSet<'_, D>, Error> {
        // SAFETY: the caller's promise.
        unsafe { self.shared.set(self.shared.slots.shard(), wants) }
    }

    /// Takes a lease on the registration that a handle names. Registers nothing.
    ///
    /// # Errors
    /// [`Error::NoEntry`]: the registration is gone (its memory was changed, or it was evicted),
    /// whatever is registered there now. [`Error::Invalid`]: the range lies outside.
    /// [`Error::Again`]: its memory is being changed; look again.
    pub fn at(&self, handle: Handle, range: AddrRange) -> Result<CacheLease<'_, D>, Error> {
        self.shared.at(self.shared.slots.shard(), handle, range)
    }

    /// Takes out every registration that was invalidated, and releases what is not in use any more,
    /// in this thread and now. Returns how many registrations it released.
    pub fn flush(&self) -> usize {
        let mut all = 0_usize;
        // One turn of the broom, a handful at a time: nothing is released under the lock.
        let turns = self.shared.slots.len().wrapping_add(1);
        for _ in 0..turns {
            let mut released = Released::new();
            self.shared.locked(|table| self.shared.sweep(table, 1, &mut released));
            all = all.saturating_add(released.count());
        }
        all
    }

    /// Returns what it has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let counters = &self.shared.counters;
        let sum = |what| counters.sum(what);
        let (hits, misses, races) = (sum(Count::Hits), sum(Count::Misses), sum(Count::Races));
        self.shared.locked(|table| Stats {
            hits,
            misses,
            races,
            evictions: table.counts.evictions,
            invalidations: table.counts.invalidations,
            once: table.counts.once,
            storms: table.counts.storms,
            entries: table.open_count(),
            bytes: table.bytes,
        })
    }

    /// Returns the context.
    #[must_use]
    pub fn context(&self) -> &Context<D> {
        &self.shared.context
    }
}

impl<D: Device> Shared<D> {
    fn locked<R>(&self, f: impl FnOnce(&mut Table) -> R) -> R {
        // SAFETY: initialised by `init`; no section enters another.
        unsafe { self.table.with(f) }
    }
}

impl<D: Device> Clone for Cache<D> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<D: Device> fmt::Debug for Cache<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({})", self.stats())
    }
}
