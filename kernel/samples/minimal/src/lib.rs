//! The smallest driver on `userptr-kernel`: it depends on the library, and copies nothing of it.
//!
//! The "device" has no engine: a lease is all that ever uses the pages, so it is always idle. A
//! real one keeps a table of its own in `prepare`, and waits for its jobs in `wait_idle`:
//! `userptr::docs::kernel`.
#![no_std]

use core::ffi::{c_int, c_long};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use core::time::Duration;
use userptr::device::{Device, Limits, Prepare};
use userptr::{Context, Error, Outcome, RawQueue, Ref, ref_counted};
use userptr_kernel::{KQueue, Kernel, Kind, Mm};

/// Counts pages.
struct Counter;

impl Device for Counter {
    type Space = Mm;
    /// The number of pages.
    type Map = usize;

    fn limits(&self) -> Limits {
        Limits::default().deadline(Some(Duration::from_secs(1)))
    }

    fn prepare(&self, what: Prepare<'_, Mm>) -> Result<usize, Error> {
        Ok(what.pages.len())
    }

    fn stop(&self, _: &usize) {}

    fn wait_idle(&self, _: &usize, _: Option<Duration>) -> Outcome {
        Outcome::Idle
    }

    fn unmap(&self, _: usize) {}
}

/// All there is, from the module's load to its unload.
struct Driver {
    context: Context<Counter>,
    /// Handles that outlive every object, so that the last one never goes in a worker.
    pins: KQueue,
    releases: KQueue,
}

ref_counted! { impl RefCounted<Kernel> for Driver {} }

static DRIVER: AtomicPtr<Driver> = AtomicPtr::new(ptr::null_mut());

impl Driver {
    fn try_new() -> Result<Ref<Self, Kernel>, Error> {
        let (pins, releases) = (KQueue::try_new(Kind::Pin)?, KQueue::try_new(Kind::Release)?);
        // Without a queue for them, revocations run in the thread that invalidates.
        let context =
            Context::builder(Counter).pin_queue(pins.clone()).release_queue(releases.clone()).build()?;
        Ok(Ref::try_new(Self { context, pins, releases })?)
    }
}

fn count_pages(address: usize, size: usize) -> Result<usize, Error> {
    // SAFETY: set at load and taken away at unload, when no file is open and so nobody calls.
    let driver = unsafe { DRIVER.load(Ordering::Acquire).as_ref() }.ok_or(Error::NoDevice)?;
    let object = driver.context.register_raw(&Mm::current().ok_or(Error::Fault)?, address, size, 0)?;
    let lease = object.acquire()?;
    Ok(*lease.map())
}

/// Called at the module's load. Returns 0 or a negative errno.
#[unsafe(no_mangle)]
extern "C" fn minimal_load() -> c_int {
    match Driver::try_new() {
        Ok(driver) => {
            DRIVER.store(Ref::into_raw(driver).cast_mut(), Ordering::Release);
            0
        }
        Err(e) => e.errno().wrapping_neg(),
    }
}

/// Called at the module's unload: every file is closed.
#[unsafe(no_mangle)]
extern "C" fn minimal_unload() {
    let raw = DRIVER.swap(ptr::null_mut(), Ordering::AcqRel);
    if !raw.is_null() {
        // SAFETY: the pointer that the load put there, taken once.
        let driver = unsafe { Ref::<Driver, Kernel>::from_raw(raw) };
        // A pin may leave a record to free.
        for _ in 0..2 {
            driver.pins.drain();
            driver.releases.drain();
        }
    }
}

/// Called by the request. Returns the number of pages, or a negative errno.
#[unsafe(no_mangle)]
extern "C" fn minimal_count_pages(address: usize, size: usize) -> c_long {
    count_pages(address, size).map_or_else(
        |e| e.errno().wrapping_neg().into(),
        |pages| c_long::try_from(pages).unwrap_or(c_long::MAX),
    )
}
