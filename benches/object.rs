//! The object: a lease on pages that are there, and invalidations. Against the registration cache
//! that one would write first: a `BTreeMap` from address to region behind a mutex, in which an
//! invalidation looks for overlaps. The peer does less: it has no windows, waits for nobody, and
//! its regions are disjoint, so that it may stop at the first.
#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    reason = "a benchmark"
)]

mod common;

use common::{PAGE, Stage};
use core::hint::black_box;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use userptr::{AddrRange, Blockable, Outcome};

const SIZES: [usize; 3] = [1, 1_000, 100_000];
/// Objects of two pages, two pages apart.
const STEP: usize = 4 * PAGE;
const BASE: usize = 1 << 30;

struct Region {
    last: usize,
    pages: Vec<usize>,
}

/// The peer.
#[derive(Default)]
struct Cache(Mutex<BTreeMap<usize, Arc<Region>>>);

impl Cache {
    fn register(&self, address: usize, pages: usize) {
        let first = address / PAGE;
        let region = Region { last: address + pages * PAGE - 1, pages: (first..first + pages).collect() };
        self.0.lock().unwrap().insert(address, Arc::new(region));
    }

    fn get(&self, address: usize) -> Option<Arc<Region>> {
        self.0.lock().unwrap().get(&address).cloned()
    }

    fn invalidate(&self, range: AddrRange) -> usize {
        let mut map = self.0.lock().unwrap();
        let mut dropped = Vec::new();
        while let Some((&start, region)) = map.range(..=range.last()).next_back() {
            if region.last < range.start() {
                break;
            }
            dropped.extend(map.remove(&start));
        }
        drop(map);
        dropped.len()
    }
}

fn acquire_hit(c: &mut Criterion) {
    let mut group = c.benchmark_group("acquire_hit");
    let stage = Stage::new();
    let object = stage.object(BASE, 2);
    group.bench_function("userptr", |b| b.iter(|| drop(black_box(&object).try_acquire().unwrap())));
    let cache = Cache::default();
    cache.register(BASE, 2);
    group.bench_function("mutex_btreemap", |b| {
        b.iter(|| black_box(cache.get(black_box(BASE)).unwrap().pages.len()));
    });
    group.finish();
}

/// One object, and another thread that takes leases on it all the time.
fn acquire_hit_of_two(c: &mut Criterion) {
    let mut group = c.benchmark_group("acquire_hit_two_threads");
    for (name, spread) in [("userptr", false), ("userptr_spread", true)] {
        let stage = Stage::with(|limits| limits.spread_leases(spread));
        let object = stage.object(BASE, 2);
        beside(
            || drop(black_box(&object).try_acquire().unwrap()),
            || {
                group.bench_function(name, |b| b.iter(|| drop(black_box(&object).try_acquire().unwrap())));
            },
        );
    }
    let cache = Cache::default();
    cache.register(BASE, 2);
    let hit = || black_box(cache.get(black_box(BASE)).unwrap().pages.len());
    beside(
        || {
            black_box(hit());
        },
        || {
            group.bench_function("mutex_btreemap", |b| b.iter(hit));
        },
    );
    group.finish();
}

/// Runs `main` while another thread repeats `other`.
fn beside(other: impl Fn() + Sync, main: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                other();
            }
        });
        main();
        over.store(true, Ordering::Relaxed);
    });
}

fn invalidate_hit(c: &mut Criterion) {
    let mut group = c.benchmark_group("invalidate_hit_and_acquire");
    let stage = Stage::new();
    let object = stage.object(BASE, 2);
    let notifier = object.record().existing_notifier().unwrap().clone();
    let range = object.range();
    group.bench_function("userptr", |b| {
        b.iter(|| {
            let change = notifier.invalidate(range, Blockable::Yes).unwrap();
            assert_eq!(change.outcome(), Outcome::Idle);
            drop(change);
            drop(object.try_acquire().unwrap());
        });
    });
    let cache = Cache::default();
    cache.register(BASE, 2);
    group.bench_function("mutex_btreemap", |b| {
        b.iter(|| {
            assert_eq!(cache.invalidate(range), 1);
            cache.register(BASE, 2);
            drop(cache.get(BASE).unwrap());
        });
    });
    group.finish();
}

fn invalidate_miss(c: &mut Criterion) {
    let mut group = c.benchmark_group("invalidate_miss");
    for n in SIZES {
        let stage = Stage::new();
        let objects: Vec<_> = (0..n).map(|i| stage.object(BASE + i * STEP, 2)).collect();
        let notifier = objects[0].record().existing_notifier().unwrap().clone();
        let cache = Cache::default();
        for i in 0..n {
            cache.register(BASE + i * STEP, 2);
        }
        // Apart from all objects: no lock. In the gap after the middle one: the lock and a query; a
        // single object has no gap.
        let apart = AddrRange::new(BASE - STEP, PAGE).unwrap();
        let gap = AddrRange::new(BASE + n / 2 * STEP + 2 * PAGE, PAGE).unwrap();
        for (name, range) in [("apart", apart), ("gap", gap)] {
            group.bench_function(BenchmarkId::new(format!("userptr_{name}"), n), |b| {
                b.iter(|| {
                    let range = black_box(range);
                    let change = notifier.invalidate(range, Blockable::Yes).unwrap();
                    assert_eq!(change.outcome(), Outcome::Idle);
                    drop(change);
                });
            });
            group.bench_function(BenchmarkId::new(format!("mutex_btreemap_{name}"), n), |b| {
                b.iter(|| assert_eq!(cache.invalidate(black_box(range)), 0));
            });
        }
        assert_eq!(notifier.stats().attached, n, "nothing was hit");
        drop((notifier, objects));
    }
    group.finish();
}

criterion_group!(benches, acquire_hit, acquire_hit_of_two, invalidate_hit, invalidate_miss);
criterion_main!(benches);
