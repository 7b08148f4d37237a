//! The `iset` crate's interval map as an index: the oracle of the differential tests.

use super::IntervalIndex;
use super::node::Node;
use crate::error::Error;
use crate::platform::Platform;
use crate::range::AddrRange;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use iset::IntervalMap;

/// `iset::IntervalMap` behind the trait [`IntervalIndex`].
///
/// It is the oracle that the tree is tested against, and a choice where allocation under the lock
/// is fine. It is not one for invalidation:
///
/// - It **allocates** on insertion and on **every query**, and aborts the process when memory runs
///   out.
/// - It **cannot hold the last address**: its intervals end exclusively, so a range whose `last` is
///   `usize::MAX` is refused with [`Error::Invalid`].
/// - It panics where its own invariants do not hold.
/// - The map has no way to go on from an element: `next` queries anew, and a walk over k hits is
///   O(k²). Removal looks through the identical ranges.
///
/// # Invariants
/// The map holds each node that was inserted and not removed since, once, under its own range.
pub struct IsetIndex<P: Platform> {
    map: IntervalMap<usize, NonNull<Node<P>>>,
}

// SAFETY: the nodes are reached by the owner of the index, under the lock that the callers of
// `insert` promised; the map owns nothing else that is tied to a thread.
unsafe impl<P: Platform> Send for IsetIndex<P> {}

impl<P: Platform> fmt::Debug for IsetIndex<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("IsetIndex").field(&self.hull()).finish()
    }
}

/// Returns the range with an exclusive end, if there is one.
fn exclusive(range: AddrRange) -> Option<Range<usize>> {
    Some(range.start()..range.last().checked_add(1)?)
}

impl<P: Platform> IsetIndex<P> {
    /// Returns the smallest hit in the order `(start, address)` that is greater than `after`.
    fn smallest(&self, range: AddrRange, after: Option<(usize, usize)>) -> Option<NonNull<Node<P>>> {
        let mut best = None;
        // The map's order is `(start, end)`: among equal starts the smallest address must be looked
        // for.
        for (found, &node) in self.map.iter(range.start()..=range.last()) {
            let key = (found.start, node.addr().get());
            if best.is_some_and(|((start, _), _)| start < key.0) {
                break;
            }
            if after.is_none_or(|after| after < key) && best.is_none_or(|(least, _)| key < least) {
                best = Some((key, node));
            }
        }
        best.map(|(_, node)| node)
    }
}

// SAFETY: the map yields each interval that overlaps, once; `smallest` puts them into the order.
// `remove` takes the node's entry out, and the nodes themselves are never touched but for their
// range.
unsafe impl<P: Platform> IntervalIndex<P> for IsetIndex<P> {
    const ALLOCATION_FREE: bool = false;

    fn new() -> Self {
        Self { map: IntervalMap::new() }
    }

    /// # Errors
    /// [`Error::Invalid`] if the range ends at `usize::MAX`. Never [`Error::NoMemory`]: the map
    /// aborts.
    unsafe fn insert(&mut self, node: NonNull<Node<P>>) -> Result<(), Error> {
        // SAFETY: the node is alive and in this index (caller), and nobody makes a `&mut` to it.
        let range = unsafe { node.as_ref() }.range();
        self.map.force_insert(exclusive(range).ok_or(Error::Invalid)?, node);
        Ok(())
    }

    unsafe fn remove(&mut self, node: NonNull<Node<P>>) {
        // SAFETY: the node is alive while it is in the index (promised to `insert`), and nobody
        // makes a `&mut` to it.
        let range = unsafe { node.as_ref() }.range();
        if let Some(range) = exclusive(range) {
            self.map.remove_where(range, |&found| found == node);
        }
    }

    fn first(&self, range: AddrRange) -> Option<NonNull<Node<P>>> {
        self.smallest(range, None)
    }

    unsafe fn next(&self, node: NonNull<Node<P>>, range: AddrRange) -> Option<NonNull<Node<P>>> {
        // SAFETY: as in `remove`.
        let start = unsafe { node.as_ref() }.range().start();
        self.smallest(range, Some((start, node.addr().get())))
    }

    fn hull(&self) -> Option<AddrRange> {
        let all = self.map.range()?;
        AddrRange::from_bounds(all.start, all.end)
    }
}
