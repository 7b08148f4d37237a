//! Which bytes are watched, by how many, and on which channel.

use std::collections::BTreeMap;
use std::vec::Vec;
use userptr::AddrRange;

/// The most channels.
pub(super) const MAX_CHANNELS: usize = 16;

/// How often each byte is watched. Objects may overlap, and the watch of one must not end that of
/// another.
///
/// # Invariants
/// Maps the first byte of a segment to the rest. Segments do not overlap; no count is zero.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    segments: BTreeMap<usize, Segment>,
    /// The number of segments of each channel.
    load: [usize; MAX_CHANNELS],
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    last: usize,
    watchers: usize,
    channel: usize,
}

/// A part of a range that is to be watched, and on which channel. `new`: nobody watches it yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) range: AddrRange,
    pub(super) channel: usize,
    pub(super) new: bool,
}

impl Coverage {
    /// Divides a range into what is watched already and what is not. `choose` gives a new part its
    /// channel, unless it adjoins a watched one: neighbours are mostly one mapping, and stay one if
    /// they have one channel.
    pub(super) fn plan(&self, range: AddrRange, mut choose: impl FnMut(&Self) -> usize) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut at = range.start();
        let mut left = at.checked_sub(1).and_then(|before| self.at(before)).map(|segment| segment.channel);
        loop {
            let (last, channel, new) = match self.at(at) {
                Some(segment) => (segment.last, segment.channel, false),
                None => {
                    let next = self.segments.range(at..).next();
                    let last = next.map_or(usize::MAX, |(start, _)| start.saturating_sub(1));
                    let right = next.filter(|(start, _)| **start <= range.last().saturating_add(1));
                    let right = right.map(|(_, segment)| segment.channel);
                    (last, left.or(right).unwrap_or_else(|| choose(self)), true)
                }
            };
            let last = last.min(range.last());
            if let Some(range) = AddrRange::inclusive(at, last) {
                parts.push(Part { range, channel, new });
            }
            if last >= range.last() {
                return parts;
            }
            left = Some(channel);
            at = last.saturating_add(1);
        }
    }

    /// One more watcher of what was planned.
    pub(super) fn add(&mut self, parts: &[Part]) {
        for part in parts {
            if part.new {
                let segment = Segment { last: part.range.last(), watchers: 1, channel: part.channel };
                self.insert(part.range.start(), segment);
            } else {
                self.cut(part.range);
                for (_, segment) in self.segments.range_mut(part.range.start()..=part.range.last()) {
                    segment.watchers = segment.watchers.saturating_add(1);
                }
            }
        }
    }

    /// One watcher less; calls `bare` for each part that nobody watches any more.
    pub(super) fn remove(&mut self, range: AddrRange, mut bare: impl FnMut(AddrRange)) {
        self.cut(range);
        let mut at = range.start();
        while let Some((&start, segment)) = self.segments.range_mut(at..=range.last()).next() {
            let last = segment.last;
            segment.watchers = segment.watchers.saturating_sub(1);
            if segment.watchers == 0 {
                self.take(start);
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

    /// The channels of the parts of a range.
    pub(super) fn channels(&self, range: AddrRange) -> impl Iterator<Item = usize> {
        let first = self.at(range.start()).map(|segment| segment.channel);
        first.into_iter().chain(self.segments.range(range.start()..=range.last()).map(|(_, s)| s.channel))
    }

    /// The number of segments of each channel.
    pub(super) fn load(&self) -> &[usize; MAX_CHANNELS] {
        &self.load
    }

    fn insert(&mut self, start: usize, segment: Segment) {
        self.segments.insert(start, segment);
        if let Some(load) = self.load.get_mut(segment.channel) {
            *load = load.saturating_add(1);
        }
    }

    fn take(&mut self, start: usize) {
        let gone = self.segments.remove(&start);
        if let Some(load) = gone.and_then(|segment| self.load.get_mut(segment.channel)) {
            *load = load.saturating_sub(1);
        }
    }

    /// Every segment.
    pub(super) fn all(&self) -> impl Iterator<Item = AddrRange> {
        self.segments.iter().filter_map(|(start, segment)| AddrRange::inclusive(*start, segment.last))
    }

    /// The segment that has this byte.
    fn at(&self, byte: usize) -> Option<&Segment> {
        let (_, segment) = self.segments.range(..=byte).next_back()?;
        (segment.last >= byte).then_some(segment)
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
            && segment.last >= at
            && start < at
        {
            let after = *segment;
            segment.last = at.wrapping_sub(1);
            self.insert(at, after);
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
                let parts = coverage.plan(r, |_| 0);
                let lengths: usize = parts.iter().map(|part| part.range.len().unwrap()).sum();
                assert_eq!(lengths, r.len().unwrap(), "{parts:?} for {r:?}");
                for part in &parts {
                    let watched = naive[part.range.start()..=part.range.last()].iter().map(|c| *c != 0);
                    assert!(watched.clone().all(|watched| watched != part.new), "{part:?}");
                }
                coverage.add(&parts);
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
        assert_eq!((coverage.len(), coverage.load[0]), (0, 0));
    }

    #[test]
    fn neighbours_share_a_channel_and_strangers_do_not() {
        let mut coverage = Coverage::default();
        let mut watch = |start, last, fresh| {
            let parts = coverage.plan(range(start, last), |_| fresh);
            coverage.add(&parts);
            parts.iter().map(|part| (part.range.start(), part.channel, part.new)).collect::<Vec<_>>()
        };
        assert_eq!(watch(10, 19, 1), [(10, 1, true)]);
        assert_eq!(watch(30, 39, 2), [(30, 2, true)]);
        assert_eq!(watch(40, 49, 3), [(40, 2, true)], "adjoins one on the left");
        assert_eq!(watch(5, 9, 4), [(5, 1, true)], "adjoins one on the right");
        assert_eq!(watch(8, 34, 5), [(8, 1, false), (10, 1, false), (20, 1, true), (30, 2, false)]);
        let channels: Vec<_> = coverage.channels(range(9, 35)).collect();
        assert!(channels.contains(&1) && channels.contains(&2));
    }
}
