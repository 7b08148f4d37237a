//! A program without `unsafe` that uses every safe function in ways that nobody should: in every order of
//! drops, with everything forgotten, from inside callbacks. Nothing of it may be undefined behaviour, hang or
//! panic. Runs under Miri, too, which is told that leaks are meant: `MIRIFLAGS=-Zmiri-ignore-leaks`.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    reason = "a test: it stops where something is wrong"
)]

use core::mem::forget;
use core::time::Duration;
use std::boxed::Box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Instant;
use userptr::platforms::std::{Running, Std, Workers};
use userptr::work::{Waiter, enqueue, is_pending};
use userptr::{
    AddrRange, Blockable, Client, Context, Device, Error, Event, Flags, HasWork, Limits, Notifier, Outcome,
    OwnedLease, Platform, Prepare, Ref, Refcount, SharedQueue, UserPtr, Work, ref_counted,
};
use userptr_sim::{DmaDevice, DmaMap, Machine, PAGE, Process, Space};

type Dma = DmaDevice<Std>;

/// A machine, and a process with a buffer.
struct World {
    machine: Machine,
    process: Process,
    buffer: AddrRange,
}

impl World {
    fn new() -> Self {
        let machine = Machine::new();
        let process = machine.process();
        let address = {
            let _inside = machine.enter(&process);
            process.mmap(2 * PAGE)
        };
        Self { machine, process, buffer: AddrRange::new(address, 2 * PAGE).unwrap() }
    }

    fn space(&self) -> Space<Std> {
        Space::of(&self.process)
    }

    fn spawn<D: Device<Space = Space<Std>>>(&self, device: D) -> Running<D> {
        Context::builder(device).spawn().unwrap()
    }

    /// As `dma`, for tests that wait for the deadline.
    fn impatient(&self) -> Running<Dma> {
        let short = |limits: Limits| limits.deadline(Some(Duration::from_millis(300)));
        Context::builder(Dma::new(&self.machine)).limits(short).spawn().unwrap()
    }

    fn dma(&self) -> Running<Dma> {
        self.spawn(Dma::new(&self.machine))
    }

    fn object<D: Device<Space = Space<Std>>>(&self, context: &Context<D>) -> UserPtr<D> {
        context.register(&self.space(), self.buffer, Flags::NONE).unwrap()
    }

