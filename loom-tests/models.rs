//! The models: the shared bodies (`tests/cases`) on loom.

use crate::cases::{Stage, cancel, holders, notifier, object, queue, records, refcount, waits, windows};
use crate::explore;
use crate::harness::{Model, bounded, full};
use core::alloc::Layout;
use core::ptr::NonNull;
use loom::thread::{self, JoinHandle};
use userptr::platforms::loom::{Loom, LoomCell};
use userptr::{Platform, Ref, SoftQueue, SoftWork};

impl Stage for Loom {
    type Join = JoinHandle<()>;
    fn spawn(f: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        thread::spawn(f)
    }
    fn join(join: JoinHandle<()>) {
        join.join().unwrap();
    }
    fn met(part: &'static str) {
        explore::met(part);
    }
}

/// Loom with two window slots instead of one: ends of equal ranges meet in the slots.
#[derive(Debug)]
pub enum TwoSlots {}

// SAFETY: everything is `Loom`'s.
unsafe impl Platform for TwoSlots {
    type Usize = <Loom as Platform>::Usize;
    type Cell<T> = LoomCell<T>;
    type Spin = <Loom as Platform>::Spin;
    type Mutex = <Loom as Platform>::Mutex;
    type Wait = <Loom as Platform>::Wait;
    type Work = SoftWork<Self>;
    type Queue = Ref<SoftQueue<Self>, Self>;
    const WINDOWS: usize = 2;
    fn fence() {
        Loom::fence();
    }
    fn alloc(layout: Layout) -> Option<NonNull<u8>> {
        Loom::alloc(layout)
    }
    unsafe fn dealloc(ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: handed on.
        unsafe { Loom::dealloc(ptr, layout) }
    }
}

impl Stage for TwoSlots {
    type Join = JoinHandle<()>;
    fn spawn(f: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        Loom::spawn(f)
    }
    fn join(join: JoinHandle<()>) {
        Loom::join(join);
    }
    fn met(part: &'static str) {
        Loom::met(part);
    }
}

