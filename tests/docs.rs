//! The pages about the whole name models, scenarios and files: they must be there.
#![cfg(not(miri))]
#![allow(clippy::unwrap_used, clippy::disallowed_types, reason = "a test: it stops where something is wrong")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs" || e == "c") {
            out.push(path);
        }
    }
}

/// What is between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn page(name: &str) -> String {
    fs::read_to_string(Path::new("src/docs").join(name)).unwrap()
}

/// `s38_...`, `r1_...`, `q2_...`: a letter, digits, an underscore, a name.
fn is_check(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(['s', 'r', 'q']) else { return false };
    let rest_after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    rest_after.len() < rest.len() && rest_after.starts_with('_')
}

#[test]
fn every_model_scenario_and_subtest_that_a_page_names_exists() {
    let mut sources = Vec::new();
    for dir in ["tests", "crates", "loom-tests", "kernel/tests/user"] {
        if Path::new(dir).exists() {
            files(Path::new(dir), &mut sources);
        }
    }
    let code: String =
        sources.iter().filter(|p| !p.ends_with("docs.rs")).map(|p| fs::read_to_string(p).unwrap()).collect();
    let pages = page("protocol.md") + &page("orderings.md");
    let names: BTreeSet<&str> = quoted(&pages).filter(|name| is_check(name)).collect();
    assert!(names.len() > 40, "the pages name {} checks only", names.len());
    let gone: Vec<_> = names
        .iter()
        .filter(|name| !code.contains(&format!("fn {name}<")) && !code.contains(&format!("\"{name}\"")))
        .collect();
    assert!(gone.is_empty(), "named by a page, but gone: {gone:#?}");
    if Path::new("kernel/tests/user").exists() {
        let rows = pages.lines().filter_map(|line| line.split_once("subtest").map(|(_, after)| after));
        let gone: Vec<_> = rows
            .flat_map(quoted)
            .filter(|name| !name.contains('/') && !code.contains(&format!("\"{name}\"")))
            .collect();
        assert!(gone.is_empty(), "subtests named by a page, but gone: {gone:#?}");
    }
}

#[test]
fn every_source_file_that_a_page_names_exists() {
    for name in ["protocol.md", "orderings.md", "port_map.md"] {
        let page = page(name);
        for path in quoted(&page).filter(|q| q.contains('/') && q.ends_with(".rs")) {
            // `src/notifier/{windows,start}.rs`: one name for several.
            let all: Vec<String> = match path.split_once('{').and_then(|(a, b)| Some((a, b.split_once('}')?)))
            {
                Some((before, (names, after))) => {
                    names.split(',').map(|one| format!("{before}{one}{after}")).collect()
                }
                None => vec![path.to_owned()],
            };
            for path in all {
                let there = ["", "src/"].iter().any(|root| Path::new(&format!("{root}{path}")).exists());
                assert!(there, "{name} names {path}, which is gone");
            }
        }
    }
}
