//! The index: which registration serves an address. Readers take no lock and write nothing.
//!
//! Two copies of one sorted array. The version says which copy is the current one: version `v`
//! stands in copy `v & 1`. A change writes the other copy and then publishes it by the next
//! version, so a copy is written anew only after a version that it does not carry was published:
//! a reader whose version is still the current one when it is done has read one version, and
//! nothing else.

use super::{Access, Word};
use alloc::vec::Vec;
use userptr::platform::{AtomicUsize, Load, Platform, Store};
use userptr::{AddrRange, Error};

extern crate alloc;

/// One registration, as a reader of the index sees it.
struct Row<P: Platform> {
    start: Word<P>,
    last: Word<P>,
    /// The largest `last` of this row and of those before it: where a search may stop.
    reach: Word<P>,
    /// The slot, doubled; plus one if the device may write.
    key: Word<P>,
}

struct Copy<P: Platform> {
    rows: Vec<Row<P>>,
    len: Word<P>,
}

pub(super) struct Index<P: Platform> {
    version: Word<P>,
    copies: [Copy<P>; 2],
}

/// One registration, as the writer keeps it. In this order: by start; of those with one start the
/// longest first.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Plain {
    range: AddrRange,
    key: usize,
}

impl Plain {
    fn order(&self) -> (usize, core::cmp::Reverse<usize>, usize) {
        (self.range.start(), core::cmp::Reverse(self.range.last()), self.key)
    }
}

/// The writer's side: what the index is to say. Kept under the cache's lock.
pub(super) struct Draft {
    rows: Vec<Plain>,
    /// The first row in which each copy may differ from `rows`.
    dirty: [usize; 2],
}

impl Draft {
    pub(super) fn new(capacity: usize) -> Result<Self, Error> {
        let mut rows = Vec::new();
        rows.try_reserve_exact(capacity).map_err(|_| Error::NoMemory)?;
        Ok(Self { rows, dirty: [0; 2] })
    }

    fn touch(&mut self, at: usize) {
        self.dirty = self.dirty.map(|from| from.min(at));
    }

    /// Adds a registration. There is room for every slot.
    pub(super) fn insert(&mut self, range: AddrRange, access: Access, slot: usize) {
        let row = Plain { range, key: key(slot, access) };
        let at = self.rows.partition_point(|other| other.order() < row.order());
        if self.rows.len() < self.rows.capacity() {
            self.rows.insert(at, row);
            self.touch(at);
        }
    }

    /// Takes a registration out.
    pub(super) fn remove(&mut self, range: AddrRange, access: Access, slot: usize) {
        let row = Plain { range, key: key(slot, access) };
        let at = self.rows.partition_point(|other| other.order() < row.order());
        if self.rows.get(at) == Some(&row) {
            self.rows.remove(at);
            self.touch(at);
        }
    }
}

fn key(slot: usize, access: Access) -> usize {
    slot.wrapping_shl(1) | usize::from(access == Access::Write)
}

impl<P: Platform> Index<P> {
    pub(super) fn new(capacity: usize) -> Result<Self, Error> {
        Ok(Self { version: Word::<P>::new(0), copies: [Copy::new(capacity)?, Copy::new(capacity)?] })
    }

    /// Returns the version to search.
    pub(super) fn version(&self) -> usize {
        // ORDERING: pairs with the release in `publish` (C1): the rows of this version, and the
        // objects in their slots, are visible.
        self.version.load(Load::Acquire)
    }

    /// Returns whether `version` is still the current one. Called after a full fence.
    pub(super) fn is_current(&self, version: usize) -> bool {
        self.version.load(Load::Relaxed) == version
    }

    /// Returns the slot that serves the range: of the registrations that cover it and allow the
    /// access the one that begins last, and of those that begin there the shortest.
    ///
    /// What it says is true only if the version is still current afterwards; until then it may be
    /// any number.
    pub(super) fn search(&self, version: usize, range: AddrRange, access: Access) -> Option<usize> {
        let copy = self.copy(version);
        let len = copy.len.load(Load::Relaxed);
        let rows = copy.rows.get(..len).unwrap_or_default();
        let after = rows.partition_point(|row| row.start.load(Load::Relaxed) <= range.start());
        for row in rows.get(..after)?.iter().rev() {
            if row.reach.load(Load::Relaxed) < range.last() {
                return None;
            }
            if row.last.load(Load::Relaxed) >= range.last() {
                let key = row.key.load(Load::Relaxed);
                if access == Access::Read || key & 1 == 1 {
                    return Some(key.wrapping_shr(1));
                }
            }
        }
        None
    }

    fn copy(&self, version: usize) -> &Copy<P> {
        let [even, odd] = &self.copies;
        if version & 1 == 0 { even } else { odd }
    }

    /// Writes the draft into the copy that nobody searches, and makes it the current one. Called
    /// under the cache's lock.
    pub(super) fn publish(&self, draft: &mut Draft) {
        let version = self.version.load(Load::Relaxed).wrapping_add(1);
        let copy = self.copy(version);
        let [even, odd] = &mut draft.dirty;
        let from = core::mem::replace(if version & 1 == 0 { even } else { odd }, usize::MAX);
        // ORDERING: with the reader's fence (C2). A reader that meets one of the words below knows,
        // after its fence, the version that this copy ceased to carry: it is not current any more.
        P::fence();
        let before = from.checked_sub(1).and_then(|at| copy.rows.get(at));
        let mut reach = before.map_or(0, |row| row.reach.load(Load::Relaxed));
        for (row, plain) in copy.rows.iter().zip(&draft.rows).skip(from) {
            reach = reach.max(plain.range.last());
            row.start.store(plain.range.start(), Store::Relaxed);
            row.last.store(plain.range.last(), Store::Relaxed);
            row.reach.store(reach, Store::Relaxed);
            row.key.store(plain.key, Store::Relaxed);
        }
        copy.len.store(draft.rows.len(), Store::Relaxed);
        // ORDERING: publishes the rows, and the objects in their slots; pairs with the acquire in
        // `version` (C1).
        self.version.store(version, Store::Release);
    }
}

impl<P: Platform> Copy<P> {
    fn new(capacity: usize) -> Result<Self, Error> {
        let mut rows = Vec::new();
        rows.try_reserve_exact(capacity).map_err(|_| Error::NoMemory)?;
        let row = || Row {
            start: Word::<P>::new(0),
            last: Word::<P>::new(0),
            reach: Word::<P>::new(0),
            key: Word::<P>::new(0),
        };
        rows.resize_with(capacity, row);
        Ok(Self { rows, len: Word::<P>::new(0) })
    }
}
