//! A handle to a software queue that shuts the queue down when the last one is dropped.

use super::{SoftQueue, SoftWork};
use crate::error::Error;
use crate::platform::{Platform, RawQueue};
use crate::refcount::{LastPut, Ref, RefCounted};
use core::fmt;
use core::ops::Deref;

/// A [`SoftQueue`] that lives as long as work can be queued on it. Share it as a [`Ref`]: when the
/// last one is dropped, the queue is shut down; its workers, which hold [`queue`](Self::queue) and
/// not this, run what is queued and return.
///
/// So the order in which the users of several queues go away does not matter: a queue lives as long
/// as a handle to it.
pub struct SharedQueue<P: Platform> {
    queue: Ref<SoftQueue<P>, P>,
}

// SAFETY: there is nothing to initialise, and nothing points to it but counted references.
unsafe impl<P: Platform> RefCounted<P> for SharedQueue<P> {
    unsafe fn last_put(&self) -> LastPut {
        self.queue.shut_down();
        LastPut::Drop
    }
}

impl<P: Platform> SharedQueue<P> {
    /// Makes a queue without threads.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn try_new() -> Result<Ref<Self, P>, Error> {
        Ok(Ref::try_new(Self { queue: SoftQueue::try_new()? })?)
    }

    /// Returns the queue, for its workers: a reference to it does not keep it from being shut down.
    #[must_use]
    pub fn queue(&self) -> &Ref<SoftQueue<P>, P> {
        &self.queue
    }
}

impl<P: Platform> Deref for SharedQueue<P> {
    type Target = SoftQueue<P>;
    fn deref(&self) -> &SoftQueue<P> {
        &self.queue
    }
}

// SAFETY: every method is the software queue's.
unsafe impl<P: Platform> RawQueue<SoftWork<P>> for Ref<SharedQueue<P>, P> {
    unsafe fn enqueue(&self, item: *const SoftWork<P>) -> bool {
        // SAFETY: the caller's duties are the same.
        unsafe { self.queue.enqueue(item) }
    }
    unsafe fn flush_item(&self, item: *const SoftWork<P>) {
        // SAFETY: the caller's duties are the same.
        unsafe { self.queue.flush_item(item) }
    }
    unsafe fn cancel(&self, item: *const SoftWork<P>) -> bool {
        // SAFETY: the caller's duties are the same.
        unsafe { self.queue.cancel(item) }
    }
    unsafe fn is_pending(&self, item: *const SoftWork<P>) -> bool {
        // SAFETY: the caller's duties are the same.
        unsafe { self.queue.is_pending(item) }
    }
    fn flush(&self) {
        self.queue.flush();
    }
    fn drain(&self) {
        self.queue.drain();
    }
    fn is_same(&self, other: &Self) -> bool {
        Ref::ptr_eq(self, other)
    }
    fn is_shut_down(&self) -> bool {
        self.queue.is_shut_down()
    }
}

impl<P: Platform> fmt::Debug for SharedQueue<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.queue, f)
    }
}
