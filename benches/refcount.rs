//! References: a clone and its drop against `Arc`, an upgrade of a weak edge and its drop against
//! `Weak`. One thread.
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

use core::hint::black_box;
use criterion::{Criterion, criterion_group, criterion_main};
use std::sync::Arc;
use userptr::platforms::std::Std;
use userptr::{Ref, RefCounted, Refcount};

struct Value(#[allow(dead_code, reason = "something to point to")] u64);
// SAFETY: nothing to settle, nothing points to it.
unsafe impl RefCounted<Std> for Value {}

fn references(c: &mut Criterion) {
    let mut group = c.benchmark_group("clone_drop");
    let ours: Ref<Value, Std> = Ref::try_new(Value(1)).unwrap();
    group.bench_function("ref", |b| b.iter(|| drop(black_box(black_box(&ours).clone()))));
    let arc = Arc::new(Value(1));
    group.bench_function("arc", |b| b.iter(|| drop(black_box(Arc::clone(black_box(&arc))))));
    group.finish();

    let mut group = c.benchmark_group("upgrade_drop");
    let count = Refcount::<Std>::new();
    group.bench_function("refcount", |b| {
        b.iter(|| {
            let count = black_box(&count);
            black_box(count.get_unless_zero()) && count.put()
        });
    });
    let weak = Arc::downgrade(&arc);
    group.bench_function("weak", |b| b.iter(|| drop(black_box(black_box(&weak).upgrade()))));
    group.finish();
}

criterion_group!(benches, references);
criterion_main!(benches);
