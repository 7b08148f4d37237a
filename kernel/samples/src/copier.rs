//! A device in software: it copies and fills pinned pages from a kernel worker, as a DMA engine
//! would.

use crate::ffi;
use crate::job::{Engine, Mapping, Table, count_event};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use userptr::address_space::Pages;
use userptr::device::{Device, Limits, Prepare};
use userptr::notifier::{Event, Outcome};
use userptr::pages::Buffer;
use userptr::platform::RawWait;
use userptr::{Error, Ref, RefCounted};
use userptr_kernel::{KQueue, KWait, Kernel, Mm, PAGE_SIZE as PAGE, Page};

/// The device.
#[derive(Debug)]
pub struct Copier {
    pub limits: Limits,
    pub queue: KQueue,
}

/// What the device knows of an object: its own copy of the page list, like a table in the device.
pub struct PageTable {
    pages: Pages<Mm>,
    write: bool,
    /// Jobs that may touch the pages.
    jobs: AtomicUsize,
    stop: AtomicBool,
    idle: KWait,
}

// SAFETY: initialises its wait; jobs that point here hold a reference.
unsafe impl RefCounted<Kernel> for PageTable {
    unsafe fn init(&self) {
        // SAFETY: once, at the final address (caller).
        unsafe { self.idle.init() }
    }
}

impl fmt::Debug for PageTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageTable({} pages, {} jobs)", self.pages.len(), self.jobs.load(Ordering::Relaxed))
    }
}

impl Engine for Copier {
    type Table = PageTable;

    fn queue(&self) -> &KQueue {
        &self.queue
    }
}

impl Device for Copier {
    type Space = Mm;
    type Map = Mapping<PageTable>;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn prepare(&self, what: Prepare<'_, Mm>) -> Result<Self::Map, Error> {
        let mut pages = Buffer::<Page, Kernel>::with_capacity(what.pages.len())?;
        for page in what.pages.iter() {
            pages.push(*page).map_err(|_| Error::TooBig)?;
        }
        let table = PageTable {
            pages,
            write: what.write,
            jobs: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            idle: KWait::uninit(),
        };
        Ok(Mapping(Ref::try_new(table)?))
    }

    fn stop(&self, map: &Self::Map) {
        map.0.stop.store(true, Ordering::Relaxed);
    }

    fn wait_idle(&self, map: &Self::Map, timeout: Option<Duration>) -> Outcome {
        // ORDERING: acquires from the release in `leave`: the last access to the pages happened
        // before.
        let idle = || map.0.jobs.load(Ordering::Acquire) == 0;
        // SAFETY: initialised; called without locks (contract).
        if unsafe { map.0.idle.wait_until(timeout, &mut { idle }) } {
            Outcome::Idle
        } else {
            Outcome::TimedOut
        }
    }

    fn unmap(&self, map: Self::Map) {
        drop(map);
    }

    fn event(&self, event: Event) {
        count_event(event);
    }
}

/// Copies are short and do not look whether they should stop: whoever waits for the device waits
/// for them.
impl Table for PageTable {
    fn pages(&self) -> usize {
        self.pages.len()
    }

    fn writable(&self) -> bool {
        self.write
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn enter(&self, _: bool) {
        self.jobs.fetch_add(1, Ordering::Relaxed);
    }

    fn leave(&self, _: bool) {
        // ORDERING: releases the accesses to the pages; pairs with the acquire in `wait_idle`.
        self.jobs.fetch_sub(1, Ordering::Release);
        // SAFETY: initialised, alive by the job's reference.
        unsafe { self.idle.wake_all() };
    }

    unsafe fn copy(&self, at: usize, buffer: *mut u8, len: usize, to_pages: bool) -> Result<(), Error> {
        let page = self.pages.get(at / PAGE).ok_or(Error::Fault)?;
        // SAFETY: pinned while the job runs; buffer and page have room for `len` bytes (caller).
        unsafe { ffi::sample_copy_page(page.as_ptr(), at % PAGE, buffer, len, to_pages) };
        Ok(())
    }

    unsafe fn fill(&self, at: usize, value: u8, len: usize, _: bool) -> Result<(), Error> {
        let page = self.pages.get(at / PAGE).ok_or(Error::Fault)?;
        // SAFETY: pinned while the job runs; the piece lies in the page (caller).
        unsafe { ffi::sample_fill_page(page.as_ptr(), at % PAGE, value, len) };
        Ok(())
    }
}
