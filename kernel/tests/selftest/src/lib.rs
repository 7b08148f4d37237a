//! Tests of the platform inside the kernel: does [`Kernel`] keep the promises of the platform
//! traits?
//!
//! A module that is to test itself calls [`run`]. The subtests `host-*` of the user program ask the
//! sample module for it.
#![no_std]

#[cfg(feature = "seeded")]
mod seeded;

use core::alloc::Layout;
use core::ffi::c_int;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use userptr::platform::{Cell, LockClass, Mutex, RawWork, SpinLock, WaitQueue};
use userptr::work::{SoftQueue, cancel, enqueue, flush_item, is_pending};
use userptr::{Error, HasWork, LastPut, Platform, RawQueue, Ref, RefCounted, has_work};
use userptr_kernel::platform::KSpin;
use userptr_kernel::{KQueue, KWait, Kernel, Kind, allocations, now_ns, pause};

/// 0, the line that failed, or a negative errno.
type TestResult = c_int;

macro_rules! check {
    ($($what:tt)*) => {
        if !($($what)*) {
            return line!() as TestResult;
        }
    };
}
macro_rules! get {
    ($what:expr) => {
        match $what {
            Ok(value) => value,
            Err(_) => return line!() as TestResult,
        }
    };
}

/// What came of a test.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// The line of this crate that failed; 0 if none did.
    pub line: u32,
    /// Allocations that it left behind.
    pub left: i64,
}

/// Runs a test.
///
/// # Errors
/// [`Error::Invalid`]: there is no such test. [`Error::NoMemory`].
pub fn run(which: u64) -> Result<Outcome, Error> {
    let before = allocations();
    let result = match which {
        0 => references(),
        1 => put_and_lock(),
        2 => work_runs_and_is_refused_while_pending(),
        3 => cancelled_work_gives_its_reference_back(),
        4 => drain_follows_chains(),
        5 => two_threads_share_a_spinlock(),
        6 => wait_times_out_and_wakes(),
        7 => allocations_are_aligned_and_fallible(),
        8 => software_queue(),
        9 => interval_tree(),
        #[cfg(feature = "seeded")]
        100.. => {
            seeded::run(which)?;
            0
        }
        _ => return Err(Error::Invalid),
    };
    let line = u32::try_from(result).map_err(|_| Error::NoMemory)?;
    Ok(Outcome { line, left: allocations().wrapping_sub(before) })
}

static LAST_PUTS: AtomicUsize = AtomicUsize::new(0);

struct Plain(u64);
// SAFETY: nothing to settle, nothing points to it.
unsafe impl RefCounted<Kernel> for Plain {
    unsafe fn last_put(&self) -> LastPut {
        LAST_PUTS.fetch_add(1, Ordering::Relaxed);
        LastPut::Drop
    }
}

fn references() -> TestResult {
    let before = LAST_PUTS.load(Ordering::Relaxed);
    let a = get!(Ref::<Plain, Kernel>::try_new(Plain(7)));
    let b = a.clone();
    check!(Ref::count(&a) == 2 && Ref::ptr_eq(&a, &b));
    drop(a);
    check!(b.0 == 7 && LAST_PUTS.load(Ordering::Relaxed) == before);
    drop(b);
    check!(LAST_PUTS.load(Ordering::Relaxed) == before + 1);
    0
}

struct Locked {
    table: Mutex<Kernel, u32>,
}
// SAFETY: initialises its lock; nothing points to it.
unsafe impl RefCounted<Kernel> for Locked {
    unsafe fn init(&self) {
        // SAFETY: once, at the final address (caller).
        unsafe { self.table.init() }
    }
}

fn put_and_lock() -> TestResult {
    let table = Locked { table: Mutex::uninit(LockClass::REGISTRY, 0) };
    let table = get!(Ref::<Locked, Kernel>::try_new(table));
    let a = get!(Ref::<Plain, Kernel>::try_new(Plain(1)));
    let b = a.clone();
    // SAFETY: the lock is initialised and this thread does not hold it.
    check!(unsafe { Ref::put_and_lock(a, &table.table) }.is_none());
    // SAFETY: as above.
    let Some((last, mut guard)) = (unsafe { Ref::put_and_lock(b, &table.table) }) else {
        return line!() as TestResult;
    };
    guard.with(|n| *n += 1);
    drop(guard);
    check!(last.0 == 1);
    drop(last);
    // SAFETY: as above.
    check!(unsafe { table.table.with(|n| *n) } == 1);
    0
}

