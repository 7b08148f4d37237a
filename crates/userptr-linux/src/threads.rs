//! Can a discard whose message was read still be to come? Each thread is asked on its own.
//!
//! A thread whose message was read is runnable from that moment until its discard is done, or
//! waits uninterruptibly in it. So a discard is over once every task that existed when its message
//! was read was seen, at some moment after, where a discarder cannot be:
//! * **Proof**: it sleeps interruptibly, is stopped, or has ended; or it has taken a page fault
//!   since, which a discard never does.
//! * **Evidence**: it has used [`budget`] of processor time since. Time spent waiting for a
//!   processor does not count, so a starved discarder does not get there. What would: a discard
//!   that takes longer than [`BASE`] and [`PER_PAGE`] for each page, or a virtual processor that
//!   stands still for that long in the midst of one.
//!
//! The tasks are the threads of the process, and the threads of its children that share its memory
//! (`clone(CLONE_VM)`). A task that shares the memory and is neither is not found.

use core::ffi::{CStr, c_int};
use core::fmt;
use core::time::Duration;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;

/// More tasks than that are not looked at: nothing is known then.
const MAX_TASKS: usize = 2048;
/// How many tasks are asked before messages are read again.
const AT_ONCE: usize = 128;
/// How often they are listed in one look, until nothing came between.
const LISTINGS: usize = 8;
/// Room for all of them in one listing, and for the largest entry beyond.
const LISTING: usize = (MAX_TASKS + 16) * 32;
/// What a discard takes at most, whatever its size, and for each page.
const BASE: Duration = Duration::from_millis(2);
const PER_PAGE: Duration = Duration::from_micros(2);

/// The fixed part of a directory entry: number, offset, length of the record, type.
const NAME: usize = 19;
const LENGTH: usize = 16;
const KCMP_VM: c_int = 1;

/// The processor time that no discard of so many pages takes.
pub(super) fn budget(pages: usize) -> Duration {
    PER_PAGE.saturating_mul(u32::try_from(pages).unwrap_or(u32::MAX)).saturating_add(BASE)
}

/// What is known of the discards whose messages were read before a census began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They may still be to come.
    Open,
    /// They are over, by the processor time of at least one thread.
    Evidence,
    /// They are over.
    Proof,
}

/// What a task has done up to a moment after the census began.
#[derive(Clone, Copy)]
struct Seen {
    time: Option<Duration>,
    faults: u64,
}

#[derive(Clone, Copy)]
struct Task {
    /// Its process, if that is another one.
    process: Option<c_int>,
    id: c_int,
    seen: Option<Seen>,
}

/// The tasks that have not been seen where a discarder cannot be. Its memory is fixed, because the
/// monitor must not allocate.
pub(super) struct Census {
    dir: Option<File>,
    tasks: Vec<Task>,
    listing: Box<[u8]>,
    listed: bool,
    next: usize,
    evidence: bool,
    budget: Duration,
}

impl Census {
    /// Opens the folder of the threads, for ever: `chroot`, `setuid` and a full table of
    /// descriptors do not take it away.
    pub(super) fn new() -> Self {
        Self {
            dir: File::open("/proc/self/task").ok(),
            tasks: Vec::with_capacity(MAX_TASKS),
            listing: vec![0; LISTING].into_boxed_slice(),
            listed: false,
            next: 0,
            evidence: false,
            budget: Duration::ZERO,
        }
    }

    /// Begins anew, for the discards whose messages have been read by now. `budget` is that of the
    /// largest.
    pub(super) fn begin(&mut self, budget: Duration) {
        self.listed = false;
        self.next = 0;
        self.evidence = false;
        self.budget = budget;
    }

