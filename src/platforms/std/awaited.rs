//! An acquire that is awaited.

use super::workers::Threads;
use crate::address_space::AddressSpace;
use crate::device::{Device, PlatformOf};
use crate::error::Error;
use crate::ref_counted;
use crate::refcount::Ref;
use crate::userptr::{OwnedLease, UserPtr};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context as Task, Poll, Waker};
use std::process;
use std::string::ToString;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

extern crate std;

/// A device whose platform has threads.
pub trait OnThreads: Device<Space: AddressSpace<Platform: Threads>> {}

impl<D: Device<Space: AddressSpace<Platform: Threads>>> OnThreads for D {}

/// An acquire to be awaited, on any runtime: see [`UserPtr::acquire_async`].
///
/// Dropped before it is done, it leaves no lease: one that comes later is dropped by the thread
/// that waits for it.
#[must_use = "a future does nothing unless it is awaited"]
pub struct Acquire<D: OnThreads> {
    object: UserPtr<D>,
    wait: Option<Wait<D>>,
    /// A forked child has no thread that waits, and perhaps a lock that nobody gives back.
    process: u32,
}

// Nothing in it is pinned.
impl<D: OnThreads> Unpin for Acquire<D> {}

type Wait<D> = Ref<Shared<D>, PlatformOf<D>>;

/// What the future and the thread that waits for it share.
struct Shared<D: OnThreads> {
    state: Mutex<State<D>>,
}

struct State<D: OnThreads> {
    result: Option<Result<OwnedLease<D>, Error>>,
    waker: Option<Waker>,
}

ref_counted! { impl[D: OnThreads] RefCounted<PlatformOf<D>> for Shared<D> {} }

impl<D: OnThreads> Shared<D> {
    fn state(&self) -> MutexGuard<'_, State<D>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: OnThreads> UserPtr<D> {
    /// As [`acquire_owned`](Self::acquire_owned), to be awaited. With the pages in place, or if
    /// they can be pinned at once, it is done at the first poll, in the polling thread. Otherwise
    /// one thread is started for it, which waits, and wakes the task; no lock is held meanwhile,
    /// and a waker that blocks or panics holds nobody else up.
    ///
    /// A task that holds a lease must not await one of the same object ([rule
    /// 29](crate::docs::protocol#rule-29)): it meets the deadline.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire), and [`Error::Threads`] if there is no thread to wait.
    ///
    /// ```
    /// # use userptr::platforms::std::Std;
    /// # use userptr_sim::{DmaDevice, Machine, PAGE};
    /// # use userptr::{Context, Error, Flags, UserPtr};
    /// # use std::{pin::pin, sync::Arc, task::{Poll, Wake}, thread::{self, Thread}};
    /// async fn first_byte(object: &UserPtr<DmaDevice<Std>>) -> Result<u8, Error> {
    ///     let lease = object.acquire_async().await?;
    ///     Ok(object.context().device().read(lease.map(), 0))
    /// }
    /// # struct Unpark(Thread);
    /// # impl Wake for Unpark {
    /// #     fn wake(self: Arc<Self>) { self.0.unpark() }
    /// # }
    /// # fn block_on<F: Future>(future: F) -> F::Output {
    /// #     let waker = Arc::new(Unpark(thread::current())).into();
    /// #     let mut future = pin!(future);
    /// #     loop {
    /// #         match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
    /// #             Poll::Ready(output) => return output,
    /// #             Poll::Pending => thread::park(),
    /// #         }
    /// #     }
    /// # }
    /// # let machine = Machine::new();
    /// # let process = machine.process();
    /// # let context = Context::builder(DmaDevice::<Std>::new(&machine)).spawn()?;
    /// # let _inside = machine.enter(&process);
    /// # let buffer = process.map(PAGE);
    /// # let object = context.register(&process.space(), buffer, Flags::NONE)?;
    /// # process.fill(buffer, 7)?;
    /// assert_eq!(block_on(first_byte(&object))?, 7);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn acquire_async(&self) -> Acquire<D> {
        Acquire { object: self.clone(), wait: None, process: process::id() }
    }
}

impl<D: OnThreads> Acquire<D> {
    /// Starts the thread that waits.
    fn start(&self, waker: Waker) -> Result<Wait<D>, Error> {
        let state = State { result: None, waker: Some(waker) };
        let wait = Ref::try_new(Shared { state: Mutex::new(state) })?;
        let (ours, object) = (wait.clone(), self.object.clone());
        let thread = move || {
            let result = object.acquire_owned();
            // The reference goes before the task goes on: whoever has the lease has the object.
            drop(object);
            let mut state = ours.state();
            state.result = Some(result);
            let waker = state.waker.take();
            drop(state);
            // Nothing of the wait is left when the task is woken. If the future is gone, this was
            // the last reference, and the lease goes with it.
            drop(ours);
            if let Some(waker) = waker {
                waker.wake();
            }
        };
        match Builder::new().name("userptr-acquire".to_string()).spawn(thread) {
            Ok(_) => Ok(wait),
            Err(_) => Err(Error::Threads),
        }
    }
}

impl<D: OnThreads> Future for Acquire<D> {
    type Output = Result<OwnedLease<D>, Error>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        if self.process != process::id() {
            return Poll::Ready(Err(Error::OtherSpace));
        }
        if let Some(wait) = &self.wait {
            // The waker is the user's code, and runs under no lock.
            let waker = task.waker().clone();
            let mut state = wait.state();
            let result = state.result.take();
            let old = state.waker.replace(waker);
            drop(state);
            drop(old);
            let Some(result) = result else { return Poll::Pending };
            self.wait = None;
            return Poll::Ready(result);
        }
        match self.object.try_acquire() {
            Err(Error::Again) => {}
            done => return Poll::Ready(done.map(|lease| lease.into_owned())),
        }
        match self.start(task.waker().clone()) {
            Ok(wait) => {
                self.wait = Some(wait);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl<D: OnThreads> Drop for Acquire<D> {
    fn drop(&mut self) {
        if let Some(wait) = self.wait.take() {
            if self.process != process::id() {
                core::mem::forget(wait);
                return;
            }
            // The waker goes at once; a lease, with the last reference to `wait`.
            let waker = wait.state().waker.take();
            drop(waker);
        }
    }
}

impl<D: OnThreads> fmt::Debug for Acquire<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Acquire({:?}, waiting: {})", self.object, self.wait.is_some())
    }
}
