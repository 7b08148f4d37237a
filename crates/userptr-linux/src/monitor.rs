//! The monitor: one thread that reads what the kernel tells and passes it to the notifiers.
//!
//! It never allocates, frees, waits for a device or takes a lock that is ever held across an
//! allocation: whoever frees memory in the process may be blocked until this thread has read the
//! message (scenario 72). Cancels run on the notifier's queue.

use super::channels::{Channels, Wait};
use super::epoll::Ready;
use super::grace::Graces;
use super::pagemap::{Mark, Progress};
use super::regions::MAX_REGIONS;
use super::strict::Held;
use super::threads::{Census, Verdict};
use super::uffd::{Event, Events};
use super::{Shared, Watch};
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

/// Who is told, and which discards may not be over.
#[derive(Debug)]
pub(super) struct Told {
    notifiers: [Slot; MAX_NOTIFIERS],
    graces: Graces,
    census: Census,
    /// The ranges that strict mode holds: one for each region, so there is always a place.
    held: [Option<AddrRange>; MAX_REGIONS],
}

impl Told {
    pub(super) fn new() -> Self {
        Self {
            notifiers: [const { None }; MAX_NOTIFIERS],
            graces: Graces::new(),
            census: Census::new(),
            held: [None; MAX_REGIONS],
        }
    }