    /// Asks the tasks that are left, some of them at once. The flag says that not all of those have
    /// been asked: come again soon.
    pub(super) fn look(&mut self) -> (Verdict, bool) {
        // Threads that end all the time spoil one listing or the other, and not all of them.
        for _ in 0..LISTINGS {
            if self.listed {
                break;
            }
            self.tasks.clear();
            self.listed = self.list();
        }
        if !self.listed {
            return (Verdict::Open, false);
        }
        let Some(dir) = self.dir.as_ref().map(AsRawFd::as_raw_fd) else { return (Verdict::Open, false) };
        for _ in 0..AT_ONCE {
            let Some(task) = self.tasks.get_mut(self.next) else { break };
            match task.ask(dir, self.budget) {
                Verdict::Open => self.next = self.next.saturating_add(1),
                verdict => {
                    self.evidence |= verdict == Verdict::Evidence;
                    self.tasks.swap_remove(self.next);
                }
            }
        }
        let more = self.next < self.tasks.len();
        if !more {
            self.next = 0;
        }
        let verdict = match (self.tasks.is_empty(), self.evidence) {
            (false, _) => Verdict::Open,
            (true, true) => Verdict::Evidence,
            (true, false) => Verdict::Proof,
        };
        (verdict, more)
    }

    /// Lists every task that could be a discarder. `false`: not known.
    fn list(&mut self) -> bool {
        let Self { dir, tasks, listing, .. } = self;
        let Some(dir) = dir.as_ref().map(AsRawFd::as_raw_fd) else { return false };
        if !list(dir, None, tasks, listing) {
            return false;
        }
        if has_children() && !list_children(dir, tasks, listing) {
            return false;
        }
        // SAFETY: takes no pointer.
        let me = unsafe { libc::gettid() };
        tasks.retain(|task| task.id != me);
        true
    }
}

impl fmt::Debug for Census {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Census({} left)", self.tasks.len())
    }
}

impl Task {
    fn ask(&mut self, dir: c_int, budget: Duration) -> Verdict {
        let mut text = [0_u8; 256];
        let read = match self.process {
            None => read(dir, format_args!("{}/stat", self.id), &mut text),
            Some(process) => {
                read(libc::AT_FDCWD, format_args!("/proc/{process}/task/{}/stat", self.id), &mut text)
            }
        };
        let Some(stat) = read.and_then(parse) else {
            // No descriptor, or no `/proc` any more, proves nothing.
            return if self.has_ended() { Verdict::Proof } else { Verdict::Open };
        };
        if matches!(stat.state, b'S' | b'T' | b't' | b'Z' | b'X') {
            return Verdict::Proof;
        }
        let time = self.time();
        let Some(before) = self.seen else {
            self.seen = Some(Seen { time, faults: stat.faults });
            return Verdict::Open;
        };
        match (before.time, time) {
            // More faults; or less of anything: the number belongs to another thread by now.
            _ if stat.faults != before.faults => Verdict::Proof,
            (Some(before), Some(now)) if now < before => Verdict::Proof,
            (Some(before), Some(now)) if now.saturating_sub(before) >= budget => Verdict::Evidence,
            _ => Verdict::Open,
        }
    }

    /// Its processor time. A thread of another process has none that we may ask for.
    fn time(&self) -> Option<Duration> {
        // The kernel's encoding of "the processor time of thread `id`" (`clock_getcpuclockid(3)`).
        let clock = (!self.id).wrapping_shl(3) | 6;
        let mut spec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the place is ours.
        let got = unsafe { libc::clock_gettime(clock, &raw mut spec) };
        let time = Duration::new(spec.tv_sec.try_into().ok()?, spec.tv_nsec.try_into().ok()?);
        (self.process.is_none() && got == 0).then_some(time)
    }

    fn has_ended(&self) -> bool {
        // SAFETY: takes no pointer.
        let process = self.process.unwrap_or_else(|| unsafe { libc::getpid() });
        is_gone(process, self.id)
    }
}

/// Whether there is no such task (`ESRCH`, and nothing else).
fn is_gone(process: c_int, id: c_int) -> bool {
    // SAFETY: signal 0 is sent to nobody.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, process, id, 0) };
    sent != 0 && super::errno() == libc::ESRCH
}

