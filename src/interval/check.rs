//! Checks every invariant of a tree. For tests: it recurses and takes O(n).

use super::links::{At, Kid, Side};
use super::tree::Tree;
use crate::platform::Platform;

/// More levels than an AVL tree of `usize::MAX` nodes has.
const DEEPEST: u32 = 96;

impl<P: Platform> Tree<P> {
    /// Checks order, parents, balances, maxima, height and the first node; returns the number of
    /// nodes and of levels, or the invariant that does not hold. For tests.
    ///
    /// # Errors
    /// The invariant that does not hold.
    #[doc(hidden)]
    pub fn check(&self) -> Result<(usize, u32), &'static str> {
        let mut walk = Walk { tree: self, before: None, nodes: 0 };
        let height = walk.subtree(self.root, None, 0)?;
        if walk.before.is_some_and(|last| last.after().is_some()) {
            return Err("end");
        }
        if self.root.node.is_none() && self.first.is_some() {
            return Err("first node");
        }
        Ok((walk.nodes, height))
    }
}

struct Walk<'t, P: Platform> {
    tree: &'t Tree<P>,
    before: Option<At<P>>,
    nodes: usize,
}

impl<P: Platform> Walk<'_, P> {
    /// Checks the subtree that `kid` leads to, and returns its height.
    fn subtree(&mut self, kid: Kid<P>, parent: Option<At<P>>, depth: u32) -> Result<u32, &'static str> {
        let Some(at) = kid.node else {
            return if kid.max == 0 { Ok(0) } else { Err("maximum without a child") };
        };
        if depth > DEEPEST {
            return Err("depth");
        }
        if at.parent() != parent {
            return Err("parent");
        }
        let below = depth.saturating_add(1);
        let left = self.subtree(at.kid(Side::Left), Some(at), below)?;
        if self.before.is_some_and(|before| before.key() >= at.key()) {
            return Err("order");
        }
        if self.before.map_or(self.tree.first, At::after) != Some(at) {
            return Err("chain");
        }
        self.before = Some(at);
        self.nodes = self.nodes.saturating_add(1);
        let right = self.subtree(at.kid(Side::Right), Some(at), below)?;
        let balance = i64::from(right).saturating_sub(i64::from(left));
        if !(-1..=1).contains(&balance) || i64::from(at.balance()) != balance {
            return Err("balance");
        }
        if kid.max != at.subtree_max() {
            return Err("maximum");
        }
        Ok(left.max(right).saturating_add(1))
    }
}
