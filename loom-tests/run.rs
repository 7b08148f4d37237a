//! `cargo test --features loom --test loom`: the models, on a loom whose search is complete.
//!
//! Shows the hole in the search of the registry's loom, writes a copy of it without the hole below
//! the target folder, builds the models (`main.rs`) with that copy, and runs them. A name, or a
//! part of one, runs the models that match.
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

mod explore;
#[allow(dead_code, reason = "the other search is for `main.rs`")]
mod litmus;
mod repair;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(why) = std::env::var_os("USERPTR_SKIP_MODELS") {
        println!("skipped: the models: {}", why.to_string_lossy());
        return ExitCode::SUCCESS;
    }
    if let Err(why) = litmus::check(litmus::Search::Stock) {
        println!("{why}   FAILED");
        return ExitCode::FAILURE;
    }
    let patch = match repair::prepare() {
        Ok(patch) => patch,
        Err(why) => {
            println!("loom cannot be repaired: {why}   FAILED");
            return ExitCode::FAILURE;
        }
    };
    let package = repair::target().join("models");
    let source = fs::read_to_string(Path::new(repair::HOME).join("Cargo.toml")).unwrap();
    repair::write_if_changed(&package.join("Cargo.toml"), &(manifest(&source) + &patch));
    let lock = fs::read_to_string(Path::new(repair::HOME).join("Cargo.lock")).unwrap_or_default();
    // Cargo edits the copy, and reads the repository's own through this.
    if fs::read_to_string(package.join("Cargo.lock.source")).ok().as_ref() != Some(&lock) {
        fs::write(package.join("Cargo.lock"), &lock).unwrap();
        fs::write(package.join("Cargo.lock.source"), &lock).unwrap();
    }
    let status = repair::cargo()
        .current_dir(&package)
        .env("CARGO_TARGET_DIR", repair::target())
        .args(["test", "--quiet", "--offline", "--features", "loom", "--test", "models", "--"])
        .arg("--search=repaired")
        .args(std::env::args_os().skip(1))
        .status()
        .unwrap();
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A package of the same sources, whose loom can be another one without a change of this package's
/// lock file.
fn manifest(source: &str) -> String {
    let section = |head: &str| source.split("\n\n").find(|s| s.starts_with(head)).unwrap_or_default();
    let edition = source.lines().find(|line| line.starts_with("edition = ")).unwrap_or_default();
    let at = |path: &str| Path::new(repair::HOME).join(path).display().to_string();
    format!(
        "[package]\nname = \"userptr-models\"\nversion = \"0.0.0\"\n{edition}\npublish = false\n\n\
         [workspace]\n\n{}\n\n{}\n\n\
         [lib]\nname = \"userptr\"\npath = {:?}\nbench = false\n\n\
         [[test]]\nname = \"models\"\npath = {:?}\nharness = false\nrequired-features = [\"loom\"]\n\n{}\n\n",
        section("[features]"),
        section("[dependencies]"),
        at("src/lib.rs"),
        at("loom-tests/main.rs"),
        source.split("\n\n").find(|s| s.contains("[profile.test]")).unwrap_or_default(),
    )
}
