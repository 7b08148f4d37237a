//! Scenarios 4 and 11: which nodes a query hits.

use crate::support::{Checked, Pool, on_every_index, range_of, span};
use core::mem::size_of;
use userptr::interval::{IntervalIndex, Node, Tree};
use userptr::platforms::std::Std;
use userptr::{AddrRange, Error};

on_every_index!(
    s11_exact_partial_nested_adjacent_overlaps,
    s11_identical_ranges_are_all_hit,
    s11_every_query_over_every_small_set,
    s11_a_long_range_before_many_short_ones,
    s4_the_last_address_but_one,
    s9_an_empty_index_hits_nothing,
);

const PAGE: usize = 4096;

fn pages(first: usize, count: usize) -> AddrRange {
    AddrRange::new(first * PAGE, count * PAGE).unwrap()
}

fn s11_exact_partial_nested_adjacent_overlaps<I: Checked>() {
    let mut pool = Pool::<I>::new();
    let exact = pool.add(pages(10, 1)).unwrap();
    let partial = pool.add(pages(9, 2)).unwrap();
    let outer = pool.add(pages(5, 20)).unwrap();
    let inner = pool.add(span(10 * PAGE + 8, 10 * PAGE + 15)).unwrap();
    pool.add(pages(9, 1)).unwrap();
    pool.add(pages(11, 4)).unwrap();
    pool.verify();
    let mut expected = vec![outer, partial, exact, inner];
    expected.sort_by_key(|&node| (range_of(node).start(), node));
    assert_eq!(pool.hits(pages(10, 1)), expected);
    assert_eq!(pool.agree(pages(10, 1)), 4);
    // Adjacent: one byte more on either side makes the difference.
    assert_eq!(pool.agree(span(10 * PAGE - 1, 11 * PAGE - 1)), 5);
    assert_eq!(pool.agree(span(10 * PAGE, 11 * PAGE)), 5);
    assert_eq!(pool.agree(pages(4, 1)), 0);
    assert_eq!(pool.agree(pages(25, 1)), 0);
    assert_eq!(pool.agree(AddrRange::ALL), 6);
}

fn s11_identical_ranges_are_all_hit<I: Checked>() {
    let mut pool = Pool::<I>::new();
    for _ in 0..100 {
        pool.add(pages(7, 3)).unwrap();
    }
    pool.verify();
    assert_eq!(pool.agree(pages(8, 1)), 100);
    assert_eq!(pool.agree(pages(10, 1)), 0);
    for place in [99, 0, 50, 25, 0, 3] {
        pool.take(place);
        pool.verify();
        assert_eq!(pool.agree(pages(8, 1)), pool.len());
    }
}

/// Every set of three of the ranges over four addresses from 0, with repetition; every query; every
/// node removed.
fn s11_every_query_over_every_small_set<I: Checked>() {
    let size = if cfg!(miri) { 2 } else { 4 };
    let all: Vec<AddrRange> =
        (0..size).flat_map(|start| (start..size).map(move |last| span(start, last))).collect();
    for &a in &all {
        for &b in &all {
            for &c in &all {
                let mut pool = Pool::<I>::new();
                for range in [a, b, c] {
                    pool.add(range).unwrap();
                }
                while pool.len() != 0 {
                    pool.verify();
                    for &query in &all {
                        pool.agree(query);
                    }
                    pool.take(pool.len() / 2);
                }
            }
        }
    }
}

/// The augmentation at work: what reaches far lies far from the query in the order.
fn s11_a_long_range_before_many_short_ones<I: Checked>() {
    let mut pool = Pool::<I>::new();
    let count = if cfg!(miri) { 60 } else { 1000 };
    let long = pool.add(pages(0, 4 * count)).unwrap();
    for at in 1..count {
        pool.add(pages(2 * at, 1)).unwrap();
    }
    pool.verify();
    assert_eq!(pool.hits(pages(2 * count - 1, 1)), [long]);
    assert_eq!(pool.agree(pages(count | 1, 1)), 1);
    assert_eq!(pool.agree(pages(count & !1, 1)), 2);
    pool.remove(long);
    pool.verify();
    assert_eq!(pool.agree(pages(2 * count - 1, 1)), 0);
}

fn s9_an_empty_index_hits_nothing<I: Checked>() {
    let mut pool = Pool::<I>::new();
    pool.verify();
    assert_eq!(pool.agree(AddrRange::ALL), 0);
    let node = pool.add(span(0, 0)).unwrap();
    assert_eq!(pool.agree(span(0, 0)), 1);
    assert_eq!(pool.agree(span(1, 1)), 0);
    pool.remove(node);
    pool.verify();
    assert_eq!(pool.agree(AddrRange::ALL), 0);
}

fn s4_the_last_address_but_one<I: Checked>() {
    let mut pool = Pool::<I>::new();
    pool.add(span(usize::MAX - 2, usize::MAX - 1)).unwrap();
    pool.verify();
    assert_eq!(pool.agree(span(usize::MAX, usize::MAX)), 0);
    assert_eq!(pool.agree(span(usize::MAX - 1, usize::MAX)), 1);
}

#[test]
fn s4_the_tree_holds_the_top_of_the_address_space() {
    let mut pool = Pool::<Tree<Std>>::new();
    let top = pool.add(span(usize::MAX - 4095, usize::MAX)).unwrap();
    let all = pool.add(AddrRange::ALL).unwrap();
    for page in 1..20 {
        pool.add(span(usize::MAX - page * PAGE, usize::MAX)).unwrap();
    }
    pool.verify();
    assert_eq!(pool.agree(span(usize::MAX, usize::MAX)), 21);
    assert_eq!(pool.agree(span(0, 0)), 1);
    pool.remove(all);
    pool.verify();
    assert_eq!(pool.agree(span(0, 0)), 0);
    assert!(pool.hits(span(usize::MAX, usize::MAX)).contains(&top));
}

#[cfg(feature = "iset")]
#[test]
fn s4_iset_refuses_the_top_of_the_address_space() {
    let mut pool = Pool::<userptr::interval::IsetIndex<Std>>::new();
    assert_eq!(pool.add(span(usize::MAX - 4095, usize::MAX)), Err(Error::Invalid));
    assert_eq!(pool.add(AddrRange::ALL), Err(Error::Invalid));
    pool.verify();
    assert_eq!(pool.agree(AddrRange::ALL), 0);
}

/// The top of the address space is no error for the tree: it never fails.
#[test]
fn s4_the_tree_never_refuses() {
    let mut pool = Pool::<Tree<Std>>::new();
    assert_ne!(pool.add(AddrRange::ALL), Err(Error::Invalid));
}

/// What the documentation promises about memory.
#[test]
fn a_node_is_nine_words() {
    assert_eq!(size_of::<Node<Std>>(), 9 * size_of::<usize>());
    const { assert!(<Tree<Std> as IntervalIndex<Std>>::ALLOCATION_FREE) };
    fn send<T: Send>() {}
    send::<Tree<Std>>();
}
