//! Drivers that unwind, the one deadline, tickets of other objects, reports, the last handle of a
//! queue, the export's store.

use super::Mutant;

const ACQUIRE: &str = "src/notifier/acquire.rs";
const INVALIDATE: &str = "src/notifier/invalidate.rs";
const REVOKE: &str = "src/notifier/revoke.rs";
const SHARED: &str = "src/work/shared.rs";
const WAITER: &str = "src/work/waiter.rs";
const REFERENCE: &str = "src/refcount/reference.rs";
const BODY: &str = "src/userptr/body.rs";
const WORKER: &str = "src/userptr/worker.rs";
const ACQUIRE_OBJECT: &str = "src/userptr/acquire.rs";

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "export_without_release",
        file: BODY,
        edits: &[("self.watched.store(1, Store::Release);", "self.watched.store(1, Store::Relaxed);")],
        model: "s178_export_of_a_ready_object",
    },
    Mutant {
        name: "each_object_gets_the_whole_deadline",
        file: REVOKE,
        edits: &[(
            "    let unwound = Unwound { sub, owner };\n    // SAFETY: the revocation is ours, and the leases",
            "    set_deadline(sub, P::now());\n    let unwound = Unwound { sub, owner };\n    // SAFETY: the revocation is ours, and the leases",
        )],
        model: "s186_one_deadline",
    },
    Mutant {
        name: "unwound_invalidation_leaves_its_window",
        file: INVALIDATE,
        edits: &[(
            "        let mut this = Invalidation { notifier: self, range, outcome: Outcome::Idle };\n        this.outcome = pending.finish();\n        Ok(this)",
            "        let outcome = pending.finish();\n        Ok(Invalidation { notifier: self, range, outcome })",
        )],
        model: "s187_unwinds_in_a_guarded_invalidation",
    },
    Mutant {
        name: "release_unwinds_past_its_guard",
        file: REVOKE,
        edits: &[(
            "    let unwound = Unwound { sub, owner };\n    // SAFETY: the revocation is ours, and the leases",
            "    let unwound = ();\n    // SAFETY: the revocation is ours, and the leases",
        )],
        model: "s187_unwinds_in_an_eviction",
    },
    Mutant {
        name: "stop_unwinds_past_its_guard",
        file: REVOKE,
        edits: &[(
            "    let unwound = Unwound { sub, owner };\n    // SAFETY: the revocation is ours, and the pages",
            "    let unwound = ();\n    // SAFETY: the revocation is ours, and the pages",
        )],
        model: "s187_unwinds_in_an_eviction",
    },
    Mutant {
        name: "unwound_under_a_lease_wakes_nobody",
        file: REVOKE,
        edits: &[(
            "        sub.notifier().wake();\n        sub.event(Event::Quarantined(sub.attachment().range(), Outcome::TimedOut));\n    } else {\n        settle(",
            "        sub.event(Event::Quarantined(sub.attachment().range(), Outcome::TimedOut));\n    } else {\n        settle(",
        )],
        model: "s187_unwinds_beside_a_start",
    },
    Mutant {
        name: "waiter_wakes_nobody",
        file: WAITER,
        edits: &[("unsafe { self.queue.wake_all() }", "let _ = &self.queue;")],
        model: "s170_wait_for_a_driver",
    },
    Mutant {
        name: "unwinding_driver_is_asked_again",
        file: INVALIDATE,
        edits: &[("        if self.in_driver {", "        if false {")],
        model: "s187_unwinds_in_an_invalidation",
    },
    Mutant {
        name: "unwound_last_put_keeps_a_count",
        file: REFERENCE,
        edits: &[("if count.count() != 0 && count.put() {", "if false {")],
        model: "s187_unwinds_in_the_last_put",
    },
    Mutant {
        name: "unwound_under_a_lease_reports_nothing",
        file: REVOKE,
        edits: &[(
            "        sub.notifier().wake();\n        sub.event(",
            "        sub.notifier().wake();\n        let _ = (",
        )],
        model: "s187_unwinds_under_a_lease",
    },
    Mutant {
        name: "unwound_acquire_keeps_its_ticket",
        file: ACQUIRE_OBJECT,
        edits: &[("        Notifier::abandon(self.body, self.ticket, false);\n", "")],
        model: "s188_unwinds_in_prepare",
    },
    Mutant {
        name: "unwound_worker_keeps_its_place",
        file: WORKER,
        edits: &[("        self.0.give_worker();\n", "        let _ = self.0;\n")],
        model: "s188_unwinds_in_prepare",
    },
    Mutant {
        name: "last_handle_leaves_the_queue_open_inside",
        file: SHARED,
        edits: &[("        self.queue.shut_down();\n", "")],
        model: "s189_last_handle_in_its_own_item",
    },
    Mutant {
        name: "any_objects_ticket_abandons",
        file: ACQUIRE,
        edits: &[(
            "        if !ticket.is_for(&**sub) {\n            return false;",
            "        if false {\n            return false;",
        )],
        model: "s82_foreign_ticket",
    },
    Mutant {
        name: "revocation_is_not_reported",
        file: REVOKE,
        edits: &[(
            "        Outcome::Idle => Event::Revoked(attachment.range()),",
            "        Outcome::Idle => return,",
        )],
        model: "s191_reports_once",
    },
    Mutant {
        name: "quarantine_is_not_reported",
        file: REVOKE,
        edits: &[(
            "        sub.event(Event::Quarantined(attachment.range(), Outcome::TimedOut));\n        return Outcome::TimedOut;",
            "        return Outcome::TimedOut;",
        )],
        model: "s191_reports_once",
    },
    Mutant {
        name: "finish_is_not_reported",
        file: REVOKE,
        edits: &[("                sub.event(Event::Finished(attachment.range()));\n", "")],
        model: "s191_reports_once",
    },
];
