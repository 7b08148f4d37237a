//! Wake-ups, leases past the deadline, window slots and the summary, each with one line broken, and
//! the model of exactly that line.

use super::Mutant;

const INVALIDATE: &str = "src/notifier/invalidate.rs";
const ACQUIRE: &str = "src/notifier/acquire.rs";
const REVOKE: &str = "src/notifier/revoke.rs";
const LEASE: &str = "src/notifier/lease.rs";
const SPREAD: &str = "src/notifier/spread.rs";
const WINDOWS: &str = "src/notifier/windows.rs";
const HULL: &str = "src/notifier/hull.rs";
const RECORD: &str = "src/mm/record.rs";
const CONTEXT: &str = "src/context/mod.rs";
const SOFT: &str = "src/work/soft.rs";
const ACQUIRE_OBJECT: &str = "src/userptr/acquire.rs";

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "bound_without_acquire",
        file: RECORD,
        edits: &[("self.published.load(Load::Acquire)", "self.published.load(Load::Relaxed)")],
        model: "rule12_notifier_published_once",
    },
    Mutant {
        name: "end_wakes_nobody",
        file: INVALIDATE,
        edits: &[(
            "core.overflow.close(range)) {\n            self.wake();",
            "core.overflow.close(range)) {\n",
        )],
        model: "s170_wait_for_an_end",
    },
    Mutant {
        name: "refusal_wakes_nobody",
        file: INVALIDATE,
        edits: &[(
            "                self.windows.close(range);\n                self.wake();\n",
            "                self.windows.close(range);\n",
        )],
        model: "s170_wait_for_a_refusal",
    },
    Mutant {
        name: "exit_wakes_nobody",
        file: INVALIDATE,
        edits: &[("        marked.superseded = true;\n        self.stop_all", "        self.stop_all")],
        model: "s170_wait_for_an_exit_in_a_window",
    },
    Mutant {
        name: "superseded_wakes_nobody",
        file: INVALIDATE,
        edits: &[("if marked.superseded {", "if false {")],
        model: "s170_wait_for_an_exit",
    },
    Mutant {
        name: "last_handle_leaves_the_queue_open",
        file: "src/work/shared.rs",
        edits: &[("        self.queue.shut_down();\n", "")],
        model: "s185_last_handle_of_a_queue",
    },
    Mutant {
        name: "ticket_of_another_object",
        file: ACQUIRE,
        edits: &[(
            "        self.of == core::ptr::from_ref(sub.attachment()).addr()",
            "        let _ = sub;\n        true",
        )],
        model: "s82_foreign_ticket",
    },
    Mutant {
        name: "dropped_start_cancels_nothing",
        file: INVALIDATE,
        edits: &[(
            "        } else {\n            self.run();\n            let _ = self.wait();",
            "        } else {\n            let _ = self.wait();",
        )],
        model: "s174_dropped_start",
    },
    Mutant {
        name: "dropped_start_waits_for_nobody",
        file: INVALIDATE,
        edits: &[(
            "        } else {\n            self.run();\n            let _ = self.wait();",
            "        } else {\n            self.run();",
        )],
        model: "s174_dropped_start",
    },
    Mutant {
        name: "refused_start_leaves_a_spilled_window",
        file: INVALIDATE,
        edits: &[
            (
                "            if mode == Blockable::No",
                "            if !recorded {\n                core.overflow.open(range);\n            }\n            if mode == Blockable::No",
            ),
            (
                "            if !recorded {\n                core.overflow.open(range);\n            }\n            Some(",
                "            Some(",
            ),
        ],
        model: "s175_refused_without_a_slot",
    },
    Mutant {
        name: "retried_by_two",
        file: INVALIDATE,
        edits: &[(
            "                        attachment.slot(|slot| slot.retry());\n                        attachment.chain(own);",
            "                        attachment.chain(own);",
        )],
        model: "s173_quarantined_twice",
    },
    Mutant {
        name: "commit_wakes_nobody",
        file: ACQUIRE,
        edits: &[(
            "            return Err(install);\n        }\n        sub.notifier().wake();",
            "            return Err(install);\n        }",
        )],
        model: "s170_wait_for_an_acquire",
    },
    Mutant {
        name: "abandon_wakes_nobody",
        file: ACQUIRE,
        edits: &[("        if current {\n            sub.notifier().wake();\n        }\n", "")],
        model: "s170_wait_for_an_acquire",
    },
    Mutant {
        name: "export_wakes_nobody",
        file: ACQUIRE,
        edits: &[("        if moved {\n            from.wake();\n        }\n", "")],
        model: "s170_wait_for_an_export",
    },
    Mutant {
        name: "export_of_ready_keeps_pages",
        file: ACQUIRE,
        edits: &[(
            "State::Ready | State::Revoking | State::Quarantined => return false,",
            "State::Ready | State::Revoking | State::Quarantined => {}",
        )],
        model: "s178_export_of_a_ready_object",
    },
    Mutant {
        name: "eviction_wakes_nobody",
        file: REVOKE,
        edits: &[(
            "        if matches!(state, State::Acquiring | State::Failed) {\n            sub.notifier().wake();\n        }\n",
            "",
        )],
        model: "s170_wait_for_an_eviction",
    },
    Mutant {
        name: "cancel_wakes_nobody",
        file: REVOKE,
        edits: &[("    notifier.wake();\n    sub.event(match outcome {", "    sub.event(match outcome {")],
        model: "s170_wait_for_a_cancel",
    },
    Mutant {
        name: "late_cancel_wakes_nobody",
        file: REVOKE,
        edits: &[("    notifier.wake();\n    sub.event(match outcome {", "    sub.event(match outcome {")],
        model: "s170_wait_for_a_quarantine",
    },
    Mutant {
        name: "quarantine_wakes_nobody",
        file: REVOKE,
        edits: &[(
            "        notifier.wake();\n        sub.event(Event::Quarantined(attachment.range(), Outcome::TimedOut));",
            "        sub.event(Event::Quarantined(attachment.range(), Outcome::TimedOut));",
        )],
        model: "s170_wait_for_a_quarantine",
    },
    Mutant {
        name: "summary_forgets_a_neighbour_below",
        file: REVOKE,
        edits: &[("        hull.set(self.index.hull());", "        hull.set(None);")],
        model: "s176_neighbour_below",
    },
    Mutant {
        name: "summary_forgets_a_neighbour_above",
        file: REVOKE,
        edits: &[("        hull.set(self.index.hull());", "        hull.set(None);")],
        model: "s176_neighbour_above",
    },
    Mutant {
        name: "last_lease_without_acquire",
        file: LEASE,
        edits: &[("        // their release sequence.\n        self.word.load(Load::Acquire);", "")],
        model: "s172_two_holders_past_the_deadline",
    },
    Mutant {
        name: "lease_put_without_release",
        file: LEASE,
        edits: &[("self.word.fetch_sub(1, Rmw::Release)", "self.word.fetch_sub(1, Rmw::Relaxed)")],
        model: "s172_two_holders_past_the_deadline",
    },
    Mutant {
        name: "drained_without_acquire",
        file: LEASE,
        edits: &[(
            "self.word.load(Load::Acquire) & COUNT == 0",
            "self.word.load(Load::Relaxed) & COUNT == 0",
        )],
        model: "s17_to_s21_invalidate_against_acquire_and_lease",
    },
    Mutant {
        name: "none_left_without_acquire",
        file: LEASE,
        edits: &[(
            "                // ORDERING: as `is_drained`.\n                self.word.load(Load::Acquire);",
            "",
        )],
        model: "s83_lease_past_the_deadline",
    },
    Mutant {
        name: "take_without_acquire",
        file: LEASE,
        edits: &[(
            "old.wrapping_add(1), Rmw::Acquire, Load::Relaxed)",
            "old.wrapping_add(1), Rmw::Relaxed, Load::Relaxed)",
        )],
        model: "s23_lease_on_another_thread",
    },
    Mutant {
        name: "claim_without_acquire",
        file: WINDOWS,
        edits: &[(
            "word | WRITING, Rmw::Acquire, Load::Relaxed)",
            "word | WRITING, Rmw::Relaxed, Load::Relaxed)",
        )],
        model: "s160_attach_beside_a_strangers_window",
    },
    Mutant {
        name: "close_without_release",
        file: WINDOWS,
        edits: &[("Rmw::Release, Load::Acquire)", "Rmw::Relaxed, Load::Acquire)")],
        model: "s160_attach_beside_a_window_above",
    },
    Mutant {
        name: "overlaps_without_acquire",
        file: WINDOWS,
        edits: &[(
            "slot.word.load(Load::Acquire) & STATE == OPEN && slot.overlaps",
            "slot.word.load(Load::Relaxed) & STATE == OPEN && slot.overlaps",
        )],
        model: "s160_attach_beside_a_window_above",
    },
    Mutant {
        name: "close_without_acquire",
        file: WINDOWS,
        edits: &[("let word = slot.word.load(Load::Acquire);", "let word = slot.word.load(Load::Relaxed);")],
        model: "s169_end_beside_a_start_in_an_old_slot",
    },
    Mutant {
        name: "window_open_without_release",
        file: WINDOWS,
        edits: &[(
            "slot.word.store(word | OPEN, Store::Release)",
            "slot.word.store(word | OPEN, Store::Relaxed)",
        )],
        model: "s169_end_beside_a_start_in_an_old_slot",
    },
    Mutant {
        name: "summary_start_without_release",
        file: HULL,
        edits: &[(
            "self.words.start.store(start, Store::Release)",
            "self.words.start.store(start, Store::Relaxed)",
        )],
        model: "s176_eviction_beside_a_neighbour_above",
    },
    Mutant {
        name: "summary_start_without_acquire",
        file: HULL,
        edits: &[("self.words.start.load(Load::Acquire)", "self.words.start.load(Load::Relaxed)")],
        model: "s176_eviction_beside_a_neighbour_above",
    },
    Mutant {
        name: "summary_last_without_release",
        file: HULL,
        edits: &[(
            "self.words.last.store(last, Store::Release)",
            "self.words.last.store(last, Store::Relaxed)",
        )],
        model: "s176_eviction_beside_a_neighbour_below",
    },
    Mutant {
        name: "summary_last_without_acquire",
        file: HULL,
        edits: &[("self.words.last.load(Load::Acquire)", "self.words.last.load(Load::Relaxed)")],
        model: "s176_eviction_beside_a_neighbour_below",
    },
    Mutant {
        name: "place_is_given_back_silently",
        file: CONTEXT,
        edits: &[(
            "        // SAFETY: settled by `Ref::try_new`; the caller's borrow keeps the context in place.\n        unsafe { self.shared.worker_slots.wake_all() };\n",
            "",
        )],
        model: "s171_acquire_waits_for_a_place",
    },
    Mutant {
        name: "cancelled_item_wakes_no_flush",
        file: SOFT,
        edits: &[(
            "        if taken {\n            // SAFETY: settled, and `self` keeps the queue in place.\n            unsafe { self.done.wake_all() };\n        }\n",
            "",
        )],
        model: "s177_cancel_beside_a_flush",
    },
    Mutant {
        name: "host_is_not_asked",
        file: ACQUIRE_OBJECT,
        edits: &[("if !quiet || lease.is_revoked()", "if lease.is_revoked()")],
        model: "s179_told_after_the_change",
    },
    Mutant {
        name: "word_is_not_looked_at_again",
        file: ACQUIRE_OBJECT,
        edits: &[("if !quiet || lease.is_revoked()", "if !quiet")],
        model: "s179_told_after_the_change",
    },
    Mutant {
        name: "one_word_is_closed",
        file: SPREAD,
        edits: &[("self.each().for_each(LeaseWord::close);", "self.first.close();")],
        model: "s243_leases_against_an_invalidation",
    },
    Mutant {
        name: "one_word_is_drained",
        file: SPREAD,
        edits: &[("self.each().all(LeaseWord::is_drained)", "self.first.is_drained()")],
        model: "s243_leases_against_an_invalidation",
    },
    Mutant {
        name: "one_word_is_opened",
        file: SPREAD,
        edits: &[(
            "        for word in self.each() {\n            word.open(core::mem::take(&mut more));\n        }",
            "        self.first.open(core::mem::take(&mut more));",
        )],
        model: "s243_leases_against_an_invalidation",
    },
    Mutant {
        name: "one_word_is_left_to_its_leases",
        file: SPREAD,
        edits: &[(
            "self.each().filter(|word| word.quarantine()).count()",
            "usize::from(self.each().any(LeaseWord::quarantine))",
        )],
        model: "s244_two_words_past_the_deadline",
    },
    Mutant {
        name: "each_word_finishes",
        file: SPREAD,
        edits: &[("            *left == 0\n", "            true\n")],
        model: "s244_two_words_past_the_deadline",
    },
    Mutant {
        name: "dropped_in_the_threads_own_word",
        file: SPREAD,
        edits: &[(
            "    pub(super) fn put(&self, shard: usize) -> Put {\n        self.at(shard).put()",
            "    pub(super) fn put(&self, _: usize) -> Put {\n        self.at(P::shard() % P::SHARDS).put()",
        )],
        model: "s245_lease_dropped_elsewhere",
    },
];
