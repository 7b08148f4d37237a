//! The monitor: one thread that reads what the kernel tells and passes it to the notifiers.
//!
//! It never allocates, frees, waits for a device or takes a lock that is ever held across an
//! allocation: whoever frees memory in the process may be blocked until this thread has read the
//! message (scenario 72). Cancels run on the notifier's queue.

use super::channels::{Channels, Wait};
use super::epoll::Ready;
use super::grace::Graces;
use super::pagemap::{Mark, Progress};
use super::strict::Held;
use super::uffd::{Event, Events};
use super::{Shared, Watch, threads};
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;
use userptr::AddrRange;
use userptr::Error;
use userptr::notifier::{Blockable, Notifier, Outcome, PendingInvalidation};
use userptr::platforms::std::Std;
use userptr::refcount::Ref;

/// The most registrations, and so devices with a notifier of their own, on one address space.
pub const MAX_NOTIFIERS: usize = 8;
/// How long a registration waits for a place. Records of address spaces are freed by a work item,
/// so that of a released one may still be registered when the next one comes.
const VACANCY: Duration = Duration::from_secs(1);

pub(super) type Slot = Option<Ref<Notifier<Std>, Std>>;

/// Who is told, and which discards are still in their grace.
#[derive(Debug)]
pub(super) struct Told {
    notifiers: [Slot; MAX_NOTIFIERS],
    graces: Graces,
}

impl Told {
    pub(super) fn new() -> Self {
        Self { notifiers: [const { None }; MAX_NOTIFIERS], graces: Graces::new() }
    }

    /// A new listener, who is told of the discards in their grace, too.
    fn add(&mut self, notifier: Ref<Notifier<Std>, Std>) -> Option<usize> {
        let (index, slot) = self.notifiers.iter_mut().enumerate().find(|(_, slot)| slot.is_none())?;
        for range in self.graces.ranges() {
            notifier.open_window(range);
        }
        *slot = Some(notifier);
        Some(index)
    }

    fn all(&self) -> impl Iterator<Item = &Notifier<Std>> {
        self.notifiers.iter().flatten().map(|notifier| &**notifier)
    }

    /// Opens a window and closes every lease in it; the cancels are queued. All devices are told
    /// before any cancel runs (rule 24). Returns the number of drivers that panicked: what they had
    /// to stop is quarantined, and the window is open all the same.
    pub(super) fn begin(&self, range: AddrRange) -> u64 {
        let mut stopping: [Option<PendingInvalidation<'_, Std>>; MAX_NOTIFIERS] =
            [const { None }; MAX_NOTIFIERS];
        let mut panics = 0_u64;
        for (slot, notifier) in stopping.iter_mut().zip(self.all()) {
            // Never refused: it is blockable.
            match catch_unwind(AssertUnwindSafe(|| notifier.invalidate_start(range, Blockable::Yes))) {
                Ok(started) => *slot = started.ok(),
                Err(_) => {
                    panics = panics.saturating_add(1);
                    // An invalidation that unwinds closes its window; its end is still to come.
                    notifier.open_window(range);
                }
            }
        }
        for pending in stopping.into_iter().flatten() {
            let finished = catch_unwind(AssertUnwindSafe(|| pending.finish_without_waiting()));
            panics = panics.saturating_add(u64::from(finished.is_err()));
        }
        panics
    }

    pub(super) fn end(&self, range: AddrRange) {
        // SAFETY: `begin` opened this window, or `add` did for a notifier that came later; it is
        // ended once.
        self.all().for_each(|notifier| unsafe { notifier.invalidate_end(range) });
    }

    /// How the revocations in the range ended, the worst of them; `None`: one has not. Waits for
    /// nothing.
    pub(super) fn outcome(&self, range: AddrRange) -> Option<Outcome> {
        self.all().try_fold(Outcome::Idle, |worst, notifier| Some(worst.max(notifier.outcome(range)?)))
    }

    /// A discard: its window stays open, because the pages go only after the message was read.
    fn discard(&mut self, range: AddrRange, mark: Option<Mark>, grace: Duration) {
        let Some(widened) = self.graces.add(range, mark, Instant::now(), grace) else { return };
        let _ = self.begin(widened.now);
        if let Some(before) = widened.before {
            self.end(before);
        }
    }
}

/// Counters of the monitor.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) unmaps: AtomicU64,
    pub(super) remaps: AtomicU64,
    pub(super) discards: AtomicU64,
    /// Unmappers that were let go though a device was not idle.
    pub(super) overdue: AtomicU64,
    /// Drivers that panicked in the monitor's thread.
    pub(super) panics: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place with the monitor.
    pub(super) fn add(&self, notifier: Ref<Notifier<Std>, Std>) -> Result<usize, Error> {
        let full = |told: &mut Told| told.notifiers.iter().all(Option::is_some);
        let waited = self.vacancy.wait_timeout_while(self.told(), VACANCY, full);
        waited.unwrap_or_else(PoisonError::into_inner).0.add(notifier).ok_or(Error::Limit)
    }

