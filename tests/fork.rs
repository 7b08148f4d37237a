//! A forked child that drops everything it inherited from the standard platform ends, and ends
//! cleanly.
#![cfg(all(unix, not(miri)))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    reason = "a test: it stops where something is wrong"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};
use userptr::platforms::std::{Std, Workers};
use userptr::{Context, Flags, RawQueue};
use userptr_sim::{DmaDevice, Machine, PAGE, Space};

/// Runs `f` in a forked child, which must end within the deadline. The parent's copies are
/// untouched.
fn in_a_child(f: impl FnOnce()) {
    // SAFETY: the child runs `f` and ends by `_exit`. No other thread of this test holds a lock
    // that it takes: they all sleep on their queues, and the allocator is made for forks.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "no child");
    if child == 0 {
        let code = i32::from(catch_unwind(AssertUnwindSafe(f)).is_err());
        // SAFETY: ends this process.
        unsafe { libc::_exit(code) };
    }
    let until = Instant::now() + Duration::from_secs(30);
    let mut status = 0;
    loop {
        // SAFETY: waits for the child that was forked above, and writes its status.
        match unsafe { libc::waitpid(child, &raw mut status, libc::WNOHANG) } {
            0 if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            0 => {
                // SAFETY: the child is still there: nobody has waited for it.
                unsafe { libc::kill(child, libc::SIGKILL) };
                panic!("the child hangs");
            }
            ended => {
                assert_eq!((ended, status), (child, 0), "the child failed");
                return;
            }
        }
    }
}

/// One test, so that no other thread of this process is anywhere but asleep.
#[test]
fn a_child_drops_what_it_inherited() {
    let workers = Workers::<Std>::start("idle", 2).unwrap();
    workers.queue().flush();
    let machine = Machine::new();
    let process = machine.process();
    let inside = machine.enter(&process);
    let address = process.mmap(PAGE);
    process.touch(address, PAGE, 1).unwrap();
    let running = Context::builder(DmaDevice::<Std>::new(&machine)).spawn().unwrap();
    let space = Space::of(&process);
    let object = running.register_raw(&space, address, PAGE, Flags::NONE.bits()).unwrap();
    drop(object.acquire().unwrap());
    let lease = object.acquire_owned().unwrap();
    running.drain();
    // The workers fall asleep: a fork copies a lock as it is, and one that is taken stays taken in
    // the child.
    std::thread::sleep(Duration::from_millis(200));

    // Every part by itself, and all together in two orders.
    let mut workers = Some(workers);
    let mut running = Some(running);
    let mut object = Some(object);
    let mut lease = Some(lease);
    in_a_child(|| drop(workers.take()));
    in_a_child(|| drop(running.take()));
    in_a_child(|| drop((lease.take(), object.take())));
    in_a_child(|| drop((workers.take(), running.take(), lease.take(), object.take())));
    in_a_child(|| drop((lease.take(), object.take(), running.take(), workers.take())));
    // A change of the mapping in the child's copy of the machine.
    in_a_child(|| {
        drop(lease.take());
        process.munmap(address, PAGE);
        drop((object.take(), running.take()));
    });

    // Nothing of it happened here.
    assert_eq!(machine.pins(), 1);
    drop((lease, object, running, workers, inside));
    machine.assert_clean();
}
