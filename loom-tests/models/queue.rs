//! The software queue.

use crate::harness::{Model, bounded, full};
use crate::stage::LoomRef;
use loom::thread;
use std::sync::atomic::{AtomicUsize, Ordering};
use userptr::backend::loom::{Loom, LoomCell};
use userptr::has_work;
use userptr::platform::{Cell, RawQueue};
use userptr::refcount::{Object, Ref};
use userptr::work::{HasWork, SoftQueue, Work, cancel, enqueue, flush_item, is_pending};

pub const MODELS: &[Model] = &[
    full("s51_flush_with_one_worker", 2, flush_one_worker),
    bounded("q1_flush_with_two_workers_and_a_queuer", 4, 2, flush_two_workers),
    bounded("q2_flush_item_with_two_workers", 3, 3, flush_item_two_workers),
    bounded("s34_queued_while_running_runs_again", 2, 4, queued_while_running),
    bounded("q3_never_on_two_workers_at_once", 3, 3, never_twice_at_once),
    full("q4_cancel_against_run", 2, cancel_against_run),
];

type Queue = LoomRef<SoftQueue<Loom>>;

#[derive(Debug)]
struct Job {
    work: Work<Self, Loom>,
    /// Written by each run, read by the enqueuer before.
    data: LoomCell<usize>,
    /// Plain bookkeeping.
    runs: AtomicUsize,
}
// SAFETY: `data` is ordered by the queue: loom checks it.
unsafe impl Send for Job {}
// SAFETY: as above.
unsafe impl Sync for Job {}
// SAFETY: `settle` settles the item.
unsafe impl Object<Loom> for Job {
    unsafe fn settle(&self) {
        // SAFETY: handed on.
        unsafe { self.work.settle() }
    }
}
// SAFETY: settled above.
unsafe impl HasWork<Loom> for Job {
    has_work!(work: Work<Job, Loom>);
    fn run(this: LoomRef<Self>) {
        // An exclusive access: loom reports two runs at once, and a run that is not ordered after its enqueue.
        // SAFETY: one run at a time: loom checks it.
        this.data.with_mut(|d| unsafe { *d += 1 });
        this.runs.fetch_add(1, Ordering::Relaxed);
    }
}

fn job() -> LoomRef<Job> {
    let job = Job { work: Work::blank(), data: <LoomCell<_> as Cell<_>>::new(0), runs: AtomicUsize::new(0) };
    Ref::try_new(job).map_err(|(_, e)| e).unwrap()
}

fn queue() -> Queue {
    Ref::try_new(SoftQueue::blank()).map_err(|(_, e)| e).unwrap()
}

fn worker(queue: &Queue) -> thread::JoinHandle<()> {
    let queue = queue.clone();
    thread::spawn(move || queue.work())
}

fn quiet(queue: &Queue, jobs: &[&LoomRef<Job>]) {
    assert!(queue.is_empty(), "something is left in the queue");
    assert_eq!(Ref::count(queue), 1);
    for job in jobs {
        assert!(!is_pending(queue, job), "a pending mark is left");
        assert_eq!(Ref::count(job), 1, "a reference is left");
    }
}

fn flush_one_worker() {
    let (queue, job) = (queue(), job());
    let w = worker(&queue);
    // SAFETY: before the enqueue.
    job.data.with_mut(|d| unsafe { *d = 10 });
    enqueue(&queue, job.clone()).unwrap();
    queue.flush();
    // SAFETY: after the flush: loom checks it.
    job.data.with(|d| unsafe { assert_eq!(*d, 11, "the flush came back before the run") });
    queue.shut_down();
    w.join().unwrap();
    quiet(&queue, &[&job]);
}

fn flush_two_workers() {
    let (queue, a, b) = (queue(), job(), job());
    enqueue(&queue, a.clone()).unwrap();
    let workers = [worker(&queue), worker(&queue)];
    let t = {
        let (queue, b) = (queue.clone(), b.clone());
        thread::spawn(move || enqueue(&queue, b).unwrap())
    };
    queue.flush();
    // SAFETY: after the flush: loom checks it.
    a.data.with(|d| unsafe { assert_eq!(*d, 1, "the flush came back before the run") });
    t.join().unwrap();
    queue.shut_down();
    for w in workers {
        w.join().unwrap();
    }
    assert_eq!(b.runs.load(Ordering::Relaxed), 1);
    quiet(&queue, &[&a, &b]);
}

fn flush_item_two_workers() {
    let (queue, a, b) = (queue(), job(), job());
    enqueue(&queue, b.clone()).unwrap();
    enqueue(&queue, a.clone()).unwrap();
    let workers = [worker(&queue), worker(&queue)];
    flush_item(&queue, &a);
    // SAFETY: after the flush: loom checks it.
    a.data.with(|d| unsafe { assert_eq!(*d, 1, "the flush came back before the run") });
    queue.shut_down();
    for w in workers {
        w.join().unwrap();
    }
    quiet(&queue, &[&a, &b]);
}

/// An enqueue that is accepted runs; one that is refused is served by a run that has not begun.
fn queued_while_running() {
    let (queue, job) = (queue(), job());
    let w = worker(&queue);
    enqueue(&queue, job.clone()).unwrap();
    let before = job.runs.load(Ordering::Relaxed);
    match enqueue(&queue, job.clone()) {
        Ok(()) => {
            queue.flush();
            assert_eq!(job.runs.load(Ordering::Relaxed), 2, "an accepted enqueue did not run");
        }
        Err(refused) => {
            drop(refused);
            queue.flush();
            assert_eq!(before, 0, "refused although the run had begun");
            assert_eq!(job.runs.load(Ordering::Relaxed), 1);
        }
    }
    queue.shut_down();
    w.join().unwrap();
    quiet(&queue, &[&job]);
}

fn never_twice_at_once() {
    let (queue, job) = (queue(), job());
    let workers = [worker(&queue), worker(&queue)];
    let mut accepted = 0;
    for _ in 0..2 {
        accepted += usize::from(enqueue(&queue, job.clone()).is_ok());
    }
    queue.drain();
    queue.shut_down();
    for w in workers {
        w.join().unwrap();
    }
    assert_eq!(job.runs.load(Ordering::Relaxed), accepted);
    quiet(&queue, &[&job]);
}

fn cancel_against_run() {
    let (queue, job) = (queue(), job());
    enqueue(&queue, job.clone()).unwrap();
    let w = worker(&queue);
    let cancelled = cancel(&queue, &job);
    let expected = usize::from(cancelled.is_none());
    drop(cancelled);
    queue.flush();
    assert_eq!(job.runs.load(Ordering::Relaxed), expected);
    queue.shut_down();
    w.join().unwrap();
    quiet(&queue, &[&job]);
}
