//! What happens between threads, written once: run by loom in every interleaving up to a bound, and
//! on real threads.

use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use userptr::platform::{AtomicUsize as _, Cell, Rmw};
use userptr::{
    AddrRange, AddressSpace, Context, Device, Error, Flags, Limits, Notifier, Outcome, Platform, Prepare,
    Ref, SharedQueue, SoftWork, UserPtr,
};
use userptr_explicit::Explicit;

const PAGE: usize = 4096;

/// A platform with threads to play on.
pub trait Stage: Platform<Queue = Ref<SharedQueue<Self>, Self>, Work = SoftWork<Self>> {
    type Join;
    fn spawn(f: impl FnOnce() + Send + 'static) -> Self::Join;
    fn join(join: Self::Join);
}

/// One page of memory and who uses it.
pub struct Ram<P: Platform> {
    /// Written by a change, read by a lease holder: a checking platform sees it if nothing orders
    /// the two.
    content: P::Cell<usize>,
    /// Steps at which a model may switch threads.
    step: P::Usize,
    /// The device's mappings, and the changes between start and end. No steps of a model.
    mapped: AtomicUsize,
    changing: AtomicUsize,
    /// How often the page was changed: a mapping of an earlier one is stale.
    generation: AtomicUsize,
}

// SAFETY: the cell is touched under the protocol that the bodies check.
unsafe impl<P: Platform> Send for Ram<P> {}
// SAFETY: as for `Send`.
unsafe impl<P: Platform> Sync for Ram<P> {}

impl<P: Platform> Ram<P> {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            content: <P::Cell<_> as Cell<_>>::new(0),
            step: P::Usize::new(0),
            mapped: AtomicUsize::new(0),
            changing: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
        })
    }

    fn step(&self) {
        self.step.fetch_add(1, Rmw::Relaxed);
    }

    /// Changes the page, inside a bracket.
    fn change(&self, write: bool) {
        self.changing.fetch_add(1, Ordering::Relaxed);
        self.step();
        assert_eq!(self.mapped.load(Ordering::Relaxed), 0, "the device still has the page");
        self.generation.fetch_add(1, Ordering::Relaxed);
        if write {
            // SAFETY: nobody else is in there, which is what the bracket is for.
            self.content.with_mut(|content| unsafe { *content += 1 });
        }
        self.step();
        assert_eq!(self.mapped.load(Ordering::Relaxed), 0, "the device got the page in a change");
        self.changing.fetch_sub(1, Ordering::Relaxed);
    }

    /// Uses the page, under a lease.
    fn touch(&self, mapped: usize) {
        assert_eq!(mapped, self.generation.load(Ordering::Relaxed), "a stale page");
        assert_eq!(self.changing.load(Ordering::Relaxed), 0, "a lease in a change");
        // SAFETY: no change is made under a lease.
        self.content.with(|content| unsafe { core::hint::black_box(*content) });
        self.step();
        assert_eq!(self.changing.load(Ordering::Relaxed), 0, "a change under a lease");
    }
}

/// A device that is idle whenever nobody has a lease.
pub struct Engine<P: Platform>(Arc<Ram<P>>);

impl<P: Platform> Device for Engine<P> {
    type Space = Explicit<P>;
    /// The generation that it maps.
    type Map = usize;
    fn limits(&self) -> Limits {
        Limits::default().deadline(None)
    }
    fn prepare(&self, _: Prepare<'_, Explicit<P>>) -> Result<usize, Error> {
        Ok(self.0.generation.load(Ordering::Relaxed))
    }
    fn wait_idle(&self, _: &usize, _: Option<Duration>) -> Outcome {
        Outcome::Idle
    }
    fn unmap(&self, _: usize) {}
}

struct World<P: Stage> {
    space: Explicit<P>,
    ram: Arc<Ram<P>>,
    context: Context<Engine<P>>,
    releases: Ref<SharedQueue<P>, P>,
}

fn range(page: usize, pages: usize) -> AddrRange {
    AddrRange::new(page * PAGE, pages * PAGE).unwrap()
}

fn queue<P: Stage>() -> Ref<SharedQueue<P>, P> {
    SharedQueue::try_new().unwrap()
}

impl<P: Stage> World<P> {
    fn new() -> Self {
        let (ram, releases) = (Ram::new(), queue::<P>());
        let builder = Context::builder(Engine(ram.clone())).pin_queue(queue::<P>());
        let context = builder.release_queue(releases.clone()).build().unwrap();
        Self { space: Explicit::new(PAGE).unwrap(), ram, context, releases }
    }

