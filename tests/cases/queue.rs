//! The software queue.

use super::Stage;
use super::stage::{Queue, queue};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use userptr::has_work;
use userptr::platform::{AtomicUsize as _, Cell, Load, RawQueue, Store};
use userptr::refcount::{Ref, RefCounted};
use userptr::work::{HasWork, Work, enqueue, is_pending};

fn cancel<P: Stage>(queue: &Queue<P>, job: &Ref<Job<P>, P>) -> Option<Ref<Job<P>, P>> {
    // SAFETY: each model gives an item to one queue at a time.
    unsafe { userptr::work::cancel(queue, job) }
}

fn flush_item<P: Stage>(queue: &Queue<P>, job: &Ref<Job<P>, P>) {
    // SAFETY: each model gives an item to one queue at a time; no job flushes itself.
    unsafe { userptr::work::flush_item(queue, job) }
}

pub struct Job<P: Stage> {
    work: Work<Self, P>,
    /// Written by each run, read by the enqueuer before.
    data: P::Cell<usize>,
    /// Plain bookkeeping.
    pub runs: AtomicUsize,
    /// Written, relaxed, by an enqueuer; what the last run saw of it. `None`: not looked at, and no
    /// step of the model.
    flag: Option<P::Usize>,
    saw: AtomicUsize,
}
// SAFETY: `data` is ordered by the queue: the checker looks.
unsafe impl<P: Stage> Send for Job<P> {}
// SAFETY: as above.
unsafe impl<P: Stage> Sync for Job<P> {}
// SAFETY: `init` settles the item.
unsafe impl<P: Stage> RefCounted<P> for Job<P> {
    unsafe fn init(&self) {
        // SAFETY: handed on.
        unsafe { self.work.init() }
    }
}
// SAFETY: settled above.
unsafe impl<P: Stage> HasWork<P> for Job<P> {
    has_work!(work: Work<Job<P>, P>);
    fn run(this: Ref<Self, P>) {
        // An exclusive access: a checker reports two runs at once, and a run that is not ordered
        // after its enqueue.
        // SAFETY: one run at a time: the checker looks.
        this.data.with_mut(|d| unsafe { *d += 1 });
        this.runs.fetch_add(1, Ordering::Relaxed);
        if let Some(flag) = &this.flag {
            this.saw.store(flag.load(Load::Relaxed), Ordering::Relaxed);
        }
    }
}

pub fn job<P: Stage>() -> Ref<Job<P>, P> {
    flagged(None)
}

fn flagged<P: Stage>(flag: Option<P::Usize>) -> Ref<Job<P>, P> {
    let (data, runs) = (<P::Cell<_> as Cell<_>>::new(0), AtomicUsize::new(0));
    let job = Job { work: Work::uninit(), data, runs, flag, saw: AtomicUsize::new(0) };
    Ref::try_new(job).unwrap()
}

pub fn worker<P: Stage>(queue: &Queue<P>) -> P::Join {
    let queue = queue.clone();
    P::spawn(move || queue.work())
}

fn quiet<P: Stage>(queue: &Queue<P>, jobs: &[&Ref<Job<P>, P>]) {
    assert!(queue.is_empty(), "something is left in the queue");
    assert_eq!(Ref::count(queue), 1);
    for job in jobs {
        assert!(!is_pending(queue, job), "a pending mark is left");
        assert_eq!(Ref::count(job), 1, "a reference is left");
    }
}

/// What was written before an enqueue is seen by a run, also when that enqueue was refused.
pub fn refused_is_seen<P: Stage>() {
    let (queue, job) = (queue::<P>(), flagged::<P>(Some(P::Usize::new(0))));
    let w = worker::<P>(&queue);
    assert!(enqueue(&queue, job.clone()).is_ok());
    if let Some(flag) = &job.flag {
        flag.store(1, Store::Relaxed);
    }
    drop(enqueue(&queue, job.clone()));
    queue.flush();
    assert_eq!(
        job.saw.load(Ordering::Relaxed),
        1,
        "a run does not see what was written before an enqueue that it serves"
    );
    queue.shut_down();
    P::join(w);
    quiet(&queue, &[&job]);
}

