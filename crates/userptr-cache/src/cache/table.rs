//! What the cache's lock guards: the phase of every slot, the clock, and ranges in a storm.
//!
//! ```text
//!          reserve            open               close           empty
//!   Free ──────────▶ Filling ──────▶ Open ───────────▶ Closed ──────────▶ Free
//!     ▲                 │                                 (no user is left)
//!     └─────────────────┘ failed
//! ```
//! A slot is in the index exactly while it is `Open`.

use super::Access;
use super::index::Draft;
use alloc::vec::Vec;
use userptr::{AddrRange, Error};

extern crate alloc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Free,
    /// One thread pins for it, outside the lock.
    Filling,
    Open,
    /// Not found any more; perhaps still used.
    Closed,
}

/// What is known of a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) phase: Phase,
    pub(super) range: AddrRange,
    pub(super) access: Access,
}

impl Entry {
    /// Returns whether it serves the request, now or once it is filled.
    pub(super) fn serves(&self, range: AddrRange, access: Access) -> bool {
        self.range.contains(range) && (access == Access::Read || self.access == Access::Write)
    }

    pub(super) fn bytes(&self) -> usize {
        self.range.len().unwrap_or(usize::MAX)
    }
}

pub(super) struct Table {
    pub(super) draft: Draft,
    entries: Vec<Entry>,
    free: Vec<usize>,
    closed: Vec<usize>,
    /// Bytes of the entries that are not free.
    pub(super) bytes: usize,
    hand: usize,
    broom: usize,
    storms: Storms,
    pub(super) counts: Counts,
}

/// Rare events, counted under the lock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) evictions: usize,
    pub(super) invalidations: usize,
    pub(super) once: usize,
    pub(super) storms: usize,
}

impl Table {
    pub(super) fn new(entries: usize) -> Result<Self, Error> {
        let mut table = Self {
            draft: Draft::new(entries)?,
            entries: Vec::new(),
            free: Vec::new(),
            closed: Vec::new(),
            bytes: 0,
            hand: 0,
            broom: 0,
            storms: Storms::new()?,
            counts: Counts::default(),
        };
        table.entries.try_reserve_exact(entries).map_err(|_| Error::NoMemory)?;
        table.free.try_reserve_exact(entries).map_err(|_| Error::NoMemory)?;
        table.closed.try_reserve_exact(entries).map_err(|_| Error::NoMemory)?;
        let entry = Entry { phase: Phase::Free, range: AddrRange::ALL, access: Access::Read };
        table.entries.resize(entries, entry);
        table.free.extend((0..entries).rev());
        Ok(table)
    }

    pub(super) fn entry(&self, slot: usize) -> Option<&Entry> {
        self.entries.get(slot)
    }

    /// Returns how many slots are open.
    pub(super) fn open_count(&self) -> usize {
        self.entries.iter().filter(|entry| entry.phase == Phase::Open).count()
    }

    /// Returns the slot that is being filled with what serves the request.
    pub(super) fn filling(&self, range: AddrRange, access: Access) -> Option<usize> {
        self.entries.iter().position(|entry| entry.phase == Phase::Filling && entry.serves(range, access))
    }

    pub(super) fn has_room(&self, bytes: usize, most: usize) -> bool {
        !self.free.is_empty() && self.bytes.checked_add(bytes).is_some_and(|all| all <= most)
    }

    /// `Free -> Filling`. `None`: no slot is free.
    pub(super) fn reserve(&mut self, range: AddrRange, access: Access) -> Option<usize> {
        let slot = self.free.pop()?;
        let entry = Entry { phase: Phase::Filling, range, access };
        self.bytes = self.bytes.saturating_add(entry.bytes());
        *self.entries.get_mut(slot)? = entry;
        Some(slot)
    }

    /// `Filling -> Open`. Owes: the slot is opened and the index published, under the same lock.
    pub(super) fn open(&mut self, slot: usize) {
        if let Some(entry) = self.entries.get_mut(slot) {
            debug_assert!(entry.phase == Phase::Filling);
            entry.phase = Phase::Open;
            self.draft.insert(entry.range, entry.access, slot);
        }
    }

    /// `Open -> Closed`. Owes: the slot is closed, the index published, and a full fence, under the
    /// same lock.
    pub(super) fn close(&mut self, slot: usize) {
        if let Some(entry) = self.entries.get_mut(slot) {
            debug_assert!(entry.phase == Phase::Open);
            entry.phase = Phase::Closed;
            self.draft.remove(entry.range, entry.access, slot);
            self.closed.push(slot);
        }
    }

    /// `Closed -> Free`, for up to `most` slots that `is_unused` says nobody uses: gives each to
    /// `empty`.
    pub(super) fn collect(
        &mut self,
        mut most: usize,
        is_unused: impl Fn(usize) -> bool,
        mut empty: impl FnMut(usize),
    ) {
        let mut at = 0;
        while let Some(slot) = self.closed.get(at).copied() {
            if most == 0 {
                return;
            }
            if is_unused(slot) {
                self.closed.swap_remove(at);
                empty(slot);
                self.release(slot);
                most = most.saturating_sub(1);
            } else {
                at = at.saturating_add(1);
            }
        }
    }