/// Adds the threads of a folder. `false`: perhaps not all of them.
///
/// The kernel goes from one thread to the next, and ends the call when the one it stands on has
/// ended meanwhile; a further call would go on by position and could pass over a live one. So
/// everything is listed by one call. It has reached the end of the list, if the last one listed is
/// still there afterwards: when the kernel left it, it was alive, and had none behind it.
fn list(dir: c_int, process: Option<c_int>, tasks: &mut Vec<Task>, listing: &mut [u8]) -> bool {
    // SAFETY: the buffer is ours for its whole length.
    let got = unsafe {
        if libc::lseek(dir, 0, libc::SEEK_SET) != 0 {
            return false;
        }
        libc::syscall(libc::SYS_getdents64, dir, listing.as_mut_ptr(), listing.len())
    };
    let Ok(got) = usize::try_from(got) else { return false };
    // An entry is shorter than 64 bytes: with less room left, it may have been too little.
    let Some(mut rest) = listing.get(..got).filter(|_| got.saturating_add(64) <= listing.len()) else {
        return false;
    };
    let mut last = None;
    while let Some((name, after)) = entry(rest) {
        rest = after;
        let Some(id) = number(name) else { continue };
        if tasks.len() == tasks.capacity() {
            return false;
        }
        tasks.push(Task { process, id, seen: None });
        last = Some(id);
    }
    // SAFETY: takes no pointer.
    let process = process.unwrap_or_else(|| unsafe { libc::getpid() });
    last.is_some_and(|id| !is_gone(process, id))
}

/// Whether the process has any child, of any kind.
fn has_children() -> bool {
    let kinds = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: all zeros is a value of this type; the call writes to it, and takes no child away.
    let got = unsafe {
        let mut info: libc::siginfo_t = core::mem::zeroed();
        libc::waitid(libc::P_ALL, 0, &raw mut info, kinds)
    };
    got == 0 || super::errno() != libc::ECHILD
}

/// Adds the threads of the children that share our memory, or of whom that is not known.
fn list_children(dir: c_int, tasks: &mut Vec<Task>, listing: &mut [u8]) -> bool {
    for parent in 0..tasks.len() {
        let Some(&Task { id, .. }) = tasks.get(parent) else { return false };
        let mut text = [0_u8; 4096];
        let Some(text) = read(dir, format_args!("{id}/children"), &mut text) else {
            // SAFETY: takes no pointer.
            if is_gone(unsafe { libc::getpid() }, id) {
                continue;
            }
            return false;
        };
        // One that ends while the kernel lists can hide its neighbour.
        let children = || text.split(|byte| *byte == b' ').filter_map(number);
        if text.len() >= 4095 || children().any(|child| is_gone(child, child)) {
            return false;
        }
        for child in children() {
            // SAFETY: takes no pointer.
            let other =
                unsafe { libc::syscall(libc::SYS_kcmp, libc::getpid(), child, KCMP_VM, 0_usize, 0_usize) };
            if other > 0 {
                continue;
            }
            let mut path = [0_u8; 64];
            let folder = open(libc::AT_FDCWD, format_args!("/proc/{child}/task"), &mut path);
            let Some(folder) = folder else {
                if is_gone(child, child) {
                    continue;
                }
                return false;
            };
            if !list(folder.as_raw_fd(), Some(child), tasks, listing) {
                return false;
            }
        }
    }
    true
}