    /// A new listener, who is told of what is open already: discards that may not be over, and
    /// ranges that strict mode holds.
    fn add(&mut self, notifier: Ref<Notifier<Std>, Std>) -> Option<usize> {
        let (index, slot) = self.notifiers.iter_mut().enumerate().find(|(_, slot)| slot.is_none())?;
        for range in self.graces.ranges().chain(self.held.iter().copied().flatten()) {
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
        // SAFETY: `begin` opened this window, or `add` did for a notifier that came later, because
        // it stands in `graces` or `held` from `begin` up to here (an unmap begins and ends under
        // one lock). It is ended once.
        self.all().for_each(|notifier| unsafe { notifier.invalidate_end(range) });
    }

    /// How the revocations in the range ended, the worst of them; `None`: one has not. Waits for
    /// nothing.
    pub(super) fn outcome(&self, range: AddrRange) -> Option<Outcome> {
        self.all().try_fold(Outcome::Idle, |worst, notifier| Some(worst.max(notifier.outcome(range)?)))
    }

    /// A discard: its window stays open, because the pages go only after the message was read.
    /// Returns the number of drivers that panicked.
    fn discard(&mut self, range: AddrRange, page: usize, mark: impl FnOnce() -> Option<Mark>) -> u64 {
        let now = Instant::now();
        let Self { notifiers, graces, .. } = self;
        let widened = graces.add(range, page, now, mark, |gap| is_clear(notifiers, gap));
        let panics = self.begin(widened.now);
        if let Some(before) = widened.before {
            self.end(before);
        }
        panics
    }

    /// Opens the window of an unmapper that strict mode holds. Returns the number of drivers that
    /// panicked.
    pub(super) fn hold(&mut self, range: AddrRange) -> u64 {
        if let Some(place) = self.held.iter_mut().find(|place| place.is_none()) {
            *place = Some(range);
        }
        self.begin(range)
    }

    /// Ends it.
    pub(super) fn let_go(&mut self, range: AddrRange) {
        if let Some(place) = self.held.iter_mut().find(|place| **place == Some(range)) {
            *place = None;
        }
        self.end(range);
    }
}

fn is_clear(notifiers: &[Slot], range: AddrRange) -> bool {
    notifiers.iter().flatten().all(|notifier| match notifier.invalidate_start(range, Blockable::No) {
        Ok(stopping) => {
            stopping.finish_without_waiting();
            // SAFETY: opened one line above.
            unsafe { notifier.invalidate_end(range) };
            true
        }
        Err(_) => false,
    })
}

/// Counters of the monitor.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) unmaps: AtomicU64,
    pub(super) remaps: AtomicU64,
    pub(super) discards: AtomicU64,
    /// Discards whose end was shown by evidence alone.
    pub(super) evidence: AtomicU64,
    /// Discards that nothing had shown to be over after a grace.
    pub(super) unproved: AtomicU64,
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
                    told.graces.strike(range);
                    // The pages are gone: what is pinned from here on is new.
                    self.begin(&told, range);
                    told.end(range);
                }
                Event::Remap { from, to } => {
                    count(&self.counters.remaps);
                    told.graces.strike(from);
                    told.graces.strike(to);
                    // What was at the new place before has an unmap of its own.
                    self.begin(&told, from);
                    told.end(from);
                }
                Event::Remove(range) => {
                    count(&self.counters.discards);
                    let mark = || if self.options.marks { self.pagemap.mark(range) } else { None };
                    let panics = told.discard(range, self.pagemap.page(), mark);
                    self.counters.panics.fetch_add(panics, Ordering::Relaxed);
                }
            }
        }
    }

    /// Ends the windows of discards that are over.
    fn expire(&self) {
        let mut told = self.told();
        let now = Instant::now();
        if !told.graces.is_due(now) {
            return;
        }
        let grace = self.options.grace;
        if !self.options.marks {
            while let Some(range) = told.graces.take_old(now, grace) {
                told.end(range);
            }
            told.graces.plan(now, Duration::ZERO, false);
            return;
        }
        let Told { graces, census, .. } = &mut *told;
        if let Some(budget) = graces.begin_round() {
            census.begin(budget);
        }
        let (verdict, soon) = census.look();
        graces.hear(verdict);
        while let Some((range, shown)) = told.graces.take_over(now, grace, |mark| self.progress(mark)) {
            if shown == Verdict::Evidence {
                count(&self.counters.evidence);
            }
            told.end(range);
        }
        let late = told.graces.count_late(now, grace);
        self.counters.unproved.fetch_add(late, Ordering::Relaxed);
        let after = Instant::now();
        told.graces.plan(after, after.saturating_duration_since(now), soon);
    }

    /// How far a discard is, by its mark.
    fn progress(&self, mark: Mark) -> Progress {
        match self.pagemap.progress(mark) {
            // A change that is told after it happened may have taken the page: with its message
            // read, the mark would have been struck out.
            Progress::Over if !self.watch.channels().is_some_and(Channels::are_quiet) => Progress::Unknown,
            progress => progress,
        }
    }

    fn timeout(&self, held: &[Held]) -> Option<Duration> {
        if !held.is_empty() {
            return Some(super::strict::TICK);
        }
        let next = self.told().graces.next()?;
        Some(next.saturating_duration_since(Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    /// Each window that a late notifier is told of is ended once, and no end takes another's.
    #[test]
    fn a_late_notifier_has_the_same_windows() {
        let [early, late] = [(); 2].map(|()| Notifier::<Std>::try_new(None).unwrap());
        let windows = || [&early, &late].map(|notifier| notifier.stats().windows);
        let range = |page: usize| AddrRange::new(page.checked_mul(PAGE).unwrap(), 4 * PAGE).unwrap();
        let (held, discarded) = (range(10), range(20));
        let mut told = Told::new();
        told.add(early.clone()).unwrap();
        told.hold(held);
        told.discard(discarded, PAGE, || None);
        assert_eq!(windows(), [2, 0]);
        told.add(late.clone()).unwrap();
        assert_eq!(windows(), [2, 2]);
        // An unmap of the same range ends a window of its own.
        told.begin(discarded);
        assert_eq!(windows(), [3, 3]);
        told.end(discarded);
        assert_eq!(windows(), [2, 2]);
        told.let_go(held);
        assert_eq!(windows(), [1, 1]);
        // The one that is left is not that of the range that was held.
        told.end(held);
        assert_eq!(windows(), [1, 1]);
        // A discard that overlaps widens it.
        told.discard(range(22), PAGE, || None);
        assert_eq!(windows(), [1, 1]);
        let widened = told.graces.take_old(Instant::now(), Duration::ZERO).unwrap();
        assert_eq!(widened, discarded.hull(range(22)));
        told.end(widened);
        assert_eq!(windows(), [0, 0]);
        assert_eq!(told.graces.ranges().count(), 0);
    }
}