/// Counts its runs; may hold its worker at a gate, and may queue itself again.
struct Counter {
    work: userptr::Work<Self, Kernel>,
    queue: *const KQueue,
    gate: WaitQueue<KWait>,
    open: AtomicUsize,
    inside: AtomicUsize,
    runs: AtomicUsize,
    again: AtomicUsize,
}
// SAFETY: `queue` is only used by the test that owns the queue and drains it before it goes.
unsafe impl Send for Counter {}
// SAFETY: as above.
unsafe impl Sync for Counter {}
// SAFETY: initialises its work item and its wait queue; nothing points to it.
unsafe impl RefCounted<Kernel> for Counter {
    unsafe fn init(&self) {
        // SAFETY: once, at the final address (caller).
        unsafe {
            self.work.init();
            self.gate.init();
        }
    }
}
// SAFETY: the offset is checked by the macro; `init` initialises the item.
unsafe impl HasWork<Kernel> for Counter {
    has_work!(work: userptr::Work<Counter, Kernel>);
    fn run(this: Ref<Self, Kernel>) {
        this.inside.store(1, Ordering::Release);
        // SAFETY: initialised; a worker holds no spinlock.
        unsafe {
            this.gate.wake_all();
            this.gate.wait_until(None, || this.open.load(Ordering::Acquire) != 0);
        }
        this.runs.fetch_add(1, Ordering::Relaxed);
        if this.again.load(Ordering::Relaxed) != 0 {
            // Time for a flush that does not follow to return too early.
            pause();
            this.again.fetch_sub(1, Ordering::Relaxed);
            // SAFETY: the test keeps the queue until it is drained.
            let queue = unsafe { &*this.queue };
            drop(enqueue::<Self, Kernel, 0>(queue, this));
        }
    }
}

fn counter(queue: &KQueue, open: usize, again: usize) -> Result<Ref<Counter, Kernel>, ()> {
    let counter = Counter {
        work: userptr::Work::uninit(),
        queue,
        gate: WaitQueue::uninit(),
        open: AtomicUsize::new(open),
        inside: AtomicUsize::new(0),
        runs: AtomicUsize::new(0),
        again: AtomicUsize::new(again),
    };
    Ref::try_new(counter).or(Err(()))
}

/// Waits until the item runs, for at most two seconds.
fn entered(c: &Counter) -> bool {
    let limit = Some(Duration::from_secs(2));
    // SAFETY: initialised, no spinlock held.
    unsafe { c.gate.wait_until(limit, || c.inside.load(Ordering::Acquire) != 0) }
}

fn open(c: &Counter) {
    c.open.store(1, Ordering::Release);
    // SAFETY: initialised and alive.
    unsafe { c.gate.wake_all() }
}

fn work_runs_and_is_refused_while_pending() -> TestResult {
    let queue = get!(KQueue::try_new(Kind::Pin));
    let c = get!(counter(&queue, 0, 0));
    get!(enqueue::<_, Kernel, 0>(&queue, c.clone()));
    // It stands at the gate: its pending bit is clear, so once more is accepted and twice more is
    // refused.
    let entered = entered(&c);
    let second = enqueue::<_, Kernel, 0>(&queue, c.clone()).is_ok();
    let third = enqueue::<_, Kernel, 0>(&queue, c.clone());
    let pending = is_pending::<_, Kernel, 0>(&queue, &c);
    open(&c);
    // SAFETY: it is only ever enqueued on this queue.
    unsafe { flush_item::<_, Kernel, 0>(&queue, &c) };
    check!(entered && second && pending);
    check!(third.is_err_and(|back| Ref::ptr_eq(&back, &c)));
    check!(c.runs.load(Ordering::Relaxed) == 2);
    check!(!is_pending::<_, Kernel, 0>(&queue, &c));
    queue.drain();
    check!(Ref::count(&c) == 1);
    0
}

