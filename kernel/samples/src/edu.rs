//! QEMU's `edu` PCI device: real DMA from and to pinned pages, through mappings of the kernel's DMA
//! layer.
//!
//! The device has one engine and moves at most [`MOST`] bytes at a time between memory and a buffer
//! of its own, which the processor cannot reach. A copy is therefore two transfers: user memory to
//! buffer to a page of the kernel, or back. A transfer takes 100 ms.
//!
//! Jobs of several objects share the engine one piece at a time. An invalidation does not wait for
//! their queue: a stopped mapping is in no transfer that begins later, so all that is waited for is
//! one transfer in flight. And it waits by looking at the device itself: nobody else has to run for
//! it to end.

mod engine;

use crate::ffi;
use crate::job::{Engine, Mapping, Table, count_event};
use core::fmt;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use engine::Hardware;
use userptr::device::{Device, Limits, Prepare};
use userptr::notifier::{Event, Outcome};
use userptr::pages::{Buffer, Segment, SgLimits};
use userptr::{Error, Ref, ref_counted};
use userptr_kernel::{KQueue, Kernel, Mm, PAGE_SHIFT, PAGE_SIZE as PAGE};

/// The most bytes in one transfer. The device's buffer has 4,096, but older versions of QEMU take a
/// transfer that reaches its end for one that goes beyond, and end the machine.
const MOST: usize = 2048;
/// The device.
#[derive(Debug)]
pub struct Edu {
    limits: Limits,
    queue: KQueue,
    hardware: Ref<Hardware, Kernel>,
}

/// Pages that follow each other for the device.
#[derive(Clone, Copy)]
struct Run {
    /// Where the device finds the first byte.
    address: u64,
    /// The index of the first page.
    first: usize,
    pages: usize,
}

impl Run {
    fn map(segment: &Segment, write: bool) -> Result<Self, Error> {
        let mut address = 0;
        // SAFETY: the frames are pinned and follow each other.
        match unsafe { ffi::sample_edu_map(segment.frame, segment.pages, write, &raw mut address) } {
            0 => Ok(Self { address, first: segment.first, pages: segment.pages }),
            -12 => Err(Error::NoMemory),
            _ => Err(Error::NoDevice),
        }
    }

    /// Once.
    fn unmap(self, write: bool) {
        // SAFETY: mapped by `map`, with these words.
        unsafe { ffi::sample_edu_unmap(self.address, self.pages, write) }
    }
}

/// An object's pages as the device sees them.
///
/// # Invariants
/// The runs cover the pages in order. They are mapped from `prepare` to `unmap`; after `stopped`
/// was set under the engine's lock, no transfer of a job that obeys begins on them.
pub struct DmaTable {
    runs: Buffer<Run, Kernel>,
    pages: usize,
    write: bool,
    stopped: AtomicBool,
    /// Jobs that do not obey.
    deaf: AtomicUsize,
    hardware: Ref<Hardware, Kernel>,
}

ref_counted! { impl RefCounted<Kernel> for DmaTable {} }

impl fmt::Debug for DmaTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaTable({} pages in {} runs)", self.pages, self.runs.len())
    }
}

impl Edu {
    /// The device, if the machine has one.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn find(queue: KQueue) -> Result<Option<Self>, Error> {
        // SAFETY: no arguments.
        if !unsafe { ffi::sample_edu_present() } {
            return Ok(None);
        }
        let (mut pages, mut mapping_pages, mut reaches_all) = (0_u64, 0_u64, false);
        // SAFETY: three places to write to.
        unsafe { ffi::sample_edu_limits(&raw mut pages, &raw mut mapping_pages, &raw mut reaches_all) };
        let sg = SgLimits::NONE.max_segment_pages(usize::try_from(mapping_pages).unwrap_or(usize::MAX));
        let limits = Limits::default()
            .max_pages(usize::try_from(pages).unwrap_or(usize::MAX))
            .sg(sg)
            .read_only(true)
            // A bounce buffer is as good as a cache that is not coherent: one side does not see
            // what the other writes.
            .coherent(reaches_all)
            .deadline(Some(Duration::from_secs(3)));
        let hardware = Ref::try_new(Hardware::uninit())?;
        Ok(Some(Self { limits, queue, hardware }))
    }
}

impl Engine for Edu {
    type Table = DmaTable;

    fn queue(&self) -> &KQueue {
        &self.queue
    }
}

