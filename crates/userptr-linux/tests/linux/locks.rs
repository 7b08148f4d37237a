//! Scenario 72: the monitor never frees, allocates or takes a user's lock.

use crate::child::scenario;
use crate::stack::{Stack, eventually, lease};
use crate::stale::io::memfd;
use crate::stale::memory;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use userptr::platforms::std::Std;
use userptr::{Context, Error, SharedQueue};
use userptr_linux::Options;
use userptr_linux::uring::Setup;
use userptr_linux::uring::{self, Uring};

/// The system's allocator, which counts what the monitor's thread asks of it.
struct Watching;

static BY_MONITOR: AtomicUsize = AtomicUsize::new(0);

fn look() {
    let mut name = [0_u8; 16];
    // SAFETY: room for a thread's name.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    if name.starts_with(b"userptr-monitor") {
        BY_MONITOR.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: the system's.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        look();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        look();
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// Threads that allocate, use and free buffers, all of it under one lock that only they know.
fn storm(options: Options, rounds: usize) {
    const BYTES: usize = 1 << 20;
    // Buffers of this size are mappings of their own, however many were freed before.
    // SAFETY: sets a number.
    assert_eq!(unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 256 << 10) }, 1);
    let stack = Stack::new(options);
    let lock = Mutex::new(());
    let warm = memory::map(BYTES).unwrap();
    let object = stack.object(warm.address, BYTES);
    drop(lease(&object));
    memory::unmap(warm).unwrap();
    drop(object);
    // The monitor has read a message: whatever a new thread allocates is behind it.
    eventually("the first unmap is counted", || stack.space.stats().unmaps > 0);
    assert!(BY_MONITOR.load(Ordering::Relaxed) > 0, "the allocator does not know the monitor");
    let before = BY_MONITOR.load(Ordering::Relaxed);
    let seen = stack.space.stats().unmaps;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let file = memfd().unwrap();
                for round in 0..rounds {
                    let guard = lock.lock().unwrap();
                    let (pointer, range) = memory::allocate(BYTES).unwrap();
                    let object = stack.object(range.address, range.bytes);
                    let part = uring::Part { offset: 0, bytes: 4096, at: 0 };
                    assert_eq!(Uring::write(&lease(&object), part, &file).unwrap(), 4096);
                    if round % 2 == 0 {
                        // The object goes first in one half, the memory in the other.
                        drop(object);
                        memory::free(pointer);
                    } else {
                        memory::free(pointer);
                        drop(object);
                    }
                    drop(guard);
                }
            });
        }
    });
    assert!(stack.space.stats().unmaps > seen, "nothing was unmapped while it was watched");
    assert_eq!(BY_MONITOR.load(Ordering::Relaxed), before, "the monitor allocated or freed");
}

scenario!(s72_nothing_hangs_with_a_user_lock_around_free, 60, {
    storm(Options::default(), 200);
});

scenario!(s72_nor_in_strict_mode, 60, {
    storm(Options { strict: true, ..Options::default() }, 50);
});

scenario!(s72_a_context_without_a_queue_for_revocations_is_refused, 20, {
    let ring = Uring::open(Setup::default()).unwrap();
    let queue = || SharedQueue::<Std>::try_new().unwrap();
    let refused = Context::builder(ring).pin_queue(queue()).release_queue(queue()).build();
    assert_eq!(refused.unwrap_err().error, Error::QueueMissing);
});
