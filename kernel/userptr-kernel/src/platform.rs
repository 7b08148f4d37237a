//! The kernel as a platform of the core: [`Kernel`].

use crate::ffi::{self, Room, Workqueue};
use core::alloc::Layout;
use core::ffi::c_void;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{self, Ordering};
use core::time::Duration;
use userptr::platform::{LockClass, RawLock, RawQueue, RawWait, RawWork};
use userptr::platforms::native::{NativeCell, NativeUsize};
use userptr::{Error, Platform, Ref, ref_counted};

/// Spinlocks, mutexes, wait queues, workqueues and `kvmalloc` of the running kernel.
#[derive(Debug)]
pub enum Kernel {}

// SAFETY: `smp_mb` is a full fence; `kvmalloc` keeps its promise about layouts (`uk_alloc` sees to
// the alignment).
unsafe impl Platform for Kernel {
    // The language's and the kernel's atomics are the same instructions on x86-64.
    type Usize = NativeUsize;
    // Untracked: the kernel's own checkers see the accesses themselves.
    type Cell<T> = NativeCell<T>;
    type Spin = KSpin;
    type Mutex = KMutex;
    type Wait = KWait;
    type Work = KWork;
    type Queue = KQueue;

    #[inline]
    fn fence() {
        // SAFETY: no arguments.
        unsafe { ffi::uk_fence() }
    }

    /// The kernel's monotonic clock (`ktime_get`).
    fn now() -> Duration {
        // SAFETY: no arguments.
        Duration::from_nanos(unsafe { ffi::uk_now_ns() })
    }

    /// A lease is a lock for those that wait for it: a kernel with lockdep learns of it, and
    /// reports a thread that allocates, or takes what an invalidation takes, while it holds one.
    /// Without lockdep: nothing.
    #[inline]
    fn note_lease(_: usize, taken: bool) {
        if cfg!(userptr_debug_locks) {
            // SAFETY: a plain value.
            unsafe { ffi::uk_note_lease(taken) }
        }
    }

    fn alloc(layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: plain numbers.
        NonNull::new(unsafe { ffi::uk_alloc(layout.size(), layout.align()) })
    }

    unsafe fn dealloc(ptr: NonNull<u8>, _: Layout) {
        // SAFETY: it came from `uk_alloc` (caller).
        unsafe { ffi::uk_free(ptr.as_ptr()) }
    }
}

