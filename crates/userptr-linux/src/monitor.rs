//! The monitor: one thread that reads what the kernel tells and passes it to the notifiers.
//!
//! It never allocates, frees, waits for a device or takes a lock that is ever held across an
//! allocation: whoever frees memory in the process may be blocked until this thread has read the
//! message (scenario 72). Cancels run on the notifier's queue.

use super::grace::Graces;
use super::pagemap::{Mark, Progress};
use super::regions::{Held, MAX_REGIONS, PollSet};
use super::threads::{Census, Verdict};
use super::uffd::{Event, Events, Probe};
use super::{Shared, Watch};
use core::sync::atomic::{AtomicU64, Ordering, fence};
use core::time::Duration;
use std::sync::{MutexGuard, PoisonError};
use std::time::Instant;
use userptr::AddrRange;
use userptr::Error;
use userptr::notifier::{Blockable, Notifier, PendingInvalidation};
use userptr::platforms::std::Std;
use userptr::refcount::Ref;

/// The most registrations, and so devices with a notifier of their own, on one address space.
pub const MAX_NOTIFIERS: usize = 8;
/// How long a registration waits for a place. Records of address spaces are freed by a work item,
/// so that of a released one may still be registered when the next one comes.
const VACANCY: Duration = Duration::from_secs(1);
/// How often a held unmapper's devices are looked at.
const STRICT_TICK: Duration = Duration::from_micros(100);

