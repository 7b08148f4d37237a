//! A whole host in small: memory that is watched, address spaces and a device on it, for the
//! objects and the records.

use super::Stage;
use super::ext::AddressSpaceSide;
use super::stage::{Home, Queue, World, queue};
use core::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use userptr::platform::{AtomicUsize as _, Load, LockClass, Platform, SpinLock, Store, WaitQueue};
use userptr::{
    AddrRange, AddressSpace, Blockable, Buffer, Context, Current, Device, Error, ForeignMemory, Limits,
    MmRegistry, NoMemory, Notifier, Outcome, Prepare, RawQueue, Ref, Usage, UserPtr, Users, WatchKey,
};

pub type Object<P> = UserPtr<Engine<P>>;

/// What an address space is: one page-table generation, who is told of changes, and the changes
/// under way.
pub struct Memory<P: Platform> {
    pub world: Arc<World<P>>,
    /// 0 once its last user is gone.
    users: P::Usize,
    told: SpinLock<P, Told<P>>,
    /// `unregister` waits here for callbacks.
    quiet: WaitQueue<P::Wait>,
    caller: Current,
    /// Starts come after the change, not before.
    late: bool,
    /// A change has been made that nobody was told of.
    untold: P::Usize,
    /// So many pins fail for want of memory. No step of a model, like what follows.
    refusals: AtomicUsize,
    /// Holds on the record, mappings of the device: bookkeeping, no steps of a model.
    holds: AtomicUsize,
    maps: AtomicUsize,
    /// The driver unwinds while it maps pages.
    unwinding: AtomicUsize,
}

struct Told<P: Platform> {
    registered: Vec<Home<P>>,
    windows: Vec<AddrRange>,
    callbacks: usize,
}

impl<P: Platform> Memory<P> {
    fn new(caller: Current, late: bool) -> Arc<Self> {
        let told = Told { registered: Vec::new(), windows: Vec::new(), callbacks: 0 };
        let this = Arc::new(Self {
            world: World::new(),
            users: P::Usize::new(1),
            told: SpinLock::<P, _>::uninit(LockClass { name: "host", rank: 0 }, told),
            quiet: WaitQueue::uninit(),
            caller,
            late,
            untold: P::Usize::new(0),
            refusals: AtomicUsize::new(0),
            holds: AtomicUsize::new(0),
            maps: AtomicUsize::new(0),
            unwinding: AtomicUsize::new(0),
        });
        // SAFETY: once, in place.
        unsafe {
            this.told.init();
            this.quiet.init();
        }
        this
    }

    fn told<R>(&self, f: impl FnOnce(&mut Told<P>) -> R) -> R {
        // SAFETY: settled in `new`; no section enters another.
        unsafe { self.told.with(f) }
    }

    /// In one section: `step`, and who is registered; then calls them with no lock held.
    fn call(&self, step: impl FnOnce(&mut Told<P>), call: impl Fn(&Home<P>)) {
        let homes = self.told(|told| {
            step(told);
            told.callbacks += 1;
            told.registered.clone()
        });
        homes.iter().for_each(call);
        drop(homes);
        self.told(|told| told.callbacks -= 1);
        // SAFETY: settled in `new`.
        unsafe { self.quiet.wake_all() };
    }

    /// Changes the mapping of a range: start, change, end.
    pub fn change(&self, range: AddrRange) {
        let start = |home: &Home<P>| {
            assert_eq!(home.invalidate_and_wait(range, Blockable::Yes).unwrap(), Outcome::Idle);
        };
        self.call(|told| told.windows.push(range), start);
        self.world.zap();
        self.call(|told| told.windows.retain(|open| *open != range), |home| home.end(range));
    }

    /// The same on a host that tells afterwards: who sees the change and asks, learns that not
    /// everybody was told of it.
    pub fn change_and_tell(&self, home: &Home<P>, range: AddrRange) {
        self.untold.store(1, Store::Relaxed);
        // The host's: with the one in `quiet`.
        P::fence();
        let old = self.world.remap();
        let stopping = home.invalidate_start(range, Blockable::Yes).unwrap();
        self.untold.store(0, Store::Release);
        assert_eq!(stopping.finish(), Outcome::Idle);
        self.world.free(old);
        home.end(range);
    }

