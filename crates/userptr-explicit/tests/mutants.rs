//! The mutants: copies of this package with one line broken, each under the model that has to
//! notice it.
#![allow(missing_docs, clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What is broken, where, what stands there exactly once, what takes its place, and the model.
const MUTANTS: &[(&str, &str, &str, &str, &str)] = &[
    (
        "nobody_is_waited_for",
        "change.rs",
        "change.outcome = change.outcome.max(pending.finish());",
        "core::mem::forget(pending);",
        "s220",
    ),
    (
        "the_start_asks_nobody",
        "change.rs",
        "*slot = Some(notifier.invalidate_start(range, mode)?);",
        "notifier.open_window(range); let _ = (mode, &slot);",
        "s220",
    ),
    (
        "no_window_for_a_late_one",
        "state.rs",
        "            notifier.open_window(*range);",
        "            let _ = range;",
        "s222",
    ),
    (
        "the_end_forgets_a_late_one",
        "state.rs",
        "                Some(open.range)\n",
        "                None\n",
        "s222",
    ),
    (
        "the_end_ends_twice",
        "change.rs",
        "            unsafe { notifier.invalidate_end(*window) };",
        "            unsafe { notifier.invalidate_end(*window); notifier.invalidate_end(AddrRange::new(0x1000, 0x2000).unwrap_or(*window)) };",
        "s221",
    ),
    (
        "the_release_waits_for_no_call",
        "state.rs",
        "        if entry.calls != 0 {",
        "        if false {",
        "s223",
    ),
    ("the_last_call_wakes_nobody", "change.rs", "            self.space.wake();", "", "s223"),
];

/// A copy of the package, and what it is built with.
struct Copy {
    at: PathBuf,
    target: PathBuf,
}

impl Copy {
    /// A fresh copy of the package as it is.
    fn new() -> Self {
        let home = Path::new(env!("CARGO_MANIFEST_DIR"));
        let core = home.parent().and_then(Path::parent).unwrap();
        let base = Path::new(env!("CARGO_TARGET_TMPDIR")).join("explicit-mutants");
        let this = Self { at: base.join("copy"), target: base.join("target") };
        let _ = fs::remove_dir_all(&this.at);
        for dir in ["src", "tests", "tests/cases"] {
            fs::create_dir_all(this.at.join(dir)).unwrap();
            for entry in fs::read_dir(home.join(dir)).unwrap().map(Result::unwrap) {
                if entry.path().is_file() {
                    fs::copy(entry.path(), this.at.join(dir).join(entry.file_name())).unwrap();
                }
            }
        }
        fs::copy(home.join("README.md"), this.at.join("README.md")).unwrap();
        fs::copy(core.join("Cargo.lock"), this.at.join("Cargo.lock")).unwrap();
        let manifest = format!(
            "[package]\nname = \"userptr-explicit\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
             [features]\nstd = []\n[dependencies]\nuserptr = {{ path = {core:?}, features = [\"loom\"] }}\n\
             libc = \"0.2\"\n[dev-dependencies]\nloom = \"0.7.3\"\n[profile.test]\nopt-level = 2\n\
             [[test]]\nname = \"models\"\n"
        );
        fs::write(this.at.join("Cargo.toml"), manifest).unwrap();
        this
    }

    /// Builds it, and runs the models whose names have `model` in them. Returns whether they pass.
    fn passes(&self, model: &str) -> Result<bool, String> {
        let run = |args: &[&str]| {
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.current_dir(&self.at).env("CARGO_TARGET_DIR", &self.target);
            cargo.args(["test", "--offline", "--quiet", "--features", "std", "--test", "models"]);
            cargo.args(args).output().unwrap()
        };
        let built = run(&["--no-run"]);
        if built.status.success() {
            Ok(run(&["--", model]).status.success())
        } else {
            Err(String::from_utf8_lossy(&built.stderr).into_owned())
        }
    }

    fn break_line(&self, file: &str, line: &str, broken: &str) -> Result<(), String> {
        let file = self.at.join("src").join(file);
        let source = fs::read_to_string(&file).unwrap();
        if source.matches(line).count() != 1 {
            return Err("the line is not there exactly once: mend the row".to_owned());
        }
        fs::write(file, source.replace(line, broken)).unwrap();
        Ok(())
    }
}

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    // What is not broken passes, or a failure would say nothing.
    match Copy::new().passes("") {
        Ok(true) => {}
        Ok(false) => {
            println!("the models fail without a mutant");
            return ExitCode::FAILURE;
        }
        Err(why) => {
            println!("{why}");
            return ExitCode::FAILURE;
        }
    }
    let mut failed = 0;
    for (name, file, line, broken, model) in MUTANTS {
        if !wanted.is_empty() && !wanted.iter().any(|part| name.contains(part.as_str())) {
            continue;
        }
        let copy = Copy::new();
        let verdict = copy.break_line(file, line, broken).and_then(|()| match copy.passes(model)? {
            true => Err(format!("{model} does not notice")),
            false => Ok(()),
        });
        println!("{name:<32} {}", verdict.as_ref().err().map_or("caught", String::as_str));
        failed += usize::from(verdict.is_err());
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
