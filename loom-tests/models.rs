//! The models: the shared bodies (`tests/cases`) on loom.

use crate::cases::{
    Stage, cache, cancel, holders, notifier, object, queue, records, refcount, spread, stage, unwind, waits,
    windows,
};
use crate::explore;
use crate::harness::{Model, bounded, full};
use core::alloc::Layout;
use core::ptr::NonNull;
use loom::thread::{self, JoinHandle};
use userptr::platforms::loom::{Loom, LoomCell};
use userptr::{Platform, Ref, SharedQueue, SoftWork};

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
    type Queue = Ref<SharedQueue<Self>, Self>;
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

    /// The bodies' own: it stands still unless a body lets time pass.
    fn now() -> core::time::Duration {
        stage::now()
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

/// Name, threads (the model's own included), bound, body; executions with the repaired search and
/// with loom's own; outcomes.
pub const ALL: &[Model] = &[
    full("r1_two_drops_order_the_release", 2, refcount::two_drops::<Loom>).executions(4, 4),
    full("s38_get_unless_zero_against_last_put", 2, refcount::upgrade_against_last_put::<Loom>)
        .executions(20, 20)
        .outcomes(&["too late", "upgraded"]),
    full("s46_put_and_lock_against_lookup", 3, refcount::put_and_lock_against_lookup::<Loom>)
        .executions(771951, 23530)
        .outcomes(&["found, found", "found, too late", "too late, too late"]),
    full("s51_flush_with_one_worker", 2, queue::flush_one_worker::<Loom>).executions(79887, 79887),
    bounded("q1_flush_with_two_workers_and_a_queuer", 4, 2, queue::flush_two_workers::<Loom>)
        .executions(96037, 96037),
    bounded("q2_flush_item_with_two_workers", 3, 3, queue::flush_item_two_workers::<Loom>)
        .executions(69249, 69249),
    bounded("s34_queued_while_running_runs_again", 2, 4, queue::queued_while_running::<Loom>)
        .executions(11083, 11083)
        .outcomes(&["accepted", "refused"]),
    bounded("q3_never_on_two_workers_at_once", 3, 3, queue::never_twice_at_once::<Loom>)
        .executions(137177, 137177)
        .outcomes(&["both accepted", "one refused"]),
    bounded("q5_refused_enqueue_is_seen", 2, 4, queue::refused_is_seen::<Loom>).executions(19465, 19465),
    full("s185_last_handle_of_a_queue", 2, queue::last_handle::<Loom>).executions(11642, 11642),
    full("s162_refused_enqueue_and_flush", 2, queue::refused_enqueue_and_flush::<Loom>)
        .executions(532, 532)
        .outcomes(&["accepted", "refused"]),
    full("s162_refused_enqueue_and_cancel", 2, queue::refused_enqueue_and_cancel::<Loom>)
        .executions(6, 6)
        .outcomes(&["refused, then cancelled", "run"]),
    bounded(
        "s163_shut_down_with_an_item_queued_again",
        3,
        2,
        queue::shut_down_with_an_item_queued_again::<Loom>,
    )
    .executions(751, 751)
    .outcomes(&["accepted again", "refused"]),
    full("s164_item_changes_queues", 2, queue::item_changes_queues::<Loom>)
        .executions(53, 53)
        .outcomes(&["accepted", "refused"]),
    full("s164_cancelled_item_changes_queues", 2, queue::cancelled_item_changes_queues::<Loom>)
        .executions(53, 53)
        .outcomes(&["accepted", "refused"]),
    full("q4_cancel_against_run", 2, queue::cancel_against_run::<Loom>)
        .executions(1687, 1687)
        .outcomes(&["cancelled", "run"]),
    full("s26_s84_start_against_attach_on_empty_index", 2, notifier::start_against_attach::<Loom>)
        .executions(5597, 4582)
        .outcomes(&["acquired, leased", "acquired, no lease", "no lease, not acquired"]),
    full("s17_to_s21_invalidate_against_acquire_and_lease", 2, notifier::invalidate_against_acquire::<Loom>)
        .executions(6689, 6166)
        .outcomes(&[
            "acquired, leased, leased",
            "acquired, leased, no lease",
            "leased, no lease, not acquired",
            "no lease, no lease, not acquired",
        ]),
    bounded("s20_two_invalidations_of_one_object", 3, 3, notifier::two_invalidations::<Loom>)
        .executions(40706, 29067),
    bounded("s22_two_windows_against_acquire", 3, 3, notifier::two_windows::<Loom>)
        .executions(265549, 150507)
        .outcomes(&[
            "acquired, leased, leased",
            "acquired, leased, no lease",
            "acquired, no lease, no lease",
            "no lease, no lease, not acquired",
        ]),
    full("s40_s77_last_put_against_invalidate", 2, notifier::last_put_against_invalidate::<Loom>)
        .executions(5228, 5228),
    bounded("s41_two_closes_against_invalidate", 3, 3, notifier::two_closes::<Loom>).executions(1550, 1550),
    full("s78_evict_against_start", 2, notifier::evict_against_start::<Loom>)
        .executions(352793, 337967)
        .outcomes(&["acquired, leased", "acquired, no lease", "no lease, not acquired"]),
    full("s23_lease_on_another_thread", 2, notifier::lease_elsewhere::<Loom>)
        .executions(6, 6)
        .outcomes(&["leased", "no lease"]),
    bounded("s79_lease_refused_once_revoked", 3, 3, notifier::lease_refused::<Loom>)
        .executions(134354, 119436),
    bounded("s80_partly_overlapping_windows", 3, 3, notifier::partly_overlapping::<Loom>)
        .executions(21164, 15426),
    bounded("s82_foreign_ticket", 2, 2, notifier::foreign_ticket::<Loom>).executions(386, 264).outcomes(&[
        "committed",
        "refused",
        "superseded",
    ]),
    bounded("s82_old_ticket_against_new_attach", 3, 3, notifier::old_ticket::<Loom>)
        .executions(50804, 32505)
        .outcomes(&[
            "acquired, acquired, leased, leased, leased",
            "acquired, acquired, leased, leased, no lease",
            "acquired, acquired, leased, no lease, no lease",
            "acquired, acquired, no lease, no lease, no lease",
            "acquired, leased, leased, leased, not acquired",
            "acquired, leased, leased, no lease, not acquired",
            "acquired, leased, no lease, no lease, not acquired",
            "acquired, no lease, no lease, no lease, not acquired",
            "no lease, no lease, no lease, not acquired, not acquired",
        ]),
    full("s83_lease_past_the_deadline", 2, notifier::lease_past_deadline::<Loom>)
        .executions(2751, 2746)
        .outcomes(&["leased, quarantined", "leased, released in time", "released in time"]),
    full("s48_exit_against_acquire", 2, notifier::exit_against_acquire::<Loom>)
        .executions(2412, 1537)
        .outcomes(&["acquired, leased", "acquired, no lease", "no lease, not acquired"]),
    full("s22_equal_windows_end_at_once", 2, notifier::equal_windows::<TwoSlots>).executions(25717, 5643),
    full("s54_non_blockable_against_acquire", 2, notifier::non_blockable::<Loom>)
        .executions(2433, 1971)
        .outcomes(&[
            "acquired, acquired, leased, leased, start refused",
            "acquired, acquired, leased, leased, started",
            "acquired, no lease, no lease, not acquired, started",
        ]),
    bounded("s22_evict_with_two_windows", 3, 2, notifier::evict_with_two_windows::<Loom>)
        .executions(30983, 24214)
        .outcomes(&[
            "acquired, leased, leased",
            "acquired, leased, no lease",
            "acquired, no lease, no lease",
            "no lease, no lease, not acquired",
        ]),
    bounded("s20_start_over_two_owners", 2, 3, notifier::start_over_two_owners::<Loom>)
        .executions(6837, 4552),
    bounded("s81_stray_end", 2, 4, notifier::stray_end::<Loom>).executions(12464, 7248).outcomes(&[
        "acquired, leased, leased",
        "acquired, leased, no lease",
        "acquired, no lease, no lease",
        "no lease, no lease, not acquired",
    ]),
    full("s83_retry_against_start", 2, notifier::retry_against_start::<Loom>)
        .executions(838, 838)
        .outcomes(&["released", "still quarantined"]),
    full("s83_kept_release_against_retry", 2, notifier::kept_release_against_retry::<Loom>)
        .executions(1008, 1008),
    bounded("s35_reacquired_while_cancel_runs", 2, 3, cancel::reacquired_while_cancel_runs::<Loom>)
        .executions(5228, 5228),
    full("s36_attached_and_cancel_pending", 2, cancel::attached_and_pending::<Loom>).executions(62996, 36554),
    bounded("s39_last_put_in_queued_cancel", 2, 4, cancel::last_put_in_queued_cancel::<Loom>)
        .executions(3279, 3279),
    full("s51_shut_down_against_start", 2, cancel::shut_down_against_start::<Loom>).executions(1336, 1336),
    full("s160_attach_beside_a_window_above", 2, windows::attach_beside_a_window_above::<Loom>)
        .executions(52753, 30573),
    full("s160_attach_beside_a_window_below", 2, windows::attach_beside_a_window_below::<Loom>)
        .executions(57337, 32441),
    bounded("s160_attach_beside_a_strangers_window", 3, 3, windows::attach_beside_a_strangers_window::<Loom>)
        .executions(2219, 729),
    full("s169_end_beside_a_start_in_an_old_slot", 2, windows::end_beside_a_start_in_an_old_slot::<TwoSlots>)
        .executions(19, 19),
    full("s170_wait_for_a_driver", 2, waits::wait_for_a_driver::<Loom>).executions(23, 23),
    full("s170_wait_for_an_end", 2, waits::wait_for_an_end::<Loom>).executions(9860, 2975),
    full("s170_wait_for_a_refusal", 2, waits::wait_for_a_refusal::<Loom>).executions(74666, 57296),
    full("s170_wait_for_an_acquire", 2, waits::wait_for_an_acquire::<Loom>).executions(4913, 4913),
    full("s170_wait_for_an_eviction", 2, waits::wait_for_an_eviction::<Loom>).executions(78, 78),
    full("s170_wait_for_a_cancel", 2, waits::wait_for_a_cancel::<Loom>).executions(682, 682),
    full("s170_wait_for_a_quarantine", 2, waits::wait_for_a_quarantine::<Loom>).executions(8649, 8649),
    full("s170_wait_for_an_exit", 2, waits::wait_for_an_exit::<Loom>).executions(17, 17),
    full("s170_wait_for_an_exit_in_a_window", 2, waits::wait_for_an_exit_in_a_window::<Loom>)
        .executions(17, 17),
    full("s170_wait_for_an_export", 2, waits::wait_for_an_export::<Loom>).executions(6391, 976),
    bounded("s171_acquire_waits_for_its_worker", 2, 3, waits::acquire_waits_for_its_worker::<Loom>)
        .executions(899, 899),
    bounded("s171_acquire_waits_for_a_place", 2, 3, waits::acquire_waits_for_a_place::<Loom>)
        .executions(5498, 5498),
    full("s171_acquire_waits_for_a_change", 2, waits::acquire_waits_for_a_change::<Loom>).executions(116, 35),
    full("s172_two_holders_past_the_deadline", 2, holders::two_holders_past_the_deadline::<Loom>)
        .executions(53, 53),
    full("s173_quarantined_twice", 2, holders::quarantined_twice::<Loom>).executions(299, 299),
    bounded("s174_dropped_start", 2, 3, holders::dropped_start::<Loom>).executions(3792, 2482),
    full("s175_refused_without_a_slot", 2, holders::refused_without_a_slot::<Loom>).executions(160, 160),
    bounded("s176_neighbour_below", 2, 3, holders::neighbour_below::<Loom>).executions(488, 488),
    bounded("s176_neighbour_above", 2, 3, holders::neighbour_above::<Loom>).executions(488, 488),
    bounded(
        "s176_eviction_beside_a_neighbour_below",
        2,
        3,
        holders::eviction_beside_a_neighbour_below::<Loom>,
    )
    .executions(250, 250),
    bounded(
        "s176_eviction_beside_a_neighbour_above",
        2,
        3,
        holders::eviction_beside_a_neighbour_above::<Loom>,
    )
    .executions(237, 237),
    full("s179_told_after_the_change", 2, object::told_after_the_change::<Loom>).executions(16825, 12685),
    full("s177_cancel_beside_a_flush", 2, queue::cancel_beside_a_flush::<Loom>).executions(56, 56),
    // Without a bound: 794,468 executions, which pass, in 98 s.
    bounded("s178_export_of_a_ready_object", 2, 5, object::export_of_a_ready_object::<Loom>)
        .executions(8923, 3887)
        .outcomes(&["again", "served"]),
    full("s161_two_ends_and_a_third_window", 2, windows::two_ends_and_a_third_window::<TwoSlots>)
        .executions(5379, 1341),
    full("s17_acquire_against_invalidate", 2, object::acquire_against_invalidate::<Loom>)
        .executions(10069, 6854)
        .outcomes(&["again", "served"]),
    full("s81_register_during_window", 2, object::register_during_window::<Loom>)
        .executions(30250, 20567)
        .outcomes(&["again", "served"]),
    full("s29_cancel_while_a_worker_pins", 2, object::cancel_while_a_worker_pins::<Loom>)
        .executions(134, 134),
    full("s28_superseded_worker", 2, object::superseded_worker::<Loom>)
        .executions(121606, 121606)
        .outcomes(&["again"]),
    full("s49_exit_against_worker", 2, object::exit_against_worker::<Loom>).executions(1280, 1280),
    full("s31_report_against_acquire", 2, object::report_against_acquire::<Loom>)
        .executions(18, 18)
        .outcomes(&["told at once", "told later"]),
    full("s33_worker_limit", 2, object::worker_limit::<Loom>).executions(838, 838),
    full("s50_last_reference_in_worker", 2, object::last_reference_in_worker::<Loom>).executions(7, 7),
    full("s43_export_against_acquire", 2, object::export_against_acquire::<Loom>)
        .executions(2681, 336)
        .outcomes(&["again", "served"]),
    // Without a bound it does not end in ten minutes: two revokes and two moves, each of many
    // steps.
    bounded("s42_two_exports", 2, 5, object::two_exports::<Loom>).executions(44193, 2935),
    bounded("s46_find_against_last_put", 2, 3, records::find_against_last_put::<Loom>).executions(1781, 1507),
    full("rule12_notifier_published_once", 2, records::notifier_published_once::<Loom>).executions(2245, 607),
    full("s47_unregister_against_callback", 2, records::unregister_against_callback::<Loom>)
        .executions(695, 695),
    full("s86_last_record_in_queued_cancel", 2, records::last_record_in_queued_cancel::<Loom>)
        .executions(209, 109),
    full("s121_a_revocation_has_the_last_reference", 2, records::last_reference_in_a_revocation::<Loom>)
        .executions(30, 30)
        .outcomes(&["freed later", "freed meanwhile"]),
    full("s186_one_deadline", 1, unwind::one_deadline::<TwoSlots>).executions(1, 1),
    full("s187_unwinds_in_an_invalidation", 1, unwind::unwinds_in_an_invalidation::<Loom>).executions(1, 1),
    full("s187_unwinds_in_a_guarded_invalidation", 1, unwind::unwinds_in_a_guarded_invalidation::<Loom>)
        .executions(1, 1),
    full("s187_unwinds_in_an_eviction", 1, unwind::unwinds_in_an_eviction::<Loom>).executions(1, 1),
    full("s187_unwinds_in_the_last_put", 1, unwind::unwinds_in_the_last_put::<Loom>).executions(1, 1),
    full("s187_unwinds_under_a_lease", 1, unwind::unwinds_under_a_lease::<Loom>).executions(1, 1),
    full("s187_unwinds_beside_a_start", 2, unwind::unwinds_beside_a_start::<Loom>)
        .executions(366, 366)
        .outcomes(&["the eviction unwinds", "the start unwinds"]),
    full("s188_unwinds_in_prepare", 1, unwind::unwinds_in_prepare::<Loom>).executions(1, 1),
    full("s189_last_handle_in_its_own_item", 2, queue::last_handle_in_its_own_item::<Loom>)
        .executions(15250, 15250),
    full("s243_leases_against_an_invalidation", 2, spread::leases_against_an_invalidation::<Loom>)
        .executions(1457, 1336)
        .outcomes(&["leased", "no lease"]),
    full("s244_two_words_past_the_deadline", 2, spread::two_words_past_the_deadline::<Loom>)
        .executions(14351, 13263)
        .outcomes(&["leased", "no lease"]),
    full("s245_lease_dropped_elsewhere", 2, spread::lease_dropped_elsewhere::<Loom>).executions(195, 195),
    full("s191_reports_once", 1, unwind::reports_once::<Loom>).executions(1, 1),
    bounded("s206_hit_against_invalidate", 2, 2, cache::hit_against_invalidate::<Loom>)
        .executions(100, 125)
        .outcomes(&["served"]),
    bounded("s206_hit_against_eviction", 2, 3, cache::hit_against_eviction::<Loom>)
        .executions(38068, 5923)
        .outcomes(&["evicted", "not kept"]),
    bounded("s206_handle_against_eviction", 2, 3, cache::handle_against_eviction::<Loom>)
        .executions(109, 80)
        .outcomes(&["found", "gone"]),
    bounded("s195_two_misses", 2, 2, cache::two_misses::<Loom>)
        .executions(239, 144)
        .outcomes(&["a hit", "two misses"]),
    bounded("s202_set_against_invalidate", 2, 2, cache::set_against_invalidate::<Loom>)
        .executions(454, 439)
        .outcomes(&["all"]),
];
