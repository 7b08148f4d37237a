//! The machine: frames, seams, faults, and the list of what must never happen.

use super::frames::{Frames, Page, PageState};
use super::inject::Inject;
use super::mm::{self, Process};
use super::seam::Seams;
use crate::platform::{Meter, MeterGuard};
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use userptr::notifier::Outcome;

/// Something that must never happen.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// A pin was given back that was not there.
    UnpinTwice(Page),
    /// A page table gave a page back that it did not have.
    UnmapTwice(Page),
    /// A page was touched after its frame was freed.
    UseAfterFree(Page),
    /// The device wrote to the page of zeros.
    ZeroPageWritten,
    /// The device used a page that has no pin.
    NotPinned(Page),
    /// The device used a mapping that was taken away.
    NotMapped,
    /// The device used a page that the process does not have at that address any more, or not for
    /// writing, or that it is about to take away: the start callbacks of an invalidation have
    /// returned.
    Stale {
        /// The address, in bytes.
        address: usize,
        /// The page that the device used.
        page: Page,
        /// Whether it wrote.
        write: bool,
    },
    /// The device wrote through a read-only mapping.
    ReadOnly,
    /// A mapping was taken away while the device worked on it.
    UnmappedBusy,
    /// More was uncharged than had been charged: a page was given back to an address space that had
    /// not pinned it.
    Uncharged,
}

impl fmt::Debug for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnpinTwice(page) => write!(f, "UnpinTwice({page:?})"),
            Self::UnmapTwice(page) => write!(f, "UnmapTwice({page:?})"),
            Self::UseAfterFree(page) => write!(f, "UseAfterFree({page:?})"),
            Self::ZeroPageWritten => f.write_str("ZeroPageWritten"),
            Self::NotPinned(page) => write!(f, "NotPinned({page:?})"),
            Self::NotMapped => f.write_str("NotMapped"),
            Self::Stale { address, page, write } => {
                write!(f, "Stale {{ address: {address:#x}, page: {page:?}, write: {write} }}")
            }
            Self::ReadOnly => f.write_str("ReadOnly"),
            Self::UnmappedBusy => f.write_str("UnmappedBusy"),
            Self::Uncharged => f.write_str("Uncharged"),
        }
    }
}

/// A simulated machine. Clones are the same machine.
#[derive(Clone)]
pub struct Machine(Arc<Inner>);

struct Inner {
    frames: Frames,
    seams: Seams,
    inject: Inject,
    meter: Arc<Meter>,
    next_mm: AtomicUsize,
    /// Records of address spaces that somebody holds.
    records: AtomicUsize,
    /// How invalidations ended that did not end well.
    outcomes: Mutex<Vec<Outcome>>,
    silent: AtomicBool,
}

impl Machine {
    /// A machine with enough memory for any test.
    #[must_use]
    pub fn new() -> Self {
        Self::with_frames(usize::MAX)
    }

    /// A machine with at most `frames` page frames, one of which is the page of zeros.
    #[must_use]
    pub fn with_frames(frames: usize) -> Self {
        Self(Arc::new(Inner {
            frames: Frames::new(frames),
            seams: Seams::default(),
            inject: Inject::default(),
            meter: Meter::new(),
            next_mm: AtomicUsize::new(1),
            records: AtomicUsize::new(0),
            outcomes: Mutex::default(),
            silent: AtomicBool::new(false),
        }))
    }

    /// A new process with nothing mapped.
    #[must_use]
    pub fn process(&self) -> Process {
        Process::new(self)
    }

    /// Runs this thread in the process until the guard is dropped, and meters its allocations.
    pub fn enter(&self, process: &Process) -> Entered {
        Entered { before: Some(mm::set_current(process.record().id())), _meter: self.meter().enter() }
    }

    /// Runs this thread in no process (a kernel thread), metered.
    pub fn enter_nobody(&self) -> Entered {
        Entered { before: Some(mm::set_current(0)), _meter: self.meter().enter() }
    }

    /// Faults on order.
    #[must_use]
    pub fn inject(&self) -> &Inject {
        &self.0.inject
    }

    /// The meter of the allocations of every thread that is in one of the machine's processes, on
    /// the platform `Sim`.
    #[must_use]
    pub fn meter(&self) -> &Arc<Meter> {
        &self.0.meter
    }

