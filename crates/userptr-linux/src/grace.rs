//! Discards that may not have happened yet.

use super::pagemap::{Mark, Progress};
use core::time::Duration;
use std::time::Instant;
use userptr::AddrRange;

const MOST: usize = 32;
/// How soon somebody looks how far it is; each time that says nothing new, twice as late as the
/// time before.
const FIRST_LOOK: Duration = Duration::from_micros(100);
const LONGEST_LOOK: Duration = Duration::from_millis(10);
/// How many graces a discard may be known to be still to come. `MADV_FREE` is told like a discard
/// and never is one.
const PATIENCE: u32 = 10;

#[derive(Clone, Copy, Debug)]
struct Slot {
    range: AddrRange,
    mark: Option<Mark>,
    /// When it is over, unless the mark says otherwise.
    until: Instant,
    /// When it is over in any case.
    at_most: Instant,
    look: Instant,
    interval: Duration,
}

/// Windows of discards (`MADV_DONTNEED` and its kin), in an array of fixed size: when it is full,
/// one is widened. Nothing here allocates.
#[derive(Debug)]
pub(super) struct Graces {
    slots: [Option<Slot>; MOST],
}

/// A window to open, and one that it replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Widened {
    pub(super) now: AddrRange,
    pub(super) before: Option<AddrRange>,
}

impl Graces {
    pub(super) const fn new() -> Self {
        Self { slots: [None; MOST] }
    }

    /// Keeps `range` closed until its discard is over: for certain, by its mark, or else after
    /// `grace`. `None`: no window, the grace is too long for the clock.
    pub(super) fn add(
        &mut self,
        range: AddrRange,
        mark: Option<Mark>,
        now: Instant,
        grace: Duration,
    ) -> Option<Widened> {
        let until = now.checked_add(grace)?;
        let at_most = now.checked_add(grace.saturating_mul(PATIENCE))?;
        let look = now.checked_add(FIRST_LOOK)?;
        let slot = Slot { range, mark, until, at_most, look: look.min(until), interval: FIRST_LOOK };
        if let Some(free) = self.slots.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(slot);
            return Some(Widened { now: range, before: None });
        }
        // Full: more is closed than has to be, and for longer, rather than less.
        let first = self.slots.first_mut()?.as_mut()?;
        let before = first.range;
        *first = Slot { range: before.hull(range), mark: None, until: at_most, look: at_most, ..slot };
        Some(Widened { now: first.range, before: Some(before) })
    }

    /// Takes out one that is over.
    pub(super) fn take_over(
        &mut self,
        now: Instant,
        progress: impl Fn(Option<Mark>) -> Progress,
    ) -> Option<AddrRange> {
        self.slots.iter_mut().find_map(|slot| {
            let look = slot.as_mut().filter(|slot| slot.look <= now)?;
            if look.is_over(now, &progress) { slot.take().map(|slot| slot.range) } else { None }
        })
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.slots.iter().flatten().map(|slot| slot.look).min()
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = AddrRange> {
        self.slots.iter().flatten().map(|slot| slot.range)
    }
}

impl Slot {
    fn is_over(&mut self, now: Instant, progress: impl Fn(Option<Mark>) -> Progress) -> bool {
        let over = match progress(self.mark) {
            Progress::Over => true,
            Progress::Unknown => now >= self.until,
            Progress::ToCome => now >= self.at_most,
        };
        if !over {
            self.interval = self.interval.saturating_mul(2).min(LONGEST_LOOK);
            let last = if now < self.until { self.until } else { self.at_most };
            self.look = now.checked_add(self.interval).map_or(last, |look| look.min(last));
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(100);

    fn range(start: usize, last: usize) -> AddrRange {
        AddrRange::inclusive(start, last).unwrap()
    }

    #[test]
    fn a_full_array_widens_and_forgets_nothing() {
        let (mut graces, now) = (Graces::new(), Instant::now());
        for i in 0..MOST + 10 {
            assert!(graces.add(range(i * 10, i * 10 + 5), None, now, GRACE).is_some());
        }
        for i in 0..MOST + 10 {
            assert!(graces.ranges().any(|open| open.contains(range(i * 10, i * 10 + 5))), "{i}");
        }
        assert_eq!(graces.take_over(now, |_| Progress::Unknown), None);
        let mut taken = |at| core::iter::from_fn(|| graces.take_over(at, |_| Progress::Unknown)).count();
        assert_eq!(taken(now + GRACE), MOST - 1);
        assert_eq!(taken(now + GRACE * PATIENCE), 1, "the widened one stays longest");
    }

    #[test]
    fn a_mark_shortens_or_prolongs_a_grace() {
        let mark = Mark { page: range(0, 4095), last: true };
        let now = Instant::now();
        let over_at = |progress: Progress| {
            let mut graces = Graces::new();
            assert!(graces.add(range(0, 4095), Some(mark), now, GRACE).is_some());
            let mut at = now;
            loop {
                at = graces.next().unwrap().max(at);
                if graces.take_over(at, |_| progress).is_some() {
                    return at - now;
                }
            }
        };
        assert_eq!(over_at(Progress::Over), FIRST_LOOK);
        assert_eq!(over_at(Progress::Unknown), GRACE);
        assert_eq!(over_at(Progress::ToCome), GRACE * PATIENCE);
    }
}
