//! The models: every interleaving (up to the bound that each row names) of a few threads over the
//! real core on the loom host.
//!
//! `cargo test --features loom --test loom` builds this with a loom whose search is complete
//! (`run.rs`), runs every model and prints one row each; a name, or a part of one, runs those that
//! match. `--rows` prints what each row has to say.
//! `cargo test --features loom --test models -- --search=stock` runs them on the registry's loom,
//! which misses interleavings.
//!
//! Their mutants are in `loom-tests/mutants`: the same models over a core with one guarded line
//! broken.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "../tests/cases/mod.rs"]
mod cases;
/// The cache's own sources, over the core that is tested here.
#[path = "../crates/userptr-cache/src/cache/mod.rs"]
#[allow(dead_code, unused_imports, reason = "the whole package")]
mod registration_cache;
mod explore;
mod harness;
mod litmus;
#[path = "mutants/table/mod.rs"]
mod table;
mod models;

fn main() -> std::process::ExitCode {
    // The programs whose every outcome is known, before the models: is the search complete?
    if let Some(search) = harness::search()
        && let Err(why) = litmus::check(search)
    {
        println!("{why}   FAILED");
        return std::process::ExitCode::FAILURE;
    }
    harness::run(models::ALL)
}
