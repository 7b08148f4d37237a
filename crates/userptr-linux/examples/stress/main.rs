//! Memory that changes in every way and at any time, under look-ups with real I/O: does a hit ever
//! reach a page that is not the one at its address? For your own kernel and machine.
//!
//! ```text
//! cargo run --release --example stress -- --seconds 60 --discards 50
//! cargo run --release --example stress -- --mode strict
//! cargo run --release --example stress -- --mode control    # as root: must find thousands
//! cargo run --release --features exact --example stress -- --mode exact --operations 1000000
//! ```
//! Exit status: 0; 1 if a stale page was found, or if the control found none; 2 if an argument is
//! not understood or the host refuses.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_types,
    reason = "a program, not the library: it may stop when the host fails it"
)]

mod bracketed;
mod buffers;
mod changes;
#[path = "../stale_pages/io.rs"]
#[allow(dead_code, reason = "shared with another example")]
mod io;
#[path = "../stale_pages/memory.rs"]
#[allow(dead_code, reason = "shared with another example")]
mod memory;
mod plan;
mod run;

use indicatif::{ProgressBar, ProgressStyle};
use plan::{Mode, Plan};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: stress [--threads N] [--seconds N] [--operations N] [--seed N]
              [--mode default|strict|control|explicit|exact]  the last two with the feature exact
              [--discards N]  so many operations of a thousand are discards (5)
              [--verify N]    every N-th hit is verified by content (8)
              [--life N]      a thread ends after N operations (5000)";

fn parse() -> Result<Plan, lexopt::Error> {
    use lexopt::prelude::*;
    let mut plan = Plan::default();
    let mut timed = false;
    let mut args = lexopt::Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Long("threads") => plan.threads = args.value()?.parse::<u16>()?.max(1).into(),
            Long("seconds") => {
                (plan.time, timed) = (Duration::from_secs(args.value()?.parse::<u32>()?.into()), true);
            }
            Long("operations") => {
                plan.operations = args.value()?.parse()?;
                if !timed {
                    plan.time = Duration::MAX;
                }
            }
            Long("seed") => plan.seed = args.value()?.parse()?,
            Long("discards") => plan.discards = args.value()?.parse::<u32>()?.min(900),
            Long("verify") => plan.verify = args.value()?.parse::<u64>()?.max(1),
            Long("life") => plan.life = args.value()?.parse::<u64>()?.max(1),
            Long("mode") => {
                plan.mode = match args.value()?.string()?.as_str() {
                    "default" => Mode::Default,
                    "strict" => Mode::Strict,
                    "control" => Mode::Control,
                    #[cfg(feature = "exact")]
                    "explicit" => Mode::Explicit,
                    #[cfg(feature = "exact")]
                    "exact" => Mode::Exact,
                    other => return Err(format!("no mode {other}").into()),
                };
            }
            arg => return Err(arg.unexpected()),
        }
    }
    Ok(plan)
}

fn main() -> ExitCode {
    let plan = match parse() {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    // The C library grows the heap of the main thread with `brk`, which one of the operations moves
    // itself: so the work runs in another thread, whose heap is made of mappings.
    std::thread::spawn(move || stress(plan)).join().unwrap_or(ExitCode::FAILURE)
}

fn stress(plan: Plan) -> ExitCode {
    let timed = plan.operations == u64::MAX;
    let bar = ProgressBar::new(if timed { plan.time.as_secs() } else { plan.operations });
    let style = "{bar:40} {pos}/{len} {msg}, {elapsed}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let began = Instant::now();
    let tally = run::run(plan, &mut |done| {
        bar.set_position(if timed { began.elapsed().as_secs() } else { done });
        bar.set_message(if timed { format!("seconds, {done} operations") } else { "operations".into() });
    });
    bar.finish_and_clear();
    let tally = match tally {
        Ok(tally) => tally,
        Err(why) => {
            eprintln!("nothing can be shown: {why}");
            return ExitCode::from(2);
        }
    };
    println!("{plan:?}");
    for (name, n) in tally.rows() {
        println!("{name:<34} {n:>12}");
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("{:<34} {seconds:>12.1}", "seconds");
    // The control shows that the check can fail.
    let well = (tally.wrong() > 0) == (plan.mode == Mode::Control);
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
