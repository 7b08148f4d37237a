//! The interval index: which registered ranges does an invalidation touch?
//!
//! [`IntervalIndex`] has two implementations: [`Tree`], the tree of this crate, intrusive and allocation-free, and
//! `IsetIndex`, the `iset` crate's map behind the feature `iset`.

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
/// A query returns each linked node that overlaps, once, and nothing else. After [`remove`](Self::remove) the index does not
/// touch the node. A node that is removed does not disturb the other nodes' places: a walk may remove the node it stands
/// on after it asked for the next.
pub unsafe trait IntervalIndex<P: Platform>: Send + Sized {
    /// Whether `insert`, `remove` and the queries allocate nothing, as a lock that invalidation takes demands.
    const ALLOCATION_FREE: bool;

    /// An empty index.
    fn new() -> Self;

    /// Links a node.
    ///
    /// # Errors
    /// [`Error::NoMemory`] or [`Error::Invalid`] (a range that the implementation cannot hold); the node stays out.
    ///
    /// # Safety
    /// The node is in no index, and stays alive and in place until it is removed. All calls that can reach the node are
    /// serialised by one lock.
    unsafe fn insert(&mut self, node: NonNull<Node<P>>) -> Result<(), Error>;

    /// Takes a node out, in O(log n), by the node and not by its range.
    ///
    /// # Safety
    /// The node is in this index.
    unsafe fn remove(&mut self, node: NonNull<Node<P>>);

    /// The first node that overlaps `range`.
    fn first(&self, range: AddrRange) -> Option<NonNull<Node<P>>>;

    /// The node after `node` that overlaps `range`.
    ///
    /// # Safety
    /// `node` is in this index.
    unsafe fn next(&self, node: NonNull<Node<P>>, range: AddrRange) -> Option<NonNull<Node<P>>>;

    /// The smallest range that covers every node, or `None` if there is none. O(log n) or better.
    fn hull(&self) -> Option<AddrRange>;

    /// Whether nothing is linked.
    fn is_empty(&self) -> bool {
        self.hull().is_none()
    }
}
