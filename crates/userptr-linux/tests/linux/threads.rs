//! The package's own threads.
#![forbid(unsafe_code)]

use crate::child::scenario;
use crate::stack::{Stack, eventually};
use std::fs;
use userptr_linux::Options;

/// SIGKILL and SIGSTOP cannot be blocked; what lies above 31 is the C library's and real time.
const BLOCKABLE: u64 = (u32::MAX >> 1) as u64 & !(1 << 8) & !(1 << 18);

/// The names of this process's threads, and what signals of theirs are blocked.
fn threads() -> Vec<(String, u64)> {
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().to_owned()
    };
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten().filter_map(status);
    let row = |s: String| (field(&s, "Name:"), u64::from_str_radix(&field(&s, "SigBlk:"), 16).unwrap());
    tasks.map(row).collect()
}

scenario!(they_take_no_signals_and_leave_the_callers_mask, 20, {
    let before = threads();
    for strict in [false, true] {
        let stack = Stack::new(Options { strict, ..Options::default() });
        for name in ["userptr-monitor", "userptr-uring", "userptr-wakers"] {
            eventually(name, || threads().iter().any(|(thread, _)| thread == name));
            for (_, blocked) in threads().iter().filter(|(thread, _)| thread == name) {
                assert_eq!(blocked & BLOCKABLE, BLOCKABLE, "{name} takes signals: {blocked:#x}");
            }
        }
        for (name, blocked) in &before {
            assert!(threads().contains(&(name.clone(), *blocked)), "the mask of {name} changed");
        }
        drop(stack);
        eventually("all ended", || threads().len() == before.len());
    }
});
