//! The node inside the indexed object.

use super::links::Links;
use crate::platform::{Cell, Platform};
use crate::range::AddrRange;
use core::fmt;

/// A node of an interval index. Its range is fixed when it is made.
///
/// Nine words on a platform whose cell adds nothing. A query decides at each level with what is
/// stored in that level's node, and touches no node that it does not visit.
///
/// # Invariants
/// `links` is touched under the lock around the index only, and by the index only.
#[repr(C)]
pub struct Node<P: Platform> {
    range: AddrRange,
    pub(super) links: P::Cell<Links<P>>,
}

// SAFETY: the links are touched under one lock only (invariant).
unsafe impl<P: Platform> Send for Node<P> {}
// SAFETY: a shared node gives its range, which never changes; the links are under the lock.
unsafe impl<P: Platform> Sync for Node<P> {}

impl<P: Platform> Node<P> {
    /// Makes a node for `range`, in no index.
    #[must_use]
    pub fn new(range: AddrRange) -> Self {
        Self { range, links: <P::Cell<_> as Cell<_>>::new(Links::NONE) }
    }

    /// Returns the range.
    #[must_use]
    #[inline]
    pub fn range(&self) -> AddrRange {
        self.range
    }
}

impl<P: Platform> fmt::Debug for Node<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({:?})", self.range)
    }
}
