//! The lock-free summary of the index: the hull of its nodes.

use crate::platform::{AtomicUsize, Load, Platform, Store};
use crate::range::AddrRange;
use crossbeam_utils::CachePadded;

/// A range, in two words, that covers every node of the index.
///
/// # Invariants
/// Each value that either word ever holds while a node is in the index covers that node on its side. So any mixture of an
/// old and a new word covers every node that was there throughout: a torn read is a correct read.
pub(super) struct Summary<P: Platform> {
    hull: CachePadded<Words<P>>,
}

struct Words<P: Platform> {
    start: P::Usize,
    last: P::Usize,
}

impl<P: Platform> Summary<P> {
    pub(super) fn new() -> Self {
        Self { hull: CachePadded::new(Words { start: P::Usize::new(usize::MAX), last: P::Usize::new(0) }) }
    }

    /// Called under the notifier's lock after every change of the index. Whoever inserted passes a full fence next.
    pub(super) fn set(&self, hull: Option<AddrRange>) {
        let (start, last) = hull.map_or((usize::MAX, 0), |h| (h.start(), h.last()));
        // ORDERING: releases the cancel of a node that this hull leaves out; pairs with the acquire in `may_overlap`. Who writes
        // later has the earlier cancels through the lock.
        self.hull.start.store(start, Store::Release);
        self.hull.last.store(last, Store::Release);
    }

    /// Whether a node may overlap. Called after a full fence that follows the opening of the window.
    ///
    /// `false` says more than that: what was cancelled in the range happens before the return.
    pub(super) fn may_overlap(&self, range: AddrRange) -> bool {
        // ORDERING: pairs with the release in `set`: the word that leaves a node out was written after that node's cancel, and a
        // start that takes no lock must have the unpin behind it, too.
        self.hull.start.load(Load::Acquire) <= range.last()
            && range.start() <= self.hull.last.load(Load::Acquire)
    }
}
