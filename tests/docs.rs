//! The pages about the whole, and comments, name models, scenarios, rules, edges and files: they
//! must be there.
#![cfg(not(miri))]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_types,
    clippy::arithmetic_side_effects,
    reason = "a test: it stops where something is wrong"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Every file below `dir` whose name ends in one of `endings`.
fn files(dir: &Path, endings: &[&str], out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("target") {
                files(&path, endings, out);
            }
        } else if path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending)) {
            out.push(path);
        }
    }
}

fn all_files(dirs: &[&str], endings: &[&str]) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for dir in dirs {
        files(Path::new(dir), endings, &mut out);
    }
    out.retain(|path| path != Path::new("tests/docs.rs"));
    assert!(out.len() > 5, "{dirs:?}: {out:?}");
    out
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|why| format!("{}: {why}", path.display()))
}

/// The pages and documents. The folder `kernel` is not in the published package.
fn pages() -> Vec<PathBuf> {
    let mut pages: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md", "tests/README.md"]
            .map(PathBuf::from)
            .into();
    files(Path::new("src/docs"), &["md"], &mut pages);
    assert!(pages.iter().all(|page| page.exists()), "a document is gone");
    pages
}

/// What is between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The comments of a source file, each line with its number.
fn comments(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().filter_map(|(n, line)| Some((n + 1, line.split_once("//")?.1)))
}

/// The words of a text: letters, digits and underscores.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// `s38_...`, `r1_...`, `q2_...`: a letter, digits, an underscore, a name.
fn is_check(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(['s', 'r', 'q']) else { return false };
    let after = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    after.len() < rest.len() && after.len() > 2 && after.starts_with('_')
}

/// The numbers that follow `word` or its plural: in `rules 2 and 5`, `scenarios 69 to 76` and
/// `rule 9`.
fn numbers_after(text: &str, word: &str) -> BTreeSet<u32> {
    let text = text.replace("](", " ]( ").replace(['[', ','], " ");
    let tokens: Vec<&str> = text.split_whitespace().collect();
    let number = |token: &str| {
        let digits: &str = token.trim_end_matches(|c: char| !c.is_ascii_digit());
        digits.parse::<u32>().ok()
    };
    let plural = format!("{word}s");
    let mut found = BTreeSet::new();
    for (at, token) in tokens.iter().enumerate() {
        let token = token.trim_start_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
        if token != *word && token != plural {
            continue;
        }
        for next in tokens.iter().skip(at + 1) {
            match number(next) {
                Some(n) if next.starts_with(|c: char| c.is_ascii_digit()) => {
                    found.insert(n);
                }
                _ if token == plural && matches!(*next, "and" | "to") => {}
                _ => break,
            }
        }
    }
    found
}

/// The numbers of the anchors `<a id="prefix-N">` of a page.
fn anchors(page: &str, prefix: &str) -> BTreeSet<u32> {
    let start = format!("<a id=\"{prefix}-");
    page.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect()
}

/// Fails for each number that a comment of the sources or a page names and that is not in `there`.
fn all_named_are_in(word: &str, there: &BTreeSet<u32>) {
    let mut gone = Vec::new();
    let mut named = 0;
    let dirs =
        ["src", "tests", "crates", "loom-tests", "miri-tests", "kernel/userptr-kernel", "kernel/samples"];
    for path in all_files(&dirs, &["rs", "c"]) {
        let text = read(&path);
        for (line, comment) in comments(&text) {
            let numbers = numbers_after(comment, word);
            named += numbers.len();
            gone.extend(numbers.difference(there).map(|n| format!("{}:{line}: {word} {n}", path.display())));
        }
    }
    for page in pages() {
        let numbers = numbers_after(&read(&page), word);
        named += numbers.len();
        gone.extend(numbers.difference(there).map(|n| format!("{}: {word} {n}", page.display())));
    }
    assert!(named > 5, "only {named} times is a {word} named");
    assert!(gone.is_empty(), "named, but nowhere said what it is: {gone:#?}");
}

#[test]
fn every_rule_that_is_named_has_an_anchor() {
    let rules = anchors(&read("src/docs/protocol.md"), "rule");
    assert_eq!(rules, (1..=rules.len() as u32).collect(), "the rules are numbered without gaps");
    assert!(rules.len() >= 41);
    all_named_are_in("rule", &rules);
}

#[test]
fn every_scenario_that_is_named_has_an_entry() {
    all_named_are_in("scenario", &anchors(&read("src/docs/scenarios.md"), "scenario"));
}

