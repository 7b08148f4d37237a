//! A work queue in software, generic over the platform: an intrusive list, any number of workers,
//! no allocation to enqueue.

use super::list::{Link, Mark, State};
use crate::error::Error;
use crate::platform::{
    AtomicUsize, Cell, Load, LockClass, Platform, RawQueue, RawWork, Rmw, SpinLock, WaitQueue,
};
use crate::refcount::{LastPut, Ref, RefCounted};
use core::fmt;
use core::ptr;

/// A work item of a [`SoftQueue`].
///
/// # Invariants
/// * `pending` is 1 from a successful enqueue until just before the function runs, or until it is
///   cancelled. It changes under the lock of the queue that the item is on; a word of its own,
///   because another queue must refuse the item meanwhile.
/// * `link` is touched only under the lock of the queue that the item is, or is about to be, on.
pub struct SoftWork<P: Platform> {
    run: unsafe fn(*const Self),
    pending: P::Usize,
    link: P::Cell<Link<P>>,
}

// SAFETY: the list links are touched under the queue's lock only (invariant above).
unsafe impl<P: Platform> Send for SoftWork<P> {}
// SAFETY: shared access to the links happens under the queue's lock only, and `pending` is atomic.
unsafe impl<P: Platform> Sync for SoftWork<P> {}

// SAFETY: `SoftQueue` calls `run` once per successful enqueue.
unsafe impl<P: Platform> RawWork for SoftWork<P> {
    fn uninit(run: unsafe fn(*const Self)) -> Self {
        Self { run, pending: P::Usize::new(0), link: <P::Cell<_> as Cell<_>>::new(Link::new()) }
    }
}

impl<P: Platform> SoftWork<P> {
    fn is_pending(&self) -> bool {
        // Relaxed: a snapshot. What a run does is seen after a flush.
        self.pending.load(Load::Relaxed) != 0
    }

    /// # Safety
    /// The queue's lock must be held.
    pub(super) unsafe fn link<R>(&self, f: impl FnOnce(&mut Link<P>) -> R) -> R {
        // SAFETY: the lock is held, so nobody else reaches the link (invariant of the type).
        self.link.with_mut(|l| f(unsafe { &mut *l }))
    }
}

impl<P: Platform> fmt::Debug for SoftWork<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftWork(pending: {})", self.is_pending())
    }
}

/// A run in progress. Ends with its function, and also when that unwinds on a platform that can: a
/// mark must not outlive its stack.
///
/// # Invariants
/// `mark` is in the queue's list and alive.
struct Running<'q, P: Platform> {
    queue: &'q SoftQueue<P>,
    mark: *const Mark<P>,
}

impl<P: Platform> Drop for Running<'_, P> {
    fn drop(&mut self) {
        // SAFETY: the mark is in the list (invariant); the lock is held.
        self.queue.with(|s| unsafe { s.unmark(self.mark) });
        // SAFETY: initialised by `try_new`; the borrow keeps the queue in place.
        unsafe {
            self.queue.done.wake_all();
            // The item may have been queued again while it ran and kept from the other workers
            // until now.
            self.queue.idle.wake_all();
        }
    }
}

/// A software work queue. Share it as a [`Ref`], which is the handle that implements [`RawQueue`];
/// have one or more threads call [`work`](Self::work).
///
/// Source: `struct workqueue_struct`, `alloc_workqueue`, `flush_workqueue`, `destroy_workqueue`.
///
/// ```
/// use userptr::{RawQueue, SoftQueue, platforms::std::Std};
///
/// let queue = SoftQueue::<Std>::try_new()?;
/// let worker = { let queue = queue.clone(); std::thread::spawn(move || queue.work()) };
/// // ... enqueue; see `Work` ...
/// queue.flush();
/// queue.shut_down(); // the workers leave when the list is empty
/// worker.join().unwrap();
/// assert!(queue.is_empty() && !queue.run_one());
/// # Ok::<(), userptr::Error>(())
/// ```
pub struct SoftQueue<P: Platform> {
    state: SpinLock<P, State<P>>,
    /// Workers wait here for something to run.
    idle: WaitQueue<P::Wait>,
    /// Flushers wait here for something to end.
    done: WaitQueue<P::Wait>,
}