macro_rules! lock {
    ($(#[$doc:meta])* $name:ident, $bytes:ident, $init:ident, $lock:ident, $unlock:ident) => {
        $(#[$doc])*
        pub struct $name {
            raw: Room<{ ffi::$bytes }>,
            class: u8,
        }

        // SAFETY: the kernel's lock gives exclusion and visibility.
        unsafe impl RawLock for $name {
            fn uninit(class: LockClass) -> Self {
                Self { raw: Room::new(), class: class.rank }
            }
            unsafe fn init(&self) {
                // SAFETY: the room is large enough (asserted in C) and at its final address
                // (caller).
                unsafe { ffi::$init(self.raw.get(), self.class.into()) }
            }
            #[inline]
            unsafe fn acquire(&self) {
                // SAFETY: initialised, and not held by this thread (caller).
                unsafe { ffi::$lock(self.raw.get()) }
            }
            #[inline]
            unsafe fn release(&self) {
                // SAFETY: held by this thread (caller).
                unsafe { ffi::$unlock(self.raw.get()) }
            }
        }
    };
}
lock!(
    /// A `spinlock_t`, in place.
    KSpin, SPIN, uk_spin_init, uk_spin_lock, uk_spin_unlock
);
lock!(
    /// A `struct mutex`, in place.
    KMutex, MUTEX, uk_mutex_init, uk_mutex_lock, uk_mutex_unlock
);

/// A `wait_queue_head_t`, in place.
pub struct KWait(Room<{ ffi::WAIT }>);

// SAFETY: the kernel's wait queue is made to be shared.
unsafe impl Send for KWait {}
// SAFETY: as above.
unsafe impl Sync for KWait {}

unsafe extern "C" fn met(data: *mut c_void) -> bool {
    // SAFETY: `wait_until` passes its own condition, which outlives the wait.
    let condition = unsafe { &mut *data.cast::<&mut dyn FnMut() -> bool>() };
    condition()
}

impl KWait {
    /// Waits as `wait_until` does, but a signal ends it. Returns `Ok(false)` if the time passed.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    ///
    /// # Safety
    /// Initialised, and the caller holds no spinlock and is no invalidation.
    pub unsafe fn wait_interruptible(
        &self,
        timeout: Duration,
        mut condition: impl FnMut() -> bool,
    ) -> Result<bool, Error> {
        let ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let mut condition: &mut dyn FnMut() -> bool = &mut condition;
        // SAFETY: initialised (caller); the condition lives until the call returns.
        match unsafe { ffi::uk_wait_interruptible(self.0.get(), ns, met, (&raw mut condition).cast()) } {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::Interrupted),
        }
    }
}

// SAFETY: `wait_event` queues the thread, then looks, and `wq_has_sleeper` fences, then looks: one
// sees the other.
unsafe impl RawWait for KWait {
    fn uninit() -> Self {
        Self(Room::new())
    }

    unsafe fn init(&self) {
        // SAFETY: the room is large enough (asserted in C) and at its final address (caller).
        unsafe { ffi::uk_wait_init(self.0.get()) }
    }

    // Inlined into the invalidation: it has one or two conditions there, not one through a pointer.
    #[inline]
    unsafe fn wait_until(&self, timeout: Option<Duration>, condition: &mut dyn FnMut() -> bool) -> bool {
        // Mostly there is nothing to wait for: no lease is held, the device is idle. That costs no
        // call into C, but where a checker has to see that sleeping is allowed here.
        if !cfg!(userptr_debug_locks) && condition() {
            return true;
        }
        // A timeout too long for 64 bits of nanoseconds is none.
        let ns = timeout.and_then(|t| u64::try_from(t.as_nanos()).ok()).unwrap_or(u64::MAX);
        let mut condition = condition;
        // SAFETY: initialised and in sleepable context (caller); the condition lives until the call
        // returns.
        unsafe { ffi::uk_wait_until(self.0.get(), ns, met, (&raw mut condition).cast()) }
    }

    unsafe fn wake_all(&self) {
        // SAFETY: initialised and in place (caller).
        unsafe { ffi::uk_wake_all(self.0.get()) }
    }
}

/// A `work_struct`, in place, with the function of the core beside it.
///
/// # Invariants
/// `raw` lies first: the kernel's pointer is ours. `busy` is the counter of the one queue that the
/// item goes to; it is written by whoever sets the pending bit, before that.
#[repr(C)]
pub struct KWork {
    raw: Room<{ ffi::WORK }>,
    run: unsafe fn(*const Self),
    busy: atomic::AtomicPtr<atomic::AtomicUsize>,
}

// SAFETY: the kernel's work item is made to be shared; the function is a plain pointer, the other
// word is atomic.
unsafe impl Send for KWork {}
// SAFETY: as above.
unsafe impl Sync for KWork {}

// SAFETY: a workqueue calls `userptr_work_run` once per successful `queue_work`.
unsafe impl RawWork for KWork {
    fn uninit(run: unsafe fn(*const Self)) -> Self {
        Self { raw: Room::new(), run, busy: atomic::AtomicPtr::new(core::ptr::null_mut()) }
    }

    unsafe fn init(&self) {
        // SAFETY: the room is large enough (asserted in C) and at its final address (caller).
        unsafe { ffi::uk_work_init(self.raw.get(), self.run as *const c_void) }
    }
}

/// Called by a worker of the kernel, whose pending bit is clear by now.
///
/// # Safety
/// `work` lies first in a [`KWork`] that was queued by [`KQueue::enqueue`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn userptr_work_run(work: *const KWork) {
    // SAFETY: alive until its function has run (contract of `enqueue`).
    let (run, busy) = unsafe { ((*work).run, (*work).busy.load(Ordering::Relaxed)) };
    // SAFETY: one call for one enqueue. The item may be gone afterwards.
    unsafe { run(work) };
    // ORDERING: pairs with the acquire load of `drain`: what the function did is visible to whoever
    // reads zero.
    // SAFETY: the queue outlives its items: freeing it waits for this worker first.
    unsafe { (*busy).fetch_sub(1, Ordering::Release) };
}

