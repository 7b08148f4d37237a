//! The driver: the devices, their clients, and the requests of the character devices.

use crate::copier::Copier;
use crate::edu::Edu;
use crate::ffi;
use crate::job::{Engine, Job, JobRef, Task};
use crate::uapi::{EDU, request};
use core::ffi::{c_int, c_long, c_void};
use core::fmt;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use core::time::Duration;
use userptr::pages::Buffer;
use userptr::platform::{LockClass, Mutex};
use userptr::{
    Client, Context, Error, Lease, Limits, RawQueue, Ref, RefCounted, SgLimits, UserPtr, ref_counted,
};
use userptr_kernel::{KQueue, Kernel, Kind, Mm, now_ns as now, pause, signal_pending, untagged};

/// All there is, from the module's load to its unload.
struct Driver {
    copiers: [Context<Copier>; EDU],
    edu: Option<Context<Edu>>,
    /// Handles that outlive every object, so that the last one never goes in a worker.
    queues: [KQueue; 4],
}

ref_counted! { impl RefCounted<Kernel> for Driver {} }

static DRIVER: AtomicPtr<Driver> = AtomicPtr::new(ptr::null_mut());

fn limits(device: usize) -> Limits {
    let plain = Limits::default().read_only(true).deadline(Some(Duration::from_secs(10)));
    match device {
        1 => plain.deadline(Some(Duration::from_secs(1))),
        2 => plain.max_pages(8).read_only(false).sg(SgLimits::NONE.max_segments(64).max_segment_pages(1)),
        _ => plain,
    }
}

impl Driver {
    fn try_new() -> Result<Ref<Self, Kernel>, Error> {
        let [revokes, pins, releases, copies] = [
            KQueue::try_new(Kind::Revoke)?,
            KQueue::try_new(Kind::Pin)?,
            KQueue::try_new(Kind::Release)?,
            KQueue::try_new(Kind::Jobs)?,
        ];
        // The second device's revocations run on a queue, the others' in the thread that
        // invalidates.
        let copier = |n: usize| {
            let builder = Context::builder(Copier { limits: limits(n), queue: copies.clone() });
            let builder = builder.pin_queue(pins.clone()).release_queue(releases.clone());
            if n == 1 { builder.revoke_queue(revokes.clone()) } else { builder }.build()
        };
        let copiers = [copier(0)?, copier(1)?, copier(2)?];
        let edu = match Edu::find(copies.clone())? {
            Some(device) => Some(
                Context::builder(device).pin_queue(pins.clone()).release_queue(releases.clone()).build()?,
            ),
            None => None,
        };
        let driver = Self { copiers, edu, queues: [revokes, pins, releases, copies] };
        Ok(Ref::try_new(driver)?)
    }

    /// Waits until no work is queued or running.
    fn settle(&self) {
        // A pin may leave a revocation behind, a revocation a record to free.
        for _ in 0..2 {
            for queue in &self.queues {
                queue.drain();
            }
        }
    }
}

fn driver() -> Option<&'static Driver> {
    // SAFETY: set at load and taken away at unload, when no file is open and so nobody calls.
    unsafe { DRIVER.load(Ordering::Acquire).as_ref() }
}

/// Called at the module's load. 0 or a negative errno.
#[unsafe(no_mangle)]
pub extern "C" fn userptr_init_driver() -> c_int {
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
pub extern "C" fn userptr_exit_driver() {
    let raw = DRIVER.swap(ptr::null_mut(), Ordering::AcqRel);
    if !raw.is_null() {
        // SAFETY: the pointer that the load put there, taken once.
        let driver = unsafe { Ref::<Driver, Kernel>::from_raw(raw) };
        driver.settle();
        // No job runs any more: what ran out of time can end now, also for processes that are gone.
        for context in &driver.copiers {
            let _ = context.retry_quarantined();
        }
        if let Some(context) = &driver.edu {
            let _ = context.retry_quarantined();
        }
        driver.settle();
        drop(driver);
    }
}

/// An open file of one of the devices.
#[derive(Debug)]
enum Opened {
    Copier(File<Copier>),
    Edu(File<Edu>),
}

// SAFETY: initialises what is in it; only the file points here.
unsafe impl RefCounted<Kernel> for Opened {
    unsafe fn init(&self) {
        // SAFETY: once, at the final address (caller).
        unsafe {
            match self {
                Self::Copier(file) => file.job.init(),
                Self::Edu(file) => file.job.init(),
            }
        }
    }
}

/// An open file.
struct File<D: Engine> {
    client: Client<D>,
    /// The job that was begun last.
    job: Mutex<Kernel, Option<JobRef<D>>>,
}

impl<D: Engine> fmt::Debug for File<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.client, f)
    }
}

