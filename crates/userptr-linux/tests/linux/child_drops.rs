//! Scenario 134: a forked child that drops what it inherited.

use crate::child::scenario;
use crate::stack::{Stack, lease};
use crate::stale::io::memfd;
use crate::stale::memory;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use userptr_linux::uring::{Direction, Part, Setup, Uring};
use userptr_linux::{Linux, Options};

const PAGE: usize = 4096;

/// Where the ring's queues are mapped.
fn queues() -> Vec<(usize, usize)> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let of_ring = maps.lines().filter(|line| line.ends_with("anon_inode:[io_uring]"));
    let bounds = of_ring.map(|line| line.split([' ', '-']).take(2).map(str::to_owned).collect::<Vec<_>>());
    let number = |hex: &str| usize::from_str_radix(hex, 16).unwrap();
    bounds.map(|bounds| (number(&bounds[0]), number(&bounds[1]))).collect()
}

/// Ends the child when `body` says that all is well.
fn in_a_child(body: impl FnOnce() -> bool) {
    // SAFETY: the child calls nothing that needs the parent's threads, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let body = std::panic::AssertUnwindSafe(body);
        let well = std::panic::catch_unwind(body).unwrap_or(false);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!well)) };
    }
    let mut status = 0;
    // SAFETY: a valid place for the status. Who hangs is ended with the whole test.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child's status; 6 is an abort");
}

/// A child drops everything, by itself, within a second; and the parent still has it all.
fn drops_everything(deadline: Option<Duration>, strict: bool) {
    let space = Linux::with(Options { strict, ..Options::default() }).unwrap();
    let stack = Stack::with(space, Uring::open(Setup { deadline, ..Setup::default() }).unwrap());
    let range = memory::map(3 * PAGE).unwrap();
    let objects = [0, 1, 2].map(|n| stack.object(range.address + n * PAGE, PAGE));
    let (from, _to) = std::io::pipe().unwrap();
    let part = Part { offset: 0, bytes: PAGE, at: u64::MAX };
    // A request that waits, a lease, and pages without one.
    let op = Uring::start(&lease(&objects[0]), Direction::FromFile, part, &from).unwrap();
    let held = lease(&objects[1]).into_owned();
    drop(lease(&objects[2]));
    let places = queues();
    assert!(!places.is_empty());
    let mut mine = Some((stack, objects, op, held));
    in_a_child(|| {
        let began = Instant::now();
        let (stack, objects, op, held) = mine.take().unwrap();
        // The queues are not inherited: their place is free, and the child uses it.
        for &(start, end) in &places {
            let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            memory::map_at(start, end - start, kind).unwrap();
        }
        let efault = op.wait_for(Duration::MAX).and_then(Result::err).and_then(|why| why.raw_os_error());
        drop((op, held, objects));
        let Stack { context, space } = stack;
        drop(context);
        drop(space);
        for &(start, end) in &places {
            let whole = crate::stale::io::Part { offset: 0, bytes: end - start };
            memory::fill(crate::stale::io::Range { address: start, bytes: end - start }, whole, 1);
        }
        efault == Some(libc::EFAULT) && began.elapsed() < Duration::from_secs(1)
    });
    let (_stack, objects, op, held) = mine.take().unwrap();
    assert!(op.wait_for(Duration::ZERO).is_none(), "the parent's request still waits");
    let file = memfd().unwrap();
    file.write_all_at(&[7; PAGE], 0).unwrap();
    let part = Part { at: 0, ..part };
    assert_eq!(Uring::read(&held, part, &file).unwrap(), PAGE);
    assert_eq!(Uring::read(&lease(&objects[2]), part, &file).unwrap(), PAGE);
    drop(_to);
    assert_eq!(op.wait().unwrap(), 0, "the pipe was closed");
}

scenario!(s134_a_child_that_drops_everything_ends_at_once, 30, {
    drops_everything(Some(Duration::from_secs(10)), false);
});

scenario!(s134_also_without_a_deadline, 30, {
    drops_everything(None, false);
});

scenario!(s134_also_in_strict_mode, 30, {
    drops_everything(None, true);
});
