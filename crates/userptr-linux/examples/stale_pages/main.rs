//! Does a registered buffer still mean what its address means? Really executed, and verified by
//! content.
//!
//! Buffers are registered with an io_uring, and real I/O runs through them, while the memory under
//! them is unmapped, remapped and discarded in every way a process has. Once naively (register and
//! hope), once through `userptr`.
//!
//! ```text
//! cargo run --release --example stale_pages -- [--json] [--attempts N]
//! ```
//! Exit status: 0, or 1 if `userptr` let one stale access through, or 2 if an argument is not
//! understood.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_types,
    reason = "a program, not the library: it may stop when the host fails it"
)]

mod guarded;
mod io;
mod memory;
mod naive;
mod operations;
mod report;

use guarded::Guarded;
use io::Cache;
use naive::Naive;
use operations::{OPERATIONS, Operation, Tally};
use report::{Line, Report};
use std::process::ExitCode;
use userptr_linux::Options;

struct Args {
    json: bool,
    attempts: u32,
}

fn main() -> ExitCode {
    let Some(args) = parse() else {
        eprintln!("usage: stale_pages [--json] [--attempts N]");
        return ExitCode::from(2);
    };
    // The C library grows the heap of the main thread with `brk`, which one of the operations moves
    // itself: so the work runs in another thread, whose heap is made of mappings.
    std::thread::spawn(move || run(&args)).join().unwrap_or(ExitCode::FAILURE)
}

fn parse() -> Option<Args> {
    let mut args = Args { json: false, attempts: 200 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => args.json = true,
            "--attempts" => args.attempts = words.next()?.parse().ok().filter(|n| *n > 0)?,
            _ => return None,
        }
    }
    Some(args)
}

fn run(args: &Args) -> ExitCode {
    let mut report = Report::new(args.json);
    let mut naive = match Naive::open() {
        Ok(naive) => naive,
        Err(why) => {
            report.note(&format!("io_uring is refused: {why}. Nothing can be shown without it."));
            for operation in OPERATIONS {
                report.line(&Line::skipped(operation.name, &why));
            }
            return ExitCode::SUCCESS;
        }
    };
    let mut refused = String::new();
    let mut guarded = match Guarded::open(Options::default()) {
        Ok(guarded) => Some(guarded),
        Err(why) => {
            report.note(&format!("userptr cannot watch: {why}. Running the naive half only."));
            refused = format!("userptr: {why}");
            None
        }
    };
    let mut sound = true;
    for (row, operation) in OPERATIONS.iter().enumerate() {
        let attempts = args.attempts.min(operation.most);
        let naive = half(operation, attempts, &mut naive, row, "naive", &mut report);
        let guarded = match &mut guarded {
            Some(guarded) => half(operation, attempts, guarded, row, "userptr", &mut report),
            None => Err(refused.clone()),
        };
        if guarded.as_ref().is_ok_and(|tally| tally.stale > 0) {
            sound = false;
        }
        report.line(&Line::new(operation.name, attempts, naive, guarded));
    }
    report.end(sound && guarded.is_some());
    if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One operation against one cache, `attempts` times. The reason if the host does not let it run.
fn half(
    operation: &Operation,
    attempts: u32,
    cache: &mut dyn Cache,
    row: usize,
    who: &str,
    report: &mut Report,
) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for attempt in 0..attempts {
        report.progress(row, OPERATIONS.len(), operation.name, who, attempt, attempts);
        let done = (operation.run)(cache, attempt.into(), &mut tally);
        cache.forget();
        if let Err(why) = done {
            memory::clear();
            return Err(format!("{who}: {why}"));
        }
    }
    Ok(tally)
}
