//! The notifier: starts, attaches, cancels, leases, windows, the summary.

use super::Mutant;

const INVALIDATE: &str = "src/notifier/invalidate.rs";
const ACQUIRE: &str = "src/notifier/acquire.rs";
const REVOKE: &str = "src/notifier/revoke.rs";
const LEASE: &str = "src/notifier/lease.rs";
const WINDOWS: &str = "src/notifier/windows.rs";
const HULL: &str = "src/notifier/hull.rs";
const ATTACH_MODEL: &str = "s26_s84_start_against_attach_on_empty_index";
const ACQUIRE_MODEL: &str = "s17_to_s21_invalidate_against_acquire_and_lease";
const LAST_PUT_MODEL: &str = "s40_s77_last_put_against_invalidate";

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "open_without_release",
        file: LEASE,
        edits: &[(
            "self.word.store(more.saturating_add(1), Store::Release)",
            "self.word.store(more.saturating_add(1), Store::Relaxed)",
        )],
        model: "s23_lease_on_another_thread",
    },
    Mutant {
        name: "plain_get_of_a_weak_edge_41",
        file: INVALIDATE,
        edits: &[(
            "|object| object.as_ref().count().get_unless_zero()",
            "|object| { object.as_ref().count().get(); true }",
        )],
        model: "s41_two_closes_against_invalidate",
    },
    Mutant {
        name: "attach_without_a_look_at_windows_22",
        file: ACQUIRE,
        edits: &[(
            "if notifier.windows.overlaps(range) {\n                // SAFETY",
            "if false {\n                // SAFETY",
        )],
        model: "s22_two_windows_against_acquire",
    },
    Mutant {
        name: "plain_get_of_a_weak_edge",
        file: INVALIDATE,
        edits: &[(
            "|object| object.as_ref().count().get_unless_zero()",
            "|object| { object.as_ref().count().get(); true }",
        )],
        model: LAST_PUT_MODEL,
    },
    Mutant {
        name: "early_return_on_empty_index",
        file: INVALIDATE,
        edits: &[(
            "if recorded && !self.hull.may_overlap(range) {\n",
            "if recorded && !self.hull.may_overlap(range) {\n            self.windows.close(range);\n",
        )],
        model: ATTACH_MODEL,
    },
    Mutant {
        name: "start_without_a_window",
        file: INVALIDATE,
        edits: &[("let recorded = self.windows.open(range);", "let recorded = true;")],
        model: ACQUIRE_MODEL,
    },
    Mutant {
        name: "start_without_its_fence",
        file: INVALIDATE,
        edits: &[("P::fence();\n        // Nothing near", "// Nothing near")],
        model: ATTACH_MODEL,
    },
    Mutant {
        name: "attach_without_its_fence",
        file: ACQUIRE,
        edits: &[("P::fence();\n            if notifier", "if notifier")],
        model: ATTACH_MODEL,
    },
    Mutant {
        name: "attach_without_a_look_at_windows",
        file: ACQUIRE,
        edits: &[(
            "if notifier.windows.overlaps(range) {\n                // SAFETY",
            "if false {\n                // SAFETY",
        )],
        model: ATTACH_MODEL,
    },
    Mutant {
        name: "commit_without_recheck",
        file: ACQUIRE,
        edits: &[(
            "let current = attachment.read(|slot| slot.current_ticket()) == Some(ticket.number);",
            "let current = true;",
        )],
        model: ATTACH_MODEL,
    },
    Mutant {
        name: "attached_without_a_ticket",
        file: ACQUIRE,
        edits: &[
            (
                "let current = attachment.read(|slot| slot.current_ticket()) == Some(ticket.number);",
                "let current = attachment.read(|slot| slot.current_ticket()).is_some();",
            ),
            (
                "attachment.slot(|slot| slot.commit(ticket.number));",
                "attachment.slot(|slot| { let now = slot.current_ticket().unwrap_or_default(); slot.commit(now) });",
            ),
        ],
        model: "s82_old_ticket_against_new_attach",
    },
    Mutant {
        name: "start_skips_a_dying_object",
        file: INVALIDATE,
        edits: &[(
            "State::Ready | State::Revoking => true,",
            "State::Ready if unsafe { attachment.object() }.is_some_and(|e| unsafe { e.as_ref() }.count().count() == 0) => false,\nState::Ready | State::Revoking => true,",
        )],
        model: LAST_PUT_MODEL,
    },
    Mutant {
        name: "unlink_before_unpin",
        file: REVOKE,
        edits: &[
            (
                "    // SAFETY: the revocation is ours, and the leases are gone.\n    let outcome = unsafe { sub.release(",
                "    sub.notifier().with(|core| unsafe {\n        core.index.remove(sub.attachment().node_ptr());\n        sub.notifier().hull.set(core.index.hull());\n    });\n    let outcome = unsafe { sub.release(",
            ),
            (
                "                core.take_out(attachment, &notifier.hull, duty);\n            } else",
                "                let _ = duty;\n            } else",
            ),
        ],
        model: LAST_PUT_MODEL,
    },
    Mutant {
        name: "wait_before_own_cancels",
        file: INVALIDATE,
        edits: &[(
            "self.run();\n        let outcome = self.wait();",
            "let outcome = self.wait();\n        self.run();",
        )],
        model: "s80_partly_overlapping_windows",
    },
    Mutant {
        name: "start_waits_for_its_own_cancels_only",
        file: INVALIDATE,
        edits: &[("if self.wait {", "if false {")],
        model: "s20_two_invalidations_of_one_object",
    },
    Mutant {
        name: "refused_start_leaves_its_window",
        file: INVALIDATE,
        edits: &[("                self.windows.close(range);\n                self.wake();\n", "")],
        model: "s54_non_blockable_against_acquire",
    },
    Mutant {
        name: "exit_without_dead",
        file: INVALIDATE,
        edits: &[("core.dead = true;", "")],
        model: "s48_exit_against_acquire",
    },
    Mutant {
        name: "lease_of_a_closed_word",
        file: LEASE,
        edits: &[("if old & CLOSED != 0 || old & COUNT == 0", "if old & COUNT == 0")],
        model: "s79_lease_refused_once_revoked",
    },
    Mutant {
        name: "quarantine_in_two_steps",
        file: REVOKE,
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
    Mutant {
        name: "failed_close_without_acquire",
        file: WINDOWS,
        edits: &[("Rmw::Release, Load::Acquire)", "Rmw::Release, Load::Relaxed)")],
        model: "s22_equal_windows_end_at_once",
    },
    Mutant {
        name: "window_start_without_release",
        file: WINDOWS,
        edits: &[(
            "slot.start.store(range.start(), Store::Release)",
            "slot.start.store(range.start(), Store::Relaxed)",
        )],
        model: "s160_attach_beside_a_window_above",
    },
    Mutant {
        name: "window_last_without_release",
        file: WINDOWS,
        edits: &[(
            "slot.last.store(range.last(), Store::Release)",
            "slot.last.store(range.last(), Store::Relaxed)",
        )],
        model: "s160_attach_beside_a_window_below",
    },
    Mutant {
        name: "window_start_without_acquire",
        file: WINDOWS,
        edits: &[("self.start.load(Load::Acquire)", "self.start.load(Load::Relaxed)")],
        model: "s161_two_ends_and_a_third_window",
    },
    Mutant {
        name: "window_last_without_acquire",
        file: WINDOWS,
        edits: &[("self.last.load(Load::Acquire)", "self.last.load(Load::Relaxed)")],
        model: "s161_two_ends_and_a_third_window",
    },
    Mutant {
        name: "window_start_without_acquire_160",
        file: WINDOWS,
        edits: &[("self.start.load(Load::Acquire)", "self.start.load(Load::Relaxed)")],
        model: "s160_attach_beside_a_window_above",
    },
    Mutant {
        name: "window_last_without_acquire_160",
        file: WINDOWS,
        edits: &[("self.last.load(Load::Acquire)", "self.last.load(Load::Relaxed)")],
        model: "s160_attach_beside_a_window_below",
    },
    Mutant {
        name: "summary_without_release",
        file: HULL,
        edits: &[(
            "self.words.start.store(start, Store::Release)",
            "self.words.start.store(start, Store::Relaxed)",
        )],
        model: "s78_evict_against_start",
    },
    Mutant {
        name: "any_end_closes_a_slot",
        file: WINDOWS,
        edits: &[(
            "if word & STATE != OPEN || slot.range() != (range.start(), range.last()) {",
            "if word & STATE != OPEN {",
        )],
        model: "s81_stray_end",
    },
    Mutant {
        name: "any_end_closes_a_spilled_window",
        file: WINDOWS,
        edits: &[("if !self.hull.is_some_and(|h| h.contains(range)) {", "if self.hull.is_none() {")],
        model: "s81_stray_end",
    },
    Mutant {
        name: "quarantined_counts_as_released",
        file: INVALIDATE,
        edits: &[("*outcome = (*outcome).max(why);", "*outcome = (*outcome).max(Outcome::Idle);")],
        model: "s83_retry_against_start",
    },
    Mutant {
        name: "cancel_keeps_its_reference",
        file: REVOKE,
        edits: &[("    put(sub);\n    outcome", "    core::mem::forget(sub);\n    outcome")],
        model: "s39_last_put_in_queued_cancel",
    },
    Mutant {
        name: "refused_cancel_is_lost",
        file: REVOKE,
        edits: &[("let _ = run(unsafe { Ref::adopt(inner) });", "drop(unsafe { Ref::adopt(inner) });")],
        model: "s51_shut_down_against_start",
    },
    Mutant {
        name: "superseded_worker_commits",
        file: ACQUIRE,
        edits: &[
            (
                "let current = attachment.read(|slot| slot.current_ticket()) == Some(ticket.number);",
                "let current = attachment.read(|slot| slot.current_ticket()).is_some();",
            ),
            (
                "attachment.slot(|slot| slot.commit(ticket.number));",
                "attachment.slot(|slot| { let now = slot.current_ticket().unwrap_or_default(); slot.commit(now) });",
            ),
        ],
        model: "s28_superseded_worker",
    },
    Mutant {
        name: "worker_after_exit",
        file: INVALIDATE,
        edits: &[("core.dead = true;", "")],
        model: "s49_exit_against_worker",
    },
    Mutant {
        name: "window_unknown_to_a_registration",
        file: INVALIDATE,
        edits: &[(
            "        if !self.windows.open(range) {\n            self.with(|core| core.overflow.open(range));\n        }",
            "",
        )],
        model: "s81_register_during_window",
    },
    Mutant {
        name: "export_keeps_pages",
        file: ACQUIRE,
        edits: &[(
            "State::Ready | State::Revoking | State::Quarantined => return false,",
            "State::Ready | State::Revoking | State::Quarantined => {}",
        )],
        model: "s43_export_against_acquire",
    },
    Mutant {
        name: "moved_already_is_a_failure",
        file: ACQUIRE,
        edits: &[(
            "            if !core::ptr::eq(from, sub.notifier()) {\n                return true;",
            "            if !core::ptr::eq(from, sub.notifier()) {\n                return false;",
        )],
        model: "s42_two_exports",
    },
    Mutant {
        name: "cancel_keeps_its_reference_86",
        file: REVOKE,
        edits: &[("    put(sub);\n    outcome", "    core::mem::forget(sub);\n    outcome")],
        model: "s86_last_record_in_queued_cancel",
    },
    Mutant {
        name: "revocation_frees_its_object",
        file: REVOKE,
        edits: &[("    put(sub);\n    outcome", "    drop(sub);\n    outcome")],
        model: "s121_a_revocation_has_the_last_reference",
    },
    Mutant {
        name: "acquire_without_windows",
        file: ACQUIRE,
        edits: &[("            if notifier.windows.overlaps(range) {", "            if false {")],
        model: "s17_acquire_against_invalidate",
    },
    Mutant {
        name: "spilled_window_is_overlooked",
        file: ACQUIRE,
        edits: &[("            if core.overflow.overlaps(range) {", "            if false {")],
        model: "s22_evict_with_two_windows",
    },
    Mutant {
        name: "start_waits_for_ready_only",
        file: INVALIDATE,
        edits: &[(
            "State::Ready | State::Revoking => true,",
            "State::Ready => true,\n                        State::Revoking => false,",
        )],
        model: "s20_start_over_two_owners",
    },
];
