//! Jobs: what the test devices are told to do with pages that they have mapped.
//!
//! A job runs on a workqueue after the request that began it has given its lease back, so an
//! invalidation has to stop the device and to wait for it, exactly as for hardware that has queues
//! of its own.

use crate::ffi::count;
use crate::uapi::counter;
use core::cell::UnsafeCell;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use userptr::device::Device;
use userptr::notifier::Event;
use userptr::pages::Buffer;
use userptr::platform::RawWait;
use userptr::work::enqueue;
use userptr::{Error, HasWork, Ref, RefCounted, Work, has_work};
use userptr_kernel::{KQueue, KWait, Kernel, Mm, PAGE_SIZE as PAGE, now_ns, pause};

/// A device whose jobs these are.
pub trait Engine: Device<Space = Mm, Map = Mapping<Self::Table>> {
    /// What it knows of an object.
    type Table: Table;

    /// Where its jobs run.
    fn queue(&self) -> &KQueue;
}

/// What the devices do with what they are told of their objects: they count.
pub fn count_event(event: Event) {
    if let Event::Quarantined(..) = event {
        count(counter::QUARANTINED, 1);
    }
}

/// The pages of an object as a device knows them.
///
/// Addresses are bytes from the object's first page. A piece that is copied or filled lies in one
/// page.
pub trait Table: RefCounted<Kernel> + Sized {
    /// The number of pages.
    fn pages(&self) -> usize;
    /// Whether the device may write.
    fn writable(&self) -> bool;
    /// Whether the device was told to stop using the pages.
    fn is_stopped(&self) -> bool;
    /// A job begins, and a lease is held. A job that is `deaf` is to go on when told to stop.
    fn enter(&self, deaf: bool);
    /// It has ended. Nothing of the job touches the pages any more.
    fn leave(&self, deaf: bool);
    /// Copies between the pages and `buffer`, which has `len` bytes.
    ///
    /// # Errors
    /// `EAGAIN`: the device was told to stop before this. Others: the device does not work.
    ///
    /// # Safety
    /// `buffer` can be read or written, and a job has entered.
    unsafe fn copy(&self, at: usize, buffer: *mut u8, len: usize, to_pages: bool) -> Result<(), Error>;
    /// Fills a piece of the pages.
    ///
    /// # Errors
    /// As `copy`.
    ///
    /// # Safety
    /// A job has entered.
    unsafe fn fill(&self, at: usize, value: u8, len: usize, deaf: bool) -> Result<(), Error>;
}

/// What an object keeps for its device.
#[derive(Debug)]
pub struct Mapping<T: Table>(pub Ref<T, Kernel>);

/// What to do, with bytes counted from the object's first page.
pub enum Task {
    /// From the pages to the buffer.
    Read,
    /// From the buffer to the pages.
    Write,
    /// Fills the range again and again with the next value, beginning with this one, until the time
    /// is up.
    Fill {
        value: u8,
        ns: u64,
        /** Goes on though told to stop: a device that does not obey. */
        deaf: bool,
    },
}

/// A reference to a job of a device.
pub type JobRef<D> = Ref<Job<<D as Engine>::Table>, Kernel>;

/// A job that has not begun: nobody else has it.
pub struct Fresh<T: Table>(Ref<Job<T>, Kernel>);

/// One job.
pub struct Job<T: Table> {
    work: Work<Self, Kernel>,
    /// What it works on, from its beginning on. Written once, by [`Fresh::begin`].
    table: UnsafeCell<Option<Ref<T, Kernel>>>,
    task: Task,
    range: Range<usize>,
    buffer: *mut u8,
    /// Keeps `buffer` alive.
    _bytes: Option<Buffer<u8, Kernel>>,
    outcome: UnsafeCell<Result<(), Error>>,
    done: AtomicBool,
    ended: KWait,
}

// SAFETY: the table is written before anybody else has the job; buffer and outcome belong to the
// job, are touched by its worker, and by others only once `done` was seen.
unsafe impl<T: Table> Send for Job<T> {}
// SAFETY: as above.
unsafe impl<T: Table> Sync for Job<T> {}

// SAFETY: initialises the item and the wait; the queue's pointer to it comes with a count.
unsafe impl<T: Table> RefCounted<Kernel> for Job<T> {
    unsafe fn init(&self) {
        // SAFETY: once, at the final address (caller).
        unsafe {
            self.work.init();
            self.ended.init();
        }
    }
}

// SAFETY: the offset is checked by the macro; `init` initialises the item.
unsafe impl<T: Table> HasWork<Kernel> for Job<T> {
    has_work!(work: Work<Job<T>, Kernel>);

    fn run(this: Ref<Self, Kernel>) {
        let outcome = match this.task {
            Task::Read => this.copy(false),
            Task::Write => this.copy(true),
            Task::Fill { value, ns, deaf } => this.fill(value, ns, deaf),
        };
        this.end(outcome);
    }
}