type Slot = Option<Ref<Notifier<Std>, Std>>;

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
    /// before any cancel runs (rule 24).
    fn begin(&self, range: AddrRange) {
        let mut stopping: [Option<PendingInvalidation<'_, Std>>; MAX_NOTIFIERS] =
            [const { None }; MAX_NOTIFIERS];
        for (slot, notifier) in stopping.iter_mut().zip(self.all()) {
            // Never refused: it is blockable.
            *slot = notifier.invalidate_start(range, Blockable::Yes).ok();
        }
        stopping.into_iter().flatten().for_each(PendingInvalidation::finish_without_waiting);
    }

    fn end(&self, range: AddrRange) {
        // SAFETY: `begin` opened this window, or `add` did for a notifier that came later, because
        // it stands in `graces` or `held` from `begin` up to here (an unmap begins and ends under
        // one lock). It is ended once.
        self.all().for_each(|notifier| unsafe { notifier.invalidate_end(range) });
    }

    /// Whether nothing in the range has pages any more. Waits for nothing.
    fn is_clear(&self, range: AddrRange) -> bool {
        is_clear(&self.notifiers, range)
    }

    /// A discard: its window stays open, because the pages go only after the message was read.
    fn discard(&mut self, range: AddrRange, page: usize, mark: impl FnOnce() -> Option<Mark>) {
        let now = Instant::now();
        let Self { notifiers, graces, .. } = self;
        let widened = graces.add(range, page, now, mark, |gap| is_clear(notifiers, gap));
        self.begin(widened.now);
        if let Some(before) = widened.before {
            self.end(before);
        }
    }

    /// Opens the window of an unmapper that strict mode holds.
    fn hold(&mut self, range: AddrRange) {
        if let Some(place) = self.held.iter_mut().find(|place| place.is_none()) {
            *place = Some(range);
        }
        self.begin(range);
    }

    /// Ends it.
    fn let_go(&mut self, range: AddrRange) {
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
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Shared {
    fn told(&self) -> MutexGuard<'_, Told> {
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

    /// See [`AddressSpace::quiet`](userptr::AddressSpace::quiet), and [the
    /// argument](super#why-a-look-up-never-finds-a-stale-page).
    pub(super) fn quiet(&self) -> bool {
        if !self.owner.is_me() {
            return false;
        }
        if self.options.probe && self.watch.probe() != Probe::Quiet {
            return false;
        }
        // ORDERING: the probe before the gate, never the other way round: a monitor that has read
        // the last message, which is what makes the probe quiet, raised the gate before that. Pairs
        // with the fence in `run`.
        fence(Ordering::SeqCst);
        // ORDERING: pairs with the release that lowers the gate: what the monitor did to the leases
        // is visible to us.
        !self.gate.load(Ordering::Acquire)
    }

    /// The monitor's thread.
    pub(super) fn run(&self) {
        let mut set = PollSet::new(self.stop.raw());
        let mut events = Events::new();
        let mut held: [Option<Held>; MAX_REGIONS] = [const { None }; MAX_REGIONS];
        loop {
            let timeout = self.timeout(&held);
            self.watch.fill(&mut set, &held);
            let stopped = set.wait(timeout);
            if stopped {
                return;
            }
            self.expire();
            if !set.any_ready() && held.iter().all(Option::is_none) {
                continue;
            }
            self.gate.store(true, Ordering::Relaxed);
            // ORDERING: the gate is up before a message is read. Pairs with the fence in `quiet`:
            // whoever finds the probe quiet because we read a message finds the gate up, or finds
            // it lowered by the release below.
            fence(Ordering::SeqCst);
            match &self.watch {
                Watch::Whole { uffd, .. } => {
                    if set.any_broken() {
                        // Nothing will be told any more. The gate stays up: nobody gets a lease
                        // that is not looked after.
                        return;
                    }
                    while uffd.read(&mut events) != 0 {
                        self.pass_on(&events);
                    }
                }
                Watch::Regions(regions) => {
                    regions.each(&set, &mut held, |region, held| self.strict(region, held, &mut events));
                    for held in &mut held {
                        if held.as_ref().is_some_and(|held| !regions.is_live(held)) {
                            self.forget_held(held);
                        }
                    }
                }
                Watch::Nothing(_) => {}
            }
            // ORDERING: publishes what was done to the leases; pairs with the acquire in `quiet`.
            self.gate.store(false, Ordering::Release);
        }
    }

    fn pass_on(&self, events: &Events) {
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
                    told.begin(range);
                    told.end(range);
                }
                Event::Remap { from, to } => {
                    count(&self.counters.remaps);
                    told.graces.strike(from);
                    told.graces.strike(to);
                    // What was at the new place before has an unmap of its own.
                    told.begin(from);
                    told.end(from);
                }
                Event::Remove(range) => {
                    count(&self.counters.discards);
                    let mark = || if self.options.marks { self.pagemap.mark(range) } else { None };
                    told.discard(range, self.pagemap.page(), mark);
                }
            }
        }
    }

    /// One region with a message waiting: the message is read, and so the unmapper let go, when the
    /// devices are idle.
    fn strict(&self, region: &super::regions::Region, held: &mut Option<Held>, events: &mut Events) {
        let range = region.range();
        let now = Instant::now();
        let until = match held {
            Some(held) => held.until,
            None => {
                self.told().hold(range);
                let until = now.checked_add(self.options.hold).unwrap_or(now);
                *held = Some(Held { range, serial: region.serial(), until });
                until
            }
        };
        if !self.told().is_clear(range) {
            if now < until {
                return;
            }
            count(&self.counters.overdue);
        }
        while region.uffd().read(events) != 0 {
            self.pass_on(events);
        }
        *held = None;
        self.told().let_go(range);
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
            Progress::Over if self.watch.probe() != Probe::Quiet => Progress::Unknown,
            progress => progress,
        }
    }

    /// Ends the window of a region that is not watched any more.
    fn forget_held(&self, held: &mut Option<Held>) {
        if let Some(held) = held.take() {
            self.told().let_go(held.range);
        }
    }

    fn timeout(&self, held: &[Option<Held>]) -> Option<Duration> {
        if held.iter().any(Option::is_some) {
            return Some(STRICT_TICK);
        }
        let next = self.told().graces.next()?;
        Some(next.saturating_duration_since(Instant::now()))
    }
}