// SAFETY: `init` initialises the lock and both waits. Workers and flushers borrow the queue through
// references that they hold.
unsafe impl<P: Platform> RefCounted<P> for SoftQueue<P> {
    unsafe fn init(&self) {
        // SAFETY: called once, at the final address (caller).
        unsafe {
            self.state.init();
            self.idle.init();
            self.done.init();
        }
    }

    unsafe fn last_put(&self) -> LastPut {
        // Nobody can enqueue any more, and no worker is left. What is queued all the same owns
        // counts of its objects, and its links point here: it stays as it is. A platform must let
        // the workers run the list empty first.
        if self.is_empty() { LastPut::Drop } else { LastPut::Leak }
    }
}

impl<P: Platform> SoftQueue<P> {
    /// Makes a queue without threads.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn try_new() -> Result<Ref<Self, P>, Error> {
        let this = Self {
            state: SpinLock::<P, _>::uninit(LockClass::QUEUE, State::new()),
            idle: WaitQueue::uninit(),
            done: WaitQueue::uninit(),
        };
        Ok(Ref::try_new(this)?)
    }

    /// Runs items as they come, until [`shut_down`](Self::shut_down) was called and nothing is
    /// left. Call it from each worker thread.
    pub fn work(&self) {
        loop {
            while self.run_one() {}
            // An item that another worker is running, and that was queued again, cannot run now:
            // the end of that run wakes us.
            let mut over = false;
            let something = || {
                self.with(|s| {
                    over = s.shut && s.head.is_null();
                    over || s.runnable().is_some()
                })
            };
            // SAFETY: initialised by `Ref::try_new`; no lock is held here.
            unsafe { self.idle.wait_until(None, something) };
            if over {
                return;
            }
        }
    }

    /// Runs the first item that may run now, on this thread. Returns `false` if there is none.
    pub fn run_one(&self) -> bool {
        let mut mark = Mark { item: ptr::null(), turn: 0, next: <P::Cell<_> as Cell<_>>::new(ptr::null()) };
        let Some(run) = self.with(|s| {
            let item = s.runnable()?;
            // SAFETY: an item in the list is alive, and the lock is held.
            let run = unsafe {
                s.unlink(item);
                mark.item = item;
                mark.turn = (*item).link(|l| l.turn);
                mark.next.with_mut(|n| *n = s.running);
                // Cleared here, before the function runs: an enqueue from now on is accepted and
                // runs the item once more.
                // ORDERING: for enqueues on other queues, which take another lock (E3, E4). A swap:
                // an enqueue that another queue refused is a read-modify-write before this one in
                // the same chain, so the run sees that enqueuer's writes, too; and the links are
                // handed on to the next one who queues the item, wherever.
                (*item).pending.swap(0, Rmw::AcqRel);
                (*item).run
            };
            s.running = &raw const mark;
            Some(run)
        }) else {
            return false;
        };
        let running = Running { queue: self, mark: &raw const mark };
        // SAFETY: the item was enqueued and is run once for it. From here on it may be gone at any
        // moment.
        unsafe { run(mark.item) };
        drop(running);
        true
    }

    /// Refuses every further enqueue, and lets the workers leave once the list is empty. Does not
    /// wait: join the workers for that.
    pub fn shut_down(&self) {
        self.with(|s| s.shut = true);
        // SAFETY: initialised by `try_new`; the caller's borrow keeps the queue in place.
        unsafe { self.idle.wake_all() };
    }

    /// Returns the number of items that are queued or running: a snapshot.
    #[must_use]
    pub fn len(&self) -> usize {
        self.with(|s| s.len())
    }

    /// Returns whether nothing is queued or running: a snapshot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.with(|s| s.is_empty())
    }

    fn with<R>(&self, f: impl FnOnce(&mut State<P>) -> R) -> R {
        // SAFETY: initialised by `Ref::try_new`. No section of this file calls out or enters
        // another.
        unsafe { self.state.with(f) }
    }

    /// Waits until `ended` holds of the state.
    fn wait(&self, ended: impl Fn(&State<P>) -> bool) {
        // SAFETY: initialised by `try_new`; flushers hold no spinlock (contract of `RawQueue`).
        unsafe { self.done.wait_until(None, || self.with(|s| ended(s))) };
    }
}