/// A link into a page leads to an anchor.
#[test]
fn every_link_to_a_rule_or_a_scenario_has_its_anchor() {
    let mut texts = all_files(&["src", "crates"], &["rs", "md"]);
    texts.extend(pages());
    let mut links = 0;
    for (prefix, page) in [("rule", "src/docs/protocol.md"), ("scenario", "src/docs/scenarios.md")] {
        let there = anchors(&read(page), prefix);
        for path in &texts {
            let text = read(path);
            for rest in text.split(&format!("#{prefix}-")).skip(1) {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                // `#rule-N` in an explanation.
                let Ok(number) = digits.parse() else { continue };
                links += 1;
                assert!(there.contains(&number), "{}: #{prefix}-{number}", path.display());
            }
        }
    }
    assert!(links > 40, "{links} links only");
}

/// The edges that a comment names are in the page of the orderings, and each edge of the page is
/// named by a comment.
#[test]
fn every_edge_is_on_the_page_and_in_the_sources() {
    let is_edge = |word: &&str| {
        // Not `E0308`, which is the compiler's.
        word.strip_prefix('E')
            .is_some_and(|n| (1..=2).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let page = read("src/docs/orderings.md");
    let rows: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next()).filter(is_edge).collect();
    assert!(rows.len() >= 16, "{rows:?}");
    let mut named = BTreeSet::new();
    for path in all_files(&["src"], &["rs"]) {
        let text = read(&path);
        for (line, comment) in comments(&text) {
            for edge in words(comment).filter(is_edge) {
                assert!(rows.contains(edge), "{}:{line}: {edge}", path.display());
                named.insert(edge.to_owned());
            }
        }
    }
    let silent: Vec<_> = rows.iter().filter(|row| !named.contains(**row)).collect();
    assert!(silent.is_empty(), "edges that no comment of the sources names: {silent:?}");
}

#[test]
fn every_model_scenario_and_subtest_that_a_page_names_exists() {
    if !Path::new("crates").exists() {
        println!("skipped: the published package has not all of the tests that the pages name");
        return;
    }
    let dirs = ["tests", "crates", "loom-tests", "miri-tests", "kernel/tests/user", "src"];
    let mut code = String::new();
    for path in all_files(&dirs, &["rs", "c"]) {
        // A mutant names a model and is none.
        if path.starts_with("loom-tests/mutants") {
            continue;
        }
        // Without comments: a name in one proves nothing.
        for line in read(&path).lines() {
            code += line.split("//").next().unwrap();
            code.push('\n');
        }
    }
    let there: BTreeSet<&str> = words(&code).collect();
    let all: String = pages().iter().map(read).collect();
    let named: BTreeSet<&str> = quoted(&all).filter(|name| is_check(name)).collect();
    assert!(named.len() > 150, "the pages name {} checks only", named.len());
    let gone: Vec<_> = named.iter().filter(|name| !there.contains(**name)).collect();
    assert!(gone.is_empty(), "named by a page, but gone: {gone:#?}");
    // The number of a test leads to its text: `s40_s77_...` has two, `s17_to_s21_...` a first and a
    // last.
    let scenarios = anchors(&read("src/docs/scenarios.md"), "scenario");
    let numbers = there.iter().filter(|name| name.starts_with('s') && is_check(name)).flat_map(|name| {
        name.split('_').map_while(|part| part.strip_prefix('s')?.parse().ok().map(|n: u32| (*name, n)))
    });
    let unsaid: Vec<_> = numbers.filter(|(_, number)| !scenarios.contains(number)).collect();
    assert!(unsaid.is_empty(), "tests of scenarios that the page does not have: {unsaid:?}");
    if Path::new("kernel/tests/user").exists() {
        let pages = read("src/docs/protocol.md") + &read("src/docs/orderings.md");
        let rows = pages.lines().filter_map(|line| line.split_once("subtest").map(|(_, after)| after));
        let gone: Vec<_> = rows
            .flat_map(quoted)
            .filter(|name| !name.contains('/') && !code.contains(&format!("\"{name}\"")))
            .collect();
        assert!(gone.is_empty(), "subtests named by a page, but gone: {gone:#?}");
    }
}

/// Whether a quoted text is the path of a file or folder of this repository.
fn is_path(text: &str) -> bool {
    let roots =
        ["src/", "tests/", "crates/", "kernel/", "loom-tests/", "miri-tests/", "benches/", "examples/"];
    let plain = text.chars().all(|c| c.is_alphanumeric() || "/_-.{},".contains(c));
    plain
        && (roots.iter().any(|root| text.starts_with(root)) || (text.contains('/') && text.ends_with(".rs")))
}

/// `src/notifier/{windows,hull}.rs` is one name for two.
fn each_path(path: &str) -> Vec<String> {
    match path.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (names, after))) => {
            names.split(',').map(|one| format!("{before}{one}{after}")).collect()
        }
        None => vec![path.to_owned()],
    }
}

