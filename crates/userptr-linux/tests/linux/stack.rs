//! An address space, a device (a ring, unless said otherwise) and the threads behind them.

use std::time::{Duration, Instant};
use userptr::platforms::std::Running;
use userptr::{AddrRange, Context, Device, Error, Flags, Lease, UserPtr};
use userptr_linux::uring::{Setup, Uring};
use userptr_linux::{Linux, Options};

pub(crate) struct Stack<D: Device<Space = Linux> = Uring> {
    pub(crate) context: Running<D>,
    pub(crate) space: Linux,
}

impl Stack {
    pub(crate) fn new(options: Options) -> Self {
        Self::over(Linux::with(options).unwrap())
    }

    pub(crate) fn over(space: Linux) -> Self {
        Self::with(space, Uring::open(Setup::default()).unwrap())
    }
}

impl<D: Device<Space = Linux>> Stack<D> {
    pub(crate) fn with(space: Linux, device: D) -> Self {
        Self { context: Context::builder(device).spawn().unwrap(), space }
    }

    pub(crate) fn create(&self, address: usize, bytes: usize, flags: Flags) -> Result<UserPtr<D>, Error> {
        // SAFETY: the tests make their memory by system calls: it is no value of the program's.
        unsafe { self.context.register_unchecked(&self.space, AddrRange::new(address, bytes)?, flags) }
    }

    pub(crate) fn object(&self, address: usize, bytes: usize) -> UserPtr<D> {
        self.create(address, bytes, Flags::NONE).unwrap()
    }
}

/// A lease, however long windows stay open.
pub(crate) fn lease<D: Device<Space = Linux>>(object: &UserPtr<D>) -> Lease<'_, D> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match object.acquire() {
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
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::yield_now();
    }
}