// SAFETY: see each method; the list is FIFO by turn, `pending` is cleared by a swap before the run,
// `runnable` never gives an item that another worker runs, and after `run` returned only the mark
// on the worker's own stack is touched.
unsafe impl<P: Platform> RawQueue<SoftWork<P>> for Ref<SoftQueue<P>, P> {
    unsafe fn enqueue(&self, item: *const SoftWork<P>) -> bool {
        // SAFETY: the item is alive (caller).
        let work = unsafe { &*item };
        let taken = self.with(|s| {
            // Under the lock: a refusal promises that a run will serve the caller, who may flush or
            // cancel next, and must find it in the list.
            // ORDERING: pairs with the swaps in `run_one` (E3, E4) and `cancel` (E5) where those
            // were another queue's: acquires the links, and releases to them what was written
            // before, also when it is refused.
            if s.shut || work.pending.swap(1, Rmw::AcqRel) != 0 {
                return false;
            }
            // SAFETY: the mark was ours to set, so the item is in no list; it is alive until it
            // runs (caller).
            unsafe { s.append(item) };
            true
        });
        if taken {
            // SAFETY: settled, and `self` keeps the queue in place. The item itself may be gone
            // already.
            unsafe { self.idle.wake_all() };
        }
        taken
    }

    unsafe fn flush_item(&self, item: *const SoftWork<P>) {
        let target = self.with(|s| {
            // SAFETY: the lock is held and the caller keeps the item alive.
            let queued = unsafe { (*item).link(|l| l.queued.then_some(l.turn)) };
            queued.or_else(|| s.run_of(item))
        });
        let Some(target) = target else { return };
        self.wait(|s| {
            // SAFETY: the lock is held and the caller keeps the item alive.
            let queued = unsafe { (*item).link(|l| l.queued && l.turn <= target) };
            !queued && s.run_of(item).is_none_or(|turn| turn > target)
        });
    }

    unsafe fn cancel(&self, item: *const SoftWork<P>) -> bool {
        let taken = self.with(|s| {
            // SAFETY: the lock is held and the caller keeps the item alive.
            unsafe {
                let work = &*item;
                if !work.link(|l| l.queued) {
                    return false;
                }
                s.unlink(item);
                // ORDERING: as the swap in `run_one` (E5): acquires what a refused enqueue wrote
                // before, and releases the links to the next enqueue.
                work.pending.swap(0, Rmw::AcqRel);
            }
            true
        });
        if taken {
            // SAFETY: settled, and `self` keeps the queue in place.
            unsafe { self.done.wake_all() };
        }
        taken
    }

    unsafe fn is_pending(&self, item: *const SoftWork<P>) -> bool {
        // SAFETY: the item is alive (caller).
        unsafe { (*item).is_pending() }
    }

    fn flush(&self) {
        let target = self.with(|s| s.turn);
        self.wait(|s| !s.has_until(target));
    }

    fn drain(&self) {
        self.wait(|s| s.is_empty());
    }

    fn is_same(&self, other: &Self) -> bool {
        Ref::ptr_eq(self, other)
    }

    fn is_shut_down(&self) -> bool {
        self.with(|s| s.shut)
    }
}

impl<P: Platform> fmt::Debug for SoftQueue<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftQueue({} queued or running)", self.len())
    }
}
