//! A device in software: it copies and fills pinned pages from a kernel worker, as a DMA engine would.
//!
//! A job runs on a workqueue after the request that began it has given its lease back, so an invalidation has to stop the
//! device and to wait for it, exactly as for hardware.

use crate::ffi::{self, Counter, PAGE_SHIFT, count};
use crate::platform::{KQueue, KWait, Kernel};
use crate::space::{Mm, Page};
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use userptr::device::{Device, Limits, Prepare};
use userptr::memory::Pages;
use userptr::notifier::Outcome;
use userptr::pages::Buffer;
use userptr::platform::RawWait;
use userptr::work::enqueue;
use userptr::{Error, HasWork, Object, Ref, Work, has_work};

const PAGE: usize = 1 << PAGE_SHIFT;

/// The device.
#[derive(Debug)]
pub struct Copier {
    pub limits: Limits,
    pub queue: KQueue,
}

/// What the device knows of an object: its own copy of the page list, like a table in the device.
#[derive(Clone, Debug)]
pub struct Mapping(Ref<Table, Kernel>);

struct Table {
    pages: Pages<Mm>,
    write: bool,
    /// Jobs that may touch the pages.
    jobs: AtomicUsize,
    stop: AtomicBool,
    idle: KWait,
}

// SAFETY: settles its wait; jobs that point here hold a reference.
unsafe impl Object<Kernel> for Table {
    unsafe fn settle(&self) {
        // SAFETY: once, at the final address (caller).
        unsafe { self.idle.settle() }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Table({} pages, {} jobs)", self.pages.len(), self.jobs.load(Ordering::Relaxed))
    }
}

impl Device for Copier {
    type Space = Mm;
    type Map = Mapping;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn prepare(&self, what: Prepare<'_, Mm>) -> Result<Mapping, Error> {
        let mut pages = Buffer::<Page, Kernel>::with_capacity(what.pages.len())?;
        for page in what.pages.iter() {
            pages.push(*page).map_err(|_| Error::TooBig)?;
        }
        let table = Table {
            pages,
            write: what.write,
            jobs: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            idle: KWait::blank(),
        };
        Ok(Mapping(Ref::try_new(table).map_err(|(_, e)| e)?))
    }

    fn stop(&self, map: &Mapping) {
        map.0.stop.store(true, Ordering::Relaxed);
    }

    fn wait_idle(&self, map: &Mapping, timeout: Option<Duration>) -> Outcome {
        // ORDERING: acquires from the release in `Job::run`: the last access to the pages happened before.
        let idle = || map.0.jobs.load(Ordering::Acquire) == 0;
        // SAFETY: settled; called without locks (contract).
        if unsafe { map.0.idle.wait_until(timeout, &mut { idle }) } {
            Outcome::Idle
        } else {
            Outcome::TimedOut
        }
    }

    fn unmap(&self, map: Mapping) {
        drop(map);
    }
}

/// What to do, with bytes counted from the object's first page.
pub enum Task {
    /// From the pages to the buffer.
    Read,
    /// From the buffer to the pages.
    Write,
    /// Fills the range again and again with the next value, beginning with this one, until the time is up.
    Fill {
        value: u8,
        ns: u64,
        /** Goes on though told to stop: a device that does not obey. */
        deaf: bool,
    },
}

/// One job of the device.
pub struct Job {
    work: Work<Self, Kernel>,
    table: Ref<Table, Kernel>,
    task: Task,
    range: Range<usize>,
    buffer: *mut u8,
    /// Keeps `buffer` alive.
    _bytes: Option<Buffer<u8, Kernel>>,
    done: AtomicBool,
    ended: KWait,
}

// SAFETY: the buffer belongs to the job, is touched by its worker, and by others only once `done` was seen.
unsafe impl Send for Job {}
// SAFETY: as above.
unsafe impl Sync for Job {}

// SAFETY: settles the item and the wait; the queue's pointer to it comes with a count.
unsafe impl Object<Kernel> for Job {
    unsafe fn settle(&self) {
        // SAFETY: once, at the final address (caller).
        unsafe {
            self.work.settle();
            self.ended.settle();
        }
    }
}

// SAFETY: the offset is checked by the macro; `settle` settles the item.
unsafe impl HasWork<Kernel> for Job {
    has_work!(work: Work<Job, Kernel>);