    /// `Filling | Closed -> Free`.
    pub(super) fn release(&mut self, slot: usize) {
        if let Some(entry) = self.entries.get_mut(slot) {
            debug_assert!(matches!(entry.phase, Phase::Filling | Phase::Closed));
            entry.phase = Phase::Free;
            self.bytes = self.bytes.saturating_sub(entry.bytes());
            self.free.push(slot);
        }
    }

    /// Returns the next open slot that `is_idle` says has neither users nor a mark: the clock,
    /// which takes marks away as it passes. `None` after two turns.
    pub(super) fn victim(&mut self, is_idle: impl Fn(usize) -> bool) -> Option<usize> {
        for _ in 0..self.entries.len().saturating_mul(2) {
            let slot = self.step(|table| &mut table.hand);
            let open = self.entry(slot).is_some_and(|entry| entry.phase == Phase::Open);
            if open && is_idle(slot) {
                return Some(slot);
            }
        }
        None
    }

    /// Returns the next slot to look at, if it is open: the broom goes round behind all of them.
    pub(super) fn sweep(&mut self) -> Option<usize> {
        let slot = self.step(|table| &mut table.broom);
        self.entry(slot).filter(|entry| entry.phase == Phase::Open).map(|_| slot)
    }

    fn step(&mut self, cursor: impl Fn(&mut Self) -> &mut usize) -> usize {
        let len = self.entries.len();
        let at = cursor(self);
        let slot = *at;
        *at = slot.wrapping_add(1);
        if *at >= len {
            *at = 0;
        }
        slot
    }

    /// Returns the open slots that overlap the range or touch it.
    pub(super) fn neighbours(&self, range: AddrRange) -> impl Iterator<Item = (usize, AddrRange)> + '_ {
        let wide = AddrRange::inclusive(range.start().saturating_sub(1), range.last().saturating_add(1));
        let near = move |entry: &Entry| wide.is_some_and(|wide| entry.range.overlaps(wide));
        let open = move |(_, entry): &(usize, &Entry)| entry.phase == Phase::Open && near(entry);
        self.entries.iter().enumerate().filter(open).map(|(slot, entry)| (slot, entry.range))
    }

    /// Records that the registration of a slot was invalidated; `unused`: before anybody found it.
    pub(super) fn died(&mut self, slot: usize, unused: bool) {
        self.counts.invalidations = self.counts.invalidations.wrapping_add(1);
        if let Some(range) = self.entry(slot).map(|entry| entry.range) {
            self.storms.died(range, unused);
        }
    }

    /// Returns whether a registration of the range should not be kept this time.
    pub(super) fn is_storm(&mut self, range: AddrRange) -> bool {
        let storm = self.storms.passes_over(range);
        self.counts.storms = self.counts.storms.wrapping_add(usize::from(storm));
        storm
    }
}

/// Ranges that are remembered.
const REMEMBERED: usize = 64;
/// Registrations of a range that were invalidated in a row before anybody found them, from which on
/// the range is in a storm.
const STORM: u32 = 4;

/// Ranges whose registrations are invalidated before they are of use. Only they are concerned:
/// another range that comes to lie in the same place takes it over, with a clean record.
/// On the heap: a cache is made on stacks of a few pages, too.
struct Storms(Vec<Record>);

#[derive(Clone, Copy)]
struct Record {
    range: Option<AddrRange>,
    in_a_row: u32,
    misses: u32,
}

impl Storms {
    fn new() -> Result<Self, Error> {
        let mut records = Vec::new();
        records.try_reserve_exact(REMEMBERED).map_err(|_| Error::NoMemory)?;
        records.resize(REMEMBERED, Record { range: None, in_a_row: 0, misses: 0 });
        Ok(Self(records))
    }

    fn record(&mut self, range: AddrRange) -> Option<&mut Record> {
        let hash = range.start().wrapping_shr(12).wrapping_mul(0x9E37_79B9).wrapping_shr(16);
        self.0.get_mut(hash & REMEMBERED.wrapping_sub(1))
    }

    fn died(&mut self, range: AddrRange, unused: bool) {
        let Some(record) = self.record(range) else { return };
        if record.range != Some(range) {
            *record = Record { range: Some(range), in_a_row: 0, misses: 0 };
        }
        record.in_a_row = if unused { record.in_a_row.saturating_add(1) } else { 0 };
    }

    /// In a storm each second miss is kept, then each fourth, up to each 64th: that one finds out
    /// whether the storm is over.
    fn passes_over(&mut self, range: AddrRange) -> bool {
        let Some(record) = self.record(range).filter(|record| record.range == Some(range)) else {
            return false;
        };
        let Some(over) = record.in_a_row.checked_sub(STORM) else { return false };
        record.misses = record.misses.wrapping_add(1);
        let each = 2_u32.wrapping_shl(over.min(5));
        record.misses & each.wrapping_sub(1) != 0
    }
}
