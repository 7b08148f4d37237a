//! The node that lies inside the indexed object.

use crate::platform::{Cell, Platform};
use crate::range::AddrRange;
use core::fmt;
use core::ptr::NonNull;

/// A node of an interval index. Its range is fixed when it is made.
///
/// # Invariants
/// `links` is touched under the lock around the index only.
pub struct Node<P: Platform> {
    range: AddrRange,
    pub(super) links: P::Cell<Links<P>>,
}

/// What the tree keeps in a node.
pub(super) struct Links<P: Platform> {
    pub(super) parent: Option<NonNull<Node<P>>>,
    pub(super) left: Option<NonNull<Node<P>>>,
    pub(super) right: Option<NonNull<Node<P>>>,
    /// The largest `last` in the subtree below this node, itself included.
    pub(super) max_last: usize,
    /// The height of that subtree.
    pub(super) height: u8,
}

// SAFETY: the links are touched under one lock only (invariant).
unsafe impl<P: Platform> Send for Node<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for Node<P> {}

impl<P: Platform> Node<P> {
    /// A node for `range`, in no index.
    #[must_use]
    pub fn new(range: AddrRange) -> Self {
        let links = Links { parent: None, left: None, right: None, max_last: range.last(), height: 0 };
        Self { range, links: <P::Cell<_> as Cell<_>>::new(links) }
    }

    /// The range.
    #[must_use]
    pub fn range(&self) -> AddrRange {
        self.range
    }
}

impl<P: Platform> fmt::Debug for Node<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({:?})", self.range)
    }
}
