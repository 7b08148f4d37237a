//! Queues, workers and items, in every order.

use crate::{Dma, World};
use core::time::Duration;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use userptr::platforms::std::{Std, Workers};
use userptr::work::{Waiter, enqueue, is_pending};
use userptr::{Context, Error, HasWork, Ref, SharedQueue, Work, ref_counted};

/// Newcomer's order, and the other one: objects that outlive their queues' workers.
#[test]
fn workers_in_both_orders() {
    for pins_first in [false, true] {
        let world = World::new();
        let inside = world.machine.enter(&world.process);
        let pins = Workers::<Std>::start("pins", 1).unwrap();
        let releases = Workers::<Std>::start("releases", 1).unwrap();
        let context = Context::builder(Dma::new(&world.machine))
            .pin_queue(pins.queue().clone())
            .release_queue(releases.queue().clone())
            .build()
            .unwrap();
        let object = world.object(&context);
        drop(context);
        if pins_first {
            drop(pins);
            drop(releases);
        } else {
            drop(releases);
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
    let releases = Workers::<Std>::start("releases", 1).unwrap();
    let context = Context::builder(Dma::new(&world.machine))
        .pin_queue(pins.queue().clone())
        .revoke_queue(revokes.queue().clone())
        .release_queue(releases.queue().clone())
        .build()
        .unwrap();
    let object = world.object(&context);
    drop(object.acquire().unwrap());
    for workers in [&pins, &revokes, &releases] {
        workers.queue().shut_down();
    }
    // The revocation is done by the thread that invalidates.
    assert_eq!(object.put_pages(), Ok(()));
    assert_eq!(object.acquire().unwrap_err(), Error::ShutDown);
    context.drain();
    drop((object, context, pins, revokes, releases));
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
