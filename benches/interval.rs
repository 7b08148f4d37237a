//! The interval index against its peers, in one run: our tree, the `iset` map, and a `BTreeMap`
//! from `(start, address)` to `last`.
//!
//! Ranges are disjoint, two pages every four, and spread over the nodes at random. That is the best
//! case of the `BTreeMap`, which may stop at the first range before the query; with nested ranges
//! it would have to read everything from the start. `insert` and `remove` fill an empty index with
//! n nodes and empty it again, both in random order; the figure is per node.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    reason = "a benchmark"
)]
#![allow(clippy::disallowed_types, missing_docs, reason = "a benchmark")]

use core::hint::black_box;
use core::ptr::NonNull;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use iset::IntervalMap;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use userptr::AddrRange;
use userptr::interval::{IntervalIndex, Node, Tree};
use userptr::platforms::std::Std;

type At = NonNull<Node<Std>>;

const PAGE: usize = 4096;
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
/// Hits of a query, and the pages that give them from the start of a range, or from the gap behind
/// it.
const QUERIES: [(&str, usize, usize); 3] = [("no_hit", 2, 1), ("one_hit", 0, 1), ("ten_hits", 0, 37)];

/// What is measured of an index: each does it as well as it can, not through one trait.
trait Peer {
    const NAME: &'static str;
    fn new() -> Self;
    fn insert(&mut self, node: At);
    fn remove(&mut self, node: At);
    /// The number of hits. Each is read, as whoever asks does.
    fn query(&self, range: AddrRange) -> usize;
}

fn range_of(node: At) -> AddrRange {
    // SAFETY: the nodes live as long as the benchmark.
    unsafe { node.as_ref() }.range()
}

/// 1, and the node is in the cache.
fn read(node: At) -> usize {
    black_box(range_of(node));
    1
}

impl Peer for Tree<Std> {
    const NAME: &'static str = "tree";
    fn new() -> Self {
        IntervalIndex::new()
    }
    fn insert(&mut self, node: At) {
        // SAFETY: the nodes live as long as the benchmark, which takes each out before it puts it
        // in again.
        unsafe { IntervalIndex::insert(self, node) }.unwrap();
    }
    fn remove(&mut self, node: At) {
        // SAFETY: the benchmark has put it in.
        unsafe { IntervalIndex::remove(self, node) };
    }
    fn query(&self, range: AddrRange) -> usize {
        let (mut hits, mut at) = (0, self.first(range));
        while let Some(node) = at {
            hits += read(node);
            // SAFETY: the tree has just given it.
            at = unsafe { self.next(node, range) };
        }
        hits
    }
}

struct Iset(IntervalMap<usize, At>);

impl Peer for Iset {
    const NAME: &'static str = "iset";
    fn new() -> Self {
        Self(IntervalMap::new())
    }
    fn insert(&mut self, node: At) {
        let range = range_of(node);
        self.0.force_insert(range.start()..range.last() + 1, node);
    }
    fn remove(&mut self, node: At) {
        let range = range_of(node);
        self.0.remove_where(range.start()..range.last() + 1, |&found| found == node).unwrap();
    }
    fn query(&self, range: AddrRange) -> usize {
        self.0.iter(range.start()..=range.last()).map(|(_, &node)| read(node)).sum()
    }
}

struct BTree(BTreeMap<(usize, At), usize>);

impl Peer for BTree {
    const NAME: &'static str = "btreemap";
    fn new() -> Self {
        Self(BTreeMap::new())
    }
    fn insert(&mut self, node: At) {
        let range = range_of(node);
        self.0.insert((range.start(), node), range.last());
    }
    fn remove(&mut self, node: At) {
        self.0.remove(&(range_of(node).start(), node)).unwrap();
    }
    fn query(&self, range: AddrRange) -> usize {
        let before = (range.last() + 1, NonNull::dangling());
        let hits = self.0.range(..before).rev().take_while(|&(_, &last)| last >= range.start());
        hits.map(|(&(_, node), _)| read(node)).sum()
    }
}

/// A permutation of `0..n`, the same every time.
fn shuffled(n: usize, mut seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        order.swap(i, (seed >> 32) as usize % (i + 1));
    }
    order
}

/// n nodes side by side, as a slab lays out small objects, their ranges in random order.
fn nodes(n: usize) -> Vec<At> {
    let nodes: Vec<Node<Std>> = shuffled(n, 1).into_iter().map(|i| Node::new(pages(4 * i, 2))).collect();
    nodes.leak().iter().map(NonNull::from).collect()
}

fn pages(first: usize, count: usize) -> AddrRange {
    AddrRange::new((first + 1) * PAGE, count * PAGE).unwrap()
}

/// `iters` operations, of the fillings and emptyings that they need; `timed` says which of the two
/// counts.
fn fill_and_empty<T: Peer>(nodes: &[At], order: &[usize], iters: u64, timed: usize) -> Duration {
    let n = nodes.len() as u64;
    let rounds = iters.div_ceil(n);
    let mut spent = [Duration::ZERO; 2];
    for _ in 0..rounds {
        let mut index = T::new();
        let begun = Instant::now();
        nodes.iter().for_each(|&node| index.insert(node));
        let full = Instant::now();
        order.iter().for_each(|&i| index.remove(nodes[i]));
        spent[1] += full.elapsed();
        spent[0] += full - begun;
    }
    spent[timed].mul_f64(iters as f64 / (rounds * n) as f64)
}

fn peer<T: Peer>(c: &mut Criterion) {
    for n in SIZES {
        let nodes = nodes(n);
        let order = shuffled(n, 2);
        for (timed, name) in ["insert", "remove"].into_iter().enumerate() {
            c.benchmark_group(name).bench_function(BenchmarkId::new(T::NAME, n), |b| {
                b.iter_custom(|iters| fill_and_empty::<T>(&nodes, &order, iters, timed));
            });
        }
        let mut index = T::new();
        nodes.iter().for_each(|&node| index.insert(node));
        for (hits, (name, from, count)) in [0, 1, 10].into_iter().zip(QUERIES) {
            let places: Vec<AddrRange> =
                shuffled(n - 10, 3).iter().map(|i| pages(4 * i + from, count)).collect();
            assert!(places.iter().all(|&range| index.query(range) == hits));
            let mut next = places.iter().cycle();
            c.benchmark_group(name).bench_function(BenchmarkId::new(T::NAME, n), |b| {
                b.iter(|| index.query(*black_box(next.next().unwrap())));
            });
        }
    }
}

criterion_group! {
    name = interval;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = peer::<Tree<Std>>, peer::<Iset>, peer::<BTree>
}
criterion_main!(interval);