    /// Waits until no page is pinned: a pin worker that is just ending may have the last reference.
    fn wait_unpinned(&self, case: &str) {
        let began = Instant::now();
        while self.machine.pins() != 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "still pinned: {case}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Unmaps the buffer, which revokes what is left on it.
    fn unmap(&self) {
        let _inside = self.machine.enter(&self.process);
        self.process.munmap(self.buffer.start(), 2 * PAGE);
    }
}

/// What a test drops in every order.
enum Part {
    Running(#[allow(dead_code, reason = "dropped")] Running<Dma>),
    Context(#[allow(dead_code, reason = "dropped")] Context<Dma>),
    Client(#[allow(dead_code, reason = "dropped")] Client<Dma>),
    Object(#[allow(dead_code, reason = "dropped")] UserPtr<Dma>),
    Lease(#[allow(dead_code, reason = "dropped")] OwnedLease<Dma>),
}

/// Every order of `0..n`.
fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let mut all = Vec::new();
    for order in orders(n - 1) {
        for place in 0..n {
            let mut order = order.clone();
            order.insert(place, n - 1);
            all.push(order);
        }
    }
    all
}

#[test]
fn every_order_of_drops() {
    let orders = orders(5);
    assert_eq!(orders.len(), 120);
    // Miri takes every tenth.
    for order in orders.iter().step_by(if cfg!(miri) { 10 } else { 1 }) {
        let world = World::new();
        let inside = world.machine.enter(&world.process);
        let running = world.dma();
        let client = Client::open(running.clone()).unwrap();
        client.create(&world.space(), world.buffer.start(), PAGE, 0).unwrap();
        let object = world.object(&running);
        let lease = object.acquire_owned().unwrap();
        assert_eq!(world.machine.pins(), 2);
        let mut parts = [
            Some(Part::Context(running.clone())),
            Some(Part::Running(running)),
            Some(Part::Client(client)),
            Some(Part::Object(object)),
            Some(Part::Lease(lease)),
        ];
        for &place in order {
            drop(parts[place].take());
        }
        world.wait_unpinned(&format!("the order {order:?}"));
        drop(inside);
        world.machine.assert_clean();
    }
}

#[test]
fn forgotten_leases() {
    let world = World::new();
    let running = world.impatient();
    let object = world.object(&running);
    {
        let _inside = world.machine.enter(&world.process);
        forget(object.acquire().unwrap());
        forget(object.acquire_owned().unwrap());
        // This thread is known to hold one.
        assert_eq!(object.put_pages(), Err(Error::Deadlock));
    }
    world.unmap();
    assert_eq!(world.machine.take_outcomes().iter().max(), Some(&Outcome::TimedOut));
    assert_eq!(world.machine.pins(), 2, "the pages of a lease stay");
    assert_eq!(running.stats().quarantined, 1);
    let _ = running.retry_quarantined();
    drop(object);
    drop(running);
    assert_eq!(world.machine.pins(), 2);
}

#[test]
fn forgotten_owners() {
    let world = World::new();
    let inside = world.machine.enter(&world.process);
    let running = world.dma();
    let object = world.object(&running);
    drop(object.acquire().unwrap());
    forget(object);
    let other = world.object(&running);
    let _ = other.clone().into_raw();
    forget(Client::open(running.clone()).unwrap());
    forget(running);
    drop(other.acquire().unwrap());
    drop(inside);
    world.unmap();
    assert_eq!(world.machine.pins(), 0, "an object that is forgotten is revoked all the same");
}

#[test]
fn forgotten_invalidations() {
    let world = World::new();
    let _inside = world.machine.enter(&world.process);
    let running = world.impatient();
    let object = world.object(&running);
    drop(object.acquire().unwrap());
    let notifier = object.record().existing_notifier().unwrap().clone();
    // One that is dropped is finished.
    drop(notifier.invalidate_start(world.buffer, Blockable::Yes).unwrap());
    assert_eq!(world.machine.pins(), 0);
    // The window of one that is forgotten stays open: refused, and not for ever waited for.
    forget(notifier.invalidate(world.buffer, Blockable::Yes).unwrap());
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    assert_eq!(object.acquire().unwrap_err(), Error::TimedOut);
    // More than can be recorded one by one.
    for _ in 0..20 {
        notifier.open_window(world.buffer);
        forget(notifier.invalidate(AddrRange::ALL, Blockable::Yes).unwrap());
    }
    assert!(notifier.invalidate(world.buffer, Blockable::No).is_ok());
    assert_eq!(notifier.exit(), Outcome::Idle);
    assert_eq!(notifier.exit(), Outcome::Idle);
    assert_eq!(object.acquire().unwrap_err(), Error::Gone);
}

#[test]
fn a_forgotten_pass_one() {
    let world = World::new();
    let inside = world.machine.enter(&world.process);
    let running = world.impatient();
    let object = world.object(&running);
    drop(object.acquire().unwrap());
    let notifier = object.record().existing_notifier().unwrap().clone();
    forget(notifier.invalidate_start(world.buffer, Blockable::Yes).unwrap());
    assert_eq!(object.acquire().unwrap_err(), Error::TimedOut);
    drop((object, running, inside));
    assert_eq!(world.machine.pins(), 2, "nobody owns the revocation: leaked");
    // Its exit would wait for that revocation for ever, as documented.
    forget(world.process);
}

#[test]
fn what_the_builder_refuses() {
    let world = World::new();
    let queues: Vec<Workers<Std>> = (0..3).map(|_| Workers::start("queue", 1).unwrap()).collect();
    let queue = |n: usize| queues[n].queue().clone();
    let builder = || Context::builder(Dma::new(&world.machine));
    let error = |builder: userptr::ContextBuilder<Dma>| builder.build().unwrap_err().error;

    assert_eq!(error(builder()), Error::QueueMissing);
    assert_eq!(error(builder().pin_queue(queue(0))), Error::QueueMissing);
    assert_eq!(error(builder().release_queue(queue(0))), Error::QueueMissing);
    for [pins, revokes, releases] in [[0, 1, 0], [0, 0, 1], [0, 1, 1], [0, 0, 0]] {
        let same =
            builder().pin_queue(queue(pins)).revoke_queue(queue(revokes)).release_queue(queue(releases));
        assert_eq!(error(same), Error::SameQueue);
    }
    assert_eq!(error(builder().pin_queue(queue(0)).release_queue(queue(0))), Error::SameQueue);
    let full = || builder().pin_queue(queue(0)).revoke_queue(queue(1)).release_queue(queue(2));
    assert_eq!(error(full().limits(|limits| limits.coherent(false))), Error::NotCoherent);
    assert_eq!(error(full().limits(|limits| limits.max_workers(0))), Error::Invalid);
    assert!(full().build().is_ok());
    for shut in (0..3).rev() {
        queues[shut].queue().shut_down();
        assert_eq!(error(full()), Error::ShutDown, "queue {shut}");
    }
}

/// Newcomer's order, and the other one: objects that outlive their queues' workers.
#[test]
fn workers_in_both_orders() {
    for pins_first in [false, true] {
        let world = World::new();
        let inside = world.machine.enter(&world.process);
        let pins = Workers::<Std>::start("pins", 1).unwrap();
        let frees = Workers::<Std>::start("frees", 1).unwrap();
        let context = Context::builder(Dma::new(&world.machine))
            .pin_queue(pins.queue().clone())
            .release_queue(frees.queue().clone())
            .build()
            .unwrap();
        let object = world.object(&context);
        drop(context);
        if pins_first {
            drop(pins);
            drop(frees);
        } else {
            drop(frees);
            drop(pins);
        }
        // A worker pins for a thread that is not of the process: it still serves.
        drop(inside);
        drop(object.acquire().unwrap());
        assert_eq!(world.machine.pins(), 2);
        drop(object);
        world.wait_unpinned("workers");
        world.machine.assert_clean();
    }
}

#[test]
fn queues_that_are_shut_down_under_the_objects() {
    let world = World::new();
    let pins = Workers::<Std>::start("pins", 1).unwrap();
    let revokes = Workers::<Std>::start("revokes", 1).unwrap();
    let frees = Workers::<Std>::start("frees", 1).unwrap();
    let context = Context::builder(Dma::new(&world.machine))
        .pin_queue(pins.queue().clone())
        .revoke_queue(revokes.queue().clone())
        .release_queue(frees.queue().clone())
        .build()
        .unwrap();
    let object = world.object(&context);
    drop(object.acquire().unwrap());
    for workers in [&pins, &revokes, &frees] {
        workers.queue().shut_down();
    }
    // The revocation is done by the thread that invalidates.
    assert_eq!(object.put_pages(), Ok(()));
    assert_eq!(object.acquire().unwrap_err(), Error::ShutDown);
    context.drain();
    drop((object, context, pins, revokes, frees));
    world.wait_unpinned("queues that are shut down");
}

#[derive(Debug)]
struct Job {
    runs: AtomicUsize,
    queue: Mutex<Option<Ref<SharedQueue<Std>, Std>>>,
    workers: Mutex<Option<Workers<Std>>>,
    work: Work<Job, Std>,
    again: Work<Job, Std, 1>,
}
ref_counted! {
    impl RefCounted<Std> for Job {
        work: |job: Ref<Job, Std>| {
            job.runs.fetch_add(1, Ordering::Relaxed);
            drop(job.queue.lock().unwrap().take());
            drop(job.workers.lock().unwrap().take());
        },
        again @ 1: |job: Ref<Job, Std>| {
            job.runs.fetch_add(1, Ordering::Relaxed);
        },
    }
}

impl Job {
    fn new() -> Ref<Self, Std> {
        let job = Self {
            runs: 0.into(),
            queue: Mutex::new(None),
            workers: Mutex::new(None),
            work: Work::uninit(),
            again: Work::uninit(),
        };
        Ref::try_new(job).unwrap()
    }

    fn wait_for(&self, runs: usize) {
        while self.runs.load(Ordering::Relaxed) < runs {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_queue_that_its_own_item_drops() {
    // The last handle of the queue, by an item of it.
    let queue = SharedQueue::<Std>::try_new().unwrap();
    let soft = queue.queue().clone();
    let job = Job::new();
    *job.queue.lock().unwrap() = Some(queue.clone());
    enqueue::<_, Std, 0>(&queue, job.clone()).unwrap();
    drop(queue);
    assert!(soft.run_one());
    assert!(!soft.run_one());
    soft.work();
    // And the workers, by an item of theirs.
    let workers = Workers::<Std>::start("workers", 2).unwrap();
    let queue = workers.queue().clone();
    *job.workers.lock().unwrap() = Some(workers);
    enqueue::<_, Std, 0>(&queue, job.clone()).unwrap();
    job.wait_for(2);
}

#[test]
fn a_queue_without_workers_that_is_dropped_with_work_in_it() {
    let queue = SharedQueue::<Std>::try_new().unwrap();
    let job = Job::new();
    enqueue::<_, Std, 0>(&queue, job.clone()).unwrap();
    assert!(is_pending::<_, Std, 0>(&queue, &job));
    drop(queue);
    assert_eq!(Ref::count(&job), 2, "leaked with the queue");
    // Another queue refuses it: it is still on the first.
    let other = SharedQueue::<Std>::try_new().unwrap();
    assert!(enqueue::<_, Std, 0>(&other, job.clone()).is_err());
    enqueue::<_, Std, 1>(&other, job.clone()).unwrap();
    assert!(other.run_one());
    assert_eq!(job.runs.load(Ordering::Relaxed), 1);
}

#[test]
fn one_item_on_two_queues() {
    let (a, b) = (Workers::<Std>::start("a", 2).unwrap(), Workers::<Std>::start("b", 2).unwrap());
    let job = Job::new();
    let mut taken = 0;
    for n in 0..200 {
        let queue = if n % 2 == 0 { a.queue() } else { b.queue() };
        taken += usize::from(enqueue::<_, Std, 1>(queue, job.clone()).is_ok());
        // By hand, at any time: it owns its reference, and nothing else.
        if n % 50 == 0 {
            <Job as HasWork<Std, 1>>::run(job.clone());
            taken += 1;
        }
    }
    drop((a, b));
    assert_eq!(job.runs.load(Ordering::Relaxed), taken);
    assert_eq!(Ref::count(&job), 1);
}

#[test]
fn a_waiter_from_inside_its_condition() {
    let waiter = Waiter::<Std>::try_new().unwrap();
    let inner = waiter.clone();
    let mut looks = 0;
    assert!(waiter.wait_until(None, || {
        looks += 1;
        inner.wake_all();
        inner.wait_until(Some(Duration::ZERO), || true) && looks > 0
    }));
    let woken = waiter.clone();
    let sleeper = thread::spawn(move || woken.wait_until(Some(Duration::from_millis(1)), || false));
    waiter.wake_all();
    drop(waiter);
    assert!(!sleeper.join().unwrap());
}

/// A driver that calls into the crate from inside its own callbacks, and panics when it is told to.
struct Rude {
    object: OnceLock<UserPtr<Rude>>,
    panics: AtomicUsize,
    events: AtomicUsize,
    inner: Dma,
}

impl Rude {
    fn meddle(&self) {
        let Some(object) = self.object.get() else { return };
        let _ = (object.state(), object.leases(), object.handles(), object.is_revoke_pending());
        let _ = object.reset();
        object.advise_wanted(false);
        drop(object.clone());
        drop(object.try_acquire());
        let _ = object.record().existing_notifier().map(|notifier| notifier.stats());
        let _ = (object.context().stats(), object.context().registry().len());
    }

    fn panic_if_told(&self, place: usize) {
        assert!(self.panics.load(Ordering::Relaxed) != place, "told to");
    }
}

impl Device for Rude {
    type Space = Space<Std>;
    type Map = DmaMap;

    fn prepare(&self, what: Prepare<'_, Space<Std>>) -> Result<DmaMap, Error> {
        self.meddle();
        self.panic_if_told(1);
        self.inner.prepare(what)
    }
    fn stop(&self, map: &DmaMap) {
        self.meddle();
        self.panic_if_told(2);
        self.inner.stop(map);
    }
    fn wait_idle(&self, map: &DmaMap, timeout: Option<Duration>) -> Outcome {
        self.meddle();
        self.panic_if_told(3);
        self.inner.wait_idle(map, timeout)
    }
    fn unmap(&self, map: DmaMap) {
        self.meddle();
        self.inner.unmap(map);
        self.panic_if_told(4);
    }
    fn event(&self, _: Event) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.meddle();
        self.panic_if_told(5);
    }
}

#[test]
fn a_driver_that_meddles_and_panics() {
    for place in 0..=5 {
        let world = World::new();
        let inside = world.machine.enter(&world.process);
        let inner = Dma::new(&world.machine);
        let rude =
            Rude { object: OnceLock::new(), panics: AtomicUsize::new(0), events: AtomicUsize::new(0), inner };
        let running = world.spawn(rude);
        let object = world.object(&running);
        assert!(running.device().object.set(object.clone()).is_ok());
        drop(object.acquire().unwrap());
        running.device().panics.store(place, Ordering::Relaxed);
        let tried = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
            let revoked = object.put_pages();
            (revoked, object.acquire().map(drop))
        }));
        assert_eq!(tried.is_err(), place != 0, "place {place}");
        running.device().panics.store(0, Ordering::Relaxed);
        // Nobody is left waiting, whatever became of the object.
        let _ = running.retry_quarantined();
        let _ = object.put_pages();
        let _ = object.acquire().map(drop);
        assert!(running.device().events.load(Ordering::Relaxed) > 0);
        drop(inside);
        world.unmap();
        drop((object, running));
    }
}

#[test]
fn leases_in_threads_that_end() {
    let world = World::new();
    let inside = world.machine.enter(&world.process);
    let running = world.dma();
    let object = world.object(&running);
    drop(object.acquire().unwrap());
    let owned = object.acquire_owned().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let lease = object.try_acquire().unwrap_or_else(|_| object.acquire().unwrap());
            assert_eq!(lease.pages().len(), 2);
        });
        scope.spawn(move || drop(owned));
        // Shared with another thread, it is still dropped in this one.
        let lease = object.acquire().unwrap();
        scope.spawn(|| ()).join().unwrap();
        thread::scope(|inner| {
            inner.spawn(|| assert!(!lease.is_revoked()));
        });
        drop(lease.into_owned());
    });
    assert_eq!(object.leases(), 0);
    drop(inside);
    world.unmap();
    world.machine.assert_clean();
}

