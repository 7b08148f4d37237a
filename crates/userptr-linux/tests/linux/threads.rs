//! The package's own threads.
#![forbid(unsafe_code)]

use crate::child::scenario;
use crate::stack::{Stack, eventually};
use std::fs;
use userptr_linux::Options;

/// SIGKILL and SIGSTOP cannot be blocked; what lies above 31 is the C library's and real time.
const BLOCKABLE: u64 = (u32::MAX >> 1) as u64 & !(1 << 8) & !(1 << 18);

/// The name of a thread and what signals it blocks, from its `status`.
fn thread(status: &str) -> (String, u64) {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    (field("Name:").to_owned(), u64::from_str_radix(field("SigBlk:"), 16).unwrap())
}

/// This process's threads.
fn threads() -> Vec<(String, u64)> {
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten().filter_map(status);
    tasks.map(|status| thread(&status)).collect()
}

/// The calling thread. Another one may be starting a thread, for which the C library blocks its
/// signals a moment.
fn caller() -> (String, u64) {
    thread(&fs::read_to_string("/proc/thread-self/status").unwrap())
}

scenario!(they_take_no_signals_and_leave_the_callers_mask, 20, {
    let (before, count) = (caller(), threads().len());
    for strict in [false, true] {
        let stack = Stack::new(Options { strict, ..Options::default() });
        for name in ["userptr-monitor", "userptr-uring", "userptr-wakers", "userptr-retries"] {
            eventually(name, || threads().iter().any(|(thread, _)| thread == name));
            for (_, blocked) in threads().iter().filter(|(thread, _)| thread == name) {
                assert_eq!(blocked & BLOCKABLE, BLOCKABLE, "{name} takes signals: {blocked:#x}");
            }
        }
        assert_eq!(caller(), before, "the caller's mask changed");
        drop(stack);
        eventually("all ended", || threads().len() == count);
    }
});
