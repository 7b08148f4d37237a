//! The models: the shared bodies (`tests/bodies`) on loom.

use crate::bodies::{Stage, cancel, notifier, object, queue, records, refcount};
use crate::explore;
use crate::harness::{Model, bounded, full};
use core::alloc::Layout;
use core::ptr::NonNull;
use loom::thread::{self, JoinHandle};
use userptr::backend::loom::{Loom, LoomCell};
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
    full("r1_two_drops_order_the_release", 2, refcount::two_drops::<Loom>).executions(4, 4),
    full("s38_get_unless_zero_against_last_put", 2, refcount::upgrade_against_last_put::<Loom>)
        .executions(45, 22),
    full("s46_put_and_lock_against_lookup", 3, refcount::put_and_lock_against_lookup::<Loom>)
        .executions(771951, 23530),
    full("s51_flush_with_one_worker", 2, queue::flush_one_worker::<Loom>).executions(104932, 104932),
    bounded("q1_flush_with_two_workers_and_a_queuer", 4, 2, queue::flush_two_workers::<Loom>)
        .executions(108100, 108100),
    bounded("q2_flush_item_with_two_workers", 3, 3, queue::flush_item_two_workers::<Loom>)
        .executions(80119, 80119),
    bounded("s34_queued_while_running_runs_again", 2, 4, queue::queued_while_running::<Loom>)
        .executions(9107, 9107),
    bounded("q3_never_on_two_workers_at_once", 3, 3, queue::never_twice_at_once::<Loom>)
        .executions(125253, 125253),
    bounded("q5_refused_enqueue_is_seen", 2, 4, queue::refused_is_seen::<Loom>).executions(15737, 15737),
    full("q4_cancel_against_run", 2, queue::cancel_against_run::<Loom>).executions(1687, 1687),
    full("s26_s84_start_against_attach_on_empty_index", 2, notifier::start_against_attach::<Loom>)
        .executions(5493, 4496),
    full("s17_to_s21_invalidate_against_acquire_and_lease", 2, notifier::invalidate_against_acquire::<Loom>)
        .executions(6689, 6166),
    bounded("s20_two_invalidations_of_one_object", 3, 3, notifier::two_invalidations::<Loom>)
        .executions(40505, 28902),
    bounded("s22_two_windows_against_acquire", 3, 3, notifier::two_windows::<Loom>)
        .executions(253950, 144220),
    full("s40_s77_last_put_against_invalidate", 2, notifier::last_put_against_invalidate::<Loom>)
        .executions(11164, 5397),
    bounded("s41_two_closes_against_invalidate", 3, 3, notifier::two_closes::<Loom>).executions(1864, 1576),
    full("s78_evict_against_start", 2, notifier::evict_against_start::<Loom>).executions(351519, 0),
    full("s23_lease_on_another_thread", 2, notifier::lease_elsewhere::<Loom>).executions(6, 6),
    bounded("s79_lease_refused_once_revoked", 3, 3, notifier::lease_refused::<Loom>)
        .executions(134354, 119436),
    bounded("s80_partly_overlapping_windows", 3, 3, notifier::partly_overlapping::<Loom>)
        .executions(20221, 14651),
    bounded("s82_old_ticket_against_new_attach", 3, 3, notifier::old_ticket::<Loom>).executions(49266, 31664),
    full("s83_lease_past_the_deadline", 2, notifier::lease_past_deadline::<Loom>).executions(2751, 2746),
    full("s48_exit_against_acquire", 2, notifier::exit_against_acquire::<Loom>).executions(2404, 1529),
    full("s22_equal_windows_end_at_once", 2, notifier::equal_windows::<TwoSlots>).executions(24583, 5402),
    full("s54_non_blockable_against_acquire", 2, notifier::non_blockable::<Loom>).executions(2433, 1971),
    bounded("s22_evict_with_two_windows", 3, 2, notifier::evict_with_two_windows::<Loom>)
        .executions(30254, 23629),
    bounded("s20_start_over_two_owners", 2, 3, notifier::start_over_two_owners::<Loom>)
        .executions(6837, 4552),
    bounded("s81_stray_end", 2, 4, notifier::stray_end::<Loom>).executions(12295, 7183),
    full("s83_retry_against_start", 2, notifier::retry_against_start::<Loom>).executions(838, 838),
    full("s83_kept_release_against_retry", 2, notifier::kept_release_against_retry::<Loom>)
        .executions(1008, 1008),
    bounded("s35_reacquired_while_cancel_runs", 2, 3, cancel::reacquired_while_cancel_runs::<Loom>)
        .executions(4520, 4520),
    full("s36_attached_and_cancel_pending", 2, cancel::attached_and_pending::<Loom>).executions(83166, 63194),
    bounded("s39_last_put_in_queued_cancel", 2, 4, cancel::last_put_in_queued_cancel::<Loom>)
        .executions(2751, 2751),
    full("s51_shut_down_against_start", 2, cancel::shut_down_against_start::<Loom>).executions(893, 893),
    full("s17_acquire_against_invalidate", 2, object::acquire_against_invalidate::<Loom>)
        .executions(9965, 6768),
    full("s81_register_during_window", 2, object::register_during_window::<Loom>).executions(29938, 20309),
    full("s29_cancel_while_a_worker_pins", 2, object::cancel_while_a_worker_pins::<Loom>)
        .executions(133, 133),
    full("s28_superseded_worker", 2, object::superseded_worker::<Loom>).executions(60276, 60276),
    full("s49_exit_against_worker", 2, object::exit_against_worker::<Loom>).executions(1275, 1275),
    full("s31_report_against_acquire", 2, object::report_against_acquire::<Loom>).executions(18, 18),
    full("s33_worker_limit", 2, object::worker_limit::<Loom>).executions(838, 838),
    full("s50_last_reference_in_worker", 2, object::last_reference_in_worker::<Loom>).executions(4, 4),
    full("s43_export_against_acquire", 2, object::export_against_acquire::<Loom>).executions(2681, 336),
    full("s42_two_exports", 2, object::two_exports::<Loom>).executions(0, 15217),
    bounded("s46_find_against_last_put", 2, 3, records::find_against_last_put::<Loom>).executions(1793, 1519),
    full("rule12_notifier_published_once", 2, records::notifier_published_once::<Loom>).executions(2245, 607),
    full("s47_unregister_against_callback", 2, records::unregister_against_callback::<Loom>)
        .executions(695, 695),
    full("s86_last_record_in_queued_cancel", 2, records::last_record_in_queued_cancel::<Loom>)
        .executions(157, 157),
];