/// Name, threads (the model's own included), bound, body.
pub const ALL: &[Model] = &[
    full("r1_two_drops_order_the_release", 2, refcount::two_drops::<Loom>),
    full("s38_get_unless_zero_against_last_put", 2, refcount::upgrade_against_last_put::<Loom>),
    full("s46_put_and_lock_against_lookup", 3, refcount::put_and_lock_against_lookup::<Loom>),
    full("s51_flush_with_one_worker", 2, queue::flush_one_worker::<Loom>),
    bounded("q1_flush_with_two_workers_and_a_queuer", 4, 2, queue::flush_two_workers::<Loom>),
    bounded("q2_flush_item_with_two_workers", 3, 3, queue::flush_item_two_workers::<Loom>),
    bounded("s34_queued_while_running_runs_again", 2, 4, queue::queued_while_running::<Loom>),
    bounded("q3_never_on_two_workers_at_once", 3, 3, queue::never_twice_at_once::<Loom>),
    bounded("q5_refused_enqueue_is_seen", 2, 4, queue::refused_is_seen::<Loom>),
    full("s162_refused_enqueue_and_flush", 2, queue::refused_enqueue_and_flush::<Loom>),
    full("s162_refused_enqueue_and_cancel", 2, queue::refused_enqueue_and_cancel::<Loom>),
    bounded(
        "s163_shut_down_with_an_item_queued_again",
        3,
        2,
        queue::shut_down_with_an_item_queued_again::<Loom>,
    ),
    full("s164_item_changes_queues", 2, queue::item_changes_queues::<Loom>),
    full("s164_cancelled_item_changes_queues", 2, queue::cancelled_item_changes_queues::<Loom>),
    full("q4_cancel_against_run", 2, queue::cancel_against_run::<Loom>),
    full("s26_s84_start_against_attach_on_empty_index", 2, notifier::start_against_attach::<Loom>),
    full("s17_to_s21_invalidate_against_acquire_and_lease", 2, notifier::invalidate_against_acquire::<Loom>),
    bounded("s20_two_invalidations_of_one_object", 3, 3, notifier::two_invalidations::<Loom>),
    bounded("s22_two_windows_against_acquire", 3, 3, notifier::two_windows::<Loom>),
    full("s40_s77_last_put_against_invalidate", 2, notifier::last_put_against_invalidate::<Loom>),
    bounded("s41_two_closes_against_invalidate", 3, 3, notifier::two_closes::<Loom>),
    full("s78_evict_against_start", 2, notifier::evict_against_start::<Loom>),
    full("s23_lease_on_another_thread", 2, notifier::lease_elsewhere::<Loom>),
    bounded("s79_lease_refused_once_revoked", 3, 3, notifier::lease_refused::<Loom>),
    bounded("s80_partly_overlapping_windows", 3, 3, notifier::partly_overlapping::<Loom>),
    bounded("s82_old_ticket_against_new_attach", 3, 3, notifier::old_ticket::<Loom>),
    full("s83_lease_past_the_deadline", 2, notifier::lease_past_deadline::<Loom>),
    full("s48_exit_against_acquire", 2, notifier::exit_against_acquire::<Loom>),
    full("s22_equal_windows_end_at_once", 2, notifier::equal_windows::<TwoSlots>),
    full("s54_non_blockable_against_acquire", 2, notifier::non_blockable::<Loom>),
    bounded("s22_evict_with_two_windows", 3, 2, notifier::evict_with_two_windows::<Loom>),
    bounded("s20_start_over_two_owners", 2, 3, notifier::start_over_two_owners::<Loom>),
    bounded("s81_stray_end", 2, 4, notifier::stray_end::<Loom>),
    full("s83_retry_against_start", 2, notifier::retry_against_start::<Loom>),
    full("s83_kept_release_against_retry", 2, notifier::kept_release_against_retry::<Loom>),
    bounded("s35_reacquired_while_cancel_runs", 2, 3, cancel::reacquired_while_cancel_runs::<Loom>),
    full("s36_attached_and_cancel_pending", 2, cancel::attached_and_pending::<Loom>),
    bounded("s39_last_put_in_queued_cancel", 2, 4, cancel::last_put_in_queued_cancel::<Loom>),
    full("s51_shut_down_against_start", 2, cancel::shut_down_against_start::<Loom>),
    full("s160_attach_beside_a_window_above", 2, windows::attach_beside_a_window_above::<Loom>),
    full("s160_attach_beside_a_window_below", 2, windows::attach_beside_a_window_below::<Loom>),
    bounded("s160_attach_beside_a_strangers_window", 3, 3, windows::attach_beside_a_strangers_window::<Loom>),
    full("s169_end_beside_a_start_in_an_old_slot", 2, windows::end_beside_a_start_in_an_old_slot::<TwoSlots>),
    full("s170_wait_for_an_end", 2, waits::wait_for_an_end::<Loom>),
    full("s170_wait_for_a_refusal", 2, waits::wait_for_a_refusal::<Loom>),
    full("s170_wait_for_an_acquire", 2, waits::wait_for_an_acquire::<Loom>),
    full("s170_wait_for_an_eviction", 2, waits::wait_for_an_eviction::<Loom>),
    full("s170_wait_for_a_cancel", 2, waits::wait_for_a_cancel::<Loom>),
    full("s170_wait_for_a_quarantine", 2, waits::wait_for_a_quarantine::<Loom>),
    full("s170_wait_for_an_exit", 2, waits::wait_for_an_exit::<Loom>),
    full("s170_wait_for_an_export", 2, waits::wait_for_an_export::<Loom>),
    bounded("s171_acquire_waits_for_its_worker", 2, 3, waits::acquire_waits_for_its_worker::<Loom>),
    bounded("s171_acquire_waits_for_a_place", 2, 3, waits::acquire_waits_for_a_place::<Loom>),
    full("s171_acquire_waits_for_a_change", 2, waits::acquire_waits_for_a_change::<Loom>),
    full("s172_two_holders_past_the_deadline", 2, holders::two_holders_past_the_deadline::<Loom>),
    full("s173_quarantined_twice", 2, holders::quarantined_twice::<Loom>),
    bounded("s174_dropped_start", 2, 3, holders::dropped_start::<Loom>),
    full("s175_refused_without_a_slot", 2, holders::refused_without_a_slot::<Loom>),
    bounded("s176_neighbour_below", 2, 3, holders::neighbour_below::<Loom>),
    bounded("s176_neighbour_above", 2, 3, holders::neighbour_above::<Loom>),
    bounded(
        "s176_eviction_beside_a_neighbour_below",
        2,
        3,
        holders::eviction_beside_a_neighbour_below::<Loom>,
    ),
    bounded(
        "s176_eviction_beside_a_neighbour_above",
        2,
        3,
        holders::eviction_beside_a_neighbour_above::<Loom>,
    ),
    full("s179_told_after_the_change", 2, object::told_after_the_change::<Loom>),
    full("s177_cancel_beside_a_flush", 2, queue::cancel_beside_a_flush::<Loom>),
    full("s178_export_of_a_ready_object", 2, object::export_of_a_ready_object::<Loom>),
    full("s161_two_ends_and_a_third_window", 2, windows::two_ends_and_a_third_window::<TwoSlots>),
    full("s17_acquire_against_invalidate", 2, object::acquire_against_invalidate::<Loom>),
    full("s81_register_during_window", 2, object::register_during_window::<Loom>),
    full("s29_cancel_while_a_worker_pins", 2, object::cancel_while_a_worker_pins::<Loom>),
    full("s28_superseded_worker", 2, object::superseded_worker::<Loom>),
    full("s49_exit_against_worker", 2, object::exit_against_worker::<Loom>),
    full("s31_report_against_acquire", 2, object::report_against_acquire::<Loom>),
    full("s33_worker_limit", 2, object::worker_limit::<Loom>),
    full("s50_last_reference_in_worker", 2, object::last_reference_in_worker::<Loom>),
    full("s43_export_against_acquire", 2, object::export_against_acquire::<Loom>),
    // Without a bound it does not end in ten minutes: two revokes and two moves, each of many steps.
    bounded("s42_two_exports", 2, 5, object::two_exports::<Loom>),
    bounded("s46_find_against_last_put", 2, 3, records::find_against_last_put::<Loom>),
    full("rule12_notifier_published_once", 2, records::notifier_published_once::<Loom>),
    full("s47_unregister_against_callback", 2, records::unregister_against_callback::<Loom>),
    full("s86_last_record_in_queued_cancel", 2, records::last_record_in_queued_cancel::<Loom>),
];