fn cancelled_work_gives_its_reference_back() -> TestResult {
    let queue = get!(KQueue::try_new(Kind::Pin));
    let c = get!(counter(&queue, 0, 0));
    get!(enqueue::<_, Kernel, 0>(&queue, c.clone()));
    let entered = entered(&c);
    // One worker per item: the second enqueue waits for the first run, so it can be cancelled.
    let second = enqueue::<_, Kernel, 0>(&queue, c.clone()).is_ok();
    // SAFETY: it is only ever enqueued on this queue.
    let back = unsafe { cancel::<_, Kernel, 0>(&queue, &c) };
    // SAFETY: as above.
    let nothing = unsafe { cancel::<_, Kernel, 0>(&queue, &c) };
    open(&c);
    queue.drain();
    check!(entered && second && nothing.is_none());
    check!(back.is_some_and(|back| Ref::ptr_eq(&back, &c)));
    check!(c.runs.load(Ordering::Relaxed) == 1);
    check!(Ref::count(&c) == 1);
    0
}

fn drain_follows_chains() -> TestResult {
    let queue = get!(KQueue::try_new(Kind::Revoke));
    // A context refuses one queue for two purposes.
    let other = get!(KQueue::try_new(Kind::Revoke));
    check!(queue.is_same(&queue.clone()) && !queue.is_same(&other));
    drop(other);
    let c = get!(counter(&queue, 1, 20));
    get!(enqueue::<_, Kernel, 0>(&queue, c.clone()));
    queue.drain();
    check!(c.runs.load(Ordering::Relaxed) == 21);
    check!(Ref::count(&c) == 1);
    0
}

/// Adds to a plain number under a spinlock, from a worker and from the thread that queued it.
struct Adder {
    work: userptr::Work<Self, Kernel>,
    sum: SpinLock<Kernel, u64>,
    arrived: AtomicUsize,
}
const ROUNDS: u64 = 50_000;
impl Adder {
    /// `false`: the other did not come.
    fn add(&self) -> bool {
        self.arrived.fetch_add(1, Ordering::Relaxed);
        // Both at once, or the lock has nothing to do. Without sleeping, so that they are on two
        // processors.
        let limit = now_ns().saturating_add(5_000_000_000);
        while self.arrived.load(Ordering::Relaxed) < 2 {
            core::hint::spin_loop();
            if now_ns() > limit {
                return false;
            }
        }
        for _ in 0..ROUNDS {
            // SAFETY: initialised, not held by this thread, and the section is plain.
            unsafe {
                self.sum.with(|n| {
                    let old = core::hint::black_box(*n);
                    core::hint::spin_loop();
                    *n = core::hint::black_box(old.wrapping_add(1));
                })
            }
        }
        true
    }
}
// SAFETY: initialises the item and the lock; nothing points to it.
unsafe impl RefCounted<Kernel> for Adder {
    unsafe fn init(&self) {
        // SAFETY: once, at the final address (caller).
        unsafe {
            self.work.init();
            self.sum.init();
        }
    }
}
// SAFETY: the offset is checked by the macro; `init` initialises the item.
unsafe impl HasWork<Kernel> for Adder {
    has_work!(work: userptr::Work<Adder, Kernel>);
    fn run(this: Ref<Self, Kernel>) {
        this.add();
    }
}

fn two_threads_share_a_spinlock() -> TestResult {
    let queue = get!(KQueue::try_new(Kind::Revoke));
    let adder = Adder {
        work: userptr::Work::uninit(),
        sum: SpinLock::<Kernel, u64>::uninit(LockClass::NOTIFIER, 0),
        arrived: AtomicUsize::new(0),
    };
    let adder = get!(Ref::<Adder, Kernel>::try_new(adder));
    get!(enqueue::<_, Kernel, 0>(&queue, adder.clone()));
    let met = adder.add();
    queue.flush();
    check!(met);
    // SAFETY: initialised, not held by this thread.
    check!(unsafe { adder.sum.with(|n| *n) } == 2 * ROUNDS);
    0
}

fn wait_times_out_and_wakes() -> TestResult {
    let queue = get!(KQueue::try_new(Kind::Pin));
    let c = get!(counter(&queue, 0, 0));
    // SAFETY: initialised, no spinlock held.
    unsafe {
        check!(!c.gate.wait_until(Some(Duration::ZERO), || false));
        check!(c.gate.wait_until(Some(Duration::ZERO), || true));
        check!(!c.gate.wait_until(Some(Duration::from_millis(20)), || false));
        check!(c.gate.wait_until(None, || true));
    }
    get!(enqueue::<_, Kernel, 0>(&queue, c.clone()));
    let entered = entered(&c);
    open(&c);
    queue.drain();
    check!(entered);
    0
}