/// Opens device `n`. Null, with a negative errno in `err`, if that fails.
///
/// # Safety
/// `err` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn userptr_open(n: u32, err: *mut c_int) -> *const c_void {
    let file = (|| {
        let driver = driver().ok_or(Error::NoDevice)?;
        let opened = match (driver.copiers.get(n as usize), &driver.edu) {
            (Some(copier), _) => Opened::Copier(File::open(copier)?),
            (None, Some(edu)) => Opened::Edu(File::open(edu)?),
            (None, None) => return Err(Error::NoDevice),
        };
        Ok(Ref::<Opened, Kernel>::try_new(opened)?)
    })();
    match file {
        Ok(file) => Ref::into_raw(file).cast(),
        Err(e) => {
            // SAFETY: the caller's promise.
            unsafe { err.write(e.errno().wrapping_neg()) };
            ptr::null()
        }
    }
}

/// Closes a file: releases every object whose last handle this was.
///
/// # Safety
/// `file` came from [`userptr_open`] and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn userptr_close(file: *const c_void) {
    // SAFETY: the caller's promise.
    drop(unsafe { Ref::<Opened, Kernel>::from_raw(file.cast()) });
}

/// A request. The words are in and out. Returns 0 or a negative errno.
///
/// # Safety
/// `file` came from [`userptr_open`] and stays open; `words` are eight.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn userptr_request(file: *const c_void, request: u32, words: *mut [u64; 8]) -> c_long {
    // SAFETY: the caller's promise.
    let (opened, words) = unsafe { (&*file.cast::<Opened>(), &mut *words) };
    let done = match opened {
        Opened::Copier(file) => file.request(request, words),
        Opened::Edu(file) => file.request(request, words),
    };
    match done {
        Ok(()) => 0,
        Err(e) => e.errno().wrapping_neg().into(),
    }
}

/// The most bytes in one copy.
const COPY_MOST: usize = 16 << 20;
/// How long a copy may take.
const COPY_LIMIT: Duration = Duration::from_secs(60);
/// How long a job may fill, in milliseconds: whoever initialises, and the module's unload, wait for
/// it.
const FILL_LIMIT_MS: u64 = 60_000;
/// How long a request sleeps at most before it looks for a signal.
const LOOK: Duration = Duration::from_millis(10);

impl<D: Engine> File<D> {
    fn open(context: &Context<D>) -> Result<Self, Error> {
        let class = LockClass { name: "userptr_file", rank: 50 };
        Ok(Self { client: Client::open(context.clone())?, job: Mutex::<Kernel, _>::uninit(class, None) })
    }

    fn request(&self, number: u32, words: &mut [u64; 8]) -> Result<(), Error> {
        let used = match number {
            request::SETTLE | request::RESET => 0,
            request::GET | request::PROBE => 2,
            request::CREATE => 3,
            request::COPY => 5,
            request::FILL => 6,
            _ => 1,
        };
        if words.iter().skip(used).any(|word| *word != 0) {
            return Err(Error::Invalid);
        }
        let [a, b, c, d, e, f, ..] = *words;
        match number {
            #[cfg(feature = "selftest")]
            request::SELFTEST => {
                let outcome = userptr_kernel_selftest::run(a)?;
                words[1] = outcome.line.into();
                words[2] = outcome.left as u64;
            }
            request::CREATE => words[3] = self.create(a, b, c)?.into(),
            request::CLOSE => self.client.close(handle(a)?)?,
            request::GET => {
                let object = self.object(a)?;
                // The kernel tells of mappings that go, never of one that comes into a hole: look
                // again when asked to.
                object.reset();
                drop(acquire(&object, Duration::from_millis(b))?);
            }
            request::COPY => self.copy(a, word(b), word(c), word(d), e != 0)?,
            request::FILL => {
                self.fill(a, word(b)..word(b).checked_add(word(c)).ok_or(Error::Fault)?, d as u8, e, f != 0)?
            }
            request::WAIT => self.wait(Duration::from_millis(a))?,
            request::COUNTER => {
                let which = u32::try_from(a).map_err(|_| Error::Invalid)?;
                // SAFETY: a plain number.
                words[1] = unsafe { ffi::sample_counter(which) } as u64;
            }
            request::PROBE => {
                let mm = Mm::current().ok_or(Error::Fault)?;
                self.client.context().register_raw(&mm, untagged(word(a)), word(b), 0)?.probe()?;
            }
            request::EXPORT => self.object(a)?.export()?,
            request::PUT => self.object(a)?.put_pages()?,
            request::SETTLE => {
                if let Some(driver) = driver() {
                    driver.settle();
                }
            }
            // What a driver does after it has reset its device.
            request::RESET => self.client.context().retry_quarantined().into_result()?,
            _ => return Err(Error::Invalid),
        }
        Ok(())
    }

