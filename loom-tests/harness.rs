//! Runs models, a row and a child process each: a model that aborts or does not end takes no other
//! with it.

use crate::explore::explore;
use crate::litmus::Search;
use crate::table::mutants;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// One model.
#[derive(Clone, Copy)]
pub struct Model {
    /// Its name: the scenario.
    pub name: &'static str,
    /// Threads, the model's own included.
    pub threads: usize,
    /// The preemption bound. `None`: every interleaving.
    pub bound: Option<usize>,
    /// One execution.
    pub body: fn(),
    /// Executions with the repaired search and with loom's own, which misses some of them.
    pub executions: Option<(usize, usize)>,
    /// Every outcome that its executions must meet; none other may come.
    pub outcomes: &'static [&'static str],
}

impl Model {
    /// Records the number of executions, with the repaired search and with loom's own. Another
    /// number is an error: either the model changed, and its row is edited, or the search did.
    pub const fn executions(mut self, repaired: usize, stock: usize) -> Self {
        self.executions = Some((repaired, stock));
        self
    }

    /// Lists the outcomes that the model must meet (`Stage::met`).
    pub const fn outcomes(mut self, outcomes: &'static [&'static str]) -> Self {
        self.outcomes = outcomes;
        self
    }

    /// What the row says otherwise than the run, with the text that it has to say.
    fn census(&self, row: &Row, search: Option<Search>) -> Option<String> {
        let mut wrong = Vec::new();
        // loom's own search misses some.
        if search != Some(Search::Stock) {
            let missing = self.outcomes.iter().filter(|o| !row.outcomes.contains_key(**o));
            wrong.extend(missing.map(|o| format!("this outcome was not met: {o}")));
        }
        // A model that says nothing of its outcomes has the empty one.
        let unlisted = row.outcomes.keys().filter(|o| !o.is_empty() || !self.outcomes.is_empty());
        let unlisted = unlisted.filter(|o| !self.outcomes.contains(&o.as_str()));
        wrong.extend(unlisted.map(|o| format!("this outcome is not listed: {o}")));
        let recorded = search.map(|search| match (search, self.executions) {
            (_, None) => 0,
            (Search::Repaired, Some((repaired, _))) => repaired,
            (Search::Stock, Some((_, stock))) => stock,
        });
        if let Some(recorded) = recorded
            && recorded != row.executions
        {
            wrong.push(format!("the row records {recorded} executions, and there were {}", row.executions));
        }
        if wrong.is_empty() {
            None
        } else {
            Some(format!("{}\nthe row of this run: {}", wrong.join("\n"), self.text(row, search)))
        }
    }

    /// What the row has to say.
    fn text(&self, row: &Row, search: Option<Search>) -> String {
        let (mut repaired, mut stock) = self.executions.unwrap_or_default();
        *(if search == Some(Search::Stock) { &mut stock } else { &mut repaired }) = row.executions;
        let outcomes: Vec<&String> = row.outcomes.keys().filter(|o| !o.is_empty()).collect();
        let outcomes = if outcomes.is_empty() { String::new() } else { format!(".outcomes(&{outcomes:?})") };
        format!("{}: .executions({repaired}, {stock}){outcomes}", self.name)
    }
}

/// A model that is explored without a bound.
pub const fn full(name: &'static str, threads: usize, body: fn()) -> Model {
    Model { name, threads, bound: None, body, executions: None, outcomes: &[] }
}

/// A model that does not end in useful time without a bound. 2 to 3 preemptions found every known
/// bug of this kind.
pub const fn bounded(name: &'static str, threads: usize, bound: usize, body: fn()) -> Model {
    Model { name, threads, bound: Some(bound), body, executions: None, outcomes: &[] }
}

