//! Changes, nested, refused, forgotten; several devices; owned memory.

use crate::cases::{self, Stage};
use core::time::Duration;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use userptr::platforms::std::Std;
use userptr::{
    AddrRange, AddressSpace, Context, Device, Error, Flags, Limits, Outcome, OwnedMemory, Prepare, UserPtr,
};
use userptr_explicit::{Bracketed, Explicit, Region};

const PAGE: usize = 4096;

impl Stage for Std {
    type Join = JoinHandle<()>;
    fn spawn(f: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        std::thread::spawn(f)
    }
    fn join(join: JoinHandle<()>) {
        join.join().unwrap();
    }
}

/// A device that notes what it is asked.
pub(crate) struct Noting {
    name: &'static str,
    notes: Arc<Mutex<Vec<String>>>,
    mapped: Arc<AtomicUsize>,
    outcome: Outcome,
}

impl Device for Noting {
    type Space = Explicit<Std>;
    type Map = ();
    fn limits(&self) -> Limits {
        Limits::default().deadline(Some(Duration::from_millis(20)))
    }
    fn prepare(&self, _: Prepare<'_, Explicit<Std>>) -> Result<(), Error> {
        self.mapped.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    fn stop(&self, (): &()) {
        self.notes.lock().unwrap().push(format!("stop {}", self.name));
    }
    fn wait_idle(&self, (): &(), _: Option<Duration>) -> Outcome {
        self.notes.lock().unwrap().push(format!("wait {}", self.name));
        self.outcome
    }
    fn unmap(&self, (): ()) {
        self.mapped.fetch_sub(1, Ordering::Relaxed);
    }
}

struct World {
    space: Explicit<Std>,
    notes: Arc<Mutex<Vec<String>>>,
    mapped: Arc<AtomicUsize>,
}

impl World {
    fn new() -> Self {
        Self { space: Explicit::new(PAGE).unwrap(), notes: Arc::default(), mapped: Arc::default() }
    }

    fn device(&self, name: &'static str, outcome: Outcome) -> impl std::ops::Deref<Target = Context<Noting>> {
        let (notes, mapped) = (self.notes.clone(), self.mapped.clone());
        Context::builder(Noting { name, notes, mapped, outcome }).spawn().unwrap()
    }