pub fn flush_one_worker<P: Stage>() {
    let (queue, job) = (queue::<P>(), job::<P>());
    let w = worker::<P>(&queue);
    // SAFETY: before the enqueue.
    job.data.with_mut(|d| unsafe { *d = 10 });
    assert!(enqueue(&queue, job.clone()).is_ok());
    queue.flush();
    // SAFETY: after the flush: the checker looks.
    job.data.with(|d| unsafe { assert_eq!(*d, 11, "the flush came back before the run") });
    queue.shut_down();
    P::join(w);
    quiet(&queue, &[&job]);
}

/// The last handle of a shared queue is dropped while its item is queued or runs, and by nobody who
/// shuts anything down: the item runs, and the worker leaves.
pub fn last_handle<P: Stage>() {
    let (queue, job) = (queue::<P>(), job::<P>());
    let inner = queue.queue().clone();
    let w = P::spawn(move || inner.work());
    assert!(enqueue(&queue, job.clone()).is_ok());
    drop(queue);
    P::join(w);
    assert_eq!(job.runs.load(Ordering::Relaxed), 1, "dropped with its queue");
    assert_eq!(Ref::count(&job), 1);
}

pub fn flush_two_workers<P: Stage>() {
    let (queue, a, b) = (queue::<P>(), job::<P>(), job::<P>());
    assert!(enqueue(&queue, a.clone()).is_ok());
    let workers = [worker::<P>(&queue), worker::<P>(&queue)];
    let t = {
        let (queue, b) = (queue.clone(), b.clone());
        P::spawn(move || assert!(enqueue(&queue, b).is_ok()))
    };
    queue.flush();
    // SAFETY: after the flush: the checker looks.
    a.data.with(|d| unsafe { assert_eq!(*d, 1, "the flush came back before the run") });
    P::join(t);
    queue.shut_down();
    for w in workers {
        P::join(w);
    }
    assert_eq!(b.runs.load(Ordering::Relaxed), 1);
    quiet(&queue, &[&a, &b]);
}

pub fn flush_item_two_workers<P: Stage>() {
    let (queue, a, b) = (queue::<P>(), job::<P>(), job::<P>());
    assert!(enqueue(&queue, b.clone()).is_ok());
    assert!(enqueue(&queue, a.clone()).is_ok());
    let workers = [worker::<P>(&queue), worker::<P>(&queue)];
    flush_item(&queue, &a);
    // SAFETY: after the flush: the checker looks.
    a.data.with(|d| unsafe { assert_eq!(*d, 1, "the flush came back before the run") });
    queue.shut_down();
    for w in workers {
        P::join(w);
    }
    quiet(&queue, &[&a, &b]);
}

/// An enqueue that is accepted runs; one that is refused is served by a run that has not begun.
pub fn queued_while_running<P: Stage>() {
    queued_twice::<P>(|| ());
}

/// Whether the second enqueue, which comes after `pause`, was accepted.
pub fn queued_twice<P: Stage>(pause: impl FnOnce()) -> bool {
    let (queue, job) = (queue::<P>(), job::<P>());
    let w = worker::<P>(&queue);
    assert!(enqueue(&queue, job.clone()).is_ok());
    pause();
    let before = job.runs.load(Ordering::Relaxed);
    let accepted = match enqueue(&queue, job.clone()) {
        Ok(()) => {
            queue.flush();
            assert_eq!(job.runs.load(Ordering::Relaxed), 2, "an accepted enqueue did not run");
            true
        }
        Err(refused) => {
            drop(refused);
            queue.flush();
            assert_eq!(before, 0, "refused although the run had begun");
            assert_eq!(job.runs.load(Ordering::Relaxed), 1);
            false
        }
    };
    queue.shut_down();
    P::join(w);
    quiet(&queue, &[&job]);
    P::met(if accepted { "accepted" } else { "refused" });
    accepted
}

