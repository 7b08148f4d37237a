//! The lock-free hull of the index.

use crate::platform::{AtomicUsize, Load, Platform, Store};
use crate::range::AddrRange;
use crossbeam_utils::CachePadded;

/// A range, in two words, that covers every node of the index.
///
/// # Invariants
/// Each value that either word ever holds while a node is in the index covers that node on its
/// side. So any mixture of an old and a new word covers every node that was there throughout: a
/// torn read is a correct read.
pub(super) struct Hull<P: Platform> {
    words: CachePadded<Words<P>>,
}

struct Words<P: Platform> {
    start: P::Usize,
    last: P::Usize,
}

impl<P: Platform> Hull<P> {
    pub(super) fn new() -> Self {
        let words = Words { start: P::Usize::new(usize::MAX), last: P::Usize::new(0) };
        Self { words: CachePadded::new(words) }
    }

    /// Follows a change of the index. Called under the notifier's lock; after an insert the caller
    /// passes a full fence next.
    pub(super) fn set(&self, hull: Option<AddrRange>) {
        let (start, last) = hull.map_or((usize::MAX, 0), |h| (h.start(), h.last()));
        // ORDERING: releases the revocation of a node that this hull leaves out; pairs with the
        // acquire in `may_overlap` (E16). A later writer has the earlier revocations through the
        // lock.
        self.words.start.store(start, Store::Release);
        self.words.last.store(last, Store::Release);
    }

    /// Returns whether a node may overlap. Called after a full fence that follows the opening of
    /// the window.
    ///
    /// A `false` also synchronizes with the removal of every node that used to overlap: its unpin
    /// happens before this call returns.
    pub(super) fn may_overlap(&self, range: AddrRange) -> bool {
        // ORDERING: pairs with the release in `set` (E16): the word that leaves a node out was
        // written after that node's revocation, and an invalidation that takes no lock must have
        // the unpin behind it, too.
        self.words.start.load(Load::Acquire) <= range.last()
            && range.start() <= self.words.last.load(Load::Acquire)
    }
}
