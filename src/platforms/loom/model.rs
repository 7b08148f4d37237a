//! Runs a model in a process of its own, so that its failure is an error and not an abort.

use super::{Deadlines, set_deadlines};
use core::cell::RefCell;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::borrow::ToOwned;
use std::format;
use std::io::Read;
use std::process::{Command, Stdio};
use std::string::{String, ToString};
use std::sync::Arc;
use std::time::Instant;

extern crate std;

/// Tells the child which model it is to run: how each one ended that the thread has run before,
/// with a separator behind it.
const PLAN: &str = "USERPTR_MODEL";
const SEPARATOR: char = '\u{1f}';
/// What the child says when a model has passed, before the number of executions.
const PASSED: &str = "userptr: the model passed, executions: ";
/// Branches of one execution. A model that needs more does not end.
const BRANCHES: usize = 20_000;

std::thread_local! {
    /// How the models ended that this thread has run: `p` and the number of executions, or `f` and
    /// what was said.
    static ENDED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A model: how a closure is explored. Each execution of the closure is one interleaving of its
/// threads.
///
/// It is explored in a child process, which is this program again, run with the same arguments (in
/// a test of the standard test harness: with the name of that test) up to the same model: a failing
/// model may abort its process, and takes nobody with it. So what a test does before its models, it
/// must do again when it is run again.
#[derive(Clone, Copy, Debug)]
#[must_use = "call `check` or `run`"]
pub struct Model {
    preemptions: Option<usize>,
    deadlines: Deadlines,
    time_limit: Duration,
}

impl Model {
    /// Makes a model: at most two preemptions, deadlines never expire, five minutes.
    pub const fn new() -> Self {
        let time_limit = Duration::from_secs(300);
        Self { preemptions: Some(2), deadlines: Deadlines::Never, time_limit }
    }

    /// Sets how often a thread may be interrupted where it need not wait; `None`: any number of
    /// times. 2 to 3 found every known bug of this kind; `None` is a proof, and ends in useful time
    /// for two or three threads of one call each. The variable `LOOM_MAX_PREEMPTIONS` goes first.
    pub const fn preemptions(mut self, preemptions: Option<usize>) -> Self {
        self.preemptions = preemptions;
        self
    }

    /// Sets what finite deadlines do from the beginning of each execution.
    pub const fn deadlines(mut self, deadlines: Deadlines) -> Self {
        self.deadlines = deadlines;
        self
    }

    /// Sets how long the exploration may take.
    pub const fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Explores the closure, and returns the number of executions.
    ///
    /// # Panics
    /// With the [`Failure`], if one of them fails.
    #[track_caller]
    pub fn check(self, body: impl Fn() + Send + Sync + 'static) -> usize {
        match self.run(body) {
            Ok(executions) => executions,
            Err(failure) => {
                // Not `panic!`, which the core must not use by accident.
                let failed: Option<usize> = None;
                assert!(failed.is_some(), "{failure}");
                0
            }
        }
    }

    /// Explores the closure, and returns the number of executions: for a model that is to fail.
    ///
    /// # Errors
    /// [`Failure`] with what the first execution that failed has said.
    pub fn run(self, body: impl Fn() + Send + Sync + 'static) -> Result<usize, Failure> {
        let earlier = ENDED.with_borrow(String::clone);
        let result = match std::env::var(PLAN) {
            // In the child: this model, or one before it, whose end is known.
            Ok(plan) if plan == earlier => self.explore(body),
            Ok(plan) => {
                let rest = plan.get(earlier.len()..).unwrap_or_default();
                let ended = rest.split(SEPARATOR).next().unwrap_or_default();
                match ended.strip_prefix('p').and_then(|executions| executions.parse().ok()) {
                    Some(executions) => Ok(executions),
                    None => Err(Failure(ended.trim_start_matches('f').to_owned())),
                }
            }
            Err(_) => self.in_child(&earlier),
        };
        ENDED.with_borrow_mut(|ended| {
            match &result {
                Ok(executions) => ended.push_str(&format!("p{executions}")),
                Err(Failure(said)) => {
                    ended.push('f');
                    ended.extend(said.chars().filter(|c| !matches!(*c, SEPARATOR | '\0')));
                }
            }
            ended.push(SEPARATOR);
        });
        result
    }

    /// In the child: explores the model, says so and ends. A failure ends it, too, in its own way.
    fn explore(self, body: impl Fn() + Send + Sync + 'static) -> ! {
        let mut builder = ::loom::model::Builder::new();
        builder.preemption_bound = builder.preemption_bound.or(self.preemptions);
        builder.max_branches = builder.max_branches.max(BRANCHES);
        builder.location = true;
        let executions = Arc::new(AtomicUsize::new(0));
        let counter = executions.clone();
        builder.check(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            set_deadlines(self.deadlines);
            body();
        });
        std::eprintln!("{PASSED}{}", executions.load(Ordering::Relaxed));
        std::process::exit(0)
    }

    /// In the parent: runs the child, and reads what it says.
    fn in_child(self, plan: &str) -> Result<usize, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        match std::thread::current().name() {
            None | Some("main") => command.args(std::env::args_os().skip(1)),
            Some(test) => command.args([test, "--exact", "--nocapture", "--include-ignored"]),
        };
        command.env(PLAN, plan).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let begun = Instant::now();
        let mut child = command.spawn()?;
        let pipe = child.stderr.take();
        let reader = std::thread::spawn(move || {
            let mut said = std::vec::Vec::new();
            let read = pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut said));
            read.map(|_| String::from_utf8_lossy(&said).into_owned())
        });
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if begun.elapsed() > self.time_limit {
                child.kill()?;
                child.wait()?;
                break None;
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let said = reader.join().map_err(|_| Failure("the child's words were lost".to_owned()))??;
        let Some(status) = status else {
            let limit = self.time_limit;
            return Err(Failure(format!("did not end in {limit:?}: fewer preemptions, or two models")));
        };
        let passed = said.lines().find_map(|line| line.strip_prefix(PASSED)?.parse().ok());
        match passed {
            Some(executions) if status.success() => Ok(executions),
            _ if status.success() => {
                Err(Failure("run again, the program did not come to the model: see `Model`".to_owned()))
            }
            _ => Err(Failure(format!("{}\n({status})", first_panic(&said)))),
        }
    }
}

