//! Strict mode: each piece of memory has a channel of its own, so that a message waiting there
//! names the piece before it is read.
//!
//! Pieces do not overlap. A watch of a range counts on every piece that it meets, and makes pieces
//! of what nobody watches yet; those that it counts on stay until it ends, so it is counted off
//! where it was counted on.

use super::channels::{Channel, Channels};
use super::epoll::Mode;
use super::refusal::Refusal;
use super::uffd::is_mapped;
use std::sync::{Mutex, MutexGuard, PoisonError};
use userptr::AddrRange;
use userptr::address_space::WatchKey;

/// The most regions, pieces of memory with a descriptor of their own, in strict mode. An object
/// that overlaps another needs one only for what that one does not cover.
pub const MAX_REGIONS: usize = 512;

/// The key of a range that lies in several pieces.
const SEVERAL: WatchKey = WatchKey::MAX;

/// What a channel is used for at the moment.
#[derive(Clone, Copy, Debug, Default)]
struct Region {
    range: Option<AddrRange>,
    watchers: usize,
}

/// The regions of strict mode. The lock is held for system calls on the descriptors, never across
/// an allocation or anything else that may unmap: that would wait for the monitor, and the monitor
/// for this lock.
#[derive(Debug)]
pub(super) struct Regions {
    channels: Channels,
    table: Mutex<Box<[Region]>>,
}

impl Regions {
    pub(super) fn new() -> Result<Self, Refusal> {
        let channels = Channels::new(MAX_REGIONS, Mode::Once)?;
        Ok(Self { channels, table: Mutex::new(vec![Region::default(); MAX_REGIONS].into()) })
    }

    pub(super) fn channels(&self) -> &Channels {
        &self.channels
    }

    fn table(&self) -> MutexGuard<'_, Box<[Region]>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a range once more. Its key is the number of its channel, if it has one.
    ///
    /// # Errors
    /// With the cause; what nobody else watches is not watched then.
    pub(super) fn watch(&self, range: AddrRange) -> Result<WatchKey, Refusal> {
        loop {
            if let Some(done) = self.try_watch(range) {
                let (key, is_new) = done?;
                // A channel whose region lies elsewhere has told of nothing else since it has it:
                // it was quiet when it got it. Not under the lock, which the monitor takes.
                let could = |index: usize, channel: &Channel| {
                    channel.has_moved() || self.range(index).is_none_or(|piece| piece.overlaps(range))
                };
                if is_new && !self.channels.settle(could) {
                    self.unwatch(range);
                    return Err(Refusal::Changing);
                }
                return Ok(key);
            }
            // Opened without the lock, then looked at again.
            self.channels.open_one().map_err(|why| match why {
                Refusal::Table(most) => Refusal::Regions(most),
                why => why,
            })?;
        }
    }

    /// Returns the key, and whether something is new to its channel. `None`: a channel is missing.
    fn try_watch(&self, range: AddrRange) -> Option<Result<(WatchKey, bool), Refusal>> {
        let mut table = self.table();
        // A channel that has told all of its last region.
        let is_free = |(index, region): &(usize, &mut Region)| {
            region.range.is_none() && self.channels.get(*index).is_some_and(|channel| channel.quiet(true))
        };
        // New pieces first, without a watcher, so that they can be told from the old ones.
        let mut is_new = false;
        let mut at = range.start();
        while let Some(gap) = next_gap(&table, at, range) {
            let Some((_, slot)) = table.iter_mut().enumerate().find(is_free) else {
                // Nothing is registered yet.
                table.iter_mut().filter(|region| region.watchers == 0).for_each(|region| region.range = None);
                return None;
            };
            *slot = Region { range: Some(gap), watchers: 0 };
            is_new = true;
            match gap.last().checked_add(1) {
                Some(next) if next <= range.last() => at = next,
                _ => break,
            }
        }
        let registered = self.register(&table, range);
        let mut only = None;
        for (index, region) in table.iter_mut().enumerate() {
            let Some(piece) = region.range.filter(|piece| piece.overlaps(range)) else { continue };
            if registered.is_ok() {
                region.watchers = region.watchers.saturating_add(1);
            } else if region.watchers == 0 {
                self.channels.unregister(piece);
                region.range = None;
            }
            only = if piece.contains(range) { WatchKey::new(index.saturating_add(1)) } else { only };
        }
        Some(registered.map(|taken_over| (only.unwrap_or(SEVERAL), is_new || taken_over)))
    }

