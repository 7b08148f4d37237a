//! The copy of this package in which every mutant is built, to be chosen at run time.

use crate::repair::{self, write_if_changed};
use crate::sites::Found;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// What of the package the copy has beside the core.
const FOLDERS: [&str; 5] =
    ["loom-tests", "tests", "miri-tests", "crates/userptr-sim", "crates/userptr-cache/src"];

/// Writes the copy, builds it, and returns each test's program.
pub fn build(found: &Found) -> Result<BTreeMap<String, PathBuf>, String> {
    let (home, copy) = (Path::new(repair::HOME), repair::target().join("generated-mutants"));
    for folder in FOLDERS {
        crate::mirror(&home.join(folder), &copy.join(folder));
    }
    for (name, text) in &found.files {
        let text = if name == "src/lib.rs" { format!("{text}\nmod mutants;\n") } else { text.clone() };
        write_if_changed(&copy.join(name), &text);
    }
    write_if_changed(&copy.join("src/mutants.rs"), include_str!("chosen.rs"));
    // The documentation's text is included by the source.
    for entry in fs::read_dir(home.join("src/docs")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            let to = copy.join("src/docs").join(path.file_name().unwrap());
            write_if_changed(&to, &fs::read_to_string(&path).unwrap());
        }
    }
    let read = |name: &str| fs::read_to_string(home.join(name)).unwrap_or_default();
    write_if_changed(&copy.join("README.md"), &read("README.md"));
    write_if_changed(&copy.join("Cargo.toml"), &(manifest(&read("Cargo.toml")) + &repair::prepare()?));
    let sim = copy.join("crates/userptr-sim/Cargo.toml");
    write_if_changed(&sim, &quiet(&fs::read_to_string(&sim).unwrap()));
    if !copy.join("Cargo.lock").exists() {
        write_if_changed(&copy.join("Cargo.lock"), &read("Cargo.lock"));
    }
    let out = repair::cargo()
        .current_dir(&copy)
        .env("CARGO_TARGET_DIR", repair::target())
        .args([
            "test",
            "--offline",
            "--features",
            "loom",
            "--no-run",
            "--message-format=json-render-diagnostics",
        ])
        .args(["--test", "models", "--test", "scenarios"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&out.stdout);
    if !out.status.success() {
        return Err("the copy does not build".into());
    }
    let mut programs = BTreeMap::new();
    for line in said.lines() {
        if let (Some(name), Some(program)) = (field(line, "\"name\":\""), field(line, "\"executable\":\"")) {
            programs.insert(name.to_owned(), PathBuf::from(program));
        }
    }
    Ok(programs)
}

/// The last field of this name: that of the target.
fn field<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.rsplit_once(key)?.1.split('"').next()
}

/// The root manifest for the copy: the tests that look for mutants, and no lints.
fn manifest(source: &str) -> String {
    let mut out = String::new();
    for section in source.split_inclusive("\n\n") {
        let head = section.lines().find(|line| line.starts_with('[')).unwrap_or_default();
        let keep = match head {
            "[workspace]" => {
                out += "[workspace]\nmembers = [\".\", \"crates/userptr-sim\"]\nresolver = \"3\"\n\n";
                false
            }
            "[[test]]" => section.contains("\"models\"") || section.contains("\"scenarios\""),
            "[[example]]" | "[profile.bench]" | "[lints.rust]" | "[lints.clippy]" | "[lints.rustdoc]" => {
                false
            }
            _ => true,
        };
        if keep {
            out += section;
        }
    }
    let out =
        out.replace("autobenches = false", "autobenches = false\nautotests = false\nautoexamples = false");
    quiet(&out) + "\n\n"
}

/// The manifest with no lints.
fn quiet(manifest: &str) -> String {
    let mut out = String::new();
    let mut keep = true;
    for line in manifest.lines() {
        if line.starts_with('[') {
            keep = !line.starts_with("[lints.");
        }
        if keep {
            out += line;
            out.push('\n');
        }
    }
    out + "\n[lints.rust]\nwarnings = \"allow\"\n"
}
