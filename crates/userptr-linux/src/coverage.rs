//! Which bytes are watched, and by how many.

use std::collections::BTreeMap;
use userptr::AddrRange;

/// How often each byte is watched. Objects may overlap, and the watch of one must not end that of
/// another.
///
/// # Invariants
/// Maps the first byte of a segment to its last byte and its count. Segments do not overlap; no
/// count is zero.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    segments: BTreeMap<usize, (usize, usize)>,
}

impl Coverage {
    /// One more watcher of the range.
    pub(super) fn add(&mut self, range: AddrRange) {
        self.cut(range);
        let mut at = range.start();
        loop {
            let next = self.segments.range_mut(at..=range.last()).next();
            let (free_last, after) = match next {
                Some((&start, segment)) if start == at => {
                    // The segment ends inside the range, because it was cut there.
                    segment.1 = segment.1.saturating_add(1);
                    (None, segment.0)
                }
                Some((&start, _)) => (start.checked_sub(1), start.saturating_sub(1)),
                None => (Some(range.last()), range.last()),
            };
            if let Some(last) = free_last {
                self.segments.insert(at, (last, 1));
            }
            if after >= range.last() {
                return;
            }
            at = after.saturating_add(1);
        }
    }

    /// One watcher less; calls `bare` for each part that nobody watches any more.
    pub(super) fn remove(&mut self, range: AddrRange, mut bare: impl FnMut(AddrRange)) {
        self.cut(range);
        let mut at = range.start();
        while let Some((&start, segment)) = self.segments.range_mut(at..=range.last()).next() {
            let last = segment.0;
            segment.1 = segment.1.saturating_sub(1);
            if segment.1 == 0 {
                self.segments.remove(&start);
                if let Some(part) = AddrRange::inclusive(start, last) {
                    bare(part);
                }
            }
            if last >= range.last() {
                return;
            }
            at = last.saturating_add(1);
        }
    }

    /// The number of segments.
    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    /// Splits the segments that reach over an edge of the range.
    fn cut(&mut self, range: AddrRange) {
        self.cut_at(range.start());
        if let Some(after) = range.last().checked_add(1) {
            self.cut_at(after);
        }
    }

    fn cut_at(&mut self, at: usize) {
        if let Some((&start, segment)) = self.segments.range_mut(..at).next_back()
            && segment.0 >= at
            && start < at
        {
            let (last, count) = *segment;
            segment.0 = at.wrapping_sub(1);
            self.segments.insert(at, (last, count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: usize, last: usize) -> AddrRange {
        AddrRange::inclusive(start, last).unwrap()
    }

    /// Against an array of counters, for random ranges.
    #[test]
    fn a_part_is_bare_exactly_when_its_last_watcher_has_left() {
        let mut seed = 0x9e37_79b9_u64;
        let mut next = |n: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % n
        };
        let (mut coverage, mut naive, mut live) = (Coverage::default(), [0_usize; 64], std::vec::Vec::new());
        for _ in 0..20_000 {
            if live.len() < 8 && next(2) == 0 {
                let start = next(64);
                let r = range(start, start + next(64 - start));
                coverage.add(r);
                naive[r.start()..=r.last()].iter_mut().for_each(|c| *c += 1);
                live.push(r);
            } else if !live.is_empty() {
                let r = live.swap_remove(next(live.len()));
                naive[r.start()..=r.last()].iter_mut().for_each(|c| *c -= 1);
                let mut bare = [false; 64];
                coverage.remove(r, |part| bare[part.start()..=part.last()].fill(true));
                for (at, bare) in bare.into_iter().enumerate() {
                    assert_eq!(
                        bare,
                        r.start() <= at && at <= r.last() && naive[at] == 0,
                        "byte {at} of {r:?}"
                    );
                }
            }
        }
        for r in live {
            coverage.remove(r, |_| {});
        }
        assert_eq!(coverage.len(), 0);
    }
}