/// The first panic that the child reported: what follows is how it came down.
fn first_panic(said: &str) -> &str {
    let from = said.find("\nthread '").map_or(0, |at| at.saturating_add(1));
    let report = said.get(from..).unwrap_or(said);
    let end = report.get(1..).and_then(|rest| rest.find("\nthread '"));
    let report = end.and_then(|end| report.get(..end.saturating_add(1))).unwrap_or(report);
    report
        .split("\nnote: ")
        .next()
        .unwrap_or(report)
        .split("\nstack backtrace:")
        .next()
        .unwrap_or(report)
        .trim()
}

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}

/// A model has failed. Displays what the first failing execution said.
#[derive(Debug, Default)]
pub struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the model fails: {}", self.0)
    }
}

impl core::error::Error for Failure {}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// A thread of a model. A model has room for four beside its own.
#[derive(Debug)]
#[must_use = "join it, so that the model ends with it"]
pub struct Thread<T>(::loom::thread::JoinHandle<T>);

/// Starts a thread in a model.
pub fn spawn<T: 'static>(f: impl FnOnce() -> T + 'static) -> Thread<T> {
    Thread(::loom::thread::spawn(f))
}

impl<T> Thread<T> {
    /// Waits for its end. If it panicked, so does this.
    pub fn join(self) -> T {
        match self.0.join() {
            Ok(value) => value,
            Err(payload) => std::panic::resume_unwind(payload),
        }
    }
}
