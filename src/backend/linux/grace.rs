//! Discards that may not have happened yet.

use crate::range::AddrRange;
use std::time::Instant;

const MOST: usize = 32;

/// Windows of discards (`MADV_DONTNEED` and its kin), in an array of fixed size: when it is full, one is widened. Nothing here
/// allocates.
#[derive(Debug)]
pub(super) struct Graces {
    slots: [Option<(AddrRange, Instant)>; MOST],
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

    /// Keeps `range` closed until then. `None`: a window over all of it is open, and stays open as long.
    pub(super) fn add(&mut self, range: AddrRange, until: Instant) -> Option<Widened> {
        let mut free = None;
        for slot in &mut self.slots {
            match slot {
                Some((open, end)) if open.contains(range) => {
                    *end = until.max(*end);
                    return None;
                }
                Some(_) => {}
                None => free = free.or(Some(slot)),
            }
        }
        if let Some(slot) = free {
            *slot = Some((range, until));
            return Some(Widened { now: range, before: None });
        }
        // Full: the newest discard closes more than it has to, for a while, rather than less.
        let (open, end) = self.slots.first_mut()?.as_mut()?;
        let before = *open;
        *open = before.hull(range);
        *end = until.max(*end);
        Some(Widened { now: *open, before: Some(before) })
    }

    /// Takes out one whose time is over.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<AddrRange> {
        let slot = self.slots.iter_mut().find(|slot| slot.is_some_and(|(_, until)| until <= now))?;
        slot.take().map(|(range, _)| range)
    }

    /// When the next one is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.slots.iter().flatten().map(|(_, until)| *until).min()
    }

    pub(super) fn ranges(&self) -> impl Iterator<Item = AddrRange> {
        self.slots.iter().flatten().map(|(range, _)| *range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn range(start: usize, last: usize) -> AddrRange {
        AddrRange::inclusive(start, last).unwrap()
    }

    #[test]
    fn a_full_array_widens_and_forgets_nothing() {
        let (mut graces, now) = (Graces::new(), Instant::now());
        for i in 0..MOST + 10 {
            assert!(graces.add(range(i * 10, i * 10 + 5), now).is_some());
        }
        for i in 0..MOST + 10 {
            assert!(graces.ranges().any(|open| open.contains(range(i * 10, i * 10 + 5))), "{i}");
        }
        let taken = core::iter::from_fn(|| graces.take_expired(now)).count();
        assert_eq!(taken, MOST);
    }

    #[test]
    fn a_discard_inside_an_open_window_keeps_it_open_longer() {
        let (mut graces, now) = (Graces::new(), Instant::now());
        let later = now + Duration::from_secs(1);
        assert!(graces.add(range(0, 9), now).is_some());
        assert!(graces.add(range(2, 5), later).is_none());
        assert_eq!(graces.take_expired(now), None);
        assert_eq!(graces.take_expired(later), Some(range(0, 9)));
    }
}
