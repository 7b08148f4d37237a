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
            "                    device.unmap(map);\n                    this.unpin_unused(&pages);",
            "                    device.unmap(map);",
        )],
        model: "s29_cancel_while_a_worker_pins",
    },
    Mutant {
        name: "attached_without_a_worker",
        file: WORKER,
        edits: &[(
            "        Notifier::abandon(this, ticket, false);\n        return Error::Again;",
            "        return Error::Again;",
        )],
        model: "s33_worker_limit",
    },
    Mutant {
        name: "worker_place_is_kept",
        file: WORKER,
        edits: &[("        this.context.give_worker();\n        // The users", "        // The users")],
        model: "s50_last_reference_in_worker",
    },
    Mutant {
        name: "record_stays_registered",
        file: RECORD,
        edits: &[("this.space.unregister(bound.registration);", "drop(bound.registration);")],
        model: "s47_unregister_against_callback",
    },
    Mutant {
        name: "loser_stays_registered",
        file: RECORD,
        edits: &[("self.space.unregister(lost.registration);", "drop(lost.registration);")],
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
            "            Notifier::abandon_with(&this, ticket, sticky, || {\n                if !sticky {\n                    \
             this.report.store(encode(error), Store::Relaxed);\n                }\n            });",
            "            if Notifier::abandon(&this, ticket, sticky) && !sticky {\n                \
             this.report.store(encode(error), Store::Relaxed);\n            }",
        )],
        model: "s31_report_against_acquire",
    },
    Mutant {
        name: "report_asked_without_a_ticket",
        file: INSTALL,
        edits: &[
            (
                "        if let Some(error) = this.take_report() {\n            Notifier::abandon(this, ticket, false);\n            \
                 return Err(error);\n        }\n",
                "",
            ),
            (
                "        // (1) All that can be needed",
                "        if let Some(error) = this.take_report() {\n            return Err(error);\n        }\n        // (1) All",
            ),
        ],
        model: "s31_report_against_acquire",
    },
];
