//! The interval tree of this crate: queries, insertion and removal. How it keeps its height is in
//! `balance`.

use super::IntervalIndex;
use super::links::{At, Kid, Side};
use super::node::Node;
use crate::error::Error;
use crate::platform::Platform;
use crate::range::AddrRange;
use core::fmt;
use core::ptr::NonNull;

/// An intrusive, balanced interval tree. It allocates nothing and never recurses.
///
/// An AVL tree ordered by `(start, address of the node)`, in which each link downwards carries the
/// largest `last` below it, and whose nodes are chained in that order. Its height is at most 1.44
/// log2(n). `insert`, `remove` and `first` are O(log n) in the worst case; `next` too, and O(1)
/// where the next node in the order is a hit or past the range; [`hull`](IntervalIndex::hull) is
/// O(1).
///
/// Removal moves links between nodes and never a node's content, so the node that is removed is the
/// one that the caller may free, and no other changes its place.
///
/// # Invariants
/// Every node below `root` is alive, was inserted and not removed since. `first` is the first of
/// them in the order, and begins the chain.
///
/// ```
/// use core::ptr::NonNull;
/// use userptr::{AddrRange, platforms::std::Std};
/// use userptr::interval::{IntervalIndex, Node, Tree};
///
/// let node = Node::<Std>::new(AddrRange::new(0x1000, 0x2000)?);
/// let at = NonNull::from(&node);
/// let mut tree = Tree::new();
/// // SAFETY: the node outlives its stay in the tree and does not move; there is one thread.
/// unsafe { tree.insert(at)? };
/// assert_eq!(tree.first(AddrRange::new(0x2fff, 1)?), Some(at));
/// assert_eq!(tree.first(AddrRange::new(0x3000, 1)?), None);
/// // SAFETY: the node is in the tree.
/// unsafe { tree.remove(at) };
/// assert!(tree.is_empty());
/// # Ok::<_, userptr::Error>(())
/// ```
pub struct Tree<P: Platform> {
    pub(super) root: Kid<P>,
    pub(super) first: Option<At<P>>,
}

// SAFETY: the nodes are reached by the owner of the tree, under the lock that the callers of
// `insert` promised; the tree is not `Sync`, so two threads never read it at once.
unsafe impl<P: Platform> Send for Tree<P> {}

impl<P: Platform> fmt::Debug for Tree<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tree").field(&self.hull()).finish()
    }
}

/// Returns the first node of the subtree below `at` that overlaps `range`.
///
/// One path downwards suffices. If the left subtree reaches `range.start`, then either the first
/// hit is in it, or the node that reaches so far starts after `range.last`, and with it everything
/// to its right.
#[inline]
fn descend<P: Platform>(mut at: At<P>, range: AddrRange) -> Option<At<P>> {
    loop {
        let here = at.range();
        let [left, right] = at.kids();
        // Branches, and no conditional moves: where the guess is right, the next node is loaded
        // before this one is compared. With nodes out of the nearest cache that is a third faster.
        if left.max >= range.start() {
            if let Some(left) = left.node {
                at = left;
                continue;
            }
        }
        if here.start() > range.last() {
            return None;
        }
        if here.last() >= range.start() {
            return Some(at);
        }
        if right.max < range.start() {
            return None;
        }
        at = right.node?;
    }
}

// SAFETY: `descend` and `next` return overlapping nodes in order (see there); `remove` leaves no
// link to the node; nodes are relinked and never moved.
unsafe impl<P: Platform> IntervalIndex<P> for Tree<P> {
    const ALLOCATION_FREE: bool = true;

    fn new() -> Self {
        Self { root: Kid::NONE, first: None }
    }

