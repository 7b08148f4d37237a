//! The mutants: the real core with one guarded line broken, under the model that has to catch it.
//!
//! Each mutant is a textual edit of one source file. All broken copies are built together, in a
//! workspace below the target folder, with a loom whose search is complete (`repair.rs`), and the
//! named model runs on each. A mutant that its model does not catch, or whose line is no longer
//! there, fails.
//!
//! `cargo test --features loom --test mutants` runs them all; a name, or a part of one, runs those
//! that match.
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

#[path = "../repair.rs"]
mod repair;
mod table;

use repair::write_if_changed;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;
use table::Mutant;

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if std::env::args().any(|arg| arg == "--list") {
        for mutant in table::mutants() {
            println!("{}: test", mutant.name);
        }
        return ExitCode::SUCCESS;
    }
    if let Some(why) = std::env::var_os("USERPTR_SKIP_MODELS") {
        println!("skipped: {} mutants: {}", table::mutants().count(), why.to_string_lossy());
        return ExitCode::SUCCESS;
    }
    let wanted = |m: &&Mutant| names.is_empty() || names.iter().any(|n| m.name.contains(n.as_str()));
    let mutants: Vec<&Mutant> = table::mutants().filter(wanted).collect();
    let home = Workspace::find();
    let mut failed = 0;
    let mut built = Vec::new();
    for mutant in &mutants {
        match home.write(mutant) {
            Ok(()) => built.push(*mutant),
            Err(why) => {
                println!("{:<36} {why}   FAILED", mutant.name);
                failed += 1;
            }
        }
    }
    if let Err(why) = home.write_root(&built) {
        println!("loom cannot be repaired: {why}   FAILED");
        return ExitCode::FAILURE;
    }
    println!("building {} broken copies of the core", built.len());
    if let Err(said) = home.build() {
        println!("{said}\na broken copy does not build: mend its edit in loom-tests/mutants/table");
        return ExitCode::FAILURE;
    }
    println!("{:<36} {:<50} {:>8}  what the model said", "mutant", "model", "seconds");
    for mutant in built {
        let begun = Instant::now();
        let verdict = home.run(mutant);
        let caught = verdict.is_ok();
        let (Ok(said) | Err(said)) = verdict;
        println!(
            "{:<36} {:<50} {:>8.1}  {said}{}",
            mutant.name,
            mutant.model,
            begun.elapsed().as_secs_f64(),
            if caught { "" } else { "   FAILED" },
        );
        let _ = std::io::stdout().flush();
        failed += usize::from(!caught);
    }
    println!(
        "\ntest result: {}. {} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out\n",
        if failed == 0 { "ok" } else { "FAILED" },
        mutants.len() - failed,
        table::mutants().count() - mutants.len(),
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where the copies lie: below the target folder that this very test was built into, so that the
/// dependencies are shared.
struct Workspace {
    source: PathBuf,
    target: PathBuf,
    root: PathBuf,
}

impl Workspace {
    fn find() -> Self {
        let exe = std::env::current_exe().unwrap();
        // target/debug/deps/mutants-…
        let target = exe.ancestors().nth(3).unwrap().to_owned();
        let root = target.join("mutants");
        Self { source: PathBuf::from(env!("CARGO_MANIFEST_DIR")), target, root }
    }

    /// Writes the copy of one mutant.
    fn write(&self, mutant: &Mutant) -> Result<(), String> {
        let copy = self.root.join(mutant.name);
        for folder in ["src", "loom-tests", "tests/cases", "crates/userptr-cache/src/cache"] {
            mirror(&self.source.join(folder), &copy.join(folder));
        }
        let broken = copy.join(mutant.file);
        let mut text = fs::read_to_string(self.source.join(mutant.file)).map_err(|e| e.to_string())?;
        for (from, to) in mutant.edits {
            if text.matches(from).count() != 1 {
                return Err(format!(
                    "{} has this line {} times, not once: {from}",
                    mutant.file,
                    text.matches(from).count()
                ));
            }
            text = text.replace(from, to);
        }
        write_if_changed(&broken, &text);
        let manifest = fs::read_to_string(self.source.join("Cargo.toml")).unwrap();
        write_if_changed(&copy.join("Cargo.toml"), &reduced(&manifest, mutant.name));
        Ok(())
    }

    fn write_root(&self, mutants: &[&Mutant]) -> Result<(), String> {
        let members: Vec<String> = mutants.iter().map(|m| format!("{:?}", m.name)).collect();
        // Dependencies as in the outer build, to share them; the copies unoptimised, because they
        // fail early.
        let text = format!(
            "[workspace]\nresolver = \"3\"\nmembers = [{}]\n\n{}\n\n{}\n[profile.test]\nopt-level = 0\ndebug = false\nincremental = false\n\n\
             [profile.test.package.\"*\"]\nopt-level = 2\ndebug = true\n",
            members.join(", "),
            section(&fs::read_to_string(self.source.join("Cargo.toml")).unwrap(), "[workspace.package]"),
            repair::prepare()?,
        );
        write_if_changed(&self.root.join("Cargo.toml"), &text);
        let lock = fs::read_to_string(self.source.join("Cargo.lock")).unwrap_or_default();
        if !self.root.join("Cargo.lock").exists() {
            write_if_changed(&self.root.join("Cargo.lock"), &lock);
        }
        Ok(())
    }

    fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .current_dir(&self.root)
            .env("CARGO_TARGET_DIR", &self.target)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .args(["test", "--offline", "--features", "loom", "--test", "models"]);
        cargo
    }

    fn build(&self) -> Result<(), String> {
        let out = self.cargo().args(["--workspace", "--no-run"]).output().unwrap();
        if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
    }

    /// `Ok` with the model's complaint, `Err` if it had none, or the wrong one.
    fn run(&self, mutant: &Mutant) -> Result<String, String> {
        let package = format!("userptr-mutant-{}", mutant.name);
        let out = self
            .cargo()
            .env("USERPTR_MODEL_SECONDS", "60")
            // A use after free meets a pattern, and not by luck what was there before.
            .env("MALLOC_PERTURB_", "165")
            .args(["-p", &package, "--", "--exact", mutant.model])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stdout);
        if said.contains("1 passed") {
            return Err("NOT CAUGHT".into());
        }
        // It says nothing about the broken line: the copies are not optimised, and need more stack.
        if said.contains("overflowed its stack") {
            return Err("the model overflowed its stack".into());
        }
        if said.contains("did not end") {
            return Err("the model did not end".into());
        }
        if !said.contains("0 passed; 1 failed") {
            return Err(format!("the model did not run: {said}{}", String::from_utf8_lossy(&out.stderr)));
        }
        Ok(complaint(&said))
    }
}

