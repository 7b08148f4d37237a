//! The registration cache: a hit by address. Against a `BTreeMap` from address to region behind a
//! mutex, which counts the region's users and is never invalidated: what one would write first. The
//! peer does less: it asks nobody whether the memory is still the same, and its regions are
//! disjoint.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::disallowed_types,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "a benchmark"
)]

#[allow(dead_code, reason = "each bench uses its part")]
mod common;

use common::{Idle, PAGE, Stage};
use core::hint::black_box;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use userptr::AddrRange;
use userptr_cache::{Access, Cache, Setup};

const SIZES: [usize; 4] = [1, 64, 1_000, 16_000];
/// Registrations of two pages, two pages apart.
const STEP: usize = 4 * PAGE;
const BASE: usize = 1 << 30;
/// Relatively prime to each size: a walk meets every registration, in no order that helps.
const STRIDE: usize = 7_919;

struct Region {
    last: usize,
    first_page: usize,
}

/// The peer.
type Peer = Mutex<BTreeMap<usize, Arc<Region>>>;

fn peer_of(n: usize) -> Peer {
    let region = |start: usize| Region { last: start + 2 * PAGE - 1, first_page: start / PAGE };
    Mutex::new((0..n).map(|i| BASE + i * STEP).map(|start| (start, Arc::new(region(start)))).collect())
}

fn peer_hit(peer: &Peer, range: AddrRange) -> usize {
    let map = peer.lock().unwrap();
    let region = map.range(..=range.start()).next_back().map(|(_, region)| Arc::clone(region)).unwrap();
    drop(map);
    assert!(range.last() <= region.last);
    region.first_page
}

fn cache_of(stage: &Stage, n: usize) -> Cache<Idle> {
    let cache =
        Cache::new(&stage.context, &stage.memory, Setup::default().entries(n).bytes(usize::MAX)).unwrap();
    for i in 0..n {
        let range = AddrRange::new(BASE + i * STEP, 2 * PAGE).unwrap();
        drop(cache.get(range, Access::Write).unwrap());
    }
    cache
}

/// Some bytes inside of one registration after the other.
struct Walk {
    n: usize,
    at: usize,
}

impl Walk {
    fn next(&mut self) -> AddrRange {
        self.at = (self.at + STRIDE) % self.n;
        AddrRange::new(BASE + self.at * STEP + 100, PAGE).unwrap()
    }
}

/// Measures `hit` alone, or while another thread does the same all the time.
fn measure(
    c: &mut Criterion,
    group: &str,
    name: &str,
    n: usize,
    threads: usize,
    hit: impl Fn(AddrRange) + Sync,
) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if threads == 2 {
            scope.spawn(|| {
                let mut walk = Walk { n, at: n / 2 };
                while !over.load(Ordering::Relaxed) {
                    hit(walk.next());
                }
            });
        }
        let mut walk = Walk { n, at: 0 };
        let mut group = c.benchmark_group(group);
        group.bench_function(BenchmarkId::new(name, n), |b| b.iter(|| hit(black_box(walk.next()))));
        group.finish();
        over.store(true, Ordering::Relaxed);
    });
}

fn hit(c: &mut Criterion) {
    for (group, threads) in [("cache_hit", 1), ("cache_hit_two_threads", 2)] {
        for n in SIZES {
            for (name, spread) in [("userptr", false), ("userptr_spread", true)] {
                let stage = Stage::with(|limits| limits.spread_leases(spread));
                let cache = cache_of(&stage, n);
                let before = cache.stats();
                measure(c, group, name, n, threads, |range| {
                    black_box(cache.get(range, Access::Write).unwrap().offset());
                });
                let after = cache.stats();
                assert_eq!((after.misses, after.entries), (before.misses, n), "all were hits: {after}");
            }
            let peer = peer_of(n);
            measure(c, group, "mutex_btreemap", n, threads, |range| {
                black_box(peer_hit(&peer, range));
            });
        }
    }
}

criterion_group!(benches, hit);
criterion_main!(benches);
