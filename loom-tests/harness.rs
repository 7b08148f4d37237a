//! Runs models, a row and a child process each: a model that aborts or does not end takes no other with it.

use crate::table::mutants;
use std::fs::File;
use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
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
}

/// A model that is explored without a bound.
pub const fn full(name: &'static str, threads: usize, body: fn()) -> Model {
    Model { name, threads, bound: None, body }
}

/// A model that does not end in useful time without a bound. 2 to 3 preemptions found every known bug of this kind.
pub const fn bounded(name: &'static str, threads: usize, bound: usize, body: fn()) -> Model {
    Model { name, threads, bound: Some(bound), body }
}

/// The longest that one model may take. One that takes longer has to be split.
fn deadline() -> Duration {
    let seconds = std::env::var("USERPTR_MODEL_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(300))
}

/// The flag of the child process that runs one model.
const CHILD: &str = "--child";

/// Set to a reason, it skips the models, and says so: for a run beside one that has just explored them.
const SKIP: &str = "USERPTR_SKIP_MODELS";

struct Row {
    executions: String,
    seconds: f64,
    failure: Option<String>,
}

/// In the child: explores the model, then says how many executions it took.
fn explore(model: Model) -> ExitCode {
    let executions = Arc::new(AtomicUsize::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = model.bound;
    // Room for the longest executions; a model that needs more does not end.
    builder.max_branches = 20_000;
    let count = executions.clone();
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        (model.body)();
    });
    println!("{}", executions.load(Ordering::Relaxed));
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
    let executions = std::fs::read_to_string(&out).unwrap_or_default().trim().to_owned();
    let said = std::fs::read_to_string(&err).unwrap_or_default();
    let _ = (std::fs::remove_file(out), std::fs::remove_file(err));
    let failure = match status {
        Some(status) if status.success() => None,
        Some(status) => Some(format!("{status}\n{said}")),
        None => Some(format!("did not end in {} s: split it", deadline().as_secs())),
    };
    Row { executions, seconds: begun.elapsed().as_secs_f64(), failure }
}

/// Runs the models that the command line names, all without a name, two at a time.
pub fn run(models: &[Model]) -> ExitCode {
    if let Some(why) = std::env::var_os(SKIP) {
        println!("skipped: {} models: {}", models.len(), why.display());
        return ExitCode::SUCCESS;
    }
    let mut names = Vec::new();
    let mut exact = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            CHILD => {
                let name = args.next().unwrap();
                return explore(*models.iter().find(|m| m.name == name).unwrap());
            }
            "--list" => {
                for model in models {
                    println!("{}: test", model.name);
                }
                return ExitCode::SUCCESS;
            }
            "--exact" => exact = true,
            flag if flag.starts_with('-') => {}
            name => names.push(name.to_owned()),
        }
    }
    let wanted = |model: &Model| {
        names.is_empty()
            || names.iter().any(|n| if exact { model.name == n } else { model.name.contains(n.as_str()) })
    };
    let todo: Vec<Model> = models.iter().copied().filter(wanted).collect();
    let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let out = Mutex::new(std::io::stdout());
    println!(
        "{:<52} {:>7} {:>5} {:>10} {:>8}  mutants that it catches",
        "model", "threads", "bound", "executions", "seconds"
    );
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(model) = todo.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = check(*model);
                    print(&mut *out.lock().unwrap(), model, &row);
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
        "{:<52} {:>7} {:>5} {:>10} {:>8.1}  {}{}",
        model.name,
        model.threads,
        bound,
        row.executions,
        row.seconds,
        mutants.join(", "),
        if row.failure.is_some() { "   FAILED" } else { "" },
    );
    if let Some(failure) = &row.failure {
        let _ = writeln!(out, "{failure}");
    }
    let _ = out.flush();
}
