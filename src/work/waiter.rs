//! A wait queue with a safe interface.

use crate::error::Error;
use crate::platform::{Platform, WaitQueue};
use crate::refcount::{Ref, RefCounted};
use core::fmt;
use core::time::Duration;

/// A queue of waiting threads, for drivers: counted, so that it is initialised and in place for
/// every waiter.
///
/// ```
/// use core::time::Duration;
/// use userptr::{platforms::std::Std, work::Waiter};
/// let waiter = Waiter::<Std>::try_new()?;
/// assert!(!waiter.wait_until(Some(Duration::from_millis(1)), || false), "the time is over");
/// assert!(waiter.wait_until(None, || true));
/// waiter.wake_all();
/// # Ok::<(), userptr::Error>(())
/// ```
pub struct Waiter<P: Platform> {
    queue: WaitQueue<P::Wait>,
}

// SAFETY: `init` initialises the queue, and nothing points to it but counted references.
unsafe impl<P: Platform> RefCounted<P> for Waiter<P> {
    unsafe fn init(&self) {
        // SAFETY: called once, at the final address (caller).
        unsafe { self.queue.init() }
    }
}

impl<P: Platform> Waiter<P> {
    /// Makes a wait queue.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn try_new() -> Result<Ref<Self, P>, Error> {
        Ok(Ref::try_new(Self { queue: WaitQueue::uninit() })?)
    }

    /// Sleeps until `condition` holds, or `timeout` has passed (`None`: never; zero: asks once).
    /// Returns whether it held. May sleep, so it must not be called under a spinlock; `condition`
    /// must not sleep.
    #[must_use = "`false` means that the time is over"]
    pub fn wait_until(&self, timeout: Option<Duration>, condition: impl FnMut() -> bool) -> bool {
        // SAFETY: initialised by `Ref::try_new`. A section of a spinlock of this crate is unsafe
        // code that promises not to sleep.
        unsafe { self.queue.wait_until(timeout, condition) }
    }

    /// Wakes every waiting thread to look again. A thread that waits for a condition that was made
    /// true before this call sees it. Never sleeps.
    pub fn wake_all(&self) {
        // SAFETY: initialised by `Ref::try_new`; the borrow keeps it in place.
        unsafe { self.queue.wake_all() }
    }
}

impl<P: Platform> fmt::Debug for Waiter<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiter")
    }
}