/// What a queue is for, which decides its flags.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Revocations: runs inside reclaim, so it has a rescuer thread.
    Revoke = 0,
    /// Pins: allocates, faults, takes the address-space lock.
    Pin = 1,
    /// Frees records of address spaces: waits for callbacks in progress.
    Release = 2,
    /// The jobs of the device, if workers do them: an invalidation waits for them, so it has a
    /// rescuer thread, too.
    Jobs = 3,
}

/// A handle to a workqueue; a copy is another handle to the same one. Dropping the last waits for
/// the items, so the driver keeps one until its very end: the last may not go in an item of the
/// queue itself.
#[derive(Clone, Debug)]
pub struct KQueue(Ref<Inner, Kernel>);

/// # Invariants
/// `busy` counts the items that are queued or running.
struct Inner {
    wq: NonNull<Workqueue>,
    busy: atomic::AtomicUsize,
}

// SAFETY: a workqueue is made to be shared; the counter is atomic.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}
// Queued items point here, too, but dropping waits for them.
ref_counted! { impl RefCounted<Kernel> for Inner {} }

impl KQueue {
    /// A queue of that kind.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn try_new(kind: Kind) -> Result<Self, Error> {
        // SAFETY: a plain number.
        let wq = NonNull::new(unsafe { ffi::uk_queue_new(kind as u32) }).ok_or(Error::NoMemory)?;
        // If this fails, the value comes back and its drop destroys the queue.
        let inner = Ref::try_new(Inner { wq, busy: atomic::AtomicUsize::new(0) })?;
        Ok(Self(inner))
    }

    fn wq(&self) -> *mut Workqueue {
        self.0.wq.as_ptr()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: `destroy_workqueue` waits for what is queued; nobody enqueues any more, as nobody
        // has the queue.
        unsafe { ffi::uk_queue_free(self.wq.as_ptr()) }
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Workqueue")
    }
}

fn raw(item: *const KWork) -> *mut c_void {
    item.cast_mut().cast()
}

// SAFETY: the contract of `RawQueue` is the one of a workqueue: the pending bit is cleared with a
// full barrier before the function runs, one item runs on one worker, and the item is not touched
// after its function has run.
unsafe impl RawQueue<KWork> for KQueue {
    unsafe fn enqueue(&self, item: *const KWork) -> bool {
        // SAFETY: alive (caller). An item goes to one queue, so this writes what is there already,
        // or is the first.
        unsafe { (*item).busy.store((&raw const self.0.busy).cast_mut(), Ordering::Relaxed) };
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        // SAFETY: initialised and alive until it has run (caller).
        if unsafe { ffi::uk_queue_work(self.wq(), raw(item)) } {
            return true;
        }
        self.0.busy.fetch_sub(1, Ordering::Release);
        false
    }

    unsafe fn flush_item(&self, item: *const KWork) {
        // SAFETY: initialised and alive (caller).
        unsafe { ffi::uk_flush_work(raw(item)) }
    }

    unsafe fn cancel(&self, item: *const KWork) -> bool {
        // SAFETY: initialised and alive (caller).
        let taken = unsafe { ffi::uk_cancel_work(raw(item)) };
        if taken {
            self.0.busy.fetch_sub(1, Ordering::Release);
        }
        taken
    }

    unsafe fn is_pending(&self, item: *const KWork) -> bool {
        // SAFETY: initialised and alive (caller).
        unsafe { ffi::uk_work_pending(raw(item)) }
    }

    fn flush(&self) {
        // SAFETY: the queue lives.
        unsafe { ffi::uk_flush_queue(self.wq()) }
    }

    fn is_same(&self, other: &Self) -> bool {
        core::ptr::eq(self.wq(), other.wq())
    }

    /// Not `drain_workqueue`, which warns when somebody outside the queue enqueues meanwhile.
    fn drain(&self) {
        loop {
            self.flush();
            // ORDERING: pairs with the release in `userptr_work_run`.
            if self.0.busy.load(Ordering::Acquire) == 0 {
                break;
            }
        }
        // An item that came after the flush has ended for us, but its thread may still be on the
        // way back from it.
        self.flush();
    }
}