    fn queue(&self) -> &KQueue {
        self.client.context().device().queue()
    }

    fn object(&self, raw: u64) -> Result<UserPtr<D>, Error> {
        self.client.lookup(handle(raw)?)
    }

    fn create(&self, address: u64, size: u64, flags: u64) -> Result<u32, Error> {
        let flags = u32::try_from(flags).map_err(|_| Error::Invalid)?;
        let mm = Mm::current().ok_or(Error::Fault)?;
        self.client.create(&mm, untagged(word(address)), word(size), flags)
    }

    /// The caller's memory is touched only while no lease is held: a fault may wait for an
    /// invalidation (rule 28).
    fn copy(&self, raw: u64, offset: usize, len: usize, user: usize, write: bool) -> Result<(), Error> {
        if len > COPY_MOST {
            return Err(Error::TooBig);
        }
        let end = offset.checked_add(len).ok_or(Error::Fault)?;
        let object = self.object(raw)?;
        let until = clock_after(COPY_LIMIT);
        while !self.copy_once(&object, offset..end, user, write)? {
            // Once more from the beginning, on the pages of now.
            if now() >= until {
                return Err(Error::Busy);
            }
        }
        Ok(())
    }

    /// `false`: the device was told to stop in the middle of it.
    fn copy_once(
        &self,
        object: &UserPtr<D>,
        range: Range<usize>,
        user: usize,
        write: bool,
    ) -> Result<bool, Error> {
        let len = range.len();
        let mut bytes = Buffer::<u8, Kernel>::with_capacity(len)?;
        let at = bytes.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: the buffer has `len` bytes; the user's address is checked in C.
        if write && unsafe { ffi::sample_copy_from_user(at, user, len) } != 0 {
            return Err(Error::Fault);
        }
        let task = if write { Task::Write } else { Task::Read };
        let job = Job::fresh(task, range, Some(bytes))?;
        let lease = acquire(object, Duration::from_secs(10))?;
        if write {
            lease.mark_written();
        }
        let job = job.begin(self.queue(), lease.map());
        drop(lease);
        let job = job?;
        match job.wait(COPY_LIMIT) {
            Err(Error::Again) => return Ok(false),
            done => done?,
        }
        // SAFETY: the job has ended and keeps the buffer, of `len` bytes, all of them written.
        if !write && unsafe { ffi::sample_copy_to_user(user, at, len) } != 0 {
            return Err(Error::Fault);
        }
        Ok(true)
    }

    fn fill(&self, raw: u64, range: Range<usize>, value: u8, ms: u64, deaf: bool) -> Result<(), Error> {
        if ms > FILL_LIMIT_MS {
            return Err(Error::Invalid);
        }
        let object = self.object(raw)?;
        let task = Task::Fill { value, ns: ms.saturating_mul(1_000_000), deaf };
        let job = Job::fresh(task, range, None)?;
        let lease = acquire(&object, Duration::from_secs(10))?;
        lease.mark_written();
        let job = job.begin(self.queue(), lease.map());
        drop(lease);
        let job = job?;
        // SAFETY: initialised; this thread does not hold it.
        let old = unsafe { self.job.with(|slot| slot.replace(job)) };
        drop(old);
        Ok(())
    }

    fn wait(&self, timeout: Duration) -> Result<(), Error> {
        // SAFETY: initialised; this thread does not hold it.
        let job = unsafe { self.job.with(|slot| slot.clone()) }.ok_or(Error::NoEntry)?;
        job.wait(timeout)
    }
}

/// As `UserPtr::acquire`, but a signal ends it, and the time is the caller's.
fn acquire<D: Engine>(object: &UserPtr<D>, limit: Duration) -> Result<Lease<'_, D>, Error> {
    let until = clock_after(limit);
    loop {
        match object.try_acquire() {
            Err(Error::Again) => {}
            done => return done,
        }
        if signal_pending() {
            return Err(Error::Interrupted);
        }
        if now() >= until {
            return Err(Error::Again);
        }
        if object.wait_ready(Some(LOOK)) {
            // Ready to try, or all workers are taken: then let them work.
            pause();
        }
    }
}

fn clock_after(time: Duration) -> u64 {
    now().saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

fn handle(raw: u64) -> Result<u32, Error> {
    u32::try_from(raw).map_err(|_| Error::NoEntry)
}

/// A word of a request is a `usize` on the only architecture there is.
fn word(raw: u64) -> usize {
    raw as usize
}
