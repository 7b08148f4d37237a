//! What a cache has done: counted always, and cheap.

use super::Word;
use alloc::vec::Vec;
use core::fmt;
use userptr::Error;
use userptr::platform::{AtomicUsize, Load, Platform, Rmw};

extern crate alloc;

/// What a cache has done so far, and what it keeps at this moment. A snapshot: the numbers are
/// read one after the other. The counts wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Look-ups that a registration served which was there.
    pub hits: usize,
    /// Look-ups that had to register, or to wait for another thread that did.
    pub misses: usize,
    /// Look-ups that found a registration whose memory was being changed at that moment, and
    /// looked again.
    pub races: usize,
    /// Registrations that were given up to make room.
    pub evictions: usize,
    /// Registrations that were found invalidated, and taken out.
    pub invalidations: usize,
    /// Leases on registrations that were not kept, for want of room or in a storm.
    pub once: usize,
    /// Of these, those whose range was invalidated again and again.
    pub storms: usize,
    /// Registrations that can be found now.
    pub entries: usize,
    /// The bytes of the registrations that are kept or being made: an upper bound of what the
    /// cache keeps pinned. An invalidated one counts until it is taken out.
    pub bytes: usize,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hits, misses, races, evictions, invalidations, once, storms, entries, bytes } = self;
        write!(
            f,
            "{hits} hits, {misses} misses, {races} races; {evictions} evicted, {invalidations} invalidated, \
             {once} not kept ({storms} in storms); {entries} registrations of {bytes} bytes"
        )
    }
}

/// Words between the counters of two shards.
const APART: usize = 16;

#[derive(Clone, Copy)]
pub(super) enum Count {
    Hits,
    Misses,
    Races,
}

/// The counters of look-ups: a line for each shard.
pub(super) struct Counters<P: Platform>(Vec<Word<P>>);

impl<P: Platform> Counters<P> {
    pub(super) fn new() -> Result<Self, Error> {
        let mut words = Vec::new();
        let len = APART.wrapping_mul(64);
        words.try_reserve_exact(len).map_err(|_| Error::NoMemory)?;
        words.resize_with(len, || Word::<P>::new(0));
        Ok(Self(words))
    }

    pub(super) fn add(&self, shard: usize, what: Count) {
        if let Some(word) = self.0.get(shard.wrapping_mul(APART).wrapping_add(what as usize)) {
            word.fetch_add(1, Rmw::Relaxed);
        }
    }

    pub(super) fn sum(&self, what: Count) -> usize {
        let words = self.0.iter().skip(what as usize).step_by(APART);
        words.fold(0, |sum, word| sum.wrapping_add(word.load(Load::Relaxed)))
    }
}