    fn object(&self, page: usize) -> UserPtr<Engine<P>> {
        // SAFETY: no device touches the addresses, and every change is bracketed.
        unsafe { self.context.register_unchecked(&self.space, range(page, 1), Flags::NONE) }.unwrap()
    }

    fn change(&self, range: AddrRange, write: bool) -> P::Join {
        let (space, ram) = (self.space.clone(), self.ram.clone());
        P::spawn(move || {
            let change = space.change(range).unwrap();
            assert_eq!(change.outcome(), Outcome::Idle);
            ram.change(write);
            drop(change);
        })
    }

    fn assert_quiet(self) {
        while self.releases.run_one() {}
        let stats = self.space.stats();
        assert!(stats.unregistered && stats.open == 0, "{stats:?}");
    }
}

fn touch<P: Stage>(world: &World<P>, object: &UserPtr<Engine<P>>) -> bool {
    match object.try_acquire() {
        Ok(lease) => {
            world.ram.mapped.fetch_add(1, Ordering::Relaxed);
            world.ram.touch(*lease.map());
            world.ram.mapped.fetch_sub(1, Ordering::Relaxed);
            drop(lease);
            true
        }
        Err(Error::Again) => false,
        Err(error) => panic!("{error}"),
    }
}

/// A change beside an acquire: the lease is from before it or from after it.
pub fn change_beside_acquire<P: Stage>() {
    let world = World::<P>::new();
    let object = world.object(0);
    assert!(touch(&world, &object));
    let t = world.change(range(0, 1), true);
    touch(&world, &object);
    P::join(t);
    assert!(touch(&world, &object), "nothing is open");
    drop(object);
    world.assert_quiet();
}

/// Two changes that overlap in the object's page: it opens with the end of the later one.
pub fn two_overlapping_changes<P: Stage>() {
    let world = World::<P>::new();
    let object = world.object(1);
    assert!(touch(&world, &object));
    let one = world.change(range(0, 2), false);
    let other = world.change(range(1, 2), false);
    touch(&world, &object);
    P::join(one);
    P::join(other);
    assert!(touch(&world, &object), "nothing is open");
    drop(object);
    world.assert_quiet();
}

/// The first object of a device, whose notifier is registered while a change is open.
pub fn change_beside_a_late_registration<P: Stage>() {
    let world = World::<P>::new();
    let t = world.change(range(0, 1), true);
    let object = world.object(0);
    touch(&world, &object);
    P::join(t);
    assert!(touch(&world, &object), "nothing is open");
    drop(object);
    world.assert_quiet();
}

/// The last object goes, and its record's registration ends, beside a change: no call comes after
/// the end, and the end does not wait for ever.
pub fn change_beside_the_last_release<P: Stage>() {
    let world = World::<P>::new();
    let object = world.object(0);
    assert!(touch(&world, &object));
    let t = world.change(range(0, 1), false);
    drop(object);
    // The change may have the last reference, as long as it revokes.
    while world.releases.run_one() {}
    P::join(t);
    world.assert_quiet();
}

/// A registration ends beside a change: when that returns, no call into the notifier is in progress
/// and none will come.
pub fn change_beside_an_unregistration<P: Stage>() {
    let world = World::<P>::new();
    let notifier = Notifier::<P>::try_new(None).unwrap();
    let registration = world.space.register(notifier.clone()).unwrap();
    let t = world.change(range(0, 1), false);
    // SAFETY: nothing was ever attached to the notifier.
    unsafe { world.space.unregister(registration) };
    assert_eq!(Ref::count(&notifier), 1, "a call is in progress");
    P::join(t);
    assert_eq!(Ref::count(&notifier), 1);
    drop(notifier);
    world.assert_quiet();
}

/// More changes are open than are known one by one, then a device is registered: it is closed over
/// all of them, and open when they have ended, in whatever order.
pub fn late_beyond_the_exact_ones<P: Stage>() {
    let world = World::<P>::new();
    let mut open: Vec<_> = (0..40).map(|page| world.space.change(range(page, 1)).unwrap()).collect();
    let object = world.object(39);
    assert!(!touch(&world, &object));
    // Begun after the registration: its end is no end of an earlier one.
    drop(world.space.change(range(39, 1)).unwrap());
    assert!(!touch(&world, &object), "a change is open");
    let own = open.pop();
    drop(open);
    assert!(!touch(&world, &object), "its own change is open");
    drop(own);
    assert!(touch(&world, &object), "nothing is open");
    drop(object);
    world.assert_quiet();
}