    /// The last user goes: nothing can be pinned, then everyone is told.
    pub fn exit(&self) {
        self.users.store(0, Store::Relaxed);
        self.call(|_| (), |home| assert_eq!(home.exit(), Outcome::Idle));
        self.world.zap();
    }

    /// The next pins fail.
    pub fn refuse(&self, pins: usize) {
        self.refusals.store(pins, Ordering::Relaxed);
    }

    /// Whether the driver unwinds while it maps pages.
    pub fn set_unwinding(&self, unwinding: bool) {
        self.unwinding.store(usize::from(unwinding), Ordering::Relaxed);
    }

    pub fn is_registered(&self, home: &Home<P>) -> bool {
        self.told(|told| told.registered.iter().any(|known| Ref::ptr_eq(known, home)))
    }

    pub fn assert_quiet(&self) {
        self.told(|told| {
            assert!(told.registered.is_empty(), "registrations left");
            assert_eq!((told.windows.len(), told.callbacks), (0, 0));
        });
        assert_eq!(self.world.pins(), 0, "pins left");
        assert_eq!(self.maps.load(Ordering::Relaxed), 0, "mappings of the device left");
        assert_eq!(self.holds.load(Ordering::Relaxed), 0, "holds on the address space left");
    }
}

/// A hold on the memory's record.
pub struct Space<P: Platform>(Arc<Memory<P>>);

impl<P: Platform> Space<P> {
    pub fn of(memory: &Arc<Memory<P>>) -> Self {
        memory.holds.fetch_add(1, Ordering::Relaxed);
        Self(memory.clone())
    }
}