/// The first line of a panic message in what the model said, or what its census found.
fn complaint(said: &str) -> String {
    let mut lines = said.lines();
    while let Some(line) = lines.next() {
        if line.contains("panicked at")
            && let Some(message) = lines.next()
        {
            return message.chars().take(90).collect();
        }
    }
    let told = |line: &&str| line.contains("signal") || line.starts_with("this outcome");
    said.lines().find(told).unwrap_or("failed").chars().take(90).collect()
}

/// One section of a manifest, with its head.
fn section<'a>(manifest: &'a str, head: &str) -> &'a str {
    manifest.split("\n\n").find(|section| section.starts_with(head)).unwrap()
}

/// The manifest of a copy: the library and the models only.
fn reduced(manifest: &str, name: &str) -> String {
    let mut out = String::new();
    let mut keep = true;
    for section in manifest.split_inclusive("\n\n") {
        let head = section.trim_start().lines().find(|l| l.starts_with('[')).unwrap_or_default();
        keep = match head {
            "[package]" | "[features]" | "[dependencies]" | "[lib]" => true,
            "[[test]]" => section.contains("\"models\""),
            "" => keep,
            _ => false,
        };
        if keep {
            out.push_str(section);
        }
    }
    let out = out.replace("name = \"userptr\"", &format!("name = \"userptr-mutant-{name}\""));
    let out =
        out.replace("bench = false", "name = \"userptr\"\nbench = false\ntest = false\ndoctest = false");
    // Not by flags: the dependencies are those of the models (`run.rs`), and built once.
    let quiet = ["\n[lints.rust]", "warnings = \"allow\"\n"];
    out.lines().filter(|l| !l.starts_with("readme")).chain(quiet).collect::<Vec<_>>().join("\n")
}

/// Makes `to` a copy of `from`, and nothing more.
fn mirror(from: &Path, to: &Path) {
    let Ok(entries) = fs::read_dir(from) else { return };
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(to).unwrap() {
        let path = entry.unwrap().path();
        let source = from.join(path.file_name().unwrap());
        if path.is_dir() && !source.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        } else if !path.is_dir() && !source.is_file() {
            fs::remove_file(&path).unwrap();
        }
    }
    for entry in entries {
        let path = entry.unwrap().path();
        let into = to.join(path.file_name().unwrap());
        if path.is_dir() {
            mirror(&path, &into);
        } else {
            write_if_changed(&into, &fs::read_to_string(&path).unwrap());
        }
    }
}
