//! Tries the mutants: each on the models and tests that execute its site, the quickest first, up to
//! the first that fails.

use crate::sites::{Found, Site};
use crate::{copy, repair, results};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A model, or a test of the simulated machine.
struct Test {
    name: String,
    program: PathBuf,
    model: bool,
    seconds: f64,
    /// The numbers of the sites that it executes.
    covers: BTreeSet<usize>,
}

/// How long one may take to be looked into for coverage.
const COVER: Duration = Duration::from_secs(20);
/// How long one run of one mutant may take.
const LIMIT: Duration = Duration::from_secs(180);

enum End {
    Passed,
    Failed(String),
    TooLong,
}

impl Test {
    fn run(&self, limit: Duration, variable: &str, value: &str) -> End {
        static RUNS: AtomicUsize = AtomicUsize::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let out = std::env::temp_dir().join(format!("userptr-mutant-{}-{run}.out", std::process::id()));
        let mut child = Command::new(&self.program)
            .args(["--exact", &self.name])
            .env(variable, value)
            .env("RUST_BACKTRACE", "0")
            .env("USERPTR_MODEL_SECONDS", limit.as_secs().to_string())
            // A use after free meets a pattern, and not by luck what was there before.
            .env("MALLOC_PERTURB_", "165")
            .current_dir(repair::HOME)
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            // A model ends by itself: its own parent has the limit.
            if begun.elapsed() > limit + Duration::from_secs(if self.model { 10 } else { 0 }) {
                let _ = (child.kill(), child.wait());
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let said = fs::read_to_string(&out).unwrap_or_default();
        let _ = fs::remove_file(&out);
        match status {
            None => End::TooLong,
            Some(_) if said.contains("did not end in") => End::TooLong,
            Some(status) if status.success() => End::Passed,
            Some(_) => End::Failed(said),
        }
    }
}

/// Names of a program's tests.
fn tests(program: &Path) -> Vec<String> {
    let out = Command::new(program).arg("--list").output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    said.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// Finds out which sites each test executes, or reads it from the last time.
fn coverage(found: &Found, programs: &BTreeMap<String, PathBuf>, by: &[&str]) -> Vec<Test> {
    let kept = repair::target().join("generated-mutants/coverage");
    fs::create_dir_all(&kept).unwrap();
    let mut todo = Vec::new();
    for (kind, program) in programs {
        let model = kind == "models";
        let wanted = |name: &String| by.is_empty() || by.iter().any(|by| name.contains(by));
        for name in tests(program).into_iter().filter(wanted) {
            todo.push(Test { name, program: program.clone(), model, seconds: 0.0, covers: BTreeSet::new() });
        }
    }
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(test) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let file = kept.join(format!("{:016x}-{}", found.hash, test.name.replace("::", "-")));
                    let finished = file.with_extension("seconds");
                    let written = |path: &Path| fs::metadata(path).and_then(|of| of.modified()).ok();
                    if written(&finished) < written(&test.program) {
                        let _ = fs::remove_file(&file);
                        let begun = Instant::now();
                        let end = test.run(COVER, "USERPTR_MUTANT_COVER", file.to_str().unwrap());
                        if let End::Failed(said) = end {
                            println!("{} fails without a mutant:\n{said}", test.name);
                            continue;
                        }
                        fs::write(&finished, format!("{:.2}", begun.elapsed().as_secs_f64())).unwrap();
                    }
                    let covers = fs::read_to_string(&file).unwrap_or_default();
                    done.lock().unwrap().push(Test {
                        name: test.name.clone(),
                        program: test.program.clone(),
                        model: test.model,
                        seconds: fs::read_to_string(&finished).unwrap().parse().unwrap_or(1.0),
                        covers: covers.lines().filter_map(|n| n.parse().ok()).collect(),
                    });
                }
            });
        }
    });
    let mut tests = done.into_inner().unwrap();
    // Models that are quick before scenarios: there, a thread that nobody wakes is told at once.
    let late = |test: &Test| usize::from(!test.model) + 2 * usize::from(test.model && test.seconds > 5.0);
    tests.sort_by(|a, b| (late(a)).cmp(&late(b)).then(a.seconds.total_cmp(&b.seconds)));
    tests
}