impl<P: Platform> Drop for Space<P> {
    fn drop(&mut self) {
        self.0.holds.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Its users.
pub struct InUse<P: Platform>(Arc<Memory<P>>);

impl<P: Platform> AddressSpace for Space<P> {
    type Platform = P;
    /// The generation that the page was pinned in.
    type Page = usize;
    type Users<'a> = InUse<P>;
    type Registration = Home<P>;
    type Memory = NoMemory;

    fn id(&self) -> usize {
        1
    }
    fn grab(&self) -> Self {
        Self::of(&self.0)
    }
    fn users(&self) -> Option<InUse<P>> {
        (self.0.users.load(Load::Relaxed) != 0).then(|| InUse(self.0.clone()))
    }
    fn current(&self) -> Current {
        self.0.caller
    }
    fn page_shift(&self) -> u32 {
        12
    }
    fn access_ok(&self, _: AddrRange, _: bool) -> bool {
        true
    }
    fn privileged(&self) -> bool {
        true
    }
    fn quiet(&self, _: &Home<P>, _: AddrRange, _: WatchKey) -> bool {
        if !self.0.late {
            return true;
        }
        P::fence();
        self.0.untold.load(Load::Acquire) == 0
    }
    fn register(&self, notifier: Home<P>) -> Result<Home<P>, Error> {
        self.0.told(|told| {
            // Windows that are open already get their ends, and no start.
            told.windows.iter().for_each(|range| notifier.open_window(*range));
            told.registered.push(notifier.clone());
        });
        Ok(notifier)
    }
    unsafe fn unregister(&self, registration: Home<P>) {
        self.0.told(|told| {
            let before = told.registered.len();
            told.registered.retain(|known| !Ref::ptr_eq(known, &registration));
            assert_eq!(told.registered.len() + 1, before, "unregistered twice");
        });
        // SAFETY: settled in `new`; no lock is held.
        unsafe { self.0.quiet.wait_until(None, || self.0.told(|told| told.callbacks == 0)) };
    }
    fn pin_fast(&self, range: AddrRange, write: bool, out: &mut Buffer<usize, P>) -> Result<(), Error> {
        InUse(self.0.clone()).pin(range, write, out)
    }
    unsafe fn unpin(&self, pages: &[usize], _: Usage) {
        pages.iter().for_each(|_| self.0.world.unpin());
    }
    fn frame(&self, page: usize) -> usize {
        page
    }
}

// SAFETY: a page is a number.
unsafe impl<P: Platform> ForeignMemory for Space<P> {}

impl<P: Platform> Users for InUse<P> {
    type Space = Space<P>;
    fn pin(&self, range: AddrRange, _: bool, out: &mut Buffer<usize, P>) -> Result<(), Error> {
        if self.0.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok() {
            return Err(Error::NoMemory);
        }
        (0..range.pages(12)).for_each(|_| out.push(self.0.world.pin()).unwrap());
        Ok(())
    }
}

/// A device that uses the pages until it is idle, which it is at once.
pub struct Engine<P: Platform> {
    memory: Arc<Memory<P>>,
    workers: usize,
    _host: PhantomData<P>,
}

impl<P: Platform> Device for Engine<P> {
    type Space = Space<P>;
    /// The generation that it maps.
    type Map = usize;

    fn limits(&self) -> Limits {
        Limits::default().deadline(None).max_workers(self.workers)
    }
    fn prepare(&self, what: Prepare<'_, Space<P>>) -> Result<usize, Error> {
        if self.memory.unwinding.load(Ordering::Relaxed) != 0 {
            // Without the hook's message: it is meant.
            std::panic::resume_unwind(Box::new("the driver unwinds"));
        }
        self.memory.maps.fetch_add(1, Ordering::Relaxed);
        Ok(what.pages[0])
    }
    /// Asked about what was committed: the last that the device does to it.
    fn wait_idle(&self, map: &usize, _: Option<core::time::Duration>) -> Outcome {
        self.memory.world.use_old_frame(*map);
        Outcome::Idle
    }
    fn unmap(&self, _: usize) {
        assert_ne!(self.memory.maps.fetch_sub(1, Ordering::Relaxed), 0, "unmapped twice");
    }
}

/// The memory, a device, and queues that nobody serves but who says so.
pub struct Machine<P: Stage> {
    pub memory: Arc<Memory<P>>,
    pub pin_queue: Queue<P>,
    pub revoke_queue: Option<Queue<P>>,
    pub release_queue: Queue<P>,
    pub context: Context<Engine<P>>,
}

impl<P: Stage> Machine<P> {
    pub fn new(caller: Current, workers: usize, queued: bool) -> Self {
        Self::on(Memory::new(caller, false), workers, queued)
    }

    /// On a host that tells of changes afterwards.
    pub fn told_afterwards(caller: Current) -> Self {
        Self::on(Memory::new(caller, true), 1, false)
    }

    fn on(memory: Arc<Memory<P>>, workers: usize, queued: bool) -> Self {
        let (pin_queue, release_queue) = (queue::<P>(), queue::<P>());
        let revoke_queue = queued.then(queue::<P>);
        let engine = Engine { memory: memory.clone(), workers, _host: PhantomData };
        let mut builder =
            Context::builder(engine).pin_queue(pin_queue.clone()).release_queue(release_queue.clone());
        if let Some(queue) = &revoke_queue {
            builder = builder.revoke_queue(queue.clone());
        }
        let context = builder.build().unwrap();
        Self { memory, pin_queue, revoke_queue, release_queue, context }
    }

    /// An object of one page at `page`.
    pub fn object(&self, page: usize, flags: userptr::Flags) -> Object<P> {
        let space = Space::of(&self.memory);
        self.context.register_raw(&space, page * 4096, 4096, flags.bits()).unwrap()
    }

    pub fn record(&self) -> userptr::MmRef<Space<P>> {
        MmRegistry::find(self.context.registry(), &Space::of(&self.memory)).unwrap()
    }

    /// Runs what is left on the queues, then checks that nothing is.
    pub fn assert_quiet(self) {
        while self.pin_queue.run_one() {}
        while self.revoke_queue.as_ref().is_some_and(|queue| queue.run_one()) {}
        while self.release_queue.run_one() {}
        let stats = self.context.stats();
        assert_eq!((stats.spaces, stats.workers), (0, 0), "{stats:?}");
        assert_eq!(self.context.handles(), 1, "references to the context left");
        self.release_queue.flush();
        self.memory.assert_quiet();
    }
}

/// Uses the pages, if they can be had now: they must be what the page table says.
pub fn touch<P: Stage>(machine: &Machine<P>, object: &Object<P>) -> Result<(), Error> {
    let lease = object.try_acquire()?;
    let world = &machine.memory.world;
    lease.pages().iter().for_each(|page| world.use_frame(*page));
    Ok(())
}

/// The notifier of the machine's one address space, while an object or a record lives.
pub fn home<P: Stage>(machine: &Machine<P>) -> Home<P> {
    let record = machine.record();
    let home: &Ref<Notifier<P>, P> = record.notifier().unwrap();
    home.clone()
}