    fn object(&self, context: &Context<Noting>, page: usize) -> UserPtr<Noting> {
        // SAFETY: the device touches nothing, and every change is bracketed.
        unsafe { context.register_unchecked(&self.space, range(page, 1), Flags::NONE) }.unwrap()
    }
}

fn range(page: usize, pages: usize) -> AddrRange {
    AddrRange::new((page + 16) * PAGE, pages * PAGE).unwrap()
}

#[test]
fn the_models_bodies_on_threads() {
    for _ in 0..if cfg!(miri) { 2 } else { 200 } {
        cases::change_beside_acquire::<Std>();
        cases::two_overlapping_changes::<Std>();
        cases::change_beside_a_late_registration::<Std>();
        cases::change_beside_the_last_release::<Std>();
        cases::change_beside_an_unregistration::<Std>();
    }
    cases::late_beyond_the_exact_ones::<Std>();
}

#[test]
fn s224_every_device_is_asked_before_one_is_waited_for() {
    let world = World::new();
    let (a, b) = (world.device("a", Outcome::Idle), world.device("b", Outcome::Idle));
    let objects = [world.object(&a, 0), world.object(&b, 0)];
    objects.iter().for_each(|object| drop(object.acquire().unwrap()));
    let change = world.space.change(range(0, 1)).unwrap();
    let notes = world.notes.lock().unwrap().clone();
    assert_eq!(notes.len(), 4, "{notes:?}");
    // The waits run on queues, in any order; both stops come before them.
    assert!(notes[..2].iter().all(|note| note.starts_with("stop")), "{notes:?}");
    assert_eq!((change.outcome(), world.mapped.load(Ordering::Relaxed)), (Outcome::Idle, 0));
    assert!(objects.iter().all(|object| matches!(object.try_acquire(), Err(Error::Again))));
    drop(change);
    objects.iter().for_each(|object| drop(object.acquire().unwrap()));
}

#[test]
fn s225_changes_nest_and_overlap() {
    let world = World::new();
    let context = world.device("a", Outcome::Idle);
    let object = world.object(&context, 1);
    drop(object.acquire().unwrap());
    let outer = world.space.change(range(0, 3)).unwrap();
    let same = world.space.change(range(0, 3)).unwrap();
    let other = world.space.change(range(1, 4)).unwrap();
    for change in [outer, other, same] {
        assert!(matches!(object.try_acquire(), Err(Error::Again)));
        drop(change);
    }
    drop(object.acquire().unwrap());
}

#[test]
fn s226_a_holder_of_a_lease_is_refused() {
    let world = World::new();
    let context = world.device("a", Outcome::Idle);
    let object = world.object(&context, 0);
    let lease = object.acquire().unwrap();
    assert_eq!(world.space.change(range(0, 1)).unwrap_err(), Error::Deadlock);
    assert_eq!(world.space.stats().open, 0, "nothing was begun");
    assert!(!lease.is_revoked());
    // Beside it nothing is refused, and another thread is told by the outcome.
    drop(world.space.change(range(1, 1)).unwrap());
    let elsewhere = std::thread::scope(|scope| {
        scope.spawn(|| world.space.change(range(0, 1)).unwrap().outcome()).join().unwrap()
    });
    assert_eq!(elsewhere, Outcome::TimedOut);
    drop(lease);
}

#[test]
fn s227_a_change_that_may_not_wait() {
    let world = World::new();
    let contexts = [world.device("a", Outcome::Idle), world.device("b", Outcome::Idle)];
    let (_, object) = (world.object(&contexts[0], 0), world.object(&contexts[1], 1));
    drop(object.acquire().unwrap());
    assert_eq!(world.space.try_change(range(0, 2)).unwrap_err(), Error::Again);
    assert_eq!((world.space.stats().open, world.mapped.load(Ordering::Relaxed)), (0, 1));
    // The windows that were opened before the refusal are closed.
    drop(object.try_acquire().unwrap());
    object.put_pages().unwrap();
    let change = world.space.try_change(range(0, 2)).unwrap();
    assert!(object.try_acquire().is_err());
    drop(change);
    drop(object.acquire().unwrap());
}

#[test]
fn s228_a_forgotten_guard_closes_its_range_and_nothing_else() {
    let world = World::new();
    {
        let context = world.device("a", Outcome::Idle);
        let (closed, open) = (world.object(&context, 0), world.object(&context, 1));
        drop(closed.acquire().unwrap());
        std::mem::forget(world.space.change(range(0, 1)).unwrap());
        assert!(matches!(closed.try_acquire(), Err(Error::Again)));
        drop(open.acquire().unwrap());
        drop(world.space.change(range(0, 2)).unwrap());
        drop(open.acquire().unwrap());
        assert!(matches!(closed.try_acquire(), Err(Error::Again)));
    }
    // The registration could end; a device that comes later finds the range closed, too.
    assert!(world.space.stats().unregistered);
    let context = world.device("b", Outcome::Idle);
    assert!(matches!(world.object(&context, 0).try_acquire(), Err(Error::Again)));
    drop(world.object(&context, 1).acquire().unwrap());
}

#[test]
fn s229_owned_memory_brackets_itself() {
    let world = World::new();
    let bytes = vec![7_u8; 4 * PAGE].leak();
    let skip = bytes.as_ptr().align_offset(PAGE);
    let region = Region::from_static(&world.space, &mut bytes[skip..][..2 * PAGE]).unwrap();
    let context = world.device("a", Outcome::Idle);
    let object = context.register_memory(&world.space, region, Flags::NONE).unwrap();
    check(&world, &object);
    #[cfg(all(unix, not(miri)))]
    {
        let region = Region::map(&world.space, 2 * PAGE).unwrap();
        region.write_at(0, &[7; 2 * PAGE]).unwrap();
        check(&world, &context.register_memory(&world.space, region, Flags::NONE).unwrap());
    }
}

fn check(world: &World, object: &UserPtr<Noting>) {
    let region = object.memory().unwrap();
    for (at, renew) in [(0, Region::discard as fn(&_, _, _) -> _), (PAGE, Region::replace)] {
        let before = world.space.stats().ended;
        let lease = object.acquire().unwrap();
        assert_eq!(renew(region, at, PAGE), Err(Error::Deadlock));
        drop(lease);
        let mut seen = [0; 1];
        region.read_at(at, &mut seen).unwrap();
        assert_eq!(seen, [7], "refused, and changed all the same");
        assert_eq!(renew(region, at, PAGE), Ok(()));
        assert_eq!(world.mapped.load(Ordering::Relaxed), 0, "the device has the old pages");
        region.read_at(at, &mut seen).unwrap();
        assert_eq!(seen, [0]);
        assert!(world.space.stats().ended > before);
    }
    let whole = OwnedMemory::range(region);
    assert_eq!(region.discard(1, PAGE), Err(Error::Invalid));
    assert_eq!(region.discard(PAGE, 2 * PAGE), Err(Error::Invalid));
    assert_eq!(region.discard(0, 0), Err(Error::Empty));
    assert_eq!(whole.pages(world.space.page_shift()), 2);
}

#[test]
fn s229_owned_memory_is_not_changed_under_a_device_that_is_lost() {
    let world = World::new();
    let context = world.device("a", Outcome::DeviceLost);
    let bytes = vec![7_u8; 4 * PAGE].leak();
    let skip = bytes.as_ptr().align_offset(PAGE);
    let region = Region::from_static(&world.space, &mut bytes[skip..][..PAGE]).unwrap();
    let object = context.register_memory(&world.space, region, Flags::NONE).unwrap();
    drop(object.acquire().unwrap());
    assert_eq!(object.memory().unwrap().discard(0, PAGE), Err(Error::DeviceLost));
    let mut seen = [0; 1];
    object.memory().unwrap().read_at(0, &mut seen).unwrap();
    assert_eq!((seen, world.space.stats().open), ([7], 0));
    // A device that is lost keeps its pages for ever, and its object with them.
    std::mem::forget((object, context));
}

#[test]
fn what_was_bracketed_is_known_for_a_while() {
    let space = Explicit::<Std>::new(PAGE).unwrap();
    let at = || space.stats().ended;
    let began = at();
    assert_eq!(space.was_bracketed(range(0, 1), began), Bracketed::No);
    let change = space.change(range(0, 2)).unwrap();
    assert_eq!(space.was_bracketed(range(0, 1), began), Bracketed::Yes);
    assert_eq!(space.was_bracketed(range(1, 2), began), Bracketed::No, "half of it");
    let other = space.change(range(2, 1)).unwrap();
    assert_eq!(space.was_bracketed(range(1, 2), began), Bracketed::Yes, "by two of them");
    drop((change, other));
    assert_eq!(space.was_bracketed(range(0, 3), began), Bracketed::Yes);
    assert_eq!(space.was_bracketed(range(0, 3), at()), Bracketed::No, "before that");
    for _ in 0..65 {
        drop(space.change(range(9, 1)).unwrap());
    }
    assert_eq!(space.was_bracketed(range(0, 3), began), Bracketed::Unknown);
    assert_eq!(space.was_bracketed(range(9, 1), began), Bracketed::Yes);
}
