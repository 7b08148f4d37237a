//! The interval index: which registered ranges does an invalidation touch?
//!
//! [`IntervalIndex`] has two implementations: [`Tree`], the tree of this crate, intrusive and
//! allocation-free, and `IsetIndex`, the `iset` crate's map behind the feature `iset`.

mod balance;
mod check;
#[cfg(feature = "iset")]
mod iset;
mod links;
mod node;
mod tree;

#[cfg(feature = "iset")]
pub use self::iset::IsetIndex;
pub use node::Node;
pub use tree::Tree;

use crate::error::Error;
use crate::platform::Platform;
use crate::range::AddrRange;
use core::ptr::NonNull;

/// A set of ranges, ordered by `(start, address of the node)`. Identical ranges are normal.
///
/// # Safety
/// A query must return each linked node that overlaps, once, and nothing else. After
/// [`remove`](Self::remove) the index must not touch the node. A node that is removed must not
/// disturb the other nodes' places: a walk may remove its current node after it asked for the next.
pub unsafe trait IntervalIndex<P: Platform>: Send + Sized {
    /// Whether `insert`, `remove` and the queries allocate nothing, as a lock that invalidation
    /// takes demands.
    const ALLOCATION_FREE: bool;

    /// Makes an empty index.
    fn new() -> Self;

    /// Links a node.
    ///
    /// # Errors
    /// [`Error::NoMemory`] or [`Error::Invalid`] (a range that the implementation cannot hold); the
    /// node stays out.
    ///
    /// # Safety
    /// The node must be in no index, and must stay alive and in place until it is removed. One lock
    /// must serialise all calls that can reach the node.
    unsafe fn insert(&mut self, node: NonNull<Node<P>>) -> Result<(), Error>;

    /// Takes a node out, in O(log n), by the node and not by its range.
    ///
    /// # Safety
    /// The node must be in this index.
    unsafe fn remove(&mut self, node: NonNull<Node<P>>);

    /// Returns the first node that overlaps `range`.
    fn first(&self, range: AddrRange) -> Option<NonNull<Node<P>>>;

    /// Returns the node after `node` that overlaps `range`.
    ///
    /// # Safety
    /// `node` must be in this index.
    unsafe fn next(&self, node: NonNull<Node<P>>, range: AddrRange) -> Option<NonNull<Node<P>>>;

    /// Returns the smallest range that covers every node, or `None` if there is none. O(log n) or
    /// better.
    fn hull(&self) -> Option<AddrRange>;

    /// Returns whether nothing is linked.
    fn is_empty(&self) -> bool {
        self.hull().is_none()
    }
}
