//! What the tree keeps in a node, and the handle through which it touches that.

use super::node::Node;
use crate::platform::{Cell, Platform};
use crate::range::AddrRange;
use core::ptr::NonNull;

/// The two children of a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left = 0,
    Right = 1,
}

impl Side {
    pub(super) const fn new(right: bool) -> Self {
        if right { Self::Right } else { Self::Left }
    }

    pub(super) const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }

    /// What one more level on this side adds to a balance.
    pub(super) const fn weight(self) -> i8 {
        match self {
            Self::Left => -1,
            Self::Right => 1,
        }
    }
}

/// A link downwards, with the largest `last` (inclusive) of the subtree that it leads to.
///
/// The maximum is stored with the link and not with the child: a query that does not descend does
/// not touch the child.
///
/// # Invariants
/// `max` is 0 where there is no child. It is no proof of one: a child's maximum can be 0 too.
pub(super) struct Kid<P: Platform> {
    pub(super) node: Option<At<P>>,
    pub(super) max: usize,
}

impl<P: Platform> Kid<P> {
    pub(super) const NONE: Self = Self { node: None, max: 0 };
}

impl<P: Platform> Clone for Kid<P> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}
impl<P: Platform> Copy for Kid<P> {}

/// What the tree keeps in a node.
///
/// # Invariants
/// While the node is in a tree: `balance` is the height on the right less the height on the left,
/// -1 to 1.
#[repr(C)]
pub(super) struct Links<P: Platform> {
    /// Left and right, indexed by [`Side`].
    pub(super) kids: [Kid<P>; 2],
    pub(super) parent: Option<At<P>>,
    /// The next node in the order: a walk over neighbours neither climbs nor descends.
    pub(super) after: Option<At<P>>,
    pub(super) balance: i8,
}

impl<P: Platform> Links<P> {
    pub(super) const NONE: Self = Self { kids: [Kid::NONE; 2], parent: None, after: None, balance: 0 };
}

/// A node that is in the tree at hand.
///
/// # Invariants
/// It is made by `insert`, `remove` and `next` only, whose callers ensure that the node is alive
/// and in place while it is in the tree, and that one lock covers every call that can reach it. It
/// is kept in the links of nodes of the same tree, in the tree itself, and on the stack of the
/// tree's methods, nowhere else; `remove` takes it out of the first two.
pub(super) struct At<P: Platform>(NonNull<Node<P>>);

impl<P: Platform> Clone for At<P> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}
impl<P: Platform> Copy for At<P> {}
impl<P: Platform> PartialEq for At<P> {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<P: Platform> At<P> {
    /// # Safety
    /// The node must be alive and in place until it is removed from the tree, and the tree's lock
    /// must be held.
    #[inline]
    pub(super) unsafe fn new(node: NonNull<Node<P>>) -> Self {
        // INVARIANT: alive and in place, under the tree's lock (caller).
        Self(node)
    }

    #[inline]
    pub(super) fn node(self) -> NonNull<Node<P>> {
        self.0
    }

    #[inline]
    pub(super) fn range(self) -> AddrRange {
        // SAFETY: the node is alive (invariant of `At`), and nobody makes a `&mut` to a node that
        // is in an index.
        unsafe { self.0.as_ref() }.range()
    }

    /// The key, by which all nodes of a tree are different.
    #[inline]
    pub(super) fn key(self) -> (usize, usize) {
        (self.range().start(), self.0.addr().get())
    }

    #[inline]
    fn read<R>(self, f: impl FnOnce(*const Links<P>) -> R) -> R {
        // SAFETY: the node is alive (invariant of `At`), and nobody makes a `&mut` to a node that
        // is in an index.
        unsafe { self.0.as_ref() }.links.with(f)
    }

    #[inline]
    fn write<R>(self, f: impl FnOnce(*mut Links<P>) -> R) -> R {
        // SAFETY: as in `read`.
        unsafe { self.0.as_ref() }.links.with_mut(f)
    }

    #[inline]
    pub(super) fn parent(self) -> Option<Self> {
        // SAFETY: the lock is held, so nobody writes (invariant of `At`).
        self.read(|links| unsafe { (*links).parent })
    }

