//! Locks: a raw one from the platform, and around it the core's own `Lock<T>` with the data in a
//! tracked cell.

use super::{Cell, Platform};
use core::fmt;
use core::marker::PhantomData;

/// A class of locks, for platforms that check the order in which locks are taken (lockdep wants one
/// key per class).
///
/// A thread must take locks in ascending `rank`, and never two of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockClass {
    /// The name for reports.
    pub name: &'static str,
    /// The place in the order; see the [lock order](crate::docs::protocol#lock-order).
    pub rank: u8,
}

impl LockClass {
    /// A client's handle table. The address-space lock may be held around it.
    pub const HANDLES: Self = Self { name: "userptr_handles", rank: 10 };
    /// The registry of address spaces.
    pub const REGISTRY: Self = Self { name: "userptr_registry", rank: 20 };
    /// The notifier's spinlock, which guards every object's state. From here on nothing is
    /// allocated.
    pub const NOTIFIER: Self = Self { name: "userptr_notifier", rank: 30 };
    /// The inside of a software work queue.
    pub const QUEUE: Self = Self { name: "userptr_queue", rank: 40 };
}

/// A lock without data, in place.
///
/// # Safety
/// Between `acquire` and `release` no other `acquire` of the same lock may return, and what was
/// written before a `release` must be visible after the next `acquire`.
pub unsafe trait RawLock: Sized {
    /// Makes an inert lock, movable, not yet usable.
    fn uninit(class: LockClass) -> Self;
    /// Makes the lock usable.
    ///
    /// # Safety
    /// Called once, at the final address, before the first `acquire`.
    unsafe fn init(&self) {}
    /// Takes the lock. Not named `lock`, which a checker's own type may shadow.
    ///
    /// # Safety
    /// The lock must be initialised, and this thread must not hold it.
    unsafe fn acquire(&self);
    /// Releases the lock.
    ///
    /// # Safety
    /// This thread must hold it.
    unsafe fn release(&self);
}

/// Data behind a raw lock of the platform.
///
/// # Invariants
/// `data` is touched only between `acquire` and `release` of `raw`, or through `&mut self`.
pub struct Lock<R, P: Platform, T> {
    raw: R,
    data: P::Cell<T>,
    _marker: PhantomData<T>,
}

/// A lock whose sections never sleep, allocate or call out.
pub type SpinLock<P, T> = Lock<<P as Platform>::Spin, P, T>;
/// A lock whose holder may sleep. The core holds one around a few plain instructions only.
pub type Mutex<P, T> = Lock<<P as Platform>::Mutex, P, T>;

// SAFETY: by the type's invariant the data is reached by one thread at a time, so `T: Send` is
// enough for both.
unsafe impl<R: RawLock, P: Platform, T: Send> Send for Lock<R, P, T> {}
// SAFETY: a shared `Lock` gives the data to one thread at a time, which is a `Send` of the data.
unsafe impl<R: RawLock, P: Platform, T: Send> Sync for Lock<R, P, T> {}

impl<R: RawLock, P: Platform, T> Lock<R, P, T> {
    /// Makes an inert lock around `data`; call [`init`](Self::init) before use.
    pub fn uninit(class: LockClass, data: T) -> Self {
        Self { raw: R::uninit(class), data: <P::Cell<T> as Cell<T>>::new(data), _marker: PhantomData }
    }

    /// Makes the lock usable.
    ///
    /// # Safety
    /// Called once, at the final address, before any other call.
    pub unsafe fn init(&self) {
        // SAFETY: called once, at the final address, before any other call (caller).
        unsafe { self.raw.init() }
    }

    /// Runs `f` with the lock held.
    ///
    /// # Safety
    /// The lock must be initialised, and this thread must not hold it. For a spinlock, `f` must not
    /// sleep, allocate or call out.
    pub unsafe fn with<U>(&self, f: impl FnOnce(&mut T) -> U) -> U {
        // SAFETY: the lock is initialised and not held by this thread (caller).
        let guard = unsafe { self.hold() };
        // SAFETY: the lock is held, so by the type's invariant nobody else reaches the data.
        let out = guard.lock.data.with_mut(|data| f(unsafe { &mut *data }));
        drop(guard);
        out
    }

    /// Takes the lock until the guard is dropped. Forgetting the guard leaves the lock taken
    /// forever, nothing worse.
    ///
    /// # Safety
    /// As for [`with`](Self::with).
    pub unsafe fn hold(&self) -> LockGuard<'_, R, P, T> {
        // SAFETY: the lock is initialised and not held by this thread (caller).
        unsafe { self.raw.acquire() };
        LockGuard { lock: self, _not_send: PhantomData }
    }
}

impl<R, P: Platform, T> fmt::Debug for Lock<R, P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// A held lock. Dropping it releases the lock.
#[must_use = "dropping the guard at once gives the lock back; bind it to a name"]
pub struct LockGuard<'a, R: RawLock, P: Platform, T> {
    lock: &'a Lock<R, P, T>,
    /// Not `Send`: the thread that took a lock must release it.
    _not_send: PhantomData<*const ()>,
}

impl<R: RawLock, P: Platform, T> LockGuard<'_, R, P, T> {
    /// Runs `f` on the data.
    pub fn with<U>(&mut self, f: impl FnOnce(&mut T) -> U) -> U {
        // SAFETY: the guard holds the lock and is borrowed exclusively, so nobody else reaches the
        // data.
        self.lock.data.with_mut(|data| f(unsafe { &mut *data }))
    }
}

impl<R: RawLock, P: Platform, T> Drop for LockGuard<'_, R, P, T> {
    fn drop(&mut self) {
        // SAFETY: the guard was made by `hold`, on this thread, and the lock was not released
        // since.
        unsafe { self.lock.raw.release() }
    }
}

impl<R: RawLock, P: Platform, T> fmt::Debug for LockGuard<'_, R, P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockGuard")
    }
}