impl<T: Table> Fresh<T> {
    /// Begins the job. The caller holds a lease on the mapping's object for the duration of this
    /// call, which allocates nothing.
    ///
    /// # Errors
    /// `EFAULT` if the range is not within the object, `EPERM` to write a read-only object,
    /// `EBUSY`.
    pub fn begin(self, queue: &KQueue, map: &Mapping<T>) -> Result<Ref<Job<T>, Kernel>, Error> {
        let (job, table) = (self.0, map.0.clone());
        if job.range.end > table.pages().saturating_mul(PAGE) || job.range.start > job.range.end {
            return Err(Error::Fault);
        }
        if !table.writable() && !matches!(job.task, Task::Read) {
            return Err(Error::Permission);
        }
        // Known to the device under the lease, so before `wait_idle` asks.
        table.enter(job.deaf());
        // SAFETY: nobody else has the job.
        unsafe { job.table.get().write(Some(table)) };
        count(counter::JOBS, 1);
        if enqueue::<Job<T>, Kernel, 0>(queue, job.clone()).is_err() {
            job.end(Err(Error::Busy));
            return Err(Error::Busy);
        }
        Ok(job)
    }
}

impl<T: Table> Job<T> {
    /// Makes a job. Before the lease is taken: an allocation may start reclaim, which may wait for
    /// that very lease (rule 28).
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn fresh(
        task: Task,
        range: Range<usize>,
        bytes: Option<Buffer<u8, Kernel>>,
    ) -> Result<Fresh<T>, Error> {
        let mut bytes = bytes;
        let buffer =
            bytes.as_mut().map_or(core::ptr::null_mut(), |b| b.spare_capacity_mut().as_mut_ptr().cast());
        let job = Self {
            work: Work::uninit(),
            table: UnsafeCell::new(None),
            task,
            range,
            buffer,
            _bytes: bytes,
            outcome: UnsafeCell::new(Ok(())),
            done: AtomicBool::new(false),
            ended: KWait::uninit(),
        };
        Ok(Fresh(Ref::try_new(job)?))
    }

    fn table(&self) -> Result<&T, Error> {
        // SAFETY: written before anybody else had the job.
        unsafe { (*self.table.get()).as_deref() }.ok_or(Error::Invalid)
    }

    /// Waits for the end of the job; a signal ends the wait, not the job.
    ///
    /// # Errors
    /// `EINTR`, `ETIMEDOUT`; or what became of the job: `EAGAIN` if the device was told to stop
    /// before a copy was complete.
    pub fn wait(&self, timeout: Duration) -> Result<(), Error> {
        // ORDERING: acquires from the release in `end`: what the job wrote to the buffer is there.
        let done = || self.done.load(Ordering::Acquire);
        // SAFETY: initialised; a request holds no spinlock and is no invalidation.
        if !unsafe { self.ended.wait_interruptible(timeout, done) }? {
            return Err(Error::TimedOut);
        }
        // SAFETY: `done` was seen, and nobody writes after that.
        unsafe { *self.outcome.get() }
    }

    fn deaf(&self) -> bool {
        matches!(self.task, Task::Fill { deaf: true, .. })
    }

    fn end(&self, outcome: Result<(), Error>) {
        count(counter::JOBS, -1);
        if let Ok(table) = self.table() {
            table.leave(self.deaf());
        }
        // SAFETY: `done` is not set yet, so the outcome is ours.
        unsafe { self.outcome.get().write(outcome) };
        // ORDERING: releases the buffer and the outcome; pairs with the acquire in `wait`.
        self.done.store(true, Ordering::Release);
        // SAFETY: initialised, alive by the reference held.
        unsafe { self.ended.wake_all() };
    }

    /// Calls `f` with each piece of the range that lies in one page: its address, how far into the
    /// range it is, its length.
    fn each(&self, mut f: impl FnMut(usize, usize, usize) -> Result<(), Error>) -> Result<(), Error> {
        let mut at = self.range.start;
        while at < self.range.end {
            let len = (PAGE - at % PAGE).min(self.range.end - at);
            f(at, at - self.range.start, len)?;
            count(counter::COPIED, len as isize);
            at += len;
        }
        Ok(())
    }

    fn copy(&self, to_pages: bool) -> Result<(), Error> {
        let table = self.table()?;
        self.each(|at, done, len| {
            // SAFETY: the buffer has room for the whole range (`begin`); this job has entered.
            unsafe { table.copy(at, self.buffer.wrapping_add(done), len, to_pages) }
        })
    }

    /// Ends well when told to stop.
    fn fill(&self, value: u8, ns: u64, deaf: bool) -> Result<(), Error> {
        let until = now_ns().saturating_add(ns);
        let mut value = value;
        let table = self.table()?;
        while deaf || !table.is_stopped() {
            // SAFETY: this job has entered.
            let filled = self.each(|at, _, len| unsafe { table.fill(at, value, len, deaf) });
            match filled {
                Err(Error::Again) => break,
                Err(error) => return Err(error),
                Ok(()) if now_ns() >= until => break,
                Ok(()) => {}
            }
            value = value.wrapping_add(1);
            pause();
        }
        Ok(())
    }
}
