//! The shared bodies (`tests/cases`) on threads of the standard library, for Miri: undefined
//! behaviour and data races on real atomics, over many seeds.
//!
//! ```text
//! MIRIFLAGS="-Zmiri-many-seeds=0..32" cargo +nightly miri test --test miri
//! MIRIFLAGS="-Zmiri-many-seeds=0..8 -Zmiri-tree-borrows" cargo +nightly miri test --test miri
//! ```
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "../tests/cases/mod.rs"]
mod cases;
/// The cache's own sources, over the core that is tested here.
#[path = "../crates/userptr-cache/src/cache/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the whole package")]
mod registration_cache;
mod outcomes;
mod stale;

use cases::Stage;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use userptr::platforms::std::Std;

impl Stage for Std {
    type Join = JoinHandle<()>;
    fn spawn(f: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        // Every second thread gets a head start: without it most races go the spawner's way.
        static SPAWNED: AtomicUsize = AtomicUsize::new(0);
        let thread = thread::spawn(f);
        if SPAWNED.fetch_add(1, Ordering::Relaxed) % 2 == 0 {
            thread::yield_now();
        }
        thread
    }
    fn join(join: JoinHandle<()>) {
        join.join().unwrap();
    }
}

/// A test for each body.
macro_rules! on_threads {
    ($($file:ident: $($body:ident),* $(,)?;)*) => {
        $(mod $file {
            $(#[test]
            fn $body() {
                crate::cases::$file::$body::<super::Std>();
            })*
        })*
    };
}

on_threads! {
    refcount: two_drops, upgrade_against_last_put, put_and_lock_against_lookup;
    queue: flush_one_worker, flush_two_workers, flush_item_two_workers, queued_while_running, never_twice_at_once,
        refused_is_seen, refused_enqueue_and_flush, refused_enqueue_and_cancel, shut_down_with_an_item_queued_again,
        item_changes_queues, cancelled_item_changes_queues, cancel_beside_a_flush,
        cancel_against_run, last_handle, last_handle_in_its_own_item;
    notifier: start_against_attach, invalidate_against_acquire, two_invalidations, two_windows,
        last_put_against_invalidate, two_closes, evict_against_start, lease_refused, lease_elsewhere,
        partly_overlapping,
        old_ticket, foreign_ticket, lease_past_deadline, exit_against_acquire, non_blockable, equal_windows,
        evict_with_two_windows, start_over_two_owners, stray_end, retry_against_start, kept_release_against_retry;
    windows: attach_beside_a_window_above, attach_beside_a_window_below, attach_beside_a_strangers_window,
        end_beside_a_start_in_an_old_slot, two_ends_and_a_third_window;
    unwind: unwinds_in_an_invalidation, unwinds_in_a_guarded_invalidation, unwinds_in_an_eviction, unwinds_in_the_last_put,
        unwinds_under_a_lease, unwinds_beside_a_start, unwinds_in_prepare, reports_once;
    waits: wait_for_a_driver, wait_for_an_end, wait_for_a_refusal, wait_for_an_acquire, wait_for_an_eviction, wait_for_a_cancel,
        wait_for_a_quarantine, wait_for_an_exit, wait_for_an_exit_in_a_window, wait_for_an_export, acquire_waits_for_its_worker,
        acquire_waits_for_a_place, acquire_waits_for_a_change;
    cache: hit_against_invalidate, hit_against_eviction, handle_against_eviction, two_misses, set_against_invalidate;
    holders: two_holders_past_the_deadline, quarantined_twice, dropped_start, refused_without_a_slot, neighbour_below,
        neighbour_above, eviction_beside_a_neighbour_below, eviction_beside_a_neighbour_above;
    spread: leases_against_an_invalidation, two_words_past_the_deadline, lease_dropped_elsewhere;
    cancel: reacquired_while_cancel_runs, attached_and_pending, last_put_in_queued_cancel, shut_down_against_start;
    object: acquire_against_invalidate, register_during_window, cancel_while_a_worker_pins, superseded_worker,
        exit_against_worker, worker_limit, report_against_acquire, last_reference_in_worker, export_against_acquire, two_exports,
        export_of_a_ready_object, told_after_the_change;
    records: find_against_last_put, notifier_published_once, unregister_against_callback, last_record_in_queued_cancel,
        last_reference_in_a_revocation;
}
