//! The places between two steps where a test can run code.

use super::machine::Machine;
use std::sync::{Arc, Mutex, PoisonError};
use userptr::AddrRange;

/// A place between two steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seam {
    /// An invalidation: before the start callbacks.
    Before,
    /// After the start callbacks have returned; the page tables still hold the old pages.
    Started,
    /// The page tables are changed; the old pages are not freed yet.
    Cleared,
    /// The old pages are freed; before the end callbacks.
    Freed,
    /// After the end callbacks.
    Ended,
    /// A pin: before the first page is looked up.
    PinBegin,
    /// A pin: the pages are pinned, and nobody but the pinning thread knows it.
    Pinned,
    /// Pages are given back: before the first one is.
    Unpin,
    /// A registration: nothing has been done yet.
    Register,
    /// A registration has been ended.
    Unregistered,
    /// The device: before it maps.
    Prepare,
    /// The device: it has mapped; the core does not know yet.
    Prepared,
    /// The device is asked to stop.
    Stop,
    /// The device is waited for: before the wait.
    WaitIdle,
    /// The device: before the mapping goes.
    Unmap,
    /// A hold on the users of an address space is about to be dropped.
    UsersPut,
}

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `mmap(MAP_FIXED)` over something.
    Mmap,
    /// `munmap`.
    Munmap,
    /// `mremap`.
    Mremap,
    /// `madvise(MADV_DONTNEED)`.
    Dontneed,
    /// `madvise(MADV_FREE)`.
    Free,
    /// `mprotect`.
    Mprotect,
    /// `fork`.
    Fork,
    /// A write fault that breaks a copy-on-write.
    Cow,
    /// Reclaim.
    Reclaim,
    /// The OOM reaper.
    OomReap,
    /// The end of an address space.
    Exit,
    /// A fast pin.
    FastPin,
    /// A slow pin.
    SlowPin,
    /// None of these.
    Other,
}

/// One arrival at a seam.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Where.
    pub seam: Seam,
    /// In what.
    pub op: Op,
    /// The address space, by its identity.
    pub mm: usize,
    /// The range, if there is one.
    pub range: Option<AddrRange>,
}

type Once = Box<dyn FnOnce(&Event) + Send>;
type Always = Arc<dyn Fn(&Event) + Send + Sync>;

#[derive(Default)]
pub(super) struct Seams {
    once: Mutex<Vec<(Seam, Option<Op>, Once)>>,
    always: Mutex<Vec<(Seam, Always)>>,
    trace: Mutex<Vec<Event>>,
}

/// A test that arrives at more seams than this is a stress test; nobody reads its trace.
const TRACE: usize = 4096;

impl Machine {
    /// Runs `f` at the next arrival at `seam`, on the thread that arrives. It has whatever locks
    /// that thread has there.
    pub fn once(&self, seam: Seam, f: impl FnOnce(&Event) + Send + 'static) {
        lock(&self.seams().once).push((seam, None, Box::new(f)));
    }

    /// As [`once`](Self::once), for an arrival in `op` only.
    pub fn once_in(&self, op: Op, seam: Seam, f: impl FnOnce(&Event) + Send + 'static) {
        lock(&self.seams().once).push((seam, Some(op), Box::new(f)));
    }

    /// Runs `f` at every arrival at `seam`.
    pub fn always(&self, seam: Seam, f: impl Fn(&Event) + Send + Sync + 'static) {
        lock(&self.seams().always).push((seam, Arc::new(f)));
    }

    /// Forgets all code at seams; returns how many pieces of [`once`](Self::once) never ran.
    pub fn clear_seams(&self) -> usize {
        // Taken out first: what the code holds may arrive at a seam itself when it is dropped.
        let always = core::mem::take(&mut *lock(&self.seams().always));
        drop(always);
        let once = core::mem::take(&mut *lock(&self.seams().once));
        once.len()
    }

    /// How many pieces of [`once`](Self::once) have not run yet.
    #[must_use]
    pub fn armed(&self) -> usize {
        lock(&self.seams().once).len()
    }

    /// What happened so far, at most the first few thousand events.
    #[must_use]
    pub fn trace(&self) -> Vec<Event> {
        lock(&self.seams().trace).clone()
    }

    /// Starts a new trace.
    pub fn clear_trace(&self) {
        lock(&self.seams().trace).clear();
    }

    pub(super) fn arrive(&self, seam: Seam, op: Op, mm: usize, range: Option<AddrRange>) {
        let event = Event { seam, op, mm, range };
        let seams = self.seams();
        let mut trace = lock(&seams.trace);
        if trace.len() < TRACE {
            trace.push(event);
        }
        drop(trace);
        let mut once = lock(&seams.once);
        let at = once.iter().position(|(s, o, _)| *s == seam && o.is_none_or(|o| o == op));
        let ours = at.map(|at| once.remove(at).2);
        drop(once);
        let always: Vec<_> =
            lock(&seams.always).iter().filter(|(s, _)| *s == seam).map(|(_, f)| f.clone()).collect();
        // No lock of the machine's own is held while code of a test runs.
        if let Some(f) = ours {
            f(&event);
        }
        for f in always {
            f(&event);
        }
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