    #[inline]
    pub(super) fn set_parent(self, parent: Option<Self>) {
        // SAFETY: the lock is held (invariant of `At`), and no other access to the links is in
        // progress in this thread.
        self.write(|links| unsafe { (*links).parent = parent });
    }

    #[inline]
    pub(super) fn after(self) -> Option<Self> {
        // SAFETY: as in `parent`.
        self.read(|links| unsafe { (*links).after })
    }

    #[inline]
    pub(super) fn set_after(self, after: Option<Self>) {
        // SAFETY: as in `set_parent`.
        self.write(|links| unsafe { (*links).after = after });
    }

    #[inline]
    pub(super) fn balance(self) -> i8 {
        // SAFETY: as in `parent`.
        self.read(|links| unsafe { (*links).balance })
    }

    #[inline]
    pub(super) fn set_balance(self, balance: i8) {
        // SAFETY: as in `set_parent`.
        self.write(|links| unsafe { (*links).balance = balance });
    }

    /// Left and right.
    #[inline]
    pub(super) fn kids(self) -> [Kid<P>; 2] {
        // SAFETY: as in `parent`.
        self.read(|links| unsafe { (*links).kids })
    }

    #[inline]
    pub(super) fn kid(self, side: Side) -> Kid<P> {
        // SAFETY: as in `parent`; a `Side` is an index into the two kids.
        self.read(|links| unsafe { (&raw const (*links).kids).cast::<Kid<P>>().add(side as usize).read() })
    }

    #[inline]
    pub(super) fn set_kid(self, side: Side, kid: Kid<P>) {
        // SAFETY: as in `set_parent`; a `Side` is an index into the two kids.
        self.write(|links| unsafe {
            (&raw mut (*links).kids).cast::<Kid<P>>().add(side as usize).write(kid)
        });
    }

    /// Sets the maximum of the child on `side`. Returns whether it changed.
    #[inline]
    pub(super) fn update_max(self, side: Side, max: usize) -> bool {
        self.write(|links| {
            // SAFETY: as in `set_kid`.
            let kid = unsafe { &mut *(&raw mut (*links).kids).cast::<Kid<P>>().add(side as usize) };
            core::mem::replace(&mut kid.max, max) != max
        })
    }

    /// Makes the node a leaf below `parent`, before `after`.
    #[inline]
    pub(super) fn reset(self, parent: Option<Self>, after: Option<Self>) {
        // SAFETY: as in `set_parent`.
        self.write(|links| unsafe { *links = Links { parent, after, ..Links::NONE } });
    }

    /// Takes over the place of `from` in the tree: its children, its parent and its balance.
    #[inline]
    pub(super) fn take_place(self, from: Self) {
        // SAFETY: as in `parent`; `Links` is plain data.
        let links = from.read(|links| unsafe { links.read() });
        // SAFETY: as in `set_parent`.
        self.write(|to| unsafe { *to = Links { after: (*to).after, ..links } });
    }

    /// Returns the node before this one in the order.
    #[inline]
    pub(super) fn before(self) -> Option<Self> {
        if let Some(left) = self.kid(Side::Left).node {
            return Some(left.outermost(Side::Right));
        }
        let mut at = self;
        loop {
            let parent = at.parent()?;
            if at.side_of(parent) == Side::Right {
                return Some(parent);
            }
            at = parent;
        }
    }

    /// Returns the side of `parent` that this node is on.
    #[inline]
    pub(super) fn side_of(self, parent: Self) -> Side {
        Side::new(parent.kid(Side::Right).node == Some(self))
    }

    /// Returns the largest `last` of the subtree below this node, itself included.
    #[inline]
    pub(super) fn subtree_max(self) -> usize {
        let [left, right] = self.kids();
        self.range().last().max(left.max).max(right.max)
    }

    /// Returns the end of the chain of children on `side`: the first or the last node of the
    /// subtree.
    #[inline]
    pub(super) fn outermost(self, side: Side) -> Self {
        let mut at = self;
        while let Some(kid) = at.kid(side).node {
            at = kid;
        }
        at
    }
}
