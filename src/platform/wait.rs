//! Waiting for a condition.

use core::fmt;
use core::time::Duration;

/// A queue of waiting threads, in place.
///
/// # Safety
/// No wake-up may be lost: if a condition becomes true and `wake_all` is called afterwards, a
/// thread inside `wait_until` for that condition must see it. Both sides need a full fence between
/// their write and their read, which the implementation must provide.
pub unsafe trait RawWait: Sized + Send + Sync {
    /// Makes an inert queue, movable, not yet usable.
    fn uninit() -> Self;
    /// Makes the queue usable.
    ///
    /// # Safety
    /// Called once, at the final address, before any other call.
    unsafe fn init(&self) {}
    /// Sleeps until `condition` holds, or `timeout` has passed (`None`: never). Returns whether it
    /// held.
    ///
    /// The condition may take a spinlock and must not sleep; it must not be called with a lock of
    /// the queue held that `wake_all` needs. A timeout of zero asks once. Time-outs are a matter of
    /// liveness only: no property of the core depends on how long one takes, so a checker may let
    /// any finite one expire at once.
    ///
    /// # Safety
    /// The queue must be initialised, and the caller must hold no spinlock.
    unsafe fn wait_until(&self, timeout: Option<Duration>, condition: &mut dyn FnMut() -> bool) -> bool;
    /// Wakes every waiter to look again. Never sleeps. Cheap when nobody waits.
    ///
    /// # Safety
    /// The queue must be initialised and stay in place during the call.
    unsafe fn wake_all(&self);
}

/// A [`RawWait`] that is embedded in an object of the core. For drivers there is
/// [`Waiter`](crate::work::Waiter).
///
/// # Invariants
/// Embedded in an object whose `init` calls [`init`](Self::init) before the object is shared.
pub struct WaitQueue<W> {
    raw: W,
}

impl<W: RawWait> WaitQueue<W> {
    /// Makes an inert queue.
    pub fn uninit() -> Self {
        Self { raw: W::uninit() }
    }

    /// Makes the queue usable.
    ///
    /// # Safety
    /// Called once, at the final address, before any other call.
    pub unsafe fn init(&self) {
        // SAFETY: called once, at the final address, before any other call (caller).
        unsafe { self.raw.init() }
    }

    /// Sleeps until `condition` holds: see [`RawWait::wait_until`].
    ///
    /// # Safety
    /// The queue must be initialised, and the caller must hold no spinlock.
    pub unsafe fn wait_until(&self, timeout: Option<Duration>, mut condition: impl FnMut() -> bool) -> bool {
        // SAFETY: the queue is initialised, and no spinlock is held (caller).
        unsafe { self.raw.wait_until(timeout, &mut condition) }
    }

    /// Wakes every waiter: see [`RawWait::wake_all`].
    ///
    /// # Safety
    /// The queue must be initialised and stay in place during the call.
    pub unsafe fn wake_all(&self) {
        // SAFETY: the queue is initialised and stays in place (caller).
        unsafe { self.raw.wake_all() }
    }
}

impl<W> fmt::Debug for WaitQueue<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaitQueue")
    }
}
