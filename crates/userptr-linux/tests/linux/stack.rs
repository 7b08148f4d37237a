//! An address space, a device (a ring, unless said otherwise) and the threads behind them.

use std::time::{Duration, Instant};
use userptr::platforms::std::{Std, Workers};
use userptr::{Context, Device, Lease, Queues, Ref, UserPtr, UserPtrRef};
use userptr_linux::uring::{Setup, Uring};
use userptr_linux::{Linux, Options};

pub(crate) struct Stack<D: Device<Space = Linux> = Uring> {
    // Dropped in this order.
    pub(crate) context: Ref<Context<D>, Std>,
    pub(crate) space: Linux,
    _workers: [Workers<Std>; 3],
}

impl Stack {
    pub(crate) fn new(options: Options) -> Self {
        Self::over(Linux::with(options).unwrap())
    }

    pub(crate) fn over(space: Linux) -> Self {
        Self::with(space, Uring::open(Setup::default()).unwrap())
    }

    /// Without a queue for the cancels.
    pub(crate) fn without_queue() -> Self {
        Self::build(Linux::open().unwrap(), Uring::open(Setup::default()).unwrap(), false)
    }
}

impl<D: Device<Space = Linux>> Stack<D> {
    pub(crate) fn with(space: Linux, device: D) -> Self {
        Self::build(space, device, true)
    }

    fn build(space: Linux, device: D, queued: bool) -> Self {
        let workers =
            [("pins", 1), ("cancels", 2), ("frees", 1)].map(|(name, n)| Workers::start(name, n).unwrap());
        let [pins, cancels, frees] = workers.each_ref().map(|workers: &Workers<Std>| workers.queue().clone());
        let queues = Queues { pins, cancels: queued.then_some(cancels), frees };
        let context = Context::try_new(device, queues).map_err(|(_, e)| e).unwrap();
        Self { context, space, _workers: workers }
    }

    pub(crate) fn object(&self, address: usize, bytes: usize) -> UserPtrRef<D> {
        Context::create(&self.context, &self.space, address, bytes, 0).unwrap()
    }
}

/// A lease, however long windows stay open.
pub(crate) fn lease<D: Device<Space = Linux>>(object: &UserPtrRef<D>) -> Lease<'_, D> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match UserPtr::acquire(object) {
            Ok(lease) => return lease,
            Err(error) => assert!(
                matches!(error, userptr::Error::Again | userptr::Error::Busy) && Instant::now() < deadline,
                "{error} for {object:?}"
            ),
        }
    }
}

/// Waits for something that has to come.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}
