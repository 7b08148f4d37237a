//! A file of the core imports only from the modules above its own. The order is that of the `mod`
//! lines in `src/lib.rs`.
#![cfg(not(miri))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::disallowed_types,
    reason = "a test: it stops where something is wrong"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// The code of a file, without comments, and without its unit tests: those run on the standard
/// platform, which is below all.
fn code(text: &str) -> String {
    let mut code = String::new();
    for line in text.lines() {
        if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test") {
            break;
        }
        code += line.split("//").next().unwrap_or_default();
        code.push('\n');
    }
    code
}

/// What comes after `prefix` in the code: a name each, or every name of a list in braces.
fn names<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(prefix)
        // `crate::x`, not `$crate::x` and not `other_crate::x`.
        .filter(move |(at, _)| !code.split_at(*at).0.ends_with(|c| word(c) || c == ':' || c == '$'))
        .flat_map(move |(at, _)| {
            let rest = code.split_at(at + prefix.len()).1;
            let list = match rest.strip_prefix('{') {
                Some(list) => list.split_once("};").map_or(list, |(list, _)| list),
                None => rest.split_once(|c| !word(c)).map_or(rest, |(name, _)| name),
            };
            // Of `a::b` the module is `a`.
            list.split(',')
                .filter_map(move |item| item.trim().split(|c| !word(c)).next())
                .filter(|n| !n.is_empty())
        })
}

/// The modules in the order of their `mod` lines, and the module of each name that `lib.rs`
/// exports.
fn rooms(lib: &str) -> (Vec<&str>, BTreeMap<&str, &str>) {
    let mods = lib.lines().filter_map(|line| {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        line.strip_prefix("mod ")?.strip_suffix(';')
    });
    let order: Vec<&str> = mods.collect();
    let mut exports = BTreeMap::new();
    for line in lib.split("pub use ").skip(1) {
        let (module, rest) = line.split_once("::").unwrap();
        let list = rest.split_once(';').unwrap().0;
        for name in list.trim_matches(['{', '}']).split(',') {
            exports.insert(name.trim(), module);
        }
    }
    (order, exports)
}

#[test]
fn no_file_imports_from_a_room_below_its_own() {
    let lib = fs::read_to_string("src/lib.rs").unwrap();
    let lib = code(&lib);
    let (order, exports) = rooms(&lib);
    let place = |room: &str| order.iter().position(|r| *r == room);
    let mut sources = Vec::new();
    files(Path::new("src"), &mut sources);
    let texts: Vec<(PathBuf, String)> =
        sources.into_iter().map(|p| (p.clone(), code(&fs::read_to_string(&p).unwrap()))).collect();

    // `macro_rules!` names are at the root, whichever room they are written in.
    let mut rooms_of: BTreeMap<String, usize> = BTreeMap::new();
    let own = |path: &Path| {
        let first = path.components().nth(1).unwrap().as_os_str().to_str().unwrap();
        first.strip_suffix(".rs").unwrap_or(first).to_owned()
    };
    for (path, text) in &texts {
        for name in names(text, "macro_rules! ") {
            rooms_of.extend(place(&own(path)).map(|at| (name.to_owned(), at)));
        }
    }

    let (mut upward, mut seen) = (Vec::new(), 0);
    for (path, text) in &texts {
        let room = own(path);
        if room == "lib" {
            continue;
        }
        let mine = place(&room).unwrap_or_else(|| panic!("{} belongs to no `mod` line", path.display()));
        // The root, seen from `src/room.rs` and `src/room/mod.rs`, is the parent; from
        // `src/room/file.rs` the parent's.
        let depth = path.components().count() - 1 - usize::from(path.ends_with("mod.rs"));
        for name in names(text, "crate::").chain(names(text, &"super::".repeat(depth))) {
            let room = exports.get(name).copied().unwrap_or(name);
            let theirs = place(room).or_else(|| rooms_of.get(name).copied());
            match theirs {
                Some(theirs) if theirs <= mine => seen += 1,
                _ => upward.push(format!("{} imports {name}", path.display())),
            }
        }
    }
    assert!(seen > 100, "only {seen} imports were found");
    assert!(upward.is_empty(), "from a room below, or from none: {upward:#?}");
}
