//! The object, its workers, and the records of address spaces.

use super::Mutant;

const INSTALL: &str = "src/userptr/acquire.rs";
const WORKER: &str = "src/userptr/worker.rs";
const RECORD: &str = "src/mm/record.rs";

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "superseded_pins_are_kept",
        file: INSTALL,
        edits: &[(
            "                pinned.put_back(pages);\n",
            "                core::mem::forget(pages);\n",
        )],
        model: "s29_cancel_while_a_worker_pins",
    },
    Mutant {
        name: "attached_without_a_worker",
        file: WORKER,
        edits: &[(
            "        // Nothing stays attached (rule 17, scenario 33).\n        return Error::Again;",
            "        acquiring.served();\n        return Error::Again;",
        )],
        model: "s33_worker_limit",
    },
    Mutant {
        name: "worker_place_is_kept",
        file: WORKER,
        edits: &[(
            "        drop(place);\n        // The users",
            "        core::mem::forget(place);\n        // The users",
        )],
        model: "s50_last_reference_in_worker",
    },
    Mutant {
        name: "record_stays_registered",
        file: RECORD,
        edits: &[("unsafe { this.space.unregister(bound.registration) };", "drop(bound.registration);")],
        model: "s47_unregister_against_callback",
    },
    Mutant {
        name: "loser_stays_registered",
        file: RECORD,
        edits: &[("unsafe { self.space.unregister(lost.registration) };", "drop(lost.registration);")],
        model: "rule12_notifier_published_once",
    },
    Mutant {
        name: "published_without_release",
        file: RECORD,
        edits: &[("self.published.store(1, Store::Release);", "self.published.store(1, Store::Relaxed);")],
        model: "rule12_notifier_published_once",
    },
    Mutant {
        name: "published_twice",
        file: RECORD,
        edits: &[("if self.published.load(Load::Relaxed) != 0 {", "if false {")],
        model: "rule12_notifier_published_once",
    },
    Mutant {
        name: "dying_record_stays_linked",
        file: RECORD,
        edits: &[("guard.with(|buckets| buckets.unlink(&last));", "let _ = &mut guard;")],
        model: "s46_find_against_last_put",
    },
    Mutant {
        name: "report_after_the_ticket",
        file: WORKER,
        edits: &[(
            "                    acquiring.abandon_with(error.is_sticky(), || this.leave(error, true));",
            "                    acquiring.abandon_with(error.is_sticky(), || ());\n                    this.leave(error, true);",
        )],
        model: "s31_report_against_acquire",
    },
    Mutant {
        name: "report_asked_without_a_ticket",
        file: INSTALL,
        edits: &[
            (
                "        if let Some(error) = body.take_report() {\n            return Err(error);\n        }\n",
                "",
            ),
            (
                "        // All that can be needed is allocated",
                "        if let Some(error) = body.take_report() {\n            return Err(error);\n        }\n        // All that can be needed is allocated",
            ),
        ],
        model: "s31_report_against_acquire",
    },
];
