//! The DMA engine: reads and writes page frames by a table of its own, whatever the page tables say
//! by now.

use super::frames::Page;
use super::machine::{Machine, Violation};
use super::mm::{Mm, Record};
use super::seam::{Op, Seam};
use super::{PAGE, SHIFT};
use crate::platform::lockdep;
use core::fmt;
use core::time::Duration;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use userptr::AddrRange;
use userptr::Error;
use userptr::notifier::Outcome;

/// A DMA engine. Each access is checked against what the process maps at that very moment; see
/// [`Violation`].
#[derive(Clone, Debug)]
pub struct Engine {
    machine: Machine,
}

/// A translation table of the device. Clones are the same table: the driver's map, and the device's
/// own knowledge of it.
#[derive(Clone)]
pub struct DmaMap(Arc<Table>);

struct Table {
    /// Not counted: a device holds no address space.
    owner: Arc<Mm>,
    address: usize,
    pages: Vec<Page>,
    write: bool,
    use_: Mutex<Use>,
    idle: Condvar,
}

#[derive(Default)]
struct Use {
    unmapped: bool,
    stopping: bool,
    jobs: usize,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Use> {
        self.use_.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// An engine in this machine.
    #[must_use]
    pub fn new(machine: &Machine) -> Self {
        Self { machine: machine.clone() }
    }

    /// Makes a table for `pages`, which the process had at `address` (in bytes) when they were
    /// pinned. For a [`Device::prepare`](userptr::Device::prepare): the process is
    /// [`Space::record`](crate::Space::record) of the address space.
    ///
    /// # Errors
    /// What was injected.
    pub fn map(&self, owner: &Record, address: usize, pages: &[Page], write: bool) -> Result<DmaMap, Error> {
        lockdep::call_out("prepare");
        lockdep::might_sleep("prepare");
        let range = AddrRange::new(address, pages.len() * PAGE).ok();
        let mm = owner.id();
        self.machine.arrive(Seam::Prepare, Op::Other, mm, range);
        if let Some(error) = self.machine.inject().prepare.take() {
            return Err(error);
        }
        let pages = pages.to_vec();
        let table = Table {
            owner: owner.0.clone(),
            address,
            pages,
            write,
            use_: Mutex::default(),
            idle: Condvar::new(),
        };
        self.machine.arrive(Seam::Prepared, Op::Other, mm, range);
        Ok(DmaMap(Arc::new(table)))
    }

    /// Asks the jobs on the table to stop.
    pub fn stop(&self, map: &DmaMap) {
        lockdep::call_out("stop");
        map.0.lock().stopping = true;
        self.arrive(Seam::Stop, map);
    }

    /// Waits until no job is left on the table.
    pub fn wait_idle(&self, map: &DmaMap, timeout: Option<Duration>) -> Outcome {
        lockdep::call_out("wait_idle");
        lockdep::might_sleep("wait_idle");
        self.arrive(Seam::WaitIdle, map);
        if let Some(idle) = self.machine.inject().idle.take() {
            return idle;
        }
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        let mut busy = map.0.lock();
        while busy.jobs != 0 {
            busy = match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
                None => map.0.idle.wait(busy).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => return Outcome::TimedOut,
                Some(left) => map.0.idle.wait_timeout(busy, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        Outcome::Idle
    }

    /// Takes the table away.
    pub fn unmap(&self, map: &DmaMap) {
        lockdep::call_out("unmap");
        self.arrive(Seam::Unmap, map);
        let mut busy = map.0.lock();
        busy.unmapped = true;
        if busy.jobs != 0 {
            self.machine.frames().report(Violation::UnmappedBusy);
        }
    }

    /// Begins a job: from here until it ends the device works on the table.
    pub fn start(&self, map: &DmaMap) -> Job {
        map.0.lock().jobs += 1;
        Job { engine: self.clone(), map: map.clone() }
    }

    /// Reads a byte `offset` bytes into the object.
    ///
    /// # Panics
    /// If the offset lies outside.
    #[must_use]
    pub fn read(&self, map: &DmaMap, offset: usize) -> u8 {
        let page = self.check(map, offset, false);
        self.machine.frames().load(page, (map.0.address + offset) % PAGE).unwrap_or(0)
    }

    /// Writes a byte `offset` bytes into the object.
    ///
    /// # Panics
    /// If the offset lies outside.
    pub fn write(&self, map: &DmaMap, offset: usize, value: u8) {
        let page = self.check(map, offset, true);
        self.machine.frames().store(page, (map.0.address + offset) % PAGE, value);
    }

    /// The page at `offset`, after a check of everything that could be wrong with using it now.
    fn check(&self, map: &DmaMap, offset: usize, write: bool) -> Page {
        let table = &*map.0;
        let address = table.address + offset;
        let at = address >> SHIFT;
        let page = table.pages[at - (table.address >> SHIFT)];
        let frames = self.machine.frames();
        if table.lock().unmapped {
            frames.report(Violation::NotMapped);
        }
        if write && !table.write {
            frames.report(Violation::ReadOnly);
        }
        let tables = table.owner.tables();
        let fresh = tables.ptes.get(&at).is_some_and(|pte| pte.page == page && (pte.write || !write))
            && !tables.closed.iter().any(|range| range.contains(&at));
        drop(tables);
        if !fresh {
            frames.report(Violation::Stale { address, page, write });
        }
        let state = frames.state(page);
        if !state.freed && state.pins == 0 {
            frames.report(Violation::NotPinned(page));
        }
        page
    }

    fn arrive(&self, seam: Seam, map: &DmaMap) {
        self.machine.arrive(seam, Op::Other, map.0.owner.id, map.range());
    }
}

impl DmaMap {
    /// The addresses that the table translates.
    #[must_use]
    pub fn range(&self) -> Option<AddrRange> {
        AddrRange::new(self.0.address, self.0.pages.len() * PAGE).ok()
    }

    /// The pages, in order.
    #[must_use]
    pub fn pages(&self) -> &[Page] {
        &self.0.pages
    }

    /// Whether the device may write.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.0.write
    }

    /// Jobs in flight.
    #[must_use]
    pub fn jobs(&self) -> usize {
        self.0.lock().jobs
    }
}

impl fmt::Debug for DmaMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaMap({:?}, {} jobs)", self.range(), self.jobs())
    }
}

/// A job in flight on a table. It may touch memory until it is dropped.
#[derive(Debug)]
#[must_use = "the job ends when this is dropped"]
pub struct Job {
    engine: Engine,
    map: DmaMap,
}

impl Job {
    /// Reads a byte.
    #[must_use]
    pub fn read(&self, offset: usize) -> u8 {
        self.engine.read(&self.map, offset)
    }

    /// Writes a byte.
    pub fn write(&self, offset: usize, value: u8) {
        self.engine.write(&self.map, offset, value);
    }

    /// Whether the driver asked it to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.map.0.lock().stopping
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.map.0.lock().jobs -= 1;
        self.map.0.idle.notify_all();
    }
}