/// By what mutant `n` is caught.
fn verdict(n: usize, first: usize, site: &Site, tests: &[Test]) -> String {
    let value = n.to_string();
    // A test on real threads may see a weak ordering by luck: it is no proof.
    let fit = |test: &&Test| test.covers.contains(&first) && (test.model || !site.is_ordering());
    let mut hung = None;
    let (mut ran, mut slow) = (0, 0);
    for test in tests.iter().filter(fit) {
        ran += 1;
        let limit = if test.model { LIMIT } else { Duration::from_secs_f64(30.0 + 20.0 * test.seconds) };
        match test.run(limit, "USERPTR_MUTANT", &value) {
            End::Passed => {}
            End::Failed(_) => return format!("caught by {}", test.name),
            End::TooLong if test.seconds * 10.0 < limit.as_secs_f64() => {
                hung.get_or_insert_with(|| test.name.clone());
                break;
            }
            End::TooLong => slow += 1,
        }
    }
    match hung {
        Some(name) => format!("caught by {name}, which does not end"),
        None if ran == 0 => "executed by nothing".into(),
        None if slow > 0 => format!("open: {slow} models did not end"),
        None => "survived".into(),
    }
}

/// Tries the mutants that have no result yet.
pub fn run(found: &Found, args: &[String]) -> ExitCode {
    let (mut names, mut by) = (Vec::new(), Vec::new());
    let (mut shard, mut shards, mut again, mut minutes) = (0, 1, false, u64::MAX);
    let mut rest = args.iter().skip(1);
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            "--shard" => {
                let (i, n) = rest.next().and_then(|s| s.split_once('/')).expect("--shard 1/4");
                (shard, shards) = (i.parse::<usize>().unwrap() - 1, n.parse().unwrap());
            }
            "--minutes" => minutes = rest.next().and_then(|m| m.parse().ok()).expect("--minutes 10"),
            "--again" => again = true,
            "--by" => by.push(rest.next().map(String::as_str).expect("--by s170")),
            name => names.push(name),
        }
    }
    let begun = Instant::now();
    println!("{} mutants; building them in one copy of the core", found.sites.len());
    let programs = match copy::build(found) {
        Ok(programs) => programs,
        Err(why) => {
            println!("{why}   FAILED");
            return ExitCode::FAILURE;
        }
    };
    println!("built after {:.0} s; looking for what executes each site", begun.elapsed().as_secs_f64());
    let tests = coverage(found, &programs, &by);
    println!("{} models and tests after {:.0} s", tests.len(), begun.elapsed().as_secs_f64());
    let verdicts = Mutex::new(results::read());
    // Chosen before the others of its chain are asked: the first of a site is met for all of them.
    let mut met = vec![0; found.sites.len() + 1];
    for (i, site) in found.sites.iter().enumerate() {
        let same = i > 0 && {
            let last = &found.sites[i - 1];
            last.function == site.function && last.text == site.text && last.file == site.file
        };
        let any = |n: usize| tests.iter().any(|test| test.covers.contains(&n));
        met[i + 1] = if same && !any(i + 1) { met[i] } else { i + 1 };
    }
    let mut todo: Vec<usize> = (0..found.sites.len())
        .filter(|i| i % shards == shard)
        .filter(|i| {
            let key = found.sites[*i].key();
            names.is_empty() || names.iter().any(|name| key.contains(name))
        })
        .filter(|i| {
            let had = verdicts.lock().unwrap().get(&found.sites[*i].key()).cloned();
            again
                || !had
                    .is_some_and(|had| had.starts_with("caught by ") || (by.is_empty() && had == "survived"))
        })
        .collect();
    // What only a model can see first.
    todo.sort_by_key(|i| (!found.sites[*i].is_ordering(), !found.sites[*i].change.starts_with('w')));
    println!("{} to try", todo.len());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(i) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if begun.elapsed().as_secs() / 60 >= minutes {
                        return;
                    }
                    let (site, at) = (&found.sites[*i], Instant::now());
                    let said = verdict(i + 1, met[i + 1], site, &tests);
                    println!("{:>5} {:>6.1} s  {said}\t{}", i + 1, at.elapsed().as_secs_f64(), site.key());
                    let _ = std::io::stdout().flush();
                    let mut verdicts = verdicts.lock().unwrap();
                    // What some of the tests do not see, another may.
                    if by.is_empty() || said.starts_with("caught by ") {
                        verdicts.insert(site.key(), said);
                        results::write(found, &verdicts);
                    }
                }
            });
        }
    });
    println!("after {:.0} s", begun.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}