    pub(super) fn seams(&self) -> &Seams {
        &self.0.seams
    }

    pub(super) fn frames(&self) -> &Frames {
        &self.0.frames
    }

    /// Says whether the machine has notifications at all (`CONFIG_MMU_NOTIFIER`).
    pub fn set_notifies(&self, notifies: bool) {
        self.0.silent.store(!notifies, Ordering::Relaxed);
    }

    pub(super) fn notifies(&self) -> bool {
        !self.0.silent.load(Ordering::Relaxed)
    }

    /// Takes the list of how invalidations and exits ended that did not end with [`Outcome::Idle`].
    #[must_use]
    pub fn take_outcomes(&self) -> Vec<Outcome> {
        core::mem::take(&mut *self.0.outcomes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn note(&self, outcome: Outcome) {
        if outcome != Outcome::Idle {
            self.0.outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
        }
    }

    pub(super) fn next_mm(&self) -> usize {
        self.0.next_mm.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn records_add(&self, n: isize) {
        self.0.records.fetch_add(n as usize, Ordering::Relaxed);
    }

    /// What is known of a page.
    #[must_use]
    pub fn page(&self, page: Page) -> PageState {
        self.frames().state(page)
    }

    /// Takes the page lock. `false`: somebody has it.
    #[must_use = "`false` means that somebody else has it"]
    pub fn try_lock_page(&self, page: Page) -> bool {
        self.frames().try_lock(page)
    }

    /// Gives the page lock back.
    pub fn unlock_page(&self, page: Page) {
        self.frames().unlock(page);
    }

    /// Pins that are not given back, over all pages.
    #[must_use]
    pub fn pins(&self) -> usize {
        self.frames().pins()
    }

    /// Frames in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.frames().used()
    }

    /// How many records of address spaces somebody holds, processes included.
    #[must_use]
    pub fn records(&self) -> usize {
        self.0.records.load(Ordering::Relaxed)
    }

    /// Takes the list of violations, which is empty afterwards: for a test that wants them.
    #[must_use]
    pub fn take_violations(&self) -> Vec<Violation> {
        self.frames().take_violations()
    }

    /// Checks that nothing happened that must not, and that nothing is left to happen: no pins, no
    /// armed code, no faults that nobody met. Call it at the end of each test, when every object is
    /// gone.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_clean(&self) {
        let violations = self.take_violations();
        assert!(violations.is_empty(), "violations: {violations:#?}\n{}", self.story());
        assert_eq!(self.pins(), 0, "pins are left\n{}", self.story());
        assert_eq!(self.armed(), 0, "code at a seam never ran\n{}", self.story());
        assert_eq!(self.take_outcomes(), [], "an invalidation did not end well\n{}", self.story());
        assert_eq!(self.inject().left(), 0, "a fault was never met\n{}", self.story());
    }

    /// Checks only that nothing happened that must not; pins and armed code may be left.
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_clean_but_pins(&self) {
        let violations = self.take_violations();
        assert!(violations.is_empty(), "violations: {violations:#?}\n{}", self.story());
    }

    /// [`assert_clean`](Self::assert_clean), and that nothing at all is left: no process, no
    /// record, no frame, and no allocation (of the platform `Sim`).
    ///
    /// # Panics
    /// If not.
    #[track_caller]
    pub fn assert_empty(&self) {
        self.assert_clean();
        assert_eq!(self.records(), 0, "records of address spaces are left");
        assert_eq!(self.used(), 0, "frames are left");
        self.meter().on_alloc(None);
        assert_eq!(self.meter().live(), 0, "allocations are left");
    }

    fn story(&self) -> std::string::String {
        use fmt::Write;
        let mut out = std::string::String::from("what happened:\n");
        for event in self.trace() {
            let _ = writeln!(out, "  {event:?}");
        }
        out
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Machine({} frames used, {} pins)", self.used(), self.pins())
    }
}

/// This thread runs in a process. Dropping it goes back to where it was before.
#[must_use = "the thread leaves the process when this is dropped"]
#[derive(Debug)]
pub struct Entered {
    before: Option<usize>,
    _meter: MeterGuard,
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(before) = self.before.take() {
            mm::set_current(before);
        }
        debug_assert!(thread::panicking() || crate::platform::lockdep::depth() == 0);
    }
}