    /// As in the default mode: register, see that there is no hole, register again.
    fn register(&self, table: &[Region], range: AddrRange) -> Result<bool, Refusal> {
        let all = || -> Result<bool, Refusal> {
            table.iter().enumerate().try_fold(false, |taken, (index, region)| {
                let part = region.range.and_then(|piece| both(piece, range));
                Ok(part.map_or(Ok(false), |part| self.channels.register(index, part))? || taken)
            })
        };
        let first = all()?;
        if !is_mapped(range) {
            return Err(Refusal::Unmapped);
        }
        Ok(all()? || first)
    }

    /// One watch of the range less.
    pub(super) fn unwatch(&self, range: AddrRange) {
        for region in self.table().iter_mut() {
            let Some(piece) = region.range.filter(|piece| piece.overlaps(range)) else { continue };
            region.watchers = region.watchers.saturating_sub(1);
            if region.watchers == 0 {
                // The channel stays, and the monitor reads on: whoever unmaps the piece at this
                // moment is let go at once.
                self.channels.unregister(piece);
                region.range = None;
            }
        }
    }

    /// The piece that a channel is for.
    pub(super) fn range(&self, index: usize) -> Option<AddrRange> {
        self.table().get(index)?.range
    }

    /// Whether every change in the range was passed on: only the channels of its pieces are asked.
    pub(super) fn quiet(&self, range: AddrRange, key: Option<WatchKey>, probe: bool) -> bool {
        let quiet = |channel: Option<&Channel>| channel.is_some_and(|channel| channel.quiet(probe));
        if let Some(key) = key.filter(|key| *key != SEVERAL) {
            return quiet(self.channels.get(key.get().wrapping_sub(1)));
        }
        let table = self.table();
        let mut meets = table
            .iter()
            .enumerate()
            .filter(|(_, region)| region.range.is_some_and(|piece| piece.overlaps(range)));
        meets.all(|(index, _)| quiet(self.channels.get(index)))
    }

    pub(super) fn len(&self) -> usize {
        self.table().iter().filter(|region| region.range.is_some()).count()
    }

    /// Ends every watch, and the monitor.
    pub(super) fn end(&self) {
        for region in self.table().iter_mut() {
            if let Some(piece) = region.range.take() {
                self.channels.unregister(piece);
            }
        }
        // Not under the lock: the monitor takes it.
        self.channels.end(core::iter::empty());
    }
}

fn both(a: AddrRange, b: AddrRange) -> Option<AddrRange> {
    AddrRange::inclusive(a.start().max(b.start()), a.last().min(b.last()))
}

/// The first part of a range, from `at` on, that no region has.
fn next_gap(table: &[Region], mut at: usize, range: AddrRange) -> Option<AddrRange> {
    let pieces = || table.iter().filter_map(|region| region.range);
    while let Some(piece) = pieces().find(|piece| piece.start() <= at && at <= piece.last()) {
        at = piece.last().checked_add(1).filter(|next| *next <= range.last())?;
    }
    let next = pieces().map(AddrRange::start).filter(|start| *start > at).min();
    let last = next.map_or(range.last(), |start| range.last().min(start.wrapping_sub(1)));
    AddrRange::inclusive(at, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of a range that no region has.
    fn gaps(table: &[Region], range: AddrRange) -> impl Iterator<Item = AddrRange> {
        let mut at = Some(range.start());
        core::iter::from_fn(move || {
            let gap = next_gap(table, at?, range)?;
            at = gap.last().checked_add(1).filter(|next| *next <= range.last());
            Some(gap)
        })
    }

    #[test]
    fn gaps_are_what_no_region_has() {
        let range = |start, last| AddrRange::inclusive(start, last).unwrap();
        let table = [range(10, 19), range(30, 34), range(20, 24)];
        let table = table.map(|range| Region { range: Some(range), watchers: 1 });
        let gaps = |start, last| gaps(&table, range(start, last)).collect::<std::vec::Vec<_>>();
        assert_eq!(gaps(0, 40), [range(0, 9), range(25, 29), range(35, 40)]);
        assert_eq!(gaps(12, 22), []);
        assert_eq!(gaps(24, 31), [range(25, 29)]);
        assert_eq!(gaps(34, 34), []);
        assert_eq!(gaps(50, usize::MAX), [range(50, usize::MAX)]);
    }
}
