//! Discards that may not have happened yet.

use super::pagemap::{Mark, Progress};
use super::threads::{Verdict, budget};
use core::time::Duration;
use std::time::Instant;
use userptr::AddrRange;

/// Fewer than a notifier keeps apart (`MAX_WINDOWS` of the core): beyond that it closes the hull of
/// them all. Two are left to other changes.
const MAX_SLOTS: usize = 6;
/// How soon somebody looks how far they are; each time that says nothing new, twice as late as the
/// time before.
const FIRST_LOOK: Duration = Duration::from_micros(100);
const LONGEST_LOOK: Duration = Duration::from_millis(10);

/// Discards with one window: one of them, or several that overlap, or, when the slots are used up,
/// that are near each other.
#[derive(Clone, Copy, Debug)]
struct Slot {
    range: AddrRange,
    /// Only while the slot has one discard, and no other change has touched the page since.
    mark: Option<Mark>,
    /// The number of the last one.
    last: u64,
    pages: usize,
    told: Instant,
    shown: Verdict,
    /// It has been counted as one that is not shown to be over.
    late: bool,
}

/// Windows of discards (`MADV_DONTNEED` and its kin), in an array of fixed size: when it is full,
/// one is widened. Nothing here allocates.
///
/// A window ends when its discards are shown to be over, and never by time alone. The threads are
/// asked in rounds: a round that begins now serves every discard told before.
#[derive(Debug)]
pub(super) struct Graces {
    slots: [Option<Slot>; MAX_SLOTS],
    last: u64,
    /// The last discard that the round in progress serves.
    round: Option<u64>,
    look: Option<Instant>,
    interval: Duration,
}

/// A window to open, and one that it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Widened {
    pub(super) now: AddrRange,
    pub(super) before: Option<AddrRange>,
}

impl Graces {
    pub(super) const fn new() -> Self {
        Self { slots: [None; MAX_SLOTS], last: 0, round: None, look: None, interval: FIRST_LOOK }
    }