fn open(dir: c_int, name: fmt::Arguments<'_>, path: &mut [u8; 64]) -> Option<File> {
    use std::os::fd::FromRawFd;
    path.as_mut_slice().write_fmt(name).ok()?;
    let path = CStr::from_bytes_until_nul(path).ok()?;
    // SAFETY: a C string.
    let file = unsafe { libc::openat(dir, path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    // SAFETY: new, and nobody else's.
    (file >= 0).then(|| unsafe { File::from_raw_fd(file) })
}

fn read<'a>(dir: c_int, name: fmt::Arguments<'_>, text: &'a mut [u8]) -> Option<&'a [u8]> {
    let mut path = [0_u8; 64];
    let got = std::io::Read::read(&mut open(dir, name, &mut path)?, text).ok()?;
    text.get(..got)
}

struct Stat {
    state: u8,
    faults: u64,
}

/// `stat`: number, name in parentheses, state, six numbers, minor faults, theirs of the children,
/// major faults. The name may hold anything, but the rest are numbers: the last parenthesis ends
/// it.
fn parse(text: &[u8]) -> Option<Stat> {
    let after = text.iter().rposition(|byte| *byte == b')')?.checked_add(2)?;
    let mut fields = text.get(after..)?.split(|byte| *byte == b' ');
    let [state] = fields.next()? else { return None };
    let mut numbers = fields.map(|field| core::str::from_utf8(field).ok()?.parse::<u64>().ok());
    let minor = numbers.nth(6)??;
    let major = numbers.nth(1)??;
    Some(Stat { state: *state, faults: minor.wrapping_add(major) })
}

/// The name of the first entry, with its final zero, and the entries after it.
fn entry(entries: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = match entries.get(LENGTH..)? {
        [low, high, ..] => usize::from(u16::from_ne_bytes([*low, *high])),
        _ => return None,
    };
    Some((entries.get(NAME..length)?, entries.get(length..)?))
}

fn number(name: &[u8]) -> Option<i32> {
    let digits = name.split(|byte| *byte == 0).next()?;
    core::str::from_utf8(digits).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

    #[test]
    fn the_state_and_the_faults_are_found() {
        let stat = parse(b"7 (a) S (b) R 1 2 3 0 -1 4194304 11 5 2 0 0 0").unwrap();
        assert_eq!((stat.state, stat.faults), (b'R', 13));
        assert!(parse(b"").is_none() && parse(b"7 (a) ").is_none());
    }

    /// Threads that end all the time hide none that lives (finding S1).
    #[test]
    fn a_busy_thread_is_never_missed_while_others_end() {
        let (id, stop) = (AtomicI32::new(0), AtomicBool::new(false));
        let (mut listed, mut missed) = (0, 0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let many: Vec<_> = (0..12).map(|_| std::thread::spawn(|| {})).collect();
                        many.into_iter().for_each(|thread| thread.join().unwrap());
                    }
                });
            }
            scope.spawn(|| {
                // SAFETY: takes no pointer.
                id.store(unsafe { libc::gettid() }, Ordering::Relaxed);
                while !stop.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
            });
            while id.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            let mut census = Census::new();
            for _ in 0..5000 {
                census.tasks.clear();
                if census.list() {
                    listed += 1;
                    let id = id.load(Ordering::Relaxed);
                    missed += u32::from(!census.tasks.iter().any(|task| task.id == id));
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(missed, 0, "of {listed}");
        assert!(listed > 100, "nothing was listed: {listed}");
    }

    /// A thread that sleeps is proof at once; one that spins is evidence after its budget.
    #[test]
    fn a_busy_thread_needs_its_budget() {
        let (stop, id) = (AtomicBool::new(false), AtomicI32::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: takes no pointer.
                id.store(unsafe { libc::gettid() }, Ordering::Relaxed);
                while !stop.load(Ordering::Relaxed) {
                    core::hint::spin_loop();
                }
            });
            while id.load(Ordering::Relaxed) == 0 {
                std::thread::yield_now();
            }
            let dir = File::open("/proc/self/task").unwrap();
            let mut task = Task { process: None, id: id.load(Ordering::Relaxed), seen: None };
            let began = task.time().unwrap();
            let mut verdict = Verdict::Open;
            while verdict == Verdict::Open {
                verdict = task.ask(dir.as_raw_fd(), budget(0));
            }
            let used = task.time().unwrap() - began;
            assert!(verdict == Verdict::Proof || used >= BASE, "{verdict:?} after {used:?}");
            stop.store(true, Ordering::Relaxed);
        });
    }
}