    /// Never fails.
    unsafe fn insert(&mut self, node: NonNull<Node<P>>) -> Result<(), Error> {
        // SAFETY: alive and in place, and every call is under the index's lock (caller).
        let at = unsafe { At::new(node) };
        let (start, addr) = at.key();
        // `before` is the last node that the way went to the right of.
        let (mut parent, mut side, mut before) = (None, Side::Left, None::<At<P>>);
        let mut next = self.root.node;
        while let Some(here) = next {
            let (here_start, here_addr) = here.key();
            let right = here_start < start || ((here_start == start) && (here_addr < addr));
            parent = next;
            if right {
                (side, before, next) = (Side::Right, next, here.kid(Side::Right).node);
            } else {
                (side, next) = (Side::Left, here.kid(Side::Left).node);
            }
        }
        match before {
            Some(before) => {
                at.reset(parent, before.after());
                before.set_after(Some(at));
            }
            None => {
                at.reset(parent, self.first);
                self.first = Some(at);
            }
        }
        let kid = Kid { node: Some(at), max: at.range().last() };
        match parent {
            None => self.root = kid,
            Some(parent) => {
                parent.set_kid(side, kid);
                self.raise_max(parent, kid.max);
                self.retrace_grown(at);
            }
        }
        Ok(())
    }

    unsafe fn remove(&mut self, node: NonNull<Node<P>>) {
        // SAFETY: alive and in place, and every call is under the index's lock (caller).
        let at = unsafe { At::new(node) };
        let parent = at.parent();
        let [left, right] = at.kids();
        let after = at.after();
        match at.before() {
            Some(before) => before.set_after(after),
            None => self.first = after,
        }
        // The deepest node that loses a level, and on which side.
        let (from, side) = match (left.node, right.node) {
            (Some(left), Some(right)) => {
                // The next node takes this one's place.
                let heir = after.unwrap_or(right);
                let rest = heir.kid(Side::Right);
                let above = heir.parent().unwrap_or(right);
                heir.take_place(at);
                left.set_parent(Some(heir));
                self.replace(parent, at, heir);
                let from = if heir == right {
                    heir.set_kid(Side::Right, rest);
                    (heir, Side::Right)
                } else {
                    right.set_parent(Some(heir));
                    self.hang(Some(above), Side::Left, rest);
                    // This may end early, before it reaches the successor's new place, where the
                    // maximum differs for another reason.
                    self.settle_max(above);
                    (above, Side::Left)
                };
                self.settle_max(heir);
                from
            }
            // At most one child, which takes this node's place.
            (only, _) => {
                let kid = if only.is_some() { left } else { right };
                let Some(parent) = parent else {
                    self.hang(None, Side::Left, kid);
                    return;
                };
                let side = at.side_of(parent);
                self.hang(Some(parent), side, kid);
                self.settle_max(parent);
                (parent, side)
            }
        };
        self.retrace_shrunk(from, side);
    }

    #[inline]
    fn first(&self, range: AddrRange) -> Option<NonNull<Node<P>>> {
        let root = self.root.node?;
        if self.root.max < range.start() {
            return None;
        }
        descend(root, range).map(At::node)
    }

    #[inline]
    unsafe fn next(&self, node: NonNull<Node<P>>, range: AddrRange) -> Option<NonNull<Node<P>>> {
        // SAFETY: `node` is in this tree, so alive, and the index's lock is held (caller).
        let mut at = unsafe { At::new(node) }.after()?;
        loop {
            let here = at.range();
            if here.start() > range.last() {
                return None;
            }
            if here.last() >= range.start() {
                return Some(at.node());
            }
            // `at` ends before the range. What comes after it: its right subtree, then the first
            // ancestor that it is left of.
            let right = at.kid(Side::Right);
            if right.max >= range.start() {
                if let Some(kid) = right.node {
                    // If nothing overlaps there, then everything later starts past the range: see
                    // `descend`.
                    return descend(kid, range).map(At::node);
                }
            }
            loop {
                let parent = at.parent()?;
                let side = at.side_of(parent);
                at = parent;
                if side == Side::Left {
                    break;
                }
            }
        }
    }

    #[inline]
    fn hull(&self) -> Option<AddrRange> {
        AddrRange::inclusive(self.first?.range().start(), self.root.max)
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.root.node.is_none()
    }
}