    /// Gives it back. The monitor holds the lock while it calls: when we have it, no callback runs.
    pub(super) fn remove(&self, index: usize) {
        let gone = self.told().notifiers.get_mut(index).and_then(Option::take);
        self.vacancy.notify_one();
        // The last reference may free: not under the lock.
        drop(gone);
    }

    /// Everybody who is told, to be called without a lock.
    #[cfg(feature = "uring")]
    pub(super) fn notifiers(&self) -> [Slot; MAX_NOTIFIERS] {
        self.told().notifiers.clone()
    }

    /// Opens a window, and counts the drivers that panicked in it.
    pub(super) fn begin(&self, told: &Told, range: AddrRange) {
        self.counters.panics.fetch_add(told.begin(range), Ordering::Relaxed);
    }

    /// The monitor's thread. `held` has room for every channel: nothing is allocated here.
    pub(super) fn run(&self, mut held: Vec<Held>) {
        let Some(channels) = self.watch.channels() else { return };
        let (mut ready, mut events) = (Ready::new(), Events::new());
        loop {
            let wait = channels.wait(&mut ready, self.timeout(&held));
            self.expire();
            match wait {
                Wait::Stop => return,
                Wait::Look => {
                    for number in ready.iter() {
                        if let Ok(index) = usize::try_from(number) {
                            self.serve(channels, index, &mut held, &mut events);
                        }
                    }
                }
                Wait::Blind => {
                    (0..channels.len()).for_each(|index| self.serve(channels, index, &mut held, &mut events));
                }
            }
            self.let_go(channels, &mut held, &mut events);
        }
    }

    /// A channel with messages.
    fn serve(&self, channels: &Channels, index: usize, held: &mut Vec<Held>, events: &mut Events) {
        match &self.watch {
            Watch::Shards(_) => {
                if let Some(channel) = channels.get(index) {
                    channel.read_all(events, |events| self.pass_on(events), || ());
                }
            }
            Watch::Regions(regions) => self.hold(regions, index, held),
            Watch::Nothing(_) => {}
        }
    }

    pub(super) fn pass_on(&self, events: &Events) {
        if !self.options.lag.is_zero() {
            std::thread::sleep(self.options.lag);
        }
        let mut told = self.told();
        for event in events.iter() {
            match event {
                Event::Unmap(range) => {
                    count(&self.counters.unmaps);
                    // The pages are gone: what is pinned from here on is new.
                    self.begin(&told, range);
                    told.end(range);
                }
                Event::Remap { from, .. } => {
                    count(&self.counters.remaps);
                    // What was at the new place before has an unmap of its own.
                    self.begin(&told, from);
                    told.end(from);
                }
                Event::Remove(range) => {
                    count(&self.counters.discards);
                    let mark = if self.options.marks { self.pagemap.mark(range) } else { None };
                    told.discard(range, mark, self.options.grace);
                }
            }
        }
    }

    /// Ends the windows of discards that are over.
    fn expire(&self) {
        let mut told = self.told();
        let now = Instant::now();
        while let Some(range) = told.graces.take_over(now, |mark| self.progress(mark)) {
            told.end(range);
        }
    }

    /// How far a discard is.
    fn progress(&self, mark: Option<Mark>) -> Progress {
        if self.options.marks && threads::all_others_sleep() {
            return Progress::Over;
        }
        mark.map_or(Progress::Unknown, |mark| self.pagemap.progress(mark))
    }

    fn timeout(&self, held: &[Held]) -> Option<Duration> {
        if !held.is_empty() {
            return Some(super::strict::TICK);
        }
        let next = self.told().graces.next()?;
        Some(next.saturating_duration_since(Instant::now()))
    }
}