impl Device for Edu {
    type Space = Mm;
    type Map = Mapping<DmaTable>;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn prepare(&self, what: Prepare<'_, Mm>) -> Result<Self::Map, Error> {
        let segments = what.sg.segments();
        let mut table = DmaTable {
            runs: Buffer::with_capacity(segments.len())?,
            pages: what.sg.pages(),
            write: what.write,
            stopped: AtomicBool::new(false),
            deaf: AtomicUsize::new(0),
            hardware: self.hardware.clone(),
        };
        for segment in segments {
            let mapped = Run::map(segment, what.write).and_then(|run| {
                table.runs.push(run).map_err(|run| {
                    run.unmap(what.write);
                    Error::TooBig
                })
            });
            if let Err(error) = mapped {
                table.unmap();
                return Err(error);
            }
        }
        match Ref::try_new(table) {
            Ok(table) => Ok(Mapping(table)),
            Err(rejected) => {
                rejected.value.unmap();
                Err(rejected.error)
            }
        }
    }

    fn stop(&self, map: &Self::Map) {
        self.hardware.tell(|| map.0.stopped.store(true, Ordering::Relaxed));
    }

    fn wait_idle(&self, map: &Self::Map, timeout: Option<Duration>) -> Outcome {
        match self.hardware.wait_landed(&map.0, timeout) {
            Ok(()) => Outcome::Idle,
            Err(Error::DeviceLost) => Outcome::DeviceLost,
            Err(_) => Outcome::TimedOut,
        }
    }

    fn unmap(&self, map: Self::Map) {
        map.0.unmap();
    }

    fn event(&self, event: Event) {
        count_event(event);
    }
}

impl DmaTable {
    /// Where the device finds byte `at`; the rest of its page follows.
    fn address(&self, at: usize) -> Option<u64> {
        let page = at >> PAGE_SHIFT;
        let run = self.runs.iter().find(|run| page >= run.first && page - run.first < run.pages)?;
        Some(run.address + (at - run.first * PAGE) as u64)
    }

    /// Whether a job runs that does not obey.
    fn has_deaf(&self) -> bool {
        // ORDERING: acquires from the release in `leave`.
        self.deaf.load(Ordering::Acquire) != 0
    }

    /// Gives the mappings back. Once: by `unmap`, or where `prepare` fails.
    fn unmap(&self) {
        for run in self.runs.iter() {
            run.unmap(self.write);
        }
    }
}

impl Table for DmaTable {
    fn pages(&self) -> usize {
        self.pages
    }

    fn writable(&self) -> bool {
        self.write
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn enter(&self, deaf: bool) {
        // A job that obeys need not be known: its transfers are.
        self.deaf.fetch_add(deaf.into(), Ordering::Relaxed);
    }

    fn leave(&self, deaf: bool) {
        // ORDERING: releases what the job did; pairs with the acquire in `has_deaf`.
        self.deaf.fetch_sub(deaf.into(), Ordering::Release);
    }

    unsafe fn copy(&self, at: usize, buffer: *mut u8, len: usize, to_pages: bool) -> Result<(), Error> {
        let mut done = 0;
        while done < len {
            let some = (len - done).min(MOST);
            let turn = self.hardware.turn(self, false)?;
            let (staging, _) = turn.staging();
            let buffer = buffer.wrapping_add(done);
            if to_pages {
                // SAFETY: the caller's buffer, and the page that goes with the turn.
                unsafe { ptr::copy_nonoverlapping(buffer, staging, some) };
                turn.move_staged(some, false)?;
                turn.move_pages(self, at + done, some, true, false)?;
            } else {
                turn.move_pages(self, at + done, some, false, false)?;
                turn.move_staged(some, true)?;
                // SAFETY: as above.
                unsafe { ptr::copy_nonoverlapping(staging, buffer, some) };
            }
            done += some;
        }
        Ok(())
    }

    unsafe fn fill(&self, at: usize, value: u8, len: usize, deaf: bool) -> Result<(), Error> {
        let turn = self.hardware.turn(self, deaf)?;
        let (staging, _) = turn.staging();
        // SAFETY: the page that goes with the turn.
        unsafe { ptr::write_bytes(staging, value, MOST) };
        turn.move_staged(MOST, false)?;
        let mut done = 0;
        while done < len {
            let some = (len - done).min(MOST);
            turn.move_pages(self, at + done, some, true, deaf)?;
            done += some;
        }
        Ok(())
    }
}
