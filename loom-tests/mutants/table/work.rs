//! References, work items and the software queue.

use super::Mutant;

const COUNT: &str = "src/refcount/count.rs";
const ITEM: &str = "src/work/item.rs";
const LIST: &str = "src/work/list.rs";
const SOFT: &str = "src/work/soft.rs";
const REFERENCE: &str = "src/refcount/reference.rs";

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "put_without_release",
        file: COUNT,
        edits: &[("self.count.fetch_sub(1, Rmw::AcqRel)", "self.count.fetch_sub(1, Rmw::Acquire)")],
        model: "r1_two_drops_order_the_release",
    },
    Mutant {
        name: "last_put_without_acquire",
        file: COUNT,
        edits: &[("self.count.fetch_sub(1, Rmw::AcqRel)", "self.count.fetch_sub(1, Rmw::Release)")],
        model: "r1_two_drops_order_the_release",
    },
    Mutant {
        name: "put_and_lock_without_release",
        file: COUNT,
        edits: &[(
            "old.wrapping_sub(1), Rmw::Release, Load::Relaxed)",
            "old.wrapping_sub(1), Rmw::Relaxed, Load::Relaxed)",
        )],
        model: "s46_put_and_lock_against_lookup",
    },
    Mutant {
        name: "kept_count_is_not_given_back",
        file: REFERENCE,
        edits: &[("if !unsafe { self.ptr.as_ref() }.count.put() {", "if true {")],
        model: "s83_kept_release_against_retry",
    },
    Mutant {
        name: "upgrade_of_zero",
        file: COUNT,
        edits: &[("            if old == 0 {\n                return false;\n            }\n", "")],
        model: "s38_get_unless_zero_against_last_put",
    },
    Mutant {
        name: "decrement_then_lock",
        file: COUNT,
        edits: &[(
            "let guard = unsafe { lock.hold() };\n        if self.put() { Some(guard) } else { None }",
            "let last = self.put();\n        let guard = unsafe { lock.hold() };\n        if last { Some(guard) } else { None }",
        )],
        model: "s46_put_and_lock_against_lookup",
    },
    Mutant {
        name: "pending_cleared_late",
        file: SOFT,
        edits: &[
            (
                "                (*item).pending.swap(0, Rmw::AcqRel);\n                (*item).run",
                "                (*item).run",
            ),
            (
                "unsafe { run(mark.item) };",
                "unsafe { run(mark.item); (*mark.item).pending.swap(0, Rmw::AcqRel); }",
            ),
        ],
        model: "s34_queued_while_running_runs_again",
    },
    Mutant {
        name: "refused_enqueue_leaks",
        file: ITEM,
        edits: &[(
            "Err(unsafe { Ref::from_raw(value) })",
            "Err({ let r = unsafe { Ref::<T, P>::from_raw(value) }; core::mem::forget(r.clone()); r })",
        )],
        model: "s34_queued_while_running_runs_again",
    },
    Mutant {
        name: "pending_cleared_without_acquire",
        file: SOFT,
        edits: &[("(*item).pending.swap(0, Rmw::AcqRel);", "(*item).pending.swap(0, Rmw::Release);")],
        model: "s164_item_changes_queues",
    },
    Mutant {
        name: "pending_cleared_without_release",
        file: SOFT,
        edits: &[("(*item).pending.swap(0, Rmw::AcqRel);", "(*item).pending.swap(0, Rmw::Acquire);")],
        model: "s164_item_changes_queues",
    },
    Mutant {
        name: "enqueue_without_acquire",
        file: SOFT,
        edits: &[("work.pending.swap(1, Rmw::AcqRel)", "work.pending.swap(1, Rmw::Release)")],
        model: "s164_item_changes_queues",
    },
    Mutant {
        name: "enqueue_without_release",
        file: SOFT,
        edits: &[("work.pending.swap(1, Rmw::AcqRel)", "work.pending.swap(1, Rmw::Acquire)")],
        model: "s164_item_changes_queues",
    },
    Mutant {
        name: "cancel_without_acquire",
        file: SOFT,
        edits: &[("work.pending.swap(0, Rmw::AcqRel);", "work.pending.swap(0, Rmw::Release);")],
        model: "s164_cancelled_item_changes_queues",
    },
    Mutant {
        name: "cancel_without_release",
        file: SOFT,
        edits: &[("work.pending.swap(0, Rmw::AcqRel);", "work.pending.swap(0, Rmw::Acquire);")],
        model: "s164_cancelled_item_changes_queues",
    },
    Mutant {
        name: "refused_before_the_lock",
        file: SOFT,
        edits: &[
            (
                "        let taken = self.with(|s| {\n            // Under the lock",
                "        if work.pending.swap(1, Rmw::AcqRel) != 0 {\n            return false;\n        }\n        let taken = self.with(|s| {\n            // Under the lock",
            ),
            ("if s.shut || work.pending.swap(1, Rmw::AcqRel) != 0 {", "if s.shut {"),
        ],
        model: "s162_refused_enqueue_and_flush",
    },
    Mutant {
        name: "refused_before_the_lock_cancel",
        file: SOFT,
        edits: &[
            (
                "        let taken = self.with(|s| {\n            // Under the lock",
                "        if work.pending.swap(1, Rmw::AcqRel) != 0 {\n            return false;\n        }\n        let taken = self.with(|s| {\n            // Under the lock",
            ),
            ("if s.shut || work.pending.swap(1, Rmw::AcqRel) != 0 {", "if s.shut {"),
        ],
        model: "s162_refused_enqueue_and_cancel",
    },
    Mutant {
        name: "workers_turn_round_at_shut_down",
        file: SOFT,
        edits: &[("over || s.runnable().is_some()", "s.shut || s.runnable().is_some()")],
        model: "s163_shut_down_with_an_item_queued_again",
    },
    Mutant {
        name: "workers_wait_past_the_end",
        file: SOFT,
        edits: &[("over || s.runnable().is_some()", "s.runnable().is_some()")],
        model: "s163_shut_down_with_an_item_queued_again",
    },
    Mutant {
        name: "end_of_a_run_wakes_no_worker",
        file: SOFT,
        edits: &[("            self.queue.idle.wake_all();\n", "")],
        model: "s163_shut_down_with_an_item_queued_again",
    },
    Mutant {
        name: "flush_waits_for_the_queue_only_q1",
        file: LIST,
        edits: &[(
            "            let mut at = self.running;\n            while let Some(mark) = at.as_ref() {\n                if mark.turn",
            "            let mut at: *const Mark<P> = ptr::null();\n            while let Some(mark) = at.as_ref() {\n                if mark.turn",
        )],
        model: "q1_flush_with_two_workers_and_a_queuer",
    },
    Mutant {
        name: "flush_item_overlooks_a_run",
        file: SOFT,
        edits: &[("queued.or_else(|| s.run_of(item))", "queued")],
        model: "q2_flush_item_with_two_workers",
    },
    Mutant {
        name: "cancelled_item_stays_pending",
        file: SOFT,
        edits: &[("work.pending.swap(0, Rmw::AcqRel);", "")],
        model: "q4_cancel_against_run",
    },
    Mutant {
        name: "no_flush",
        file: SOFT,
        edits: &[("self.wait(|s| !s.has_until(target));", "let _ = target;")],
        model: "s51_flush_with_one_worker",
    },
    Mutant {
        name: "flush_waits_for_the_queue_only",
        file: LIST,
        edits: &[(
            "            let mut at = self.running;\n            while let Some(mark) = at.as_ref() {\n                if mark.turn",
            "            let mut at: *const Mark<P> = ptr::null();\n            while let Some(mark) = at.as_ref() {\n                if mark.turn",
        )],
        model: "s51_flush_with_one_worker",
    },
    Mutant {
        name: "item_on_two_workers",
        file: LIST,
        edits: &[("if self.run_of(at).is_none() {", "if true {")],
        model: "q3_never_on_two_workers_at_once",
    },
    Mutant {
        name: "pending_never_cleared",
        file: SOFT,
        edits: &[(
            "                (*item).pending.swap(0, Rmw::AcqRel);\n                (*item).run",
            "                (*item).run",
        )],
        model: "s35_reacquired_while_cancel_runs",
    },
    Mutant {
        name: "pending_never_cleared_36",
        file: SOFT,
        edits: &[(
            "                (*item).pending.swap(0, Rmw::AcqRel);\n                (*item).run",
            "                (*item).run",
        )],
        model: "s36_attached_and_cancel_pending",
    },
];