fn allocations_are_aligned_and_fallible() -> TestResult {
    let before = allocations();
    for (size, align) in [(1, 1), (24, 8), (40, 16), (200, 128), (4097, 64), (70_000, 4096), (5, 512)] {
        let layout = get!(Layout::from_size_align(size, align));
        let Some(p) = Kernel::alloc(layout) else { return line!() as TestResult };
        let aligned = p.as_ptr().addr() % align == 0;
        // SAFETY: fresh memory of that size.
        unsafe {
            p.write_bytes(0xA5, size);
            Kernel::dealloc(p, layout);
        }
        check!(aligned);
    }
    let huge = get!(Layout::from_size_align(1 << 46, 8));
    check!(Kernel::alloc(huge).is_none());
    check!(allocations() == before);
    0
}

/// The core's own queue on the kernel's locks and waits.
fn software_queue() -> TestResult {
    use userptr::work::SoftWork;
    static RUNS: AtomicUsize = AtomicUsize::new(0);
    unsafe fn count(_: *const SoftWork<Kernel>) {
        RUNS.fetch_add(1, Ordering::Relaxed);
    }
    RUNS.store(0, Ordering::Relaxed);
    let queue = get!(SoftQueue::<Kernel>::try_new());
    let item = SoftWork::<Kernel>::uninit(count);
    // SAFETY: the item lives until the end of this function, at its final address, and is run
    // before that.
    unsafe {
        item.init();
        check!(queue.enqueue(&raw const item));
        check!(!queue.enqueue(&raw const item));
        check!(queue.run_one() && !queue.run_one());
        queue.flush_item(&raw const item);
        check!(queue.enqueue(&raw const item) && queue.cancel(&raw const item));
    }
    queue.drain();
    check!(RUNS.load(Ordering::Relaxed) == 1 && queue.is_empty());
    let cell = <<Kernel as Platform>::Cell<u32> as Cell<u32>>::new(5);
    // SAFETY: nobody else has the cell.
    check!(cell.with(|v| unsafe { *v }) == 5);
    let _ = <KSpin as userptr::platform::RawLock>::uninit(LockClass::QUEUE);
    0
}

/// The core's tree, against the plain answer, for every pair of bounds.
fn interval_tree() -> TestResult {
    use userptr::AddrRange;
    use userptr::interval::{IntervalIndex, Node, Tree};
    const NODES: usize = 24;
    // Overlapping, nested, and some identical.
    let range =
        |i: usize| AddrRange::inclusive((i * 7) % 40, (i * 7) % 40 + (i % 5) * 3).unwrap_or(AddrRange::ALL);
    let mut nodes = get!(userptr::Buffer::<core::ptr::NonNull<Node<Kernel>>, Kernel>::with_capacity(NODES));
    let layout = Layout::new::<Node<Kernel>>();
    let mut tree = <Tree<Kernel> as IntervalIndex<Kernel>>::new();
    let mut failed = 0;
    for i in 0..NODES {
        let Some(node) = Kernel::alloc(layout) else { break };
        let node = node.cast::<Node<Kernel>>();
        // SAFETY: fresh memory of that layout, in place until it is freed below.
        unsafe {
            node.write(Node::new(range(i)));
            if nodes.push(node).is_err() || tree.insert(node).is_err() {
                failed = line!();
            }
        }
    }
    for start in 0..60 {
        for last in start..60 {
            let Some(query) = AddrRange::inclusive(start, last) else { continue };
            let (mut hits, mut at) = (0, tree.first(query));
            while let Some(node) = at {
                hits += 1;
                // SAFETY: in the tree.
                at = unsafe { tree.next(node, query) };
            }
            if hits != (0..nodes.len()).filter(|i| range(*i).overlaps(query)).count() {
                failed = line!();
            }
        }
    }
    for node in nodes.iter() {
        // SAFETY: in the tree; nobody else has it.
        unsafe {
            tree.remove(*node);
            node.drop_in_place();
            Kernel::dealloc(node.cast(), layout);
        }
    }
    if !tree.is_empty() || nodes.len() != NODES {
        failed = line!();
    }
    failed as TestResult
}