pub fn never_twice_at_once<P: Stage>() {
    let (queue, job) = (queue::<P>(), job::<P>());
    let workers = [worker::<P>(&queue), worker::<P>(&queue)];
    let mut accepted = 0;
    for _ in 0..2 {
        accepted += usize::from(enqueue(&queue, job.clone()).is_ok());
    }
    queue.drain();
    queue.shut_down();
    for w in workers {
        P::join(w);
    }
    assert_eq!(job.runs.load(Ordering::Relaxed), accepted);
    P::met(if accepted == 2 { "both accepted" } else { "one refused" });
    quiet(&queue, &[&job]);
}

pub fn cancel_against_run<P: Stage>() {
    let (queue, job) = (queue::<P>(), job::<P>());
    assert!(enqueue(&queue, job.clone()).is_ok());
    let w = worker::<P>(&queue);
    let cancelled = cancel(&queue, &job);
    let expected = usize::from(cancelled.is_none());
    P::met(if cancelled.is_some() { "cancelled" } else { "run" });
    drop(cancelled);
    queue.flush();
    assert_eq!(job.runs.load(Ordering::Relaxed), expected);
    queue.shut_down();
    P::join(w);
    quiet(&queue, &[&job]);
}

/// Two threads queue the same item. Whoever is refused was told that a run will serve it: a flush
/// waits for that run.
pub fn refused_enqueue_and_flush<P: Stage>() {
    let (queue, job) = (queue::<P>(), job::<P>());
    let t = {
        let (queue, job) = (queue.clone(), job.clone());
        P::spawn(move || {
            drop(enqueue(&queue, job));
            queue.run_one();
        })
    };
    if enqueue(&queue, job.clone()).is_err() {
        flush_item(&queue, &job);
        assert_ne!(
            job.runs.load(Ordering::Relaxed),
            0,
            "a flush came back before the run that serves a refused enqueue"
        );
        P::met("refused");
    } else {
        P::met("accepted");
    }
    P::join(t);
    while queue.run_one() {}
    quiet(&queue, &[&job]);
}

/// The same with a cancel: the refused one takes the item off the queue, or its run has begun.
pub fn refused_enqueue_and_cancel<P: Stage>() {
    let (queue, job) = (queue::<P>(), job::<P>());
    let t = {
        let (queue, job) = (queue.clone(), job.clone());
        P::spawn(move || assert!(enqueue(&queue, job).is_ok()))
    };
    if is_pending(&queue, &job) && enqueue(&queue, job.clone()).is_err() {
        assert!(cancel(&queue, &job).is_some(), "nobody runs it, and a cancel does not find it");
        P::join(t);
        assert!(queue.is_empty());
        P::met("refused, then cancelled");
    } else {
        P::join(t);
        while queue.run_one() {}
        P::met("run");
    }
    quiet(&queue, &[&job]);
}

/// A flush waits for an item that a cancel takes off the queue, with nobody to run it.
pub fn cancel_beside_a_flush<P: Stage>() {
    let (queue, job) = (queue::<P>(), job::<P>());
    assert!(enqueue(&queue, job.clone()).is_ok());
    let t = {
        let (queue, job) = (queue.clone(), job.clone());
        P::spawn(move || {
            flush_item(&queue, &job);
            queue.flush();
        })
    };
    assert!(cancel(&queue, &job).is_some());
    P::join(t);
    assert_eq!(job.runs.load(Ordering::Relaxed), 0);
    quiet(&queue, &[&job]);
}

/// An item that is queued again while it runs keeps its queue from being left, and nobody turns
/// round waiting for it.
pub fn shut_down_with_an_item_queued_again<P: Stage>() {
    let (queue, job) = (queue::<P>(), job::<P>());
    assert!(enqueue(&queue, job.clone()).is_ok());
    let workers = [worker::<P>(&queue), worker::<P>(&queue)];
    let accepted = enqueue(&queue, job.clone()).is_ok();
    queue.shut_down();
    for w in workers {
        P::join(w);
    }
    assert_eq!(job.runs.load(Ordering::Relaxed), 1 + usize::from(accepted));
    P::met(if accepted { "accepted again" } else { "refused" });
    quiet(&queue, &[&job]);
}

