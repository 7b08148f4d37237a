//! The table, or JSON, and a progress bar.

use super::operations::Tally;
use std::io::{IsTerminal, Write};

/// Prints a line; a reader that has gone away is no reason to panic.
macro_rules! say {
    ($($arg:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($arg)*);
    }};
}

pub(crate) struct Line<'a> {
    operation: &'a str,
    attempts: u32,
    naive: Option<Tally>,
    guarded: Option<Tally>,
    skipped: Option<String>,
}

impl<'a> Line<'a> {
    pub(crate) fn skipped(operation: &'a str, why: &str) -> Self {
        Self { operation, attempts: 0, naive: None, guarded: None, skipped: Some(why.into()) }
    }

    pub(crate) fn new(
        operation: &'a str,
        attempts: u32,
        naive: Result<Tally, String>,
        guarded: Result<Tally, String>,
    ) -> Self {
        let mut reasons = Vec::new();
        let mut keep = |half: Result<Tally, String>| half.map_err(|why| reasons.push(why)).ok();
        let (naive, guarded) = (keep(naive), keep(guarded));
        let skipped = (!reasons.is_empty()).then(|| reasons.join("; "));
        Self { operation, attempts, naive, guarded, skipped }
    }
}

pub(crate) struct Report {
    json: bool,
    bar: bool,
    begun: bool,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, bar: std::io::stderr().is_terminal(), begun: false }
    }

    /// Something to know that is not a result.
    pub(crate) fn note(&self, text: &str) {
        eprintln!("{text}");
    }

    pub(crate) fn progress(&self, row: usize, rows: usize, operation: &str, who: &str, done: u32, of: u32) {
        if self.bar && done.is_multiple_of(8) {
            const WIDTH: usize = 24;
            let filled = WIDTH * (row * of as usize + done as usize) / (rows * of as usize);
            eprint!("\r\x1b[K[{:WIDTH$}] {operation} ({who}) {done}/{of}", "#".repeat(filled));
        }
    }

    pub(crate) fn line(&mut self, line: &Line<'_>) {
        if self.bar {
            eprint!("\r\x1b[K");
        }
        if self.json {
            self.json_line(line)
        } else {
            self.table_line(line)
        }
        let _ = std::io::stdout().flush();
    }

    fn json_line(&self, line: &Line<'_>) {
        let number = |n: Option<u128>| n.map_or("null".into(), |n| n.to_string());
        let stale = |half: Option<Tally>| number(half.map(|t| t.stale.into()));
        say!(
            "{{\"operation\":{},\"attempts\":{},\"naive_stale\":{},\"userptr_stale\":{},\"userptr_refused\":{},\
             \"naive_ns\":{},\"userptr_ns\":{},\"skipped\":{}}}",
            quoted(line.operation),
            line.attempts,
            stale(line.naive),
            stale(line.guarded),
            number(line.guarded.map(|t| t.refused.into())),
            number(line.naive.and_then(mean)),
            number(line.guarded.and_then(mean)),
            line.skipped.as_deref().map_or("null".into(), quoted),
        );
    }

    fn table_line(&mut self, line: &Line<'_>) {
        if !self.begun {
            self.begun = true;
            say!(
                "{:<48}{:>9}{:>13}{:>15}{:>12}{:>14}",
                "operation",
                "attempts",
                "stale naive",
                "stale userptr",
                "naive, us",
                "userptr, us"
            );
        }
        let stale = |half: Option<Tally>| half.map_or("-".into(), |t| t.stale.to_string());
        let time = |half: Option<Tally>| {
            half.and_then(mean).map_or("-".into(), |ns| format!("{}.{}", ns / 1000, ns % 1000 / 100))
        };
        say!(
            "{:<48}{:>9}{:>13}{:>15}{:>12}{:>14}",
            line.operation,
            line.attempts,
            stale(line.naive),
            stale(line.guarded),
            time(line.naive),
            time(line.guarded)
        );
        if let Some(why) = &line.skipped {
            say!("    skipped: {why}");
        }
        if let Some(refused) = line.guarded.map(|t| t.refused).filter(|n| *n > 0) {
            say!("    userptr refused I/O on good memory in {refused} attempts");
        }
    }

    pub(crate) fn end(&self, sound: bool) {
        if !self.json && sound {
            say!("userptr: no stale access");
        }
    }
}

/// Nanoseconds for one attempt.
fn mean(tally: Tally) -> Option<u128> {
    tally.time.as_nanos().checked_div(tally.attempts.into())
}

fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}
