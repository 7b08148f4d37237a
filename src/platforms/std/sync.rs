//! Lock and wait of the standard library.

use crate::platform::{LockClass, RawLock, RawWait};
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

extern crate std;

/// The standard mutex without data. Its guard is parked beside it between `acquire` and `release`:
/// a raw lock at the price of the mutex alone.
///
/// It serves as spinlock too: in user space the holder can be preempted at any moment, so a waiter
/// should sleep.
pub struct StdLock {
    mutex: Mutex<()>,
    /// # Invariants
    /// Touched by the holder of `mutex` only.
    guard: UnsafeCell<Option<MutexGuard<'static, ()>>>,
}

// SAFETY: the guard never leaves the thread that holds the lock: `release` is called where
// `acquire` was (contract).
unsafe impl Send for StdLock {}
// SAFETY: the parked guard is touched by the holder of the mutex only (invariant of the field).
unsafe impl Sync for StdLock {}

impl fmt::Debug for StdLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StdLock")
    }
}

// SAFETY: mutual exclusion and visibility are the mutex's.
unsafe impl RawLock for StdLock {
    fn uninit(_: LockClass) -> Self {
        Self { mutex: Mutex::new(()), guard: UnsafeCell::new(None) }
    }

    #[inline]
    unsafe fn acquire(&self) {
        // A panic of a test with the lock held poisons nothing: the data is the core's, and the
        // core does not panic.
        let guard = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: only the lifetime changes. The guard is dropped by `release`, or never, and the
        // lock does not move while it is held.
        let guard = unsafe { core::mem::transmute::<MutexGuard<'_, ()>, MutexGuard<'static, ()>>(guard) };
        // SAFETY: the lock is held (invariant of the field).
        unsafe { *self.guard.get() = Some(guard) };
    }

    #[inline]
    unsafe fn release(&self) {
        // SAFETY: the lock is held until `guard` is dropped, which happens after the access.
        let guard = unsafe { (*self.guard.get()).take() };
        drop(guard);
    }
}

/// An event count: an epoch under a mutex, a condition variable, and the number of sleepers, so
/// that a wake-up without sleepers is a fence and a load.
#[derive(Debug)]
pub struct StdWait {
    sleepers: AtomicUsize,
    epoch: Mutex<u64>,
    moved: Condvar,
}

// SAFETY: the sleeper announces itself and then looks, the waker writes and then looks for
// sleepers; both pass through `sleepers` by a read-modify-write that acquires and releases. If the
// sleeper's comes first, the waker sees it; if the waker's comes first, the sleeper acquires from
// it and so sees what was written. A waker that sees the sleeper moves the epoch under the mutex,
// so the sleeper, who noted the epoch before it looked, either finds it moved or is woken.
unsafe impl RawWait for StdWait {
    fn uninit() -> Self {
        Self { sleepers: AtomicUsize::new(0), epoch: Mutex::new(0), moved: Condvar::new() }
    }

    unsafe fn wait_until(&self, timeout: Option<Duration>, condition: &mut dyn FnMut() -> bool) -> bool {
        if condition() {
            return true;
        }
        if timeout.is_some_and(|t| t.is_zero()) {
            return false;
        }
        // A timeout too long for the clock is none.
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        // ORDERING: acquires from and releases to the compare-exchange in `wake_all`.
        self.sleepers.fetch_add(1, Ordering::AcqRel);
        let met = self.sleep(deadline, condition);
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
        met
    }

    #[inline]
    unsafe fn wake_all(&self) {
        // ORDERING: releases what was written to the `fetch_add` of a sleeper that comes later.
        // Writes what it read: a plain load could be from before that `fetch_add`.
        if self.sleepers.compare_exchange(0, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return;
        }
        let mut epoch = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        *epoch = epoch.wrapping_add(1);
        drop(epoch);
        self.moved.notify_all();
    }
}

impl StdWait {
    fn sleep(&self, deadline: Option<Instant>, condition: &mut dyn FnMut() -> bool) -> bool {
        loop {
            let seen = *self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
            if condition() {
                return true;
            }
            let mut epoch = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
            while *epoch == seen {
                epoch = match deadline {
                    None => self.moved.wait(epoch).unwrap_or_else(PoisonError::into_inner),
                    Some(at) => {
                        let left = at.saturating_duration_since(Instant::now());
                        if left.is_zero() {
                            drop(epoch);
                            return condition();
                        }
                        self.moved.wait_timeout(epoch, left).unwrap_or_else(PoisonError::into_inner).0
                    }
                };
            }
        }
    }
}
