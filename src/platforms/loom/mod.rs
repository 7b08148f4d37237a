//! The platform made of loom: every atomic access, lock and cell access is a step that the checker
//! explores.
//!
//! A driver that is generic over [`Platform`] is model-checked by running it on [`Loom`] inside
//! `loom::model`. What the checker cannot see: accesses that do not go through the platform; store
//! buffering through sequentially consistent *accesses* (the core uses fences for it); another
//! thread between an access and the fence right after it; more than four spawned threads.
//!
//! # The search of loom 0.7.3 is not complete
//!
//! loom looks for a race with the last access of an atomic only. A thread that loads and then
//! writes hides the loads of all other threads behind its own
//! ([tokio-rs/loom#392](https://github.com/tokio-rs/loom/issues/392)): this model has one
//! execution, in which the main thread loads 0, and no check of it meets the other one.
//!
//! ```text
//! thread::spawn(move || { y.load(Relaxed); y.store(1, Relaxed); });
//! x.load(Relaxed)
//! ```
//!
//! The models of this crate run on a loom without that hole: a copy of the registry's, with a patch
//! of ours. A crate's patches reach its own workspace only, so that models of your own need the
//! same. This package has the patch, and a script that writes the copy:
//!
//! ```text
//! path/to/userptr/loom-tests/loom/repair target/loom        # in your package
//! cargo test --config 'patch.crates-io.loom.path="target/loom"' ...
//! ```
//!
//! or, for good, in your workspace's manifest: `[patch.crates-io]` with `loom = { path = "..." }`.
//!
//! # Deadlines
//!
//! The clock stands still, so no deadline expires unseen: a wait with a finite deadline lasts until
//! its condition holds, and a model in which it never does fails as a deadlock. A deadline expires
//! where the model says so: [`set_deadlines`], or [`Model::deadlines`] for all of a model. A
//! deadline of zero looks once, as everywhere.
//!
//! # A model of a driver
//!
//! [`Model`] explores a closure in every interleaving, in a process of its own; [`Memory`] is an
//! address space whose accesses the checker sees; [`context`] makes a context whose queues the
//! model serves. [The page](crate::docs::model) has a whole one.
//!
//! The simulated machine of `userptr-sim` is made of real locks and threads. On this platform it
//! would check nothing, so it does not compile:
//! ```compile_fail,E0080
//! # use userptr::platforms::loom::Loom;
//! # use userptr_sim::{DmaDevice, Machine};
//! let device = DmaDevice::<Loom>::new(&Machine::new());
//! ```
//! ```compile_fail,E0080
//! # use userptr::platforms::loom::Loom;
//! # use userptr_sim::{Machine, Space};
//! let space = Space::<Loom>::of(&Machine::new().process());
//! ```
//!
//! A mechanism alone needs no memory:
//! ```
//! use userptr::{Refcount, platforms::loom::{Loom, Model}};
//! Model::new().check(|| {
//!     let count = Refcount::<Loom>::new();
//!     assert!(count.put());
//! });
//! ```

mod memory;
mod model;
mod served;

pub use memory::{Frame, Memory, MemoryUsers};
pub use model::{Failure, Model, Thread, spawn};
pub use served::{Served, context};

use super::native::{load, rmw, store};
use crate::platform::{AtomicUsize, Cell, Load, LockClass, Platform, RawLock, RawWait, Rmw, Store};
use crate::refcount::Ref;
use crate::work::{SharedQueue, SoftWork};
use ::loom::sync::atomic;
use ::loom::sync::{Condvar, Mutex, MutexGuard};
use core::alloc::Layout;
use core::cell::{Cell as PlainCell, UnsafeCell};
use core::fmt;
use core::hash::{Hash, Hasher};
use core::ptr::NonNull;
use core::time::Duration;

/// The model-checking platform.
#[derive(Debug)]
pub enum Loom {}

// SAFETY: the fence is loom's sequentially consistent one; the allocator is the global one, with
// loom watching for leaks.
unsafe impl Platform for Loom {
    type Usize = LoomUsize;
    type Cell<T> = LoomCell<T>;
    type Spin = LoomLock;
    type Mutex = LoomLock;
    type Wait = LoomWait;
    type Work = SoftWork<Self>;
    type Queue = Ref<SharedQueue<Self>, Self>;

    /// Small, so that a model can fill the slots and see the overflow.
    const WINDOWS: usize = 1;
    const SHARDS: usize = 2;
    const IS_MODEL: bool = true;

    fn fence() {
        atomic::fence(atomic::Ordering::SeqCst);
    }

    /// The number of the thread in the model.
    fn shard() -> usize {
        let mut number = Number(0);
        ::loom::thread::current().id().hash(&mut number);
        number.0
    }

    fn alloc(layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: zero-sized layouts are never passed (`Platform::alloc`).
        NonNull::new(unsafe { ::loom::alloc::alloc(layout) })
    }

    unsafe fn dealloc(ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: from `alloc` with this layout, and not used again (caller).
        unsafe { ::loom::alloc::dealloc(ptr.as_ptr(), layout) }
    }
}

/// Keeps the last number that is hashed: loom shows a thread's number in no other way.
struct Number(usize);

