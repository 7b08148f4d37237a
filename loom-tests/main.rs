//! The models: every interleaving (up to the bound that each row names) of a few threads over the real core on the loom host.
//!
//! `cargo test --features loom --test loom` runs them all and prints one row each; a name, or a part of one, runs those that match.
//! Their mutants are in `loom-tests/mutants`: the same models over a core with one guarded line broken.
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
mod harness;
#[path = "mutants/table/mod.rs"]
mod table;
mod models;

fn main() -> std::process::ExitCode {
    harness::run(models::ALL)
}