#[test]
fn handles_of_clients() {
    let world = World::new();
    let _inside = world.machine.enter(&world.process);
    let running = world.dma();
    let (a, b) = (Client::open(running.clone()).unwrap(), Client::open(running.clone()).unwrap());
    let (space, at) = (world.space(), world.buffer.start());
    let handles: Vec<u32> = (0..40).map(|_| a.create(&space, at, PAGE, 0).unwrap()).collect();
    let object = a.lookup(handles[7]).unwrap();
    assert!(b.lookup(handles[7]).is_err());
    let lease = object.acquire().unwrap();
    assert_eq!(a.close(handles[7]), Ok(()));
    assert_eq!(a.close(handles[7]), Err(Error::NoEntry));
    for wrong in [0, 41, u32::MAX] {
        assert_eq!(a.lookup(wrong).unwrap_err(), Error::NoEntry);
    }
    assert_eq!(lease.pages().len(), 1);
    // An object of one client in the table of another, and of itself.
    b.insert(object.clone()).unwrap();
    drop((a, b));
    assert_eq!(lease.pages().len(), 1);
    for (address, size, flags, error) in [
        (at, PAGE, 2, Error::UnknownFlag),
        (at + 1, PAGE, 0, Error::Unaligned),
        (at, 0, 0, Error::Empty),
        (usize::MAX - PAGE + 1, 2 * PAGE, 0, Error::Fault),
        (at, usize::MAX - PAGE + 1, 0, Error::TooBig),
    ] {
        assert_eq!(running.register_raw(&space, address, size, flags).unwrap_err(), error);
    }
}

#[test]
fn numbers_by_hand() {
    // A count at its ends.
    for n in [0, 1, usize::MAX / 2, usize::MAX] {
        let count = Refcount::<Std>::with_count(n);
        count.get();
        let _ = (count.put(), count.put(), count.get_unless_zero(), count.is_saturated());
    }
    // A lease that nobody took, and one that nobody dropped.
    Std::note_lease(0, false);
    Std::note_lease(usize::MAX, true);
    assert!(Std::holds_lease(usize::MAX));
    Std::note_lease(usize::MAX, false);
    // Ends of the address range.
    let notifier = Notifier::<Std>::try_new(None).unwrap();
    for range in [AddrRange::ALL, AddrRange::new(usize::MAX, 1).unwrap(), AddrRange::new(0, 1).unwrap()] {
        assert_eq!(notifier.invalidate(range, Blockable::Yes).unwrap().outcome(), Outcome::Idle);
    }
    assert!(AddrRange::new(usize::MAX, 2).is_err() && AddrRange::new(1, 0).is_err());
    let boxed: Box<dyn core::error::Error> = Box::new(Error::Again);
    assert!(!boxed.to_string().is_empty());
}
