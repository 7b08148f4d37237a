//! The generated mutants: every ordering and fence of the core one step weaker, every wake-up and
//! every wait removed, every check under a lock and every count wrong. The sites come from the
//! source (`sites.rs`).
//!
//! `cargo test --features loom --test generated` compares the sites with `results`, which says by
//! what each mutant was caught. With `-- run` it builds one copy of the core with all mutants in
//! it, chosen at run time, tries those that have no result, and writes what it finds; `--shard 1/4`
//! takes a part of them, `--again` those that have a result, too, a word those whose line has it.
//! `--by s260` tries those that are not caught yet on the tests of that name alone, in minutes.
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

mod copy;
mod results;
#[path = "../../repair.rs"]
mod repair;
mod run;
mod sites;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let found = match sites::find(Path::new(repair::HOME)) {
        Ok(found) => found,
        Err(why) => {
            println!("{why}   FAILED");
            return ExitCode::FAILURE;
        }
    };
    if args.iter().any(|arg| arg == "--list") {
        println!("results: test");
        return ExitCode::SUCCESS;
    }
    if args.first().is_some_and(|arg| arg == "run") {
        return run::run(&found, &args);
    }
    if args.first().is_some_and(|arg| arg == "sites") {
        for (i, site) in found.sites.iter().enumerate() {
            println!("{}\t{}", i + 1, site.key());
        }
        return ExitCode::SUCCESS;
    }
    let wrong = results::check(&found);
    for line in &wrong {
        println!("{line}");
    }
    let verdict = if wrong.is_empty() { "ok. 1 passed; 0" } else { "FAILED. 0 passed; 1" };
    println!("\ntest result: {verdict} failed; 0 ignored; 0 measured; 0 filtered out\n");
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Makes `to` a copy of the text files of `from`, and nothing more.
fn mirror(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(to).unwrap() {
        let path = entry.unwrap().path();
        if !from.join(path.file_name().unwrap()).exists() {
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
    }
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let into = to.join(path.file_name().unwrap());
        if path.is_dir() {
            mirror(&path, &into);
        } else if let Ok(text) = fs::read_to_string(&path) {
            repair::write_if_changed(&into, &text);
        }
    }
}