/// The longest that one model may take. One that takes longer has to be split.
fn deadline() -> Duration {
    let seconds = std::env::var("USERPTR_MODEL_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(300))
}

/// The flag of the child process that runs one model.
const CHILD: &str = "--child";

/// Which search this is built with, said by who built it: the numbers of executions are compared
/// with those in the rows. Not said for mutants, whose numbers differ.
const SEARCH: &str = "--search=";

/// The search that the command line names.
pub fn search() -> Option<Search> {
    std::env::args().find_map(|arg| match arg.strip_prefix(SEARCH)? {
        "repaired" => Some(Search::Repaired),
        "stock" => Some(Search::Stock),
        _ => None,
    })
}

/// Prints what every row has to say.
const ROWS: &str = "--rows";

struct Row {
    executions: usize,
    /// Each outcome, and in how many executions it was met.
    outcomes: BTreeMap<String, usize>,
    seconds: f64,
    failure: Option<String>,
}

/// In the child: explores the model, then says how many executions it took, and what they met.
fn child(model: Model) -> ExitCode {
    let found = explore(model.bound, model.body);
    println!("{}", found.executions);
    for (outcome, times) in found.outcomes {
        println!("{times} {outcome}");
    }
    ExitCode::SUCCESS
}

/// In the parent: runs the child, and reads what it says.
fn check(model: Model) -> Row {
    let begun = Instant::now();
    let base = std::env::temp_dir().join(format!("userptr-model-{}-{}", std::process::id(), model.name));
    let (out, err) = (base.with_extension("out"), base.with_extension("err"));
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([CHILD, model.name])
        .stdin(Stdio::null())
        .stdout(File::create(&out).unwrap())
        .stderr(File::create(&err).unwrap())
        .spawn()
        .unwrap();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if begun.elapsed() > deadline() {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let found = std::fs::read_to_string(&out).unwrap_or_default();
    let mut lines = found.lines();
    let executions = lines.next().and_then(|n| n.parse().ok()).unwrap_or_default();
    let outcomes = lines
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(times, outcome)| Some((outcome.to_owned(), times.parse().ok()?)))
        .collect();
    let said = std::fs::read_to_string(&err).unwrap_or_default();
    let _ = (std::fs::remove_file(out), std::fs::remove_file(err));
    let failure = match status {
        Some(status) if status.success() => None,
        Some(status) => Some(format!("{status}\n{said}")),
        None => Some(format!("did not end in {} s: split it", deadline().as_secs())),
    };
    Row { executions, outcomes, seconds: begun.elapsed().as_secs_f64(), failure }
}

/// Runs the models that the command line names, all without a name, two at a time.
pub fn run(models: &[Model]) -> ExitCode {
    let mut names = Vec::new();
    let (mut exact, mut rows) = (false, false);
    let search = search();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            CHILD => {
                let name = args.next().unwrap();
                return child(*models.iter().find(|m| m.name == name).unwrap());
            }
            "--list" => {
                for model in models {
                    println!("{}: test", model.name);
                }
                return ExitCode::SUCCESS;
            }
            "--exact" => exact = true,
            ROWS => rows = true,
            flag if flag.starts_with('-') => {}
            name => names.push(name.to_owned()),
        }
    }
    let wanted = |model: &Model| {
        names.is_empty()
            || names.iter().any(|n| if exact { model.name == n } else { model.name.contains(n.as_str()) })
    };
    let mut todo: Vec<Model> = models.iter().copied().filter(wanted).collect();
    // The longest first, so that both hands end at the same time.
    todo.sort_by_key(|model| std::cmp::Reverse(model.executions));
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let out = Mutex::new(std::io::stdout());
    println!(
        "{:<52} {:>7} {:>5} {:>10} {:>10} {:>8} {:>8}  mutants that it catches",
        "model", "threads", "bound", "executions", "stock loom", "outcomes", "seconds"
    );
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(model) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut row = check(*model);
                    if row.failure.is_none() {
                        row.failure = model.census(&row, search);
                    }
                    print(&mut *out.lock().unwrap(), model, &row);
                    if rows {
                        let _ = writeln!(out.lock().unwrap(), "  {}", model.text(&row, search));
                    }
                    failed.fetch_add(usize::from(row.failure.is_some()), Ordering::Relaxed);
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!(
        "\ntest result: {}. {} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out\n",
        if failed == 0 { "ok" } else { "FAILED" },
        todo.len() - failed,
        models.len() - todo.len(),
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(out: &mut impl Write, model: &Model, row: &Row) {
    let mutants: Vec<&str> =
        mutants().filter(|mutant| mutant.model == model.name).map(|mutant| mutant.name).collect();
    let bound = model.bound.map_or_else(|| "none".to_owned(), |b| b.to_string());
    let _ = writeln!(
        out,
        "{:<52} {:>7} {:>5} {:>10} {:>10} {:>8} {:>8.1}  {}{}",
        model.name,
        model.threads,
        bound,
        row.executions,
        model.executions.map_or_else(String::new, |(_, stock)| stock.to_string()),
        row.outcomes.len(),
        row.seconds,
        mutants.join(", "),
        if row.failure.is_some() { "   FAILED" } else { "" },
    );
    if let Some(failure) = &row.failure {
        let _ = writeln!(out, "{failure}");
    }
    let _ = out.flush();
}
