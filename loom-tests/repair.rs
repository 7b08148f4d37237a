//! loom with a complete search: a copy of the registry's loom, with `loom/complete-search.patch`
//! applied.
//!
//! loom 0.7.3 keeps one last access of each atomic, and looks for a race with that one only. A
//! thread that loads and then writes hides the loads of all others behind its own: interleavings
//! are missed (tokio-rs/loom#392). `litmus.rs` shows it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The version that the repair was written for.
const VERSION: &str = "0.7.3";

/// The repair.
const PATCH: &str = include_str!("loom/complete-search.patch");

/// Where this package lies.
pub const HOME: &str = env!("CARGO_MANIFEST_DIR");

/// The target folder that this very test was built into, so that dependencies are shared.
pub fn target() -> PathBuf {
    // target/debug/deps/loom-…
    std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}

/// The cargo that runs this test.
pub fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.stdin(Stdio::null());
    cargo
}

/// Writes the repaired copy, and returns the section of a workspace's manifest that puts it in the
/// place of loom.
pub fn prepare() -> Result<String, String> {
    let stock = stock()?;
    let version = format!("version = \"{VERSION}\"");
    let manifest = fs::read_to_string(stock.join("Cargo.toml")).map_err(|e| e.to_string())?;
    if !manifest.lines().any(|line| line == version) {
        return Err(format!("{} is not loom {VERSION}, which the repair was written for", stock.display()));
    }
    let mut files = BTreeMap::new();
    read(&stock, &stock, &mut files);
    apply(PATCH, &mut files)?;
    let copy = target().join("loom-complete-search").join(VERSION);
    for (path, text) in &files {
        write_if_changed(&copy.join(path), text);
    }
    Ok(format!("[patch.crates-io]\nloom = {{ path = {:?} }}\n", copy.display().to_string()))
}

/// The source of the loom that this package depends on.
fn stock() -> Result<PathBuf, String> {
    let run = |command: &mut Command| -> Result<String, String> {
        let out = command.output().map_err(|e| format!("{command:?}: {e}"))?;
        if out.status.success() {
            Ok(String::from_utf8_lossy(&out.stdout).into_owned())
        } else {
            Err(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr)))
        }
    };
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = run(Command::new(rustc).arg("-vV"))?;
    // Packages of other machines are perhaps not there.
    let host = said.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc names no host")?;
    let said = run(cargo().current_dir(HOME).args([
        "metadata",
        "--format-version=1",
        "--offline",
        "--locked",
        "--no-default-features",
        "--features=loom",
        "--filter-platform",
        host,
    ]))?;
    let package = said.find("\"name\":\"loom\",\"version\":").ok_or("cargo metadata names no loom")?;
    let rest = said.get(package..).unwrap_or_default();
    const KEY: &str = "\"manifest_path\":\"";
    let path =
        rest.find(KEY).and_then(|at| rest.get(at + KEY.len()..)).and_then(|path| path.split('"').next());
    let manifest =
        PathBuf::from(path.ok_or("cargo metadata names no manifest of loom")?.replace("\\\\", "\\"));
    Ok(manifest.parent().ok_or("the manifest of loom has no folder")?.to_owned())
}

/// Reads every text file below `folder`.
fn read(root: &Path, folder: &Path, files: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(root, &path, files);
        } else if path.extension().is_some_and(|e| e == "rs") || path.ends_with("Cargo.toml") {
            files.insert(path.strip_prefix(root).unwrap().to_owned(), fs::read_to_string(&path).unwrap());
        }
    }
}

/// Applies a unified diff. Every line that it keeps or removes must be there, at its number: no
/// fuzz, no offset.
fn apply(patch: &str, files: &mut BTreeMap<PathBuf, String>) -> Result<(), String> {
    let mut lines = patch.lines().peekable();
    while let Some(line) = lines.next() {
        let Some(path) = line.strip_prefix("+++ b/") else { continue };
        let text = files.get_mut(Path::new(path)).ok_or_else(|| format!("loom has no {path}"))?;
        let old: Vec<&str> = text.lines().collect();
        let (mut new, mut at) = (Vec::new(), 0);
        while let Some(hunk) = lines.next_if(|line| line.starts_with("@@ -")) {
            let start: usize = hunk
                .strip_prefix("@@ -")
                .and_then(|rest| rest.split([',', ' ']).next())
                .and_then(|number| number.parse().ok())
                .ok_or_else(|| format!("not a hunk: {hunk}"))?;
            new.extend_from_slice(
                old.get(at..start - 1).ok_or_else(|| format!("{path} ends before {hunk}"))?,
            );
            at = start - 1;
            while let Some(line) = lines.next_if(|line| line.starts_with([' ', '-', '+'])) {
                if line.starts_with("--- a/") {
                    break;
                }
                let (sign, rest) = line.split_at(1);
                if sign != "+" {
                    if old.get(at) != Some(&rest) {
                        return Err(format!(
                            "loom's {path} has not the line that the repair was written for: it is {:?} in line {}, and was {rest:?}",
                            old.get(at).unwrap_or(&"the end"),
                            at + 1,
                        ));
                    }
                    at += 1;
                }
                if sign != "-" {
                    new.push(rest);
                }
            }
        }
        new.extend_from_slice(&old[at..]);
        let done = new.join("\n") + "\n";
        *text = done;
    }
    Ok(())
}

/// Leaves the time stamp alone when nothing changed, so that nothing is built again.
pub fn write_if_changed(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return;
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}
