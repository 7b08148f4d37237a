//! How the tree keeps its height and its maxima.
//!
//! Every link that must be there is there by the tree's invariants; where the compiler cannot see
//! that, the code does nothing rather than panic, and `check` reports it.

use super::links::{At, Kid, Side};
use super::tree::Tree;
use crate::platform::Platform;

impl<P: Platform> Tree<P> {
    /// Links `kid` as a child of `parent`, or makes it the root.
    pub(super) fn hang(&mut self, parent: Option<At<P>>, side: Side, kid: Kid<P>) {
        match parent {
            Some(parent) => parent.set_kid(side, kid),
            None => self.root = kid,
        }
        if let Some(node) = kid.node {
            node.set_parent(parent);
        }
    }

    /// Puts `new` in the place of `old` below `parent`. The caller must set the maximum.
    pub(super) fn replace(&mut self, parent: Option<At<P>>, old: At<P>, new: At<P>) {
        match parent {
            Some(parent) => {
                let side = old.side_of(parent);
                parent.set_kid(side, Kid { node: Some(new), ..parent.kid(side) });
            }
            None => self.root.node = Some(new),
        }
    }

    /// Raises the maxima: a node that reaches to `last` was added below `at`.
    pub(super) fn raise_max(&mut self, mut at: At<P>, last: usize) {
        while let Some(parent) = at.parent() {
            let side = at.side_of(parent);
            if parent.kid(side).max >= last {
                return;
            }
            parent.update_max(side, last);
            at = parent;
        }
        self.root.max = self.root.max.max(last);
    }

    /// Corrects the maxima after a change below `at`, from there upwards, as far as they differ.
    pub(super) fn settle_max(&mut self, mut at: At<P>) {
        loop {
            let max = at.subtree_max();
            let Some(parent) = at.parent() else {
                self.root.max = max;
                return;
            };
            if !parent.update_max(at.side_of(parent), max) {
                return;
            }
            at = parent;
        }
    }

    /// Rebalances after the subtree `at` grew by one level.
    pub(super) fn retrace_grown(&mut self, mut at: At<P>) {
        while let Some(parent) = at.parent() {
            let side = at.side_of(parent);
            // CANNOT WRAP: a balance is -1 to 1.
            let balance = parent.balance().wrapping_add(side.weight());
            if balance.unsigned_abs() > 1 {
                self.relieve(parent, side);
                return;
            }
            parent.set_balance(balance);
            if balance == 0 {
                return;
            }
            at = parent;
        }
    }

    /// Rebalances after the subtree on `side` of `at` shrank by one level.
    pub(super) fn retrace_shrunk(&mut self, mut at: At<P>, mut side: Side) {
        loop {
            // CANNOT WRAP: a balance is -1 to 1.
            let balance = at.balance().wrapping_sub(side.weight());
            if balance.unsigned_abs() > 1 {
                at = self.relieve(at, side.other());
                if at.balance() != 0 {
                    return;
                }
            } else {
                at.set_balance(balance);
                if balance != 0 {
                    return;
                }
            }
            let Some(parent) = at.parent() else { return };
            side = at.side_of(parent);
            at = parent;
        }
    }

    /// Rotates where `at` is two levels higher on `side` than on the other. Returns the node that
    /// is then on top; its balance is 0 if the subtree lost a level.
    fn relieve(&mut self, at: At<P>, side: Side) -> At<P> {
        let heavy = side.weight();
        let Some(kid) = at.kid(side).node else { return at };
        let balance = kid.balance();
        // CANNOT WRAP: all of these are -1, 0 or 1.
        let light = heavy.wrapping_neg();
        if balance != light {
            self.lift(at, kid, side);
            let rest = heavy.wrapping_sub(balance);
            at.set_balance(rest);
            kid.set_balance(rest.wrapping_neg());
            return kid;
        }
        let Some(inner) = kid.kid(side.other()).node else { return at };
        let balance = inner.balance();
        self.lift(kid, inner, side.other());
        self.lift(at, inner, side);
        at.set_balance(if balance == heavy { light } else { 0 });
        kid.set_balance(if balance == light { heavy } else { 0 });
        inner.set_balance(0);
        inner
    }

    /// Rotates: `kid`, on `side` of `at`, takes the place of `at`, which goes below it on the other
    /// side.
    fn lift(&mut self, at: At<P>, kid: At<P>, side: Side) {
        let parent = at.parent();
        self.hang(Some(at), side, kid.kid(side.other()));
        // The same nodes are below as before: the maximum above stays.
        self.replace(parent, at, kid);
        kid.set_parent(parent);
        kid.set_kid(side.other(), Kid { node: Some(at), max: at.subtree_max() });
        at.set_parent(Some(kid));
    }
}