impl Hasher for Number {
    fn write(&mut self, _: &[u8]) {}
    fn write_usize(&mut self, number: usize) {
        self.0 = number;
    }
    fn finish(&self) -> u64 {
        0
    }
}

extern crate std;

/// What a finite deadline does in a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deadlines {
    /// It never expires.
    #[default]
    Never,
    /// It expires at once: each wait looks once, so that a model explores "the deadline has passed"
    /// at every point.
    AtOnce,
}

std::thread_local! {
    /// All threads of a model run in one thread of the operating system. No step of a model.
    static DEADLINES: PlainCell<Deadlines> = const { PlainCell::new(Deadlines::Never) };
}

/// Says what finite deadlines do in the waits that begin from now on, in every thread of the model.
/// A [`Model`] begins each execution with its own setting; outside of one, the last that was set
/// counts.
pub fn set_deadlines(deadlines: Deadlines) {
    DEADLINES.set(deadlines);
}

/// loom's atomic word.
#[derive(Debug)]
pub struct LoomUsize(atomic::AtomicUsize);

// SAFETY: loom's own atomics, with the orderings asked for.
unsafe impl AtomicUsize for LoomUsize {
    fn new(v: usize) -> Self {
        Self(atomic::AtomicUsize::new(v))
    }
    fn load(&self, o: Load) -> usize {
        self.0.load(load(o))
    }
    fn store(&self, v: usize, o: Store) {
        self.0.store(v, store(o));
    }
    fn swap(&self, v: usize, o: Rmw) -> usize {
        self.0.swap(v, rmw(o))
    }
    fn fetch_add(&self, v: usize, o: Rmw) -> usize {
        self.0.fetch_add(v, rmw(o))
    }
    fn fetch_sub(&self, v: usize, o: Rmw) -> usize {
        self.0.fetch_sub(v, rmw(o))
    }
    fn compare_exchange(&self, old: usize, new: usize, ok: Rmw, no: Load) -> Result<usize, usize> {
        self.0.compare_exchange(old, new, rmw(ok), load(no))
    }
}

/// loom's tracked cell: a conflicting access that is not ordered fails the model.
pub struct LoomCell<T>(::loom::cell::UnsafeCell<T>);

impl<T> fmt::Debug for LoomCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoomCell")
    }
}

// SAFETY: both methods pass the cell's own pointer; loom tracks and synchronises nothing.
unsafe impl<T> Cell<T> for LoomCell<T> {
    #[track_caller]
    fn new(value: T) -> Self {
        Self(::loom::cell::UnsafeCell::new(value))
    }
    #[track_caller]
    fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        self.0.with(f)
    }
    #[track_caller]
    fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        self.0.with_mut(f)
    }
}

/// loom's mutex without data, with its guard parked beside it.
pub struct LoomLock {
    mutex: Mutex<()>,
    /// # Invariants
    /// Touched by the holder of `mutex` only.
    guard: UnsafeCell<Option<MutexGuard<'static, ()>>>,
}

// SAFETY: the guard never leaves the thread that holds the lock (contract of `RawLock`).
unsafe impl Send for LoomLock {}
// SAFETY: the parked guard is touched by the holder of the mutex only (invariant of the field).
unsafe impl Sync for LoomLock {}

impl fmt::Debug for LoomLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoomLock")
    }
}

// SAFETY: mutual exclusion and visibility are the mutex's.
unsafe impl RawLock for LoomLock {
    fn uninit(_: LockClass) -> Self {
        Self { mutex: Mutex::new(()), guard: UnsafeCell::new(None) }
    }

    unsafe fn acquire(&self) {
        let guard = self.mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // SAFETY: only the lifetime changes; the guard is dropped by `release`, or never, and the
        // lock does not move while held.
        let guard = unsafe { core::mem::transmute::<MutexGuard<'_, ()>, MutexGuard<'static, ()>>(guard) };
        // SAFETY: the lock is held (invariant of the field).
        unsafe { *self.guard.get() = Some(guard) };
    }

    unsafe fn release(&self) {
        // SAFETY: the lock is held until `guard` is dropped, which happens after the access.
        let guard = unsafe { (*self.guard.get()).take() };
        drop(guard);
    }
}

/// A condition variable. The condition is evaluated under the mutex that wakers pass through: fewer
/// steps than an event count, and allowed because the core wakes only outside the locks that its
/// conditions take.
#[derive(Debug)]
pub struct LoomWait {
    gate: Mutex<()>,
    moved: Condvar,
}

// SAFETY: the waker passes through the gate after its write; the sleeper asks and sleeps in one
// section of the gate.
unsafe impl RawWait for LoomWait {
    fn uninit() -> Self {
        Self { gate: Mutex::new(()), moved: Condvar::new() }
    }

    unsafe fn wait_until(&self, timeout: Option<Duration>, condition: &mut dyn FnMut() -> bool) -> bool {
        if timeout.is_some_and(|t| t.is_zero() || DEADLINES.get() == Deadlines::AtOnce) {
            return condition();
        }
        let mut gate = self.gate.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while !condition() {
            gate = self.moved.wait(gate).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        true
    }

    unsafe fn wake_all(&self) {
        drop(self.gate.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        self.moved.notify_all();
    }
}
