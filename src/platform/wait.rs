//! Waiting for a condition.

use core::fmt;
use core::time::Duration;

/// A queue of waiting threads, in place.
///
/// # Safety
/// No wake-up is lost: if a condition becomes true and `wake_all` is called afterwards, a thread inside `wait_until`
/// for that condition sees it. Both sides need a full fence between their write and their read; that is the
/// implementation's work, not the caller's.
pub unsafe trait RawWait: Sized + Send + Sync {
    /// An inert queue, movable, not yet usable.
    fn uninit() -> Self;
    /// Makes it usable.
    ///
    /// # Safety
    /// Called once, at the final address, before any other call.
    unsafe fn init(&self) {}
    /// Sleeps until `condition` holds, or `timeout` has passed (`None`: never). Returns whether it held.
    ///
    /// The condition may take a spinlock; it never sleeps, and it is not called with a lock of the queue held that
    /// `wake_all` needs. A timeout of zero asks once. Time-outs are a matter of liveness only: no property of the
    /// core depends on how long one takes, so a checker may let any finite one expire at once.
    ///
    /// # Safety
    /// The queue is settled, and the caller holds no spinlock.
    unsafe fn wait_until(&self, timeout: Option<Duration>, condition: &mut dyn FnMut() -> bool) -> bool;
    /// Wakes every waiter to look again. Never sleeps. Cheap when nobody waits.
    ///
    /// # Safety
    /// The queue is settled and stays in place during the call.
    unsafe fn wake_all(&self);
}

/// A settled [`RawWait`] with a safe face for the core.
///
/// # Invariants
/// Embedded in an object whose `init` calls [`init`](Self::init) before the object is shared.
pub struct WaitQueue<W> {
    raw: W,
}

impl<W: RawWait> WaitQueue<W> {
    /// An inert queue.
    pub fn uninit() -> Self {
        Self { raw: W::uninit() }
    }

    /// Makes it usable.
    ///
    /// # Safety
    /// Called once, at the final address, before any other call.
    pub unsafe fn init(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.raw.init() }
    }

    /// See [`RawWait::wait_until`].
    ///
    /// # Safety
    /// The queue is settled, and the caller holds no spinlock.
    pub unsafe fn wait_until(&self, timeout: Option<Duration>, mut condition: impl FnMut() -> bool) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.raw.wait_until(timeout, &mut condition) }
    }

    /// See [`RawWait::wake_all`].
    ///
    /// # Safety
    /// The queue is settled and stays in place during the call.
    pub unsafe fn wake_all(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.raw.wake_all() }
    }
}

impl<W> fmt::Debug for WaitQueue<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaitQueue")
    }
}
