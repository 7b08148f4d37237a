//! Threads that serve a software queue.

use crate::error::Error;
use crate::platform::{Platform, RawQueue};
use crate::refcount::Ref;
use crate::work::{SoftQueue, SoftWork};
use std::fmt;
use std::thread::{Builder, JoinHandle};
use std::vec::Vec;

extern crate std;

/// A software queue and the threads that serve it. Dropping it drains the queue, shuts it down and joins the threads;
/// drop it from none of its own items.
///
/// ```
/// use userptr::{RawQueue, platforms::std::{Std, Workers}};
/// let workers = Workers::<Std>::start("demo", 2)?;
/// workers.queue().flush();
/// # Ok::<(), userptr::Error>(())
/// ```
pub struct Workers<P: Platform<Queue = Ref<SoftQueue<P>, P>, Work = SoftWork<P>>> {
    queue: P::Queue,
    threads: Vec<JoinHandle<()>>,
}

impl<P: Platform<Queue = Ref<SoftQueue<P>, P>, Work = SoftWork<P>>> Workers<P> {
    /// A queue with `n` threads, at least one, named `name`.
    ///
    /// # Errors
    /// [`Error::NoMemory`] or [`Error::Limit`] if the queue or a thread cannot be had; nothing is left behind.
    pub fn start(name: &str, n: usize) -> Result<Self, Error> {
        let queue = Ref::try_new(SoftQueue::blank()).map_err(|(_, e)| e)?;
        let mut this = Self { queue, threads: Vec::new() };
        let n = n.max(1);
        this.threads.try_reserve_exact(n).map_err(|_| Error::NoMemory)?;
        for _ in 0..n {
            let queue = this.queue.clone();
            let thread =
                Builder::new().name(name.into()).spawn(move || queue.work()).map_err(|_| Error::Limit)?;
            this.threads.push(thread);
        }
        Ok(this)
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &P::Queue {
        &self.queue
    }
}

impl<P: Platform<Queue = Ref<SoftQueue<P>, P>, Work = SoftWork<P>>> Drop for Workers<P> {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.queue.drain();
        }
        self.queue.shut_down();
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl<P: Platform<Queue = Ref<SoftQueue<P>, P>, Work = SoftWork<P>>> fmt::Debug for Workers<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workers({} threads, {:?})", self.threads.len(), &*self.queue)
    }
}