/// An item runs on one queue and is then queued on another by somebody else, which is refused while
/// it is pending there: its links are handed on, and the run sees what the refused one wrote
/// before.
pub fn item_changes_queues<P: Stage>() {
    let queues = [queue::<P>(), queue::<P>()];
    let job = flagged::<P>(Some(P::Usize::new(0)));
    assert!(enqueue(&queues[0], job.clone()).is_ok());
    let t = {
        let queue = queues[0].clone();
        P::spawn(move || {
            queue.run_one();
        })
    };
    if let Some(flag) = &job.flag {
        flag.store(1, Store::Relaxed);
    }
    let refused = enqueue(&queues[1], job.clone()).is_err();
    P::join(t);
    queues[1].run_one();
    assert_eq!(job.runs.load(Ordering::Relaxed), if refused { 1 } else { 2 });
    P::met(if refused { "refused" } else { "accepted" });
    assert_eq!(
        job.saw.load(Ordering::Relaxed),
        1,
        "a run does not see what was written before a refused enqueue"
    );
    queues.iter().for_each(|queue| quiet(queue, &[&job]));
}

/// The same with a cancel in place of the run.
pub fn cancelled_item_changes_queues<P: Stage>() {
    let queues = [queue::<P>(), queue::<P>()];
    let job = flagged::<P>(Some(P::Usize::new(0)));
    assert!(enqueue(&queues[0], job.clone()).is_ok());
    let t = {
        let (queue, job) = (queues[1].clone(), job.clone());
        P::spawn(move || {
            if let Some(flag) = &job.flag {
                flag.store(1, Store::Relaxed);
            }
            // Refused: the canceller sees it. Accepted: the links are this queue's now.
            match enqueue(&queue, job.clone()) {
                Ok(()) => assert!(cancel(&queue, &job).is_some()),
                Err(refused) => {
                    job.runs.fetch_add(1, Ordering::Relaxed);
                    drop(refused);
                }
            }
        })
    };
    assert!(cancel(&queues[0], &job).is_some());
    let saw = job.flag.as_ref().map_or(0, |flag| flag.load(Load::Relaxed));
    P::join(t);
    let refused = job.runs.load(Ordering::Relaxed);
    P::met(if refused == 1 { "refused" } else { "accepted" });
    assert!(saw >= refused, "a cancel does not see what was written before an enqueue that it took back");
    queues.iter().for_each(|queue| quiet(queue, &[&job]));
}

/// An item that holds the last handle of its own queue.
pub struct Keeper<P: Stage> {
    work: Work<Self, P>,
    queue: P::Cell<Option<Queue<P>>>,
    runs: Arc<AtomicUsize>,
}
// SAFETY: `queue` is touched by the run alone.
unsafe impl<P: Stage> Send for Keeper<P> {}
// SAFETY: as above.
unsafe impl<P: Stage> Sync for Keeper<P> {}
// SAFETY: `init` settles the item.
unsafe impl<P: Stage> RefCounted<P> for Keeper<P> {
    unsafe fn init(&self) {
        // SAFETY: handed on.
        unsafe { self.work.init() }
    }
}
// SAFETY: settled above.
unsafe impl<P: Stage> HasWork<P> for Keeper<P> {
    has_work!(work: Work<Keeper<P>, P>);
    fn run(this: Ref<Self, P>) {
        this.runs.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the only access after the enqueue: the checker looks.
        drop(this.queue.with_mut(|queue| unsafe { (*queue).take() }));
    }
}

/// The last handle goes inside an item of the very queue: its worker leaves after it.
pub fn last_handle_in_its_own_item<P: Stage>() {
    let queue: Queue<P> = queue();
    let (workers, runs) = (queue.queue().clone(), Arc::new(AtomicUsize::new(0)));
    let w = {
        let workers = workers.clone();
        P::spawn(move || workers.work())
    };
    let cell = <P::Cell<_> as Cell<_>>::new(Some(queue.clone()));
    let keeper = Ref::try_new(Keeper::<P> { work: Work::uninit(), queue: cell, runs: runs.clone() }).unwrap();
    assert!(enqueue(&queue, keeper).is_ok());
    drop(queue);
    P::join(w);
    assert_eq!((runs.load(Ordering::Relaxed), Ref::count(&workers)), (1, 1));
}
