//! The guarded lines, and how each is broken.

/// One broken line.
#[allow(dead_code, reason = "the models read the names only")]
pub struct Control {
    /// What is broken.
    pub name: &'static str,
    /// Where.
    pub file: &'static str,
    /// What stands there, exactly once, and what takes its place.
    pub edits: &'static [(&'static str, &'static str)],
    /// The model that has to catch it.
    pub model: &'static str,
}

const COUNT: &str = "src/refcount/count.rs";
const ITEM: &str = "src/work/item.rs";
const SOFT: &str = "src/work/soft.rs";
const START: &str = "src/notifier/start.rs";
const ACQUIRE: &str = "src/notifier/acquire.rs";
const CANCEL: &str = "src/notifier/cancel.rs";
const LEASE: &str = "src/notifier/lease.rs";

const ATTACH_MODEL: &str = "s26_s84_start_against_attach_on_empty_index";
const ACQUIRE_MODEL: &str = "s17_to_s21_invalidate_against_acquire_and_lease";
const LAST_PUT_MODEL: &str = "s40_s77_last_put_against_invalidate";

pub const CONTROLS: &[Control] = &[
    Control {
        name: "put_without_release",
        file: COUNT,
        edits: &[("self.count.fetch_sub(1, Rmw::Release)", "self.count.fetch_sub(1, Rmw::Relaxed)")],
        model: "r1_two_drops_order_the_release",
    },
    Control {
        name: "upgrade_of_zero",
        file: COUNT,
        edits: &[("            if old == 0 {\n                return false;\n            }\n", "")],
        model: "s38_get_unless_zero_against_last_put",
    },
    Control {
        name: "decrement_then_lock",
        file: COUNT,
        edits: &[(
            "let guard = unsafe { lock.hold() };\n        if self.put() { Some(guard) } else { None }",
            "let last = self.put();\n        let guard = unsafe { lock.hold() };\n        if last { Some(guard) } else { None }",
        )],
        model: "s46_put_and_lock_against_lookup",
    },
    Control {
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
    Control {
        name: "refused_enqueue_leaks",
        file: ITEM,
        edits: &[(
            "Err(unsafe { Ref::from_raw(value) })",
            "Err({ let r = unsafe { Ref::<T, P>::from_raw(value) }; core::mem::forget(r.clone()); r })",
        )],
        model: "s34_queued_while_running_runs_again",
    },
    Control {
        name: "no_flush",
        file: SOFT,
        edits: &[("self.wait(|s| !s.has_until(target));", "let _ = target;")],
        model: "s51_flush_with_one_worker",
    },
    Control {
        name: "flush_waits_for_the_queue_only",
        file: SOFT,
        edits: &[(
            "            let mut at = self.running;\n            while let Some(mark) = at.as_ref() {\n                if mark.turn",
            "            let mut at: *const Mark<P> = ptr::null();\n            while let Some(mark) = at.as_ref() {\n                if mark.turn",
        )],
        model: "s51_flush_with_one_worker",
    },
    Control {
        name: "item_on_two_workers",
        file: SOFT,
        edits: &[("if self.run_of(at).is_none() {", "if true {")],
        model: "q3_never_on_two_workers_at_once",
    },
    Control {
        name: "plain_get_of_a_weak_edge",
        file: START,
        edits: &[(
            "|edge| edge.as_ref().count().get_unless_zero()",
            "|edge| { edge.as_ref().count().get(); true }",
        )],
        model: LAST_PUT_MODEL,
    },
    Control {
        name: "early_return_on_empty_index",
        file: START,
        edits: &[(
            "if recorded && !self.summary.may_overlap(range) {\n",
            "if recorded && !self.summary.may_overlap(range) {\n            self.windows.close(range);\n",
        )],
        model: ATTACH_MODEL,
    },
    Control {
        name: "start_without_a_window",
        file: START,
        edits: &[("let recorded = self.windows.open(range);", "let recorded = true;")],
        model: ACQUIRE_MODEL,
    },
    Control {
        name: "start_without_its_fence",
        file: START,
        edits: &[("P::fence();\n        if recorded", "if recorded")],
        model: ATTACH_MODEL,
    },
    Control {
        name: "attach_without_its_fence",
        file: ACQUIRE,
        edits: &[("P::fence();\n            if home", "if home")],
        model: ATTACH_MODEL,
    },
    Control {
        name: "attach_without_a_look_at_windows",
        file: ACQUIRE,
        edits: &[(
            "if home.windows.overlaps(range) {\n                // SAFETY",
            "if false {\n                // SAFETY",
        )],
        model: ATTACH_MODEL,
    },
    Control {
        name: "commit_without_recheck",
        file: ACQUIRE,
        edits: &[(
            "if attachment.state() != State::Acquiring || attachment.ticket() != ticket.0 {",
            "if false {",
        )],
        model: ATTACH_MODEL,
    },
    Control {
        name: "attached_without_a_ticket",
        file: ACQUIRE,
        edits: &[(
            "if attachment.state() != State::Acquiring || attachment.ticket() != ticket.0 {",
            "if attachment.state() != State::Acquiring {",
        )],
        model: "s82_old_ticket_against_new_attach",
    },
    Control {
        name: "start_skips_a_dying_object",
        file: START,
        edits: &[(
            "State::Ready | State::Revoking => busy = true,",
            "State::Ready if unsafe { attachment.edge() }.is_some_and(|e| unsafe { e.as_ref() }.count().count() == 0) => {}\n\
             State::Ready | State::Revoking => busy = true,",
        )],
        model: LAST_PUT_MODEL,
    },
    Control {
        name: "unlink_before_unpin",
        file: CANCEL,
        edits: &[
            (
                "    let outcome = sub.cancel(sub.deadline());\n",
                "    home.with(|core| unsafe { core.take_out(attachment, &home.summary) });\n    let outcome = sub.cancel(sub.deadline());\n",
            ),
            (
                "            debug_assert!(attachment.state() == State::Revoking);\n            if outcome",
                "            if outcome",
            ),
            (
                "                core.take_out(attachment, &home.summary);\n            } else",
                "            } else",
            ),
        ],
        model: LAST_PUT_MODEL,
    },
    Control {
        name: "wait_before_own_cancels",
        file: START,
        edits: &[(
            "self.run();\n        let outcome = self.wait();",
            "let outcome = self.wait();\n        self.run();",
        )],
        model: "s80_partly_overlapping_windows",
    },
    Control {
        name: "start_waits_for_its_own_cancels_only",
        file: START,
        edits: &[("if self.wait {", "if false {")],
        model: "s20_two_invalidations_of_one_object",
    },
    Control {
        name: "refused_start_leaves_its_window",
        file: START,
        edits: &[("                self.windows.close(range);\n                self.wake();\n", "")],
        model: "s54_non_blockable_against_acquire",
    },
    Control {
        name: "exit_without_dead",
        file: START,
        edits: &[("core.dead = true;", "")],
        model: "s48_exit_against_acquire",
    },
    Control {
        name: "lease_of_a_closed_word",
        file: LEASE,
        edits: &[("if old & CLOSED != 0 || old & COUNT == 0", "if old & COUNT == 0")],
        model: "s79_lease_refused_once_revoked",
    },
    Control {
        name: "quarantine_in_two_steps",
        file: CANCEL,
        edits: &[
            (
                "        self.with(|core| {\n            // One section for the mark",
                "        let marked = attachment.leases.quarantine();\n        self.with(|core| {\n            // One section for the mark",
            ),
            (
                "            let marked = attachment.leases.quarantine();\n            if marked",
                "            if marked",
            ),
        ],
        model: "s83_lease_past_the_deadline",
    },
];