#[test]
fn every_path_that_a_page_or_a_comment_names_exists() {
    let mut gone = Vec::new();
    let mut named = 0;
    let mut look = |from: &Path, text: &str| {
        for path in quoted(text).filter(|text| is_path(text)).flat_map(each_path) {
            // The kernel's packages and the other ones are not in the published package.
            if ["kernel", "crates"].iter().any(|dir| path.starts_with(dir) && !Path::new(dir).exists()) {
                continue;
            }
            named += 1;
            let here = from.parent().unwrap();
            // From the root, from `src`, or from the file that names it.
            if ![Path::new(""), Path::new("src"), here].iter().any(|root| root.join(&path).exists()) {
                gone.push(format!("{}: {path}", from.display()));
            }
        }
    };
    for page in pages() {
        let text = read(&page);
        look(&page, &text);
    }
    for path in all_files(&["src", "tests", "loom-tests", "miri-tests", "crates/userptr-sim"], &["rs"]) {
        // Its examples are of no room.
        if path == Path::new("tests/rooms.rs") {
            continue;
        }
        for (_, comment) in comments(&read(&path)) {
            look(&path, comment);
        }
    }
    assert!(named > 100, "{named} paths only");
    assert!(gone.is_empty(), "named, but gone: {gone:#?}");
}

/// The links of documents that are files: `[text](path)` and `[name]: path`.
#[test]
fn every_link_to_a_file_leads_there() {
    let mut links = 0;
    for page in pages() {
        let text = read(&page);
        let inline = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let named =
            text.lines().filter_map(|line| line.strip_prefix('[')?.split_once("]: ").map(|(_, to)| to));
        for link in inline.chain(named) {
            let path = link.split('#').next().unwrap();
            // Intra-doc links are rustdoc's to check.
            if path.is_empty() || path.contains("::") || path.starts_with("http") || path == "crate" {
                continue;
            }
            links += 1;
            assert!(page.parent().unwrap().join(path).exists(), "{}: {link}", page.display());
        }
    }
    assert!(links > 10, "{links} links only");
}

/// The README says which Rust it takes: the manifest's.
#[test]
fn the_readme_names_the_manifests_rust_version() {
    let manifest = read("Cargo.toml");
    let package = manifest.split("[package]").nth(1).unwrap();
    let version = [package, manifest.as_str()]
        .iter()
        .find_map(|part| part.lines().find_map(|line| line.strip_prefix("rust-version = \"")))
        .unwrap();
    let version = version.trim_end_matches('"');
    assert!(read("README.md").contains(&format!("Rust {version} or newer")), "the manifest: {version}");
}

/// How many lines of code there are in `main` up to the first lease, as they are formatted.
fn lines_to_the_first_lease(program: &str) -> usize {
    let main = program.split("fn main()").nth(1).unwrap();
    let mut code = main.lines().skip(1).map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("//"));
    1 + code.position(|line| line.contains(".acquire()?")).unwrap()
}

/// The front door: 12 lines on the simulated machine, 20 on real memory, none over 100 columns.
#[test]
fn the_first_lease_is_a_few_lines_away() {
    let readme = read("README.md");
    let example = readme.split("```rust").nth(1).unwrap().split("```").next().unwrap();
    assert!(lines_to_the_first_lease(example) <= 12, "the README's example");
    assert!(example.lines().all(|line| line.chars().count() <= 100), "the README's example is wider");
    let hello = Path::new("crates/userptr-linux/examples/hello_uring.rs");
    if hello.exists() {
        assert!(lines_to_the_first_lease(&read(hello)) <= 20, "{}", hello.display());
    }
    for (example, most) in [("npu/driver.rs", 80), ("model_your_driver/main.rs", 60)] {
        let lines = read(format!("examples/{example}")).lines().count();
        assert!((20..most).contains(&lines), "{example}: {lines}");
    }
}

/// A constructor that fails gives its value back in an error that `?` converts.
#[test]
fn no_example_converts_the_error_of_a_constructor() {
    let mut texts = all_files(&["examples", "tests", "src", "crates", "kernel"], &["rs", "md"]);
    texts.extend(pages());
    for path in texts {
        for (n, line) in read(&path).lines().enumerate() {
            let makes =
                ["try_new(", ".build()", ".spawn()?", "Context::"].iter().any(|call| line.contains(call));
            assert!(!(makes && line.contains(".map_err(")), "{}:{}: {line}", path.display(), n + 1);
        }
    }
}
