//! Scenario 13: nodes removed during a walk over the hits.

use crate::support::{At, Checked, Pool, Random, on_every_index, range_of, span};
use userptr::AddrRange;

on_every_index!(
    s13_each_node_removed_after_the_next_is_known,
    s13_each_node_removed_and_the_walk_begun_anew,
    s13_other_nodes_removed_ahead_of_and_behind_the_walk,
);

const SPACE: usize = 2000;

fn filled<I: Checked>(random: &mut Random, count: usize) -> Pool<I> {
    let mut pool = Pool::new();
    for _ in 0..count {
        let start = random.below(SPACE);
        pool.add(span(start, start + random.below(60))).unwrap();
    }
    pool
}

fn query(random: &mut Random) -> AddrRange {
    let start = random.below(SPACE);
    span(start, start + random.below(SPACE / 2))
}

fn rounds() -> u64 {
    if cfg!(miri) { 1 } else { 100 }
}

fn s13_each_node_removed_after_the_next_is_known<I: Checked>() {
    for seed in 0..rounds() {
        let mut random = Random::new(seed);
        let mut pool = filled::<I>(&mut random, if cfg!(miri) { 30 } else { 100 });
        let range = query(&mut random);
        let (expected, mut walked): (Vec<At>, Vec<At>) = (pool.naive(range), Vec::new());
        let mut at = pool.first(range);
        while let Some(node) = at {
            at = pool.next(node, range);
            walked.push(node);
            pool.remove(node);
            pool.verify();
        }
        assert_eq!(walked, expected, "each hit once, in order");
        assert_eq!(pool.agree(range), 0);
        pool.agree(AddrRange::ALL);
    }
}

fn s13_each_node_removed_and_the_walk_begun_anew<I: Checked>() {
    for seed in 0..rounds() {
        let mut random = Random::new(seed + 1000);
        let mut pool = filled::<I>(&mut random, if cfg!(miri) { 30 } else { 100 });
        let range = query(&mut random);
        let (expected, mut walked) = (pool.naive(range), Vec::new());
        while let Some(node) = pool.first(range) {
            walked.push(node);
            pool.remove(node);
        }
        assert_eq!(walked, expected);
        pool.verify();
        pool.agree(AddrRange::ALL);
    }
}

/// A place in a walk is a node: it stays good while others come and go.
fn s13_other_nodes_removed_ahead_of_and_behind_the_walk<I: Checked>() {
    for seed in 0..rounds() {
        let mut random = Random::new(seed + 2000);
        let mut pool = filled::<I>(&mut random, if cfg!(miri) { 30 } else { 100 });
        let range = query(&mut random);
        let mut at = pool.first(range);
        while let Some(node) = at {
            for _ in 0..4 {
                let others = pool.naive(AddrRange::ALL);
                let other = others[random.below(others.len())];
                if other != node {
                    pool.remove(other);
                }
            }
            let start = random.below(SPACE);
            pool.add(span(start, start + random.below(60))).unwrap();
            let here = (range_of(node).start(), node);
            let expected =
                pool.naive(range).into_iter().find(|&later| (range_of(later).start(), later) > here);
            at = pool.next(node, range);
            assert_eq!(at, expected);
        }
        pool.verify();
    }
}
