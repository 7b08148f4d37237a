//! What became of each mutant: the file `results`, one line each, and the reasons of those that
//! nothing can catch, in `equivalent`.

use crate::repair;
use crate::sites::Found;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// At most one of so many may be declared equivalent.
const EQUIVALENT: usize = 20;

const HEAD: &str = "# Written by `cargo test --features loom --test generated -- run`: file, function, change, source, verdict.";

fn path(name: &str) -> PathBuf {
    Path::new(repair::HOME).join("loom-tests/mutants/generated").join(name)
}

/// The verdict of each site.
pub fn read() -> BTreeMap<String, String> {
    let text = fs::read_to_string(path("results")).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once('\t')).map(|(key, said)| (key.into(), said.into())).collect()
}

/// Writes the verdicts of the sites that are there, in their order.
pub fn write(found: &Found, verdicts: &BTreeMap<String, String>) {
    let mut out = format!(
        "{HEAD}\n# The last run: source {:016x}. Results of earlier ones stay while their line does.\n",
        found.hash
    );
    for key in found.sites.iter().map(crate::sites::Site::key) {
        if let Some(said) = verdicts.get(&key) {
            out += &format!("{key}\t{said}\n");
        }
    }
    let new = path("results.new");
    fs::write(&new, out).unwrap();
    fs::rename(new, path("results")).unwrap();
}

/// The reasons, by site: `key <tab> the invariant`.
fn reasons() -> BTreeMap<String, String> {
    let text = fs::read_to_string(path("equivalent")).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.rsplit_once('\t')).map(|(key, why)| (key.into(), why.into())).collect()
}

/// What is wrong with the results.
pub fn check(found: &Found) -> Vec<String> {
    let (verdicts, reasons) = (read(), reasons());
    let mut wrong = Vec::new();
    let (mut caught, mut equivalent, mut untried) = (0, 0, 0);
    let keys: Vec<String> = found.sites.iter().map(crate::sites::Site::key).collect();
    for (site, key) in found.sites.iter().zip(&keys) {
        match (verdicts.get(key).map(String::as_str), reasons.get(key)) {
            (None, None) if !site.must_be_tried() => {
                println!("not tried: {key}");
                untried += 1;
            }
            (None, _) => wrong.push(format!("it must be tried, and was not: {key}")),
            (Some(by), None) if by.starts_with("caught by ") => caught += 1,
            (Some("survived"), Some(_)) => equivalent += 1,
            (Some("survived"), None) => {
                wrong.push(format!("caught by nothing, and no reason is given: {key}"))
            }
            (Some(by), Some(_)) => wrong.push(format!("a reason is given, but it was {by}: {key}")),
            (Some(by), None) => wrong.push(format!("{by}: {key}")),
        }
    }
    for key in verdicts.keys().chain(reasons.keys()).filter(|key| !keys.contains(key)) {
        wrong.push(format!("the source has no such site any more: {key}"));
    }
    if equivalent * EQUIVALENT > keys.len() {
        wrong.push(format!("{equivalent} of {} are declared equivalent: too many", keys.len()));
    }
    let text = fs::read_to_string(path("results")).unwrap_or_default();
    let tested = text.contains(&format!("source {:016x}", found.hash));
    println!(
        "{} mutants: {caught} caught, {equivalent} equivalent, {untried} not tried, {} otherwise; {}",
        keys.len(),
        keys.len() - caught - equivalent - untried,
        if tested { "the last run was of this source" } else { "the last run was of an earlier source" },
    );
    if !wrong.is_empty() {
        wrong.push("cargo test --features loom --test generated -- run".into());
    }
    wrong
}
