//! Scenario 12: millions of random operations against a naive list, and against `iset`.

use crate::support::{Checked, Pool, Random, on_every_index, span};
use userptr::AddrRange;

on_every_index!(s12_orders_of_insertion_and_removal);

/// The shape of one run: how many nodes at most, over how many addresses, how long at most, which
/// operations.
struct Shape {
    nodes: usize,
    space: usize,
    longest: usize,
    operations: usize,
}

/// Whether the addresses are counted from 0 or from the top.
#[derive(Clone, Copy, PartialEq)]
enum From {
    Bottom,
    Top,
}

/// Few nodes over few addresses meet the corners most often; many nodes meet the deep rotations.
const SHAPES: [Shape; 6] = [
    Shape { nodes: 4, space: 6, longest: 6, operations: 400_000 },
    Shape { nodes: 16, space: 20, longest: 6, operations: 800_000 },
    Shape { nodes: 16, space: 3, longest: 1, operations: 200_000 },
    Shape { nodes: 64, space: 200, longest: 10, operations: 500_000 },
    Shape { nodes: 200, space: 1 << 30, longest: 1 << 24, operations: 200_000 },
    Shape { nodes: 1000, space: 5000, longest: 20, operations: 50_000 },
];

impl Shape {
    fn range(&self, from: From, random: &mut Random) -> AddrRange {
        let start = random.below(self.space);
        let last = start + random.below(self.longest);
        if from == From::Bottom { span(start, last) } else { span(usize::MAX - last, usize::MAX - start) }
    }

    fn operations(&self) -> usize {
        if cfg!(miri) { 100 } else { self.operations }
    }
}

#[test]
fn s12_random_operations_against_a_naive_list() {
    let mut total = 0;
    for (seed, shape) in (1..).zip(&SHAPES) {
        for from in [From::Bottom, From::Top] {
            total += shape.operations();
            against_a_naive_list(shape, from, seed);
        }
    }
    assert!(cfg!(miri) || total >= 4_000_000);
}

fn against_a_naive_list(shape: &Shape, from: From, seed: u64) {
    let mut random = Random::new(seed);
    let mut pool = Pool::<userptr::interval::Tree<_>>::new();
    let nodes = if cfg!(miri) { shape.nodes.min(40) } else { shape.nodes };
    // The pool fills and empties in turn, so that the tree is full, is empty and is all between.
    let mut filling = true;
    let every = shape.operations().div_ceil(if cfg!(miri) { 10 } else { 20_000 });
    for operation in 0..shape.operations() {
        filling = if filling { pool.len() < nodes } else { pool.len() == 0 };
        match random.below(4) {
            0 | 1 if filling == (random.below(8) != 0) && pool.len() < nodes => {
                pool.add(shape.range(from, &mut random)).unwrap();
            }
            0 | 1 if pool.len() != 0 => pool.take(random.below(pool.len())),
            _ => {
                pool.agree(shape.range(from, &mut random));
            }
        }
        if operation % every == 0 {
            pool.verify();
        }
    }
    pool.verify();
}

/// The same operations on both; equal answers, by range, because the two hold different nodes.
#[cfg(feature = "iset")]
#[test]
fn s12_random_operations_against_iset() {
    use crate::support::range_of;
    use userptr::interval::{IsetIndex, Tree};
    for (seed, shape) in (100..).zip(&SHAPES) {
        let (mut random, from) = (Random::new(seed), From::Bottom);
        let (mut tree, mut oracle) = (Pool::<Tree<_>>::new(), Pool::<IsetIndex<_>>::new());
        for _ in 0..shape.operations().min(20_000) {
            match random.below(4) {
                0 | 1 if tree.len() == 0 || (tree.len() < shape.nodes && random.below(2) == 0) => {
                    let range = shape.range(from, &mut random);
                    tree.add(range).unwrap();
                    oracle.add(range).unwrap();
                }
                0 | 1 => {
                    // Both lists are in one order of operations.
                    let place = random.below(tree.len());
                    tree.take(place);
                    oracle.take(place);
                }
                _ => {
                    let query = shape.range(from, &mut random);
                    // Nodes with one start come in the order of their addresses: not the same in
                    // both.
                    let [ours, theirs] = [tree.hits(query), oracle.hits(query)].map(|hits| {
                        let mut spans: Vec<_> =
                            hits.into_iter().map(|n| (range_of(n).start(), range_of(n).last())).collect();
                        assert!(spans.is_sorted_by_key(|&(start, _)| start));
                        spans.sort_unstable();
                        spans
                    });
                    assert_eq!(ours, theirs, "for {query:?}");
                }
            }
        }
        tree.verify();
        oracle.verify();
    }
}

/// In order, in reverse, from both ends, all of one start: the balance holds at each step.
fn s12_orders_of_insertion_and_removal<I: Checked>() {
    let count = if cfg!(miri) { 16 } else { 200 };
    let orders: [fn(usize, usize) -> usize; 5] = [
        |i, _| i,
        |i, n| n - i,
        |i, n| if i % 2 == 0 { i } else { 2 * n - i },
        |i, n| i * 7919 % n,
        |_, _| 5,
    ];
    for insert in orders {
        // From the front, from the back and from the middle of the list.
        for removal in [0, 1, 2] {
            let mut pool = Pool::<I>::new();
            for i in 0..count {
                let start = 10 * insert(i, count);
                pool.add(span(start, start + i % 40)).unwrap();
                pool.verify();
            }
            while pool.len() != 0 {
                pool.take([0, pool.len() - 1, pool.len() / 2][removal]);
                pool.verify();
                pool.agree(span(10 * (pool.len() / 2), 10 * pool.len() + 5));
            }
        }
    }
}