    /// Keeps `range` closed until its discard is over. `mark` is called if a mark would say
    /// something; `is_free` says whether a range holds no object.
    pub(super) fn add(
        &mut self,
        range: AddrRange,
        page: usize,
        now: Instant,
        mark: impl FnOnce() -> Option<Mark>,
        is_free: impl Fn(AddrRange) -> bool,
    ) -> Widened {
        self.strike(range);
        self.last = self.last.saturating_add(1);
        self.interval = FIRST_LOOK;
        self.look = now.checked_add(FIRST_LOOK).or(Some(now));
        let pages = range.len().unwrap_or(usize::MAX).checked_div(page).unwrap_or(usize::MAX);
        let slot =
            Slot { range, mark: None, last: self.last, pages, told: now, shown: Verdict::Open, late: false };
        let touching = self.slots.iter().flatten().any(|slot| slot.range.overlaps(range));
        if !touching && let Some(free) = self.slots.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(Slot { mark: mark(), ..slot });
            return Widened { now: range, before: None };
        }
        // The one that closes least of what nobody discards; over an object only if all would.
        let cost = |at: &Slot| {
            let between = gap(at.range, range);
            let closes = between.and_then(AddrRange::len).unwrap_or(0);
            (between.is_some_and(|between| !is_free(between)), closes, !at.range.overlaps(range))
        };
        let nearest = self.slots.iter_mut().flatten().min_by_key(|at| cost(at));
        let Some(nearest) = nearest else { return Widened { now: range, before: None } };
        let before = nearest.range;
        let pages = pages.max(nearest.pages);
        *nearest = Slot { range: before.hull(range), pages, late: nearest.late, ..slot };
        Widened { now: nearest.range, before: Some(before) }
    }

    /// Another change touches these pages: a mark there says nothing any more.
    pub(super) fn strike(&mut self, range: AddrRange) {
        for slot in self.slots.iter_mut().flatten() {
            slot.mark = slot.mark.filter(|mark| !mark.page.overlaps(range));
        }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.look.is_some_and(|look| look <= now)
    }

    /// Begins a round, if there is none and some discard needs one: the processor time that shows
    /// the largest to be over.
    pub(super) fn begin_round(&mut self) -> Option<Duration> {
        let open = || self.slots.iter().flatten().filter(|slot| slot.shown == Verdict::Open);
        let pages = open().map(|slot| slot.pages).max();
        let budget = budget(pages.filter(|_| self.round.is_none())?);
        self.round = Some(self.last);
        Some(budget)
    }

    /// What the round in progress says.
    pub(super) fn hear(&mut self, verdict: Verdict) {
        if verdict == Verdict::Open {
            return;
        }
        let Some(round) = self.round.take() else { return };
        let served = |slot: &&mut Slot| slot.shown == Verdict::Open && slot.last <= round;
        self.slots.iter_mut().flatten().filter(served).for_each(|slot| slot.shown = verdict);
        self.interval = FIRST_LOOK;
    }

    /// Takes out one that is over, with what shows it. A mark that stands outweighs evidence for a
    /// `grace`, not proof: it may lie on the page that was written anew.
    pub(super) fn take_over(
        &mut self,
        now: Instant,
        grace: Duration,
        progress: impl Fn(Mark) -> Progress,
    ) -> Option<(AddrRange, Verdict)> {
        let over = |slot: &Slot| {
            let mark = slot.mark.map_or(Progress::Unknown, &progress);
            let passed = now.saturating_duration_since(slot.told) >= grace;
            match (mark, slot.shown) {
                (Progress::Over, _) | (_, Verdict::Proof) => Some(Verdict::Proof),
                (Progress::Unknown, Verdict::Evidence) => Some(Verdict::Evidence),
                (Progress::ToCome, Verdict::Evidence) if passed => Some(Verdict::Evidence),
                _ => None,
            }
        };
        self.slots.iter_mut().find_map(|at| {
            let by = over(at.as_ref()?)?;
            at.take().map(|slot| (slot.range, by))
        })
    }

    /// Takes out one that was told a grace ago: what happens without any question.
    pub(super) fn take_old(&mut self, now: Instant, grace: Duration) -> Option<AddrRange> {
        let old = |slot: &Slot| now.saturating_duration_since(slot.told) >= grace;
        let at = self.slots.iter_mut().find(|at| at.as_ref().is_some_and(old))?;
        at.take().map(|slot| slot.range)
    }

    /// How many have been open for a grace, and were not counted before.
    pub(super) fn count_late(&mut self, now: Instant, grace: Duration) -> u64 {
        let old = |slot: &&mut Slot| !slot.late && now.saturating_duration_since(slot.told) >= grace;
        self.slots.iter_mut().flatten().filter(old).fold(0, |count: u64, slot| {
            slot.late = true;
            count.saturating_add(1)
        })
    }

    /// Settles when to look again, after a look that took so long. `soon`: it was not finished.
    pub(super) fn plan(&mut self, now: Instant, took: Duration, soon: bool) {
        if self.slots.iter().all(Option::is_none) {
            // The round is for nobody. What comes next begins its own.
            self.round = None;
            self.look = None;
            return;
        }
        // At most a twentieth of the monitor's time.
        let wait = if soon { Duration::ZERO } else { self.interval.max(took.saturating_mul(20)) };
        self.interval = self.interval.saturating_mul(2).min(LONGEST_LOOK);
        self.look = now.checked_add(wait).or(Some(now));
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.look
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = AddrRange> {
        self.slots.iter().flatten().map(|slot| slot.range)
    }
}

