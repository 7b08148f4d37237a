//! The checking platform: [`Sim`] is the platform of the standard library with a lock checker and a
//! metered allocator around it.
//!
//! It finds on every run, not only when the schedule is unlucky: a lock taken out of order, a sleep
//! under a spinlock, an allocation under a lock that an invalidation takes (rule 27), a call-out
//! under such a lock, memory freed inside a revocation (rule 32). A violation panics at once, with
//! the locks that are held. See [`lockdep`] for the rules and [`Meter`] for failing, counting and
//! recursing allocations.

pub mod lockdep;
mod meter;

pub use meter::{Meter, MeterGuard};

use core::alloc::Layout;
use core::ptr::NonNull;
use core::time::Duration;
use userptr::platform::{LockClass, Platform, RawLock, RawWait};
use userptr::platforms::native::{NativeCell, NativeUsize};
use userptr::platforms::std::{StdLock, StdWait};
use userptr::refcount::Ref;
use userptr::work::{SharedQueue, SoftWork};

/// The platform `Std` with its locks, waits and allocations checked.
#[derive(Debug)]
pub enum Sim {}

// SAFETY: the fence is the language's own full fence; the meter hands out memory of the global
// allocator.
unsafe impl Platform for Sim {
    type Usize = NativeUsize;
    type Cell<T> = NativeCell<T>;
    type Spin = CheckedLock<false>;
    type Mutex = CheckedLock<true>;
    type Wait = CheckedWait;
    type Work = SoftWork<Self>;
    type Queue = Ref<SharedQueue<Self>, Self>;

    fn fence() {
        userptr::platforms::std::Std::fence();
    }

    fn now() -> Duration {
        userptr::platforms::std::Std::now()
    }

    fn shard() -> usize {
        userptr::platforms::std::Std::shard()
    }

    fn note_lease(object: usize, taken: bool) {
        lockdep::note_lease(object, taken);
        userptr::platforms::std::Std::note_lease(object, taken);
    }

    fn holds_lease(object: usize) -> bool {
        userptr::platforms::std::Std::holds_lease(object)
    }

    fn alloc(layout: Layout) -> Option<NonNull<u8>> {
        lockdep::might_alloc();
        meter::alloc(layout)
    }

    unsafe fn dealloc(ptr: NonNull<u8>, layout: Layout) {
        lockdep::might_free();
        // SAFETY: the caller's promise: `alloc` returned it with this layout.
        unsafe { meter::dealloc(ptr, layout) }
    }
}

/// A lock whose order is checked. `SLEEPS` says whether its holder may sleep: a mutex, or a
/// spinlock.
#[derive(Debug)]
pub struct CheckedLock<const SLEEPS: bool> {
    raw: StdLock,
    class: LockClass,
}

impl<const SLEEPS: bool> CheckedLock<SLEEPS> {
    fn address(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }
}

// SAFETY: mutual exclusion and visibility are the standard mutex's.
unsafe impl<const SLEEPS: bool> RawLock for CheckedLock<SLEEPS> {
    fn uninit(class: LockClass) -> Self {
        Self { raw: StdLock::uninit(class), class }
    }

    unsafe fn acquire(&self) {
        // Before the lock is taken: a violation is reported even where this thread would wait for
        // itself for ever.
        let kind = if SLEEPS { lockdep::Kind::Mutex } else { lockdep::Kind::Spin };
        lockdep::acquire(self.class, kind, self.address());
        // SAFETY: the caller's promise.
        unsafe { self.raw.acquire() };
    }

    unsafe fn release(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.raw.release() };
        lockdep::release(self.address());
    }
}

/// A wait that knows that it sleeps.
#[derive(Debug)]
pub struct CheckedWait(StdWait);

// SAFETY: the wait is that of `Std`.
unsafe impl RawWait for CheckedWait {
    fn uninit() -> Self {
        Self(StdWait::uninit())
    }

    unsafe fn wait_until(&self, timeout: Option<Duration>, condition: &mut dyn FnMut() -> bool) -> bool {
        // A timeout of zero asks once and does not sleep. Any other might, whether or not it does
        // this time.
        if !timeout.is_some_and(|t| t.is_zero()) {
            lockdep::might_sleep("wait_until");
        }
        // SAFETY: the caller's promise.
        unsafe { self.0.wait_until(timeout, condition) }
    }

    unsafe fn wake_all(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.0.wake_all() }
    }
}

#[cfg(test)]
mod tests;