    fn run(this: Ref<Self, Kernel>) {
        match this.task {
            Task::Read => this.each(|page, offset, buffer, len| {
                // SAFETY: pinned while the job runs; buffer and page have room for `len` bytes.
                unsafe { ffi::uk_copy_page(page.0, offset, buffer, len, false) }
            }),
            Task::Write => this.each(|page, offset, buffer, len| {
                // SAFETY: as above.
                unsafe { ffi::uk_copy_page(page.0, offset, buffer, len, true) }
            }),
            Task::Fill { value, ns, deaf } => this.fill(value, ns, deaf),
        }
        this.table_done();
    }
}

impl Job {
    /// Begins a job. The caller holds a lease on the mapping's object for the duration of this call.
    ///
    /// # Errors
    /// `EFAULT` if the range is not within the object, `EPERM` to write a read-only object, `ENOMEM`.
    pub fn begin(
        device: &Copier,
        map: &Mapping,
        task: Task,
        range: Range<usize>,
        bytes: Option<Buffer<u8, Kernel>>,
    ) -> Result<Ref<Self, Kernel>, Error> {
        let table = map.0.clone();
        if range.end > table.pages.len().saturating_mul(PAGE) || range.start > range.end {
            return Err(Error::Fault);
        }
        if !table.write && !matches!(task, Task::Read) {
            return Err(Error::Permission);
        }
        let mut bytes = bytes;
        let buffer =
            bytes.as_mut().map_or(core::ptr::null_mut(), |b| b.spare_capacity_mut().as_mut_ptr().cast());
        let job = Self {
            work: Work::blank(),
            table,
            task,
            range,
            buffer,
            _bytes: bytes,
            done: AtomicBool::new(false),
            ended: KWait::blank(),
        };
        let job = Ref::try_new(job).map_err(|(_, e)| e)?;
        // Counted under the lease, so before `wait_idle` asks.
        job.table.jobs.fetch_add(1, Ordering::Relaxed);
        count(Counter::Jobs, 1);
        if enqueue::<Self, Kernel, 0>(&device.queue, job.clone()).is_err() {
            job.table_done();
            return Err(Error::Busy);
        }
        Ok(job)
    }

    /// Waits for the end of the job; a signal ends the wait, not the job.
    ///
    /// # Errors
    /// `EINTR`, `ETIMEDOUT`.
    pub fn wait(&self, timeout: Duration) -> Result<(), Error> {
        // ORDERING: acquires from the release in `table_done`: what the job wrote to the buffer is there.
        let done = || self.done.load(Ordering::Acquire);
        // SAFETY: settled; a request holds no spinlock and is no invalidation.
        if unsafe { self.ended.wait_interruptible(timeout, done) }? { Ok(()) } else { Err(Error::TimedOut) }
    }

    fn table_done(&self) {
        count(Counter::Jobs, -1);
        // ORDERING: releases the accesses to the pages; pairs with the acquire in `wait_idle`.
        self.table.jobs.fetch_sub(1, Ordering::Release);
        // ORDERING: releases the buffer; pairs with the acquire in `wait`.
        self.done.store(true, Ordering::Release);
        // SAFETY: settled, alive by the references held.
        unsafe {
            self.table.idle.wake_all();
            self.ended.wake_all();
        }
    }

    /// Calls `f` with each page of the range: page, offset in it, buffer, length.
    fn each(&self, mut f: impl FnMut(Page, usize, *mut u8, usize)) {
        let mut at = self.range.start;
        while at < self.range.end {
            let offset = at % PAGE;
            let len = (PAGE - offset).min(self.range.end - at);
            let Some(page) = self.table.pages.get(at / PAGE) else { return };
            f(*page, offset, self.buffer.wrapping_add(at - self.range.start), len);
            count(Counter::Copied, len as isize);
            at += len;
        }
    }

    fn fill(&self, value: u8, ns: u64, deaf: bool) {
        // SAFETY: no arguments.
        let now = || unsafe { ffi::uk_now_ns() };
        let until = now().saturating_add(ns);
        let mut value = value;
        loop {
            let stop = !deaf && self.table.stop.load(Ordering::Relaxed);
            if stop {
                return;
            }
            self.each(|page, offset, _, len| {
                // SAFETY: pinned while the job runs.
                unsafe { ffi::uk_fill_page(page.0, offset, value, len) }
            });
            if now() >= until {
                return;
            }
            value = value.wrapping_add(1);
            // SAFETY: a worker may sleep.
            unsafe { ffi::uk_pause() };
        }
    }
}
