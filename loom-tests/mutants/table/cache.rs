//! The registration cache.

use super::Mutant;

const EVICT: &str = "crates/userptr-cache/src/cache/evict.rs";
const LOOKUP: &str = "crates/userptr-cache/src/cache/lookup.rs";
const MISS: &str = "crates/userptr-cache/src/cache/miss.rs";
const SET: &str = "crates/userptr-cache/src/cache/set.rs";
const SLOTS: &str = "crates/userptr-cache/src/cache/slots.rs";

pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "cache_closes_without_a_fence",
        file: EVICT,
        edits: &[("        PlatformOf::<D>::fence();\n", "")],
        model: "s206_hit_against_eviction",
    },
    Mutant {
        name: "cache_finds_without_a_fence",
        file: LOOKUP,
        edits: &[(
            "            PlatformOf::<D>::fence();\n            if self.index.is_current",
            "            if self.index.is_current",
        )],
        model: "s206_hit_against_eviction",
    },
    Mutant {
        name: "cache_trusts_an_old_version",
        file: LOOKUP,
        edits: &[("if self.index.is_current(version) {", "if true {")],
        model: "s206_hit_against_eviction",
    },
    Mutant {
        name: "cache_empties_what_is_used",
        file: EVICT,
        edits: &[(
            "            |slot| self.slots.is_unused(slot),\n            // SAFETY: closed",
            "            |_| true,\n            // SAFETY: closed",
        )],
        model: "s206_hit_against_eviction",
    },
    Mutant {
        name: "cache_hold_ends_relaxed",
        file: SLOTS,
        edits: &[("self.count.fetch_sub(1, Rmw::Release);", "self.count.fetch_sub(1, Rmw::Relaxed);")],
        model: "s206_hit_against_eviction",
    },
    Mutant {
        name: "cache_handle_without_its_generation",
        file: LOOKUP,
        edits: &[("self.slots.generation(handle.slot) != handle.generation", "false")],
        model: "s206_handle_against_eviction",
    },
    Mutant {
        name: "cache_registers_twice",
        file: MISS,
        edits: &[("if let Some(slot) = table.filling(range, access) {", "if let Some(slot) = None {")],
        model: "s195_two_misses",
    },
    Mutant {
        name: "cache_wakes_nobody",
        file: MISS,
        edits: &[("unsafe { self.filled.wake_all() };", "let _ = &self.filled;")],
        model: "s195_two_misses",
    },
    Mutant {
        name: "cache_set_of_some",
        file: SET,
        edits: &[(
            "                            self.retire(hold, generation);\n                            return Ok(false);",
            "                            self.retire(hold, generation);\n                            return Ok(true);",
        )],
        model: "s202_set_against_invalidate",
    },
];
