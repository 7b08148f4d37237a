//! A pool of nodes with the naive answer to every query beside the index.

use core::ptr::NonNull;
use userptr::interval::{IntervalIndex, Node, Tree};
use userptr::platforms::std::Std;
use userptr::{AddrRange, Error};

pub(crate) type At = NonNull<Node<Std>>;

/// From `start` to `last`, both inclusive.
pub(crate) fn span(start: usize, last: usize) -> AddrRange {
    AddrRange::inclusive(start, last).unwrap()
}

/// Marsaglia's xorshift with 64 bits: small, and the same run every time.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        // The high half: the low bits of xorshift are the weaker ones.
        (self.0 >> 32) as usize % n
    }
}

/// What a test needs of an index beyond the trait.
pub(crate) trait Checked: IntervalIndex<Std> {
    /// Panics if an invariant does not hold, or if the index does not hold `nodes` nodes.
    fn verify(&self, nodes: usize);
}

impl Checked for Tree<Std> {
    fn verify(&self, nodes: usize) {
        let (found, height) = self.check().unwrap_or_else(|broken| panic!("the tree's {broken} is broken"));
        assert_eq!(found, nodes);
        // The bound of an AVL tree; `n + 2` instead of the exact term for an empty one.
        assert!(f64::from(height) <= 1.4405 * ((nodes + 2) as f64).log2(), "height {height} for {nodes}");
    }
}

#[cfg(feature = "iset")]
impl Checked for userptr::interval::IsetIndex<Std> {
    fn verify(&self, nodes: usize) {
        assert_eq!(self.is_empty(), nodes == 0);
    }
}

/// An index with its nodes and the naive list of them.
pub(crate) struct Pool<I: Checked> {
    index: I,
    list: Vec<At>,
}

impl<I: Checked> Pool<I> {
    pub(crate) fn new() -> Self {
        Self { index: I::new(), list: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn add(&mut self, range: AddrRange) -> Result<At, Error> {
        let node = NonNull::from(Box::leak(Box::new(Node::new(range))));
        // SAFETY: the node is new and stays until `take` or `drop` removes it; one thread.
        match unsafe { self.index.insert(node) } {
            Ok(()) => {
                self.list.push(node);
                Ok(node)
            }
            Err(error) => {
                free(node);
                Err(error)
            }
        }
    }

    /// Removes the node at `place` of the list, and frees it.
    pub(crate) fn take(&mut self, place: usize) {
        let node = self.list.swap_remove(place);
        // SAFETY: it was on the list, so it is in the index.
        unsafe { self.index.remove(node) };
        free(node);
    }

    pub(crate) fn remove(&mut self, node: At) {
        let place = self.list.iter().position(|&listed| listed == node).unwrap();
        self.take(place);
    }

    pub(crate) fn first(&self, range: AddrRange) -> Option<At> {
        self.index.first(range)
    }

    pub(crate) fn next(&self, node: At, range: AddrRange) -> Option<At> {
        assert!(self.list.contains(&node));
        // SAFETY: it is on the list, so it is in the index.
        unsafe { self.index.next(node, range) }
    }

    /// All hits, as the index gives them.
    pub(crate) fn hits(&self, range: AddrRange) -> Vec<At> {
        let mut hits: Vec<At> = Vec::new();
        let mut at = self.index.first(range);
        while let Some(node) = at {
            assert!(hits.len() < self.list.len(), "the walk does not end");
            hits.push(node);
            // SAFETY: the index has just given it.
            at = unsafe { self.index.next(node, range) };
        }
        hits
    }

    /// All hits, as the list has them, in the order of the index.
    pub(crate) fn naive(&self, range: AddrRange) -> Vec<At> {
        let mut hits: Vec<At> =
            self.list.iter().copied().filter(|&node| range_of(node).overlaps(range)).collect();
        hits.sort_unstable_by_key(|&node| (range_of(node).start(), node));
        hits
    }

    /// Asks for `range` and compares with the list.
    pub(crate) fn agree(&self, range: AddrRange) -> usize {
        let hits = self.hits(range);
        assert_eq!(hits, self.naive(range), "for {range:?}");
        hits.len()
    }

    /// Compares the invariants and the hull with the list.
    pub(crate) fn verify(&self) {
        self.index.verify(self.list.len());
        let hull = self.list.iter().map(|&node| range_of(node)).reduce(AddrRange::hull);
        assert_eq!(self.index.hull(), hull);
        assert_eq!(self.index.is_empty(), self.list.is_empty());
    }
}

impl<I: Checked> Drop for Pool<I> {
    fn drop(&mut self) {
        while !self.list.is_empty() && !std::thread::panicking() {
            self.take(self.list.len() - 1);
        }
    }
}

pub(crate) fn range_of(node: At) -> AddrRange {
    // SAFETY: the tests hand in nodes of a pool only, which are alive.
    unsafe { node.as_ref() }.range()
}

fn free(node: At) {
    // SAFETY: `add` leaked it, and it is in no index any more.
    drop(unsafe { Box::from_raw(node.as_ptr()) });
}

/// Instantiates each named test, generic over the index, for every index there is.
macro_rules! on_every_index {
    ($($name:ident),* $(,)?) => {
        mod tree {
            $(#[test] fn $name() { super::$name::<userptr::interval::Tree<userptr::platforms::std::Std>>(); })*
        }
        #[cfg(feature = "iset")]
        mod iset {
            $(#[test] fn $name() { super::$name::<userptr::interval::IsetIndex<userptr::platforms::std::Std>>(); })*
        }
    };
}
pub(crate) use on_every_index;
