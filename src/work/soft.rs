//! A work queue in software, generic over the platform: an intrusive list, any number of workers,
//! no allocation to enqueue.

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

struct Link<P: Platform> {
    prev: *const SoftWork<P>,
    next: *const SoftWork<P>,
    /// The turn (a number that grows with each enqueue) in which the item was queued.
    turn: u64,
    queued: bool,
}

// SAFETY: the list links are touched under the queue's lock only (invariant above).
unsafe impl<P: Platform> Send for SoftWork<P> {}
// SAFETY: shared access to the links happens under the queue's lock only, and `pending` is atomic.
unsafe impl<P: Platform> Sync for SoftWork<P> {}

// SAFETY: `SoftQueue` calls `run` once per successful enqueue.
unsafe impl<P: Platform> RawWork for SoftWork<P> {
    fn uninit(run: unsafe fn(*const Self)) -> Self {
        let link = Link { prev: ptr::null(), next: ptr::null(), turn: 0, queued: false };
        Self { run, pending: P::Usize::new(0), link: <P::Cell<_> as Cell<_>>::new(link) }
    }
}

impl<P: Platform> SoftWork<P> {
    fn is_pending(&self) -> bool {
        // Relaxed: a snapshot. What a run does is seen after a flush.
        self.pending.load(Load::Relaxed) != 0
    }

    /// # Safety
    /// The queue's lock must be held.
    unsafe fn link<R>(&self, f: impl FnOnce(&mut Link<P>) -> R) -> R {
        // SAFETY: the lock is held, so nobody else reaches the link (invariant of the type).
        self.link.with_mut(|l| f(unsafe { &mut *l }))
    }
}

impl<P: Platform> fmt::Debug for SoftWork<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SoftWork(pending: {})", self.is_pending())
    }
}

/// What a worker is running. Lives on the worker's stack, because the item may be freed by its own
/// function.
struct Mark<P: Platform> {
    /// Compared, never followed.
    item: *const SoftWork<P>,
    turn: u64,
    next: P::Cell<*const Mark<P>>,
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

/// # Invariants
/// * The list is in ascending order of `turn`.
/// * An item in the list is alive; a mark is alive until its worker unlinks it.
struct State<P: Platform> {
    head: *const SoftWork<P>,
    tail: *const SoftWork<P>,
    running: *const Mark<P>,
    /// The last turn that was assigned.
    turn: u64,
    shut: bool,
}

// SAFETY: the pointers are followed under the lock around the state only, while what they point to
// is alive (invariants).
unsafe impl<P: Platform> Send for State<P> {}

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
        let state =
            State { head: ptr::null(), tail: ptr::null(), running: ptr::null(), turn: 0, shut: false };
        let this = Self {
            state: SpinLock::<P, _>::uninit(LockClass::QUEUE, state),
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
        self.with(|s| {
            let mut n = 0_usize;
            // SAFETY: the lock is held: marks and queued items are alive.
            unsafe {
                let mut at = s.running;
                while let Some(mark) = at.as_ref() {
                    n = n.saturating_add(1);
                    at = mark.next.with(|p| *p);
                }
                let mut at = s.head;
                while let Some(item) = at.as_ref() {
                    n = n.saturating_add(1);
                    at = item.link(|l| l.next);
                }
            }
            n
        })
    }

    /// Returns whether nothing is queued or running: a snapshot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.with(|s| s.head.is_null() && s.running.is_null())
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

impl<P: Platform> State<P> {
    /// Returns the first item that no worker is running already.
    fn runnable(&self) -> Option<*const SoftWork<P>> {
        let mut at = self.head;
        // SAFETY: the lock is held: what is in the list is alive.
        while let Some(item) = unsafe { at.as_ref() } {
            if self.run_of(at).is_none() {
                return Some(at);
            }
            // SAFETY: the lock is held: `item` is in the list and alive.
            at = unsafe { item.link(|l| l.next) };
        }
        None
    }

    /// Returns the turn for which a worker is running `item`.
    fn run_of(&self, item: *const SoftWork<P>) -> Option<u64> {
        let mut at = self.running;
        // SAFETY: the lock is held: a mark is alive until it is unlinked.
        while let Some(mark) = unsafe { at.as_ref() } {
            if ptr::eq(mark.item, item) {
                return Some(mark.turn);
            }
            // SAFETY: the lock is held: `mark` is alive until it is unlinked.
            at = mark.next.with(|p| unsafe { *p });
        }
        None
    }

    /// Returns whether something of turn `turn` or earlier is queued or running.
    fn has_until(&self, turn: u64) -> bool {
        // SAFETY: the lock is held: items and marks are alive. The list ascends, so its head is the
        // earliest.
        unsafe {
            if self.head.as_ref().is_some_and(|item| item.link(|l| l.turn) <= turn) {
                return true;
            }
            let mut at = self.running;
            while let Some(mark) = at.as_ref() {
                if mark.turn <= turn {
                    return true;
                }
                at = mark.next.with(|p| *p);
            }
        }
        false
    }

    /// # Safety
    /// The lock must be held, the item alive and not in a list.
    unsafe fn append(&mut self, item: *const SoftWork<P>) {
        // CANNOT WRAP in practice: 2^64 enqueues.
        self.turn = self.turn.wrapping_add(1);
        // SAFETY: the lock is held; the old tail is in the list and so alive.
        unsafe {
            (*item).link(|l| *l = Link { prev: self.tail, next: ptr::null(), turn: self.turn, queued: true });
            match self.tail.as_ref() {
                Some(tail) => tail.link(|l| l.next = item),
                None => self.head = item,
            }
        }
        self.tail = item;
    }

    /// # Safety
    /// The lock must be held, and the item must be in the list.
    unsafe fn unlink(&mut self, item: *const SoftWork<P>) {
        // SAFETY: the lock is held; the neighbours are in the list and so alive.
        unsafe {
            let (prev, next) = (*item).link(|l| {
                l.queued = false;
                (l.prev, l.next)
            });
            match prev.as_ref() {
                Some(prev) => prev.link(|l| l.next = next),
                None => self.head = next,
            }
            match next.as_ref() {
                Some(next) => next.link(|l| l.prev = prev),
                None => self.tail = prev,
            }
        }
    }

    /// # Safety
    /// The lock must be held, and the mark must be in the list.
    unsafe fn unmark(&mut self, mark: *const Mark<P>) {
        // SAFETY: the lock is held: every mark in the list is alive.
        unsafe {
            let next = (*mark).next.with(|p| *p);
            if ptr::eq(self.running, mark) {
                self.running = next;
                return;
            }
            let mut at = self.running;
            while let Some(here) = at.as_ref() {
                let after = here.next.with(|p| *p);
                if ptr::eq(after, mark) {
                    here.next.with_mut(|p| *p = next);
                    return;
                }
                at = after;
            }
        }
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
        self.wait(|s| s.head.is_null() && s.running.is_null());
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
