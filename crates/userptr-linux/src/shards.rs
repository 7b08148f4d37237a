//! The default mode: pieces of memory share a few channels.

use super::channels::Channels;
use super::coverage::{Coverage, MAX_CHANNELS, Part};
use super::epoll::Mode;
use super::refusal::Refusal;
use super::reserve::Mappings;
use super::uffd::is_mapped;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use userptr::AddrRange;
use userptr::address_space::WatchKey;

/// What is watched, and on which of the channels.
#[derive(Debug)]
pub(super) struct Shards {
    channels: Channels,
    /// Taken by watch and unwatch only, never by the monitor or a revocation that is waited for: it
    /// is held across allocations.
    coverage: Mutex<Coverage>,
    /// How often a channel was shared because no more could be opened.
    shared: AtomicU64,
    mappings: Mappings,
}

impl Shards {
    pub(super) fn new() -> Result<Self, Refusal> {
        let channels = Channels::new(MAX_CHANNELS, Mode::Level)?;
        Ok(Self {
            channels,
            coverage: Mutex::default(),
            shared: AtomicU64::new(0),
            mappings: Mappings::new(),
        })
    }

    pub(super) fn channels(&self) -> &Channels {
        &self.channels
    }

    fn coverage(&self) -> MutexGuard<'_, Coverage> {
        self.coverage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a range once more. Its key is the set of its channels.
    ///
    /// # Errors
    /// With the cause; what nobody else watches is not watched then.
    pub(super) fn watch(&self, range: AddrRange) -> Result<WatchKey, Refusal> {
        let mut coverage = self.coverage();
        let parts = coverage.plan(range, |coverage| self.choose(coverage));
        if parts.iter().any(|part| part.new) {
            self.mappings.check(self.channels.maps())?;
        }
        let taken_over = match self.register(range, &parts) {
            Ok(taken_over) => taken_over,
            Err(cause) => {
                parts.iter().filter(|part| part.new).for_each(|part| self.channels.unregister(part.range));
                return Err(cause);
            }
        };
        coverage.add(&parts);
        drop(coverage);
        let set = parts.iter().fold(0, |set, part| set | bit(part.channel));
        // What a channel has had all the time is told there. What is new to it may be told
        // elsewhere, too.
        let is_new = taken_over || parts.iter().any(|part| part.new);
        if is_new && !self.channels.settle(|index, _| set & bit(index) == 0) {
            self.unwatch(range);
            return Err(Refusal::Changing);
        }
        WatchKey::new(set).ok_or(Refusal::Errno(libc::EINVAL))
    }

    /// Even what others watch already: what is mapped there may be new.
    ///
    /// Registering passes over holes, and what is mapped into a hole afterwards is not watched. So:
    /// register, see that there is no hole, register what was a hole the first time. From the first
    /// call on, an unmap of what was mapped then is told. Returns whether something was taken from
    /// another channel.
    fn register(&self, range: AddrRange, parts: &[Part]) -> Result<bool, Refusal> {
        let all = || -> Result<bool, Refusal> {
            let register = |part: &Part| self.channels.register(part.channel, part.range);
            parts.iter().try_fold(false, |taken, part| Ok(register(part)? || taken))
        };
        let first = all()?;
        if !is_mapped(range) {
            return Err(Refusal::Unmapped);
        }
        Ok(all()? || first)
    }

    /// One watch of the range less.
    pub(super) fn unwatch(&self, range: AddrRange) {
        self.coverage().remove(range, |part| self.channels.unregister(part));
    }

    /// The channel for a piece that adjoins no other: the one with the fewest, or a new one if all
    /// have some and there are not too many.
    fn choose(&self, coverage: &Coverage) -> usize {
        let load = coverage.load().iter().copied().enumerate().take(self.channels.len());
        let (least, count) = load.min_by_key(|(_, load)| *load).unwrap_or((0, 0));
        if count == 0 {
            return least;
        }
        self.channels.open_one().unwrap_or_else(|why| {
            if !matches!(why, Refusal::Table(_)) {
                self.shared.fetch_add(1, Ordering::Relaxed);
            }
            least
        })
    }

    /// Whether every change in memory with this key was passed on. Takes no lock.
    pub(super) fn quiet(&self, key: WatchKey, probe: bool) -> bool {
        let mut set = key.get();
        while set != 0 {
            let index = usize::try_from(set.trailing_zeros()).unwrap_or(0);
            if !self.channels.get(index).is_some_and(|channel| channel.quiet(probe)) {
                return false;
            }
            set &= set.wrapping_sub(1);
        }
        true
    }

    /// As [`quiet`](Self::quiet), for whoever has no key. Takes the lock.
    pub(super) fn quiet_range(&self, range: AddrRange, probe: bool) -> bool {
        let set = self.coverage().channels(range).fold(0, |set, channel| set | bit(channel));
        WatchKey::new(set).is_none_or(|key| self.quiet(key, probe))
    }

    pub(super) fn len(&self) -> usize {
        self.coverage().len()
    }

    /// How often a channel was shared because no more could be opened.
    pub(super) fn shared(&self) -> u64 {
        self.shared.load(Ordering::Relaxed)
    }

    /// Ends every watch, and the monitor.
    pub(super) fn end(&self) {
        self.channels.end(self.coverage().all());
    }
}

fn bit(channel: usize) -> usize {
    1_usize.wrapping_shl(u32::try_from(channel).unwrap_or(0))
}
