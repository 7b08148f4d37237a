//! Threads that serve a software queue.

use crate::error::Error;
use crate::platform::{Platform, RawQueue};
use crate::refcount::Ref;
use crate::work::{SharedQueue, SoftWork};
use core::mem::ManuallyDrop;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::string::String;
use std::thread::{self, Builder, JoinHandle};
use std::vec::Vec;

extern crate std;

/// A platform whose queues are [`SharedQueue`]s, served by threads of the standard library.
pub trait Threads: Platform<Queue = Ref<SharedQueue<Self>, Self>, Work = SoftWork<Self>> {}

impl<P: Platform<Queue = Ref<SharedQueue<P>, P>, Work = SoftWork<P>>> Threads for P {}

/// A software queue and the threads that serve it.
///
/// The queue lives as long as a handle to it, whatever becomes of this value. Dropping this value
/// runs what is queued and, if it had the last handle, joins the threads; otherwise they serve on
/// until the last handle is dropped. So it does not matter in which order workers, contexts and
/// objects are dropped.
///
/// An item that panics ends alone: its thread serves on. A forked child, which has no such threads,
/// leaves everything as it is.
///
/// ```
/// use userptr::{RawQueue, platforms::std::{Std, Workers}};
/// let workers = Workers::<Std>::start("demo", 2)?;
/// workers.queue().flush();
/// # Ok::<(), userptr::Error>(())
/// ```
pub struct Workers<P: Threads> {
    queue: ManuallyDrop<P::Queue>,
    threads: Vec<JoinHandle<()>>,
    process: u32,
}

impl<P: Threads> Workers<P> {
    /// Starts a queue with `n` threads, at least one, named `name`.
    ///
    /// # Errors
    /// [`Error::NoMemory`] or [`Error::Threads`] if the queue or a thread cannot be had; nothing is
    /// left behind.
    pub fn start(name: &str, n: usize) -> Result<Self, Error> {
        let queue = SharedQueue::try_new()?;
        let n = n.max(1);
        let mut threads = Vec::new();
        threads.try_reserve_exact(n).map_err(|_| Error::NoMemory)?;
        let mut this = Self { queue: ManuallyDrop::new(queue.clone()), threads, process: process::id() };
        for _ in 0..n {
            // The thread holds the queue, but no handle that would keep it from being shut down.
            let queue = queue.queue().clone();
            let serve = move || {
                // A panicking item was reported by the panic hook already; the queue is in order
                // (its mark goes with the stack), and the next item is served.
                while catch_unwind(AssertUnwindSafe(|| queue.work())).is_err() {}
            };
            let thread = Builder::new().name(String::from(name)).spawn(serve);
            this.threads.push(thread.map_err(|_| Error::Threads)?);
        }
        Ok(this)
    }

    /// Returns a handle to the queue.
    #[must_use]
    pub fn queue(&self) -> &P::Queue {
        &self.queue
    }

    /// Returns whether the calling thread is one of these.
    fn is_one_of_us(&self) -> bool {
        let me = thread::current().id();
        self.threads.iter().any(|worker| worker.thread().id() == me)
    }
}

impl<P: Threads> Drop for Workers<P> {
    fn drop(&mut self) {
        // SAFETY: taken once, here.
        let queue = unsafe { ManuallyDrop::take(&mut self.queue) };
        if self.process != process::id() {
            // A forked child: the threads are not here, and the queue's lock may be held forever by
            // one of them. Nothing in it is this process's to finish.
            core::mem::forget(queue);
            self.threads.drain(..).for_each(core::mem::forget);
            return;
        }
        if self.is_one_of_us() {
            // Dropped by an item of its own queue: it cannot wait for itself.
            return;
        }
        if !self.threads.is_empty() {
            queue.drain();
        }
        // With the last handle no thread can queue more: the threads return. With others left, they
        // serve on.
        let last = Ref::count(&queue) == 1;
        drop(queue);
        for thread in self.threads.drain(..) {
            if last {
                // It catches every panic of its items.
                let _ = thread.join();
            }
        }
    }
}

impl<P: Threads> fmt::Debug for Workers<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workers({} threads, {:?})", self.threads.len(), &**self.queue)
    }
}
