//! The cache: [`Cache`] and its modules.

mod index;
mod lease;
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
use index::Index;
use lease::Kind;
use miss::{Plan, Released};
use slots::{Hold, Slots};
use stats::{Count, Counters};
use table::Table;
use userptr::address_space::{AddressSpace, ForeignMemory};
use userptr::device::PlatformOf;
use userptr::platform::{AtomicUsize, LockClass, Mutex, Platform, WaitQueue};
use userptr::{AddrRange, Context, Device, Error, Ref, RefCounted, UserPtr};

extern crate alloc;

type Word<P> = <P as Platform>::Usize;

/// How often a look-up begins anew after a change that came between, before it is refused with
/// [`Error::Busy`].
const ROUNDS: usize = 32;
/// How often it reads the index without the lock.
const GLANCES: usize = 8;

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
    /// Those of [`Context::register`] and [`UserPtr::acquire`]: [`Error::Fault`] if the range is
    /// not mapped, [`Error::Busy`] if it keeps being changed, [`Error::TimedOut`], and a limit of
    /// the platform that evicting everything else did not help. Nothing is left behind.
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

    /// Returns the whole pages of a range.
    fn whole_pages(&self, range: AddrRange) -> Result<AddrRange, Error> {
        let inside = usize::MAX.checked_shl(self.space.page_shift()).map_or(usize::MAX, |mask| !mask);
        AddrRange::inclusive(range.start() & !inside, range.last() | inside).ok_or(Error::Invalid)
    }

    /// Finds the registration that serves whole pages, and holds it in its place.
    fn find(&self, shard: usize, range: AddrRange, access: Access) -> Option<Hold<'_, D>> {
        for _ in 0..GLANCES {
            let version = self.index.version();
            let slot = self.index.search(version, range, access);
            // Any number, as long as the version is not known to be current.
            let hold = slot.and_then(|slot| self.slots.hold(shard, slot));
            // ORDERING: after the reads of the index (C2), and between the count and the version
            // (C3, in `close`).
            PlatformOf::<D>::fence();
            if self.index.is_current(version) {
                return hold;
            }
        }
        None
    }

    /// # Safety
    /// As [`Cache::get_unchecked`].
    unsafe fn get(&self, shard: usize, range: AddrRange, access: Access) -> Result<CacheLease<'_, D>, Error> {
        let pages = self.whole_pages(range)?;
        if let Some(hold) = self.find(shard, pages, access) {
            if let Some(kind) = self.lease(shard, hold)? {
                self.counters.add(shard, Count::Hits);
                return Ok(kind.lease(range));
            }
        }
        self.counters.add(shard, Count::Misses);
        // SAFETY: the caller's promise.
        unsafe { self.miss(shard, pages, access) }.map(|kind| kind.lease(range))
    }

    /// # Safety
    /// As [`Cache::get_unchecked`].
    #[cold]
    unsafe fn miss(&self, shard: usize, pages: AddrRange, access: Access) -> Result<Kind<'_, D>, Error> {
        for _ in 0..ROUNDS {
            let mut released = Released::new();
            let plan = self.plan(shard, pages, access, &mut released);
            // Before the pin: that may need the room.
            drop(released);
            match plan {
                Plan::Serve(hold) => {
                    if let Some(kind) = self.lease(shard, hold)? {
                        return Ok(kind);
                    }
                }
                Plan::Wait { slot, ended } => self.wait_filled(slot, ended)?,
                // SAFETY: the caller's promise. The hull of a merge covers what was asked for by
                // other calls, with the same promise.
                Plan::Fill(filling) => return unsafe { self.fill(shard, filling) },
                Plan::Once => {
                    // SAFETY: the caller's promise.
                    let object = unsafe { self.once(pages, access)? };
                    return self.with_room(|| object.acquire_owned()).map(Kind::Once);
                }
            }
        }
        Err(Error::Busy)
    }

    /// Takes a lease on a registration that was found. `None`: its pages are gone, and it is taken
    /// out; or its memory is being changed.
    fn lease<'c>(&'c self, shard: usize, hold: Hold<'c, D>) -> Result<Option<Kind<'c, D>>, Error> {
        let generation = hold.handle().generation;
        // SAFETY: the slot was open after the fence that followed the count, or the lock was held;
        // the lease is dropped before the hold.
        let object = unsafe { hold.object() }.ok_or(Error::Invalid)?;
        match object.lease_if_pinned() {
            Ok(Some(lease)) => {
                hold.mark_used();
                return Ok(Some(Kind::Kept { lease, hold }));
            }
            Ok(None) => self.retire(hold, generation),
            Err(Error::Again) => wait_quiet(object),
            Err(error) => return Err(error),
        }
        self.counters.add(shard, Count::Races);
        Ok(None)
    }

    fn at(&self, shard: usize, handle: Handle, range: AddrRange) -> Result<CacheLease<'_, D>, Error> {
        let hold = self.slots.hold(shard, handle.slot).ok_or(Error::NoEntry)?;
        // ORDERING: between the count and the generation (C3, in `close`).
        PlatformOf::<D>::fence();
        if handle.generation & 1 == 0 || self.slots.generation(handle.slot) != handle.generation {
            return Err(Error::NoEntry);
        }
        // SAFETY: the slot was open after the fence that followed the count.
        let object = unsafe { hold.object() }.ok_or(Error::NoEntry)?;
        if !object.range().contains(range) {
            return Err(Error::Invalid);
        }
        match object.lease_if_pinned()? {
            Some(lease) => {
                hold.mark_used();
                self.counters.add(shard, Count::Hits);
                Ok(Kind::Kept { lease, hold }.lease(range))
            }
            None => {
                self.retire(hold, handle.generation);
                Err(Error::NoEntry)
            }
        }
    }
}

/// Waits until the address space may have told of a change that is under way.
fn wait_quiet<D: Device>(object: &UserPtr<D>) {
    let record = object.record();
    if let Some(registration) = record.registration() {
        record.space().wait_quiet(registration, object.range());
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