/// What lies between two ranges.
fn gap(a: AddrRange, b: AddrRange) -> Option<AddrRange> {
    let (low, high) = if a.start() <= b.start() { (a, b) } else { (b, a) };
    let (first, last) = (low.last().checked_add(1)?, high.start().checked_sub(1)?);
    if first <= last { AddrRange::inclusive(first, last) } else { None }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a test that overflows panics")]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(100);
    const PAGE: usize = 4096;

    fn range(page: usize, pages: usize) -> AddrRange {
        AddrRange::new(page * PAGE, pages * PAGE).unwrap()
    }

    fn mark(page: usize) -> Option<Mark> {
        Some(Mark { page: range(page, 1), last: true })
    }

    fn open(graces: &mut Graces, page: usize, pages: usize, now: Instant) -> Widened {
        graces.add(range(page, pages), PAGE, now, || mark(page + pages - 1), |_| true)
    }

    #[test]
    fn a_full_array_widens_and_forgets_nothing() {
        let (mut graces, now) = (Graces::new(), Instant::now());
        for i in 0..50 {
            open(&mut graces, i * 10, 5, now);
        }
        assert!((0..50).all(|i| graces.ranges().any(|open| open.contains(range(i * 10, 5)))));
        assert!(graces.ranges().count() <= MAX_SLOTS);
    }

    /// Finding L2: nothing is closed between two pools that are discarded again and again.
    #[test]
    fn an_object_between_two_pools_stays_open() {
        let (mut graces, now) = (Graces::new(), Instant::now());
        let innocent = range(100, 1);
        for i in 0..200 {
            let page = if i % 2 == 0 { i / 2 % 100 } else { 101 + i / 2 % 100 };
            let free = |gap: AddrRange| !gap.overlaps(innocent);
            graces.add(range(page, 1), PAGE, now, || None, free);
        }
        assert!(graces.ranges().all(|open| !open.overlaps(innocent)), "{graces:?}");
    }

    #[test]
    fn equal_and_overlapping_discards_share_a_slot() {
        let (mut graces, now) = (Graces::new(), Instant::now());
        for _ in 0..9 {
            open(&mut graces, 0, 4, now);
        }
        open(&mut graces, 3, 4, now);
        assert_eq!(graces.ranges().collect::<Vec<_>>(), [range(0, 7)]);
    }

    /// Cases 01 and S3: a mark that another change can take away says nothing.
    #[test]
    fn a_mark_that_others_touch_is_dropped() {
        let now = Instant::now();
        let over = |graces: &mut Graces| graces.take_over(now, GRACE, |_| Progress::Over);
        let mut graces = Graces::new();
        open(&mut graces, 0, 64, now);
        assert!(over(&mut graces).is_some(), "alone");
        open(&mut graces, 0, 64, now);
        open(&mut graces, 63, 1, now);
        assert_eq!(over(&mut graces), None, "another discard");
        let mut graces = Graces::new();
        open(&mut graces, 0, 64, now);
        graces.strike(range(60, 10));
        assert_eq!(over(&mut graces), None, "an unmap");
    }

    /// A round serves what was told before it began, and nothing later.
    #[test]
    fn a_round_serves_what_came_before() {
        let (mut graces, now) = (Graces::new(), Instant::now());
        open(&mut graces, 0, 1, now);
        assert_eq!(graces.begin_round(), Some(budget(1)));
        open(&mut graces, 9, 7, now);
        assert_eq!(graces.begin_round(), None);
        graces.hear(Verdict::Proof);
        let mut taken = || graces.take_over(now, GRACE, |_| Progress::ToCome);
        assert_eq!(taken(), Some((range(0, 1), Verdict::Proof)));
        assert_eq!(taken(), None);
        assert_eq!(graces.begin_round(), Some(budget(7)));
    }

    /// Finding S2: a grace of any length is one.
    #[test]
    fn a_standing_mark_outweighs_evidence_for_a_grace() {
        let now = Instant::now();
        for grace in [GRACE, Duration::MAX] {
            let mut graces = Graces::new();
            open(&mut graces, 0, 1, now);
            graces.begin_round();
            graces.hear(Verdict::Evidence);
            assert_eq!(graces.take_over(now, grace, |_| Progress::ToCome), None);
            let taken = graces.take_over(now + GRACE, grace, |_| Progress::ToCome);
            assert_eq!(taken.is_some(), grace == GRACE);
            let taken = graces.take_over(now + GRACE, grace, |_| Progress::Unknown);
            assert_eq!(taken.is_some(), grace != GRACE, "no mark: evidence is enough");
        }
    }

    #[test]
    fn what_nothing_shows_stays_and_is_counted_once() {
        let (mut graces, now) = (Graces::new(), Instant::now());
        open(&mut graces, 0, 1, now);
        let late = now + Duration::from_secs(1000);
        assert_eq!(graces.take_over(late, GRACE, |_| Progress::Unknown), None);
        assert_eq!((graces.count_late(late, GRACE), graces.count_late(late, GRACE)), (1, 0));
    }
}
