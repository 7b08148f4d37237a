//! The monitor's thread, when things go wrong around it.

use crate::child::scenario;
use crate::stack::{Stack, eventually, lease};
use crate::stale::io::Range;
use crate::stale::memory;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use userptr::device::Limits;
use userptr::{AddrRange, Device, Error, Outcome, Prepare};
use userptr_linux::uffd::Uffd;
use userptr_linux::{Linux, Options, Refusal};

const PAGE: usize = 4096;

/// A device without hardware.
#[derive(Default)]
struct Nothing {
    /// Whether `stop` panics.
    panics: AtomicBool,
    stops: AtomicUsize,
}

impl Device for Nothing {
    type Space = Linux;
    type Map = ();
    fn limits(&self) -> Limits {
        Limits::default().deadline(Some(Duration::from_millis(200)))
    }
    fn prepare(&self, _: Prepare<'_, Linux>) -> Result<(), Error> {
        Ok(())
    }
    fn stop(&self, (): &()) {
        self.stops.fetch_add(1, Ordering::Relaxed);
        if self.panics.load(Ordering::Relaxed) {
            std::panic::resume_unwind(Box::new("the driver panics"));
        }
    }
    fn wait_idle(&self, (): &(), _: Option<Duration>) -> Outcome {
        Outcome::Idle
    }
    fn unmap(&self, (): ()) {}
}

fn stack(strict: bool) -> Stack<Nothing> {
    let options = Options { strict, ..Options::default() };
    Stack::with(Linux::with(options).unwrap(), Nothing::default())
}

fn bytes(range: Range) -> AddrRange {
    AddrRange::new(range.address, range.bytes).unwrap()
}

fn elsewhere(size: usize) -> Range {
    memory::map_at(memory::ELSEWHERE, size, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unwrap()
}

/// A driver panics in the monitor's thread. Nobody hangs for that, and others are served.
fn panic_in_stop(strict: bool) {
    let stack = stack(strict);
    let (first, second) = (memory::map(PAGE).unwrap(), elsewhere(PAGE));
    let [bad, good] = [first, second].map(|range| stack.object(range.address, range.bytes));
    drop([&bad, &good].map(lease));
    let device = stack.context.device();
    device.panics.store(true, Ordering::Relaxed);
    memory::unmap(first).unwrap();
    eventually("the panic is counted", || stack.space.stats().panics == 1);
    device.panics.store(false, Ordering::Relaxed);
    let before = device.stops.load(Ordering::Relaxed);
    // The range of the first is not closed for good.
    memory::map(PAGE).unwrap();
    let again = stack.object(first.address, first.bytes);
    drop(lease(&again));
    for range in [first, second] {
        memory::unmap(range).unwrap();
    }
    eventually("both are told to stop", || device.stops.load(Ordering::Relaxed) == before + 2);
    assert!(good.acquire().is_err() && again.acquire().is_err());
    assert_eq!(stack.space.stats().panics, 1);
}

scenario!(s124_a_driver_that_panics_stops_nobody, 60, { panic_in_stop(false) });

scenario!(s124_a_driver_that_panics_stops_nobody_in_strict_mode, 60, { panic_in_stop(true) });

/// The program lowers its limit of descriptors when it is set up, as sandboxes do.
fn no_more_descriptors(strict: bool) {
    let stack = stack(strict);
    let range = memory::map(PAGE).unwrap();
    let object = stack.object(range.address, range.bytes);
    drop(lease(&object));
    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid limit.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    for _ in 0..100 {
        memory::map_over(range).unwrap();
        drop(lease(&object));
    }
    assert_eq!(stack.space.stats().unmaps, 100);
}

scenario!(s125_a_limit_of_no_descriptors, 60, { no_more_descriptors(false) });

scenario!(s125_a_limit_of_no_descriptors_in_strict_mode, 60, { no_more_descriptors(true) });

/// Somebody closed every descriptor of the process. Errors, and no hang, and no processor used up.
fn closed_behind_our_back(strict: bool) {
    let space = Linux::with(Options { strict, ..Options::default() }).unwrap();
    let range = memory::map(PAGE).unwrap();
    drop(space.watch_range(bytes(range)).unwrap());
    // SAFETY: only numbers. What owned them is forgotten below.
    assert_eq!(unsafe { libc::close_range(3, u32::MAX, 0) }, 0);
    assert!(space.watch_range(bytes(range)).is_err());
    memory::map_over(range).unwrap();
    let used = || {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: room for a time.
        unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
        Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap())
    };
    let (before, began) = (used(), Instant::now());
    std::thread::sleep(Duration::from_millis(500));
    let share = (used() - before).as_secs_f64() / began.elapsed().as_secs_f64();
    assert!(share < 0.3, "the monitor uses {share} of a processor");
    std::mem::forget(space);
}

scenario!(s125_descriptors_closed_by_the_program, 30, { closed_behind_our_back(false) });

scenario!(s125_descriptors_closed_by_the_program_in_strict_mode, 30, { closed_behind_our_back(true) });

/// A range with a hole is refused, and nothing of it stays watched.
fn refused_watch(strict: bool) {
    let space = Linux::with(Options { strict, ..Options::default() }).unwrap();
    let range = memory::map(4 * PAGE).unwrap();
    let hole = Range { address: range.address + PAGE, bytes: PAGE };
    memory::unmap(hole).unwrap();
    assert_eq!(space.watch_range(bytes(range)).err(), Some(Refusal::Unmapped));
    assert_eq!(space.stats().watched, 0);
    let own = Uffd::open().unwrap();
    for (page, pages) in [(0, 1), (2, 2)] {
        let rest = AddrRange::new(range.address + page * PAGE, pages * PAGE).unwrap();
        assert_eq!(own.register(rest), Ok(()), "still watched");
        own.unregister(rest).unwrap();
    }
    // What was watched before by somebody else stays so.
    let first = AddrRange::new(range.address, PAGE).unwrap();
    let watched = space.watch_range(first).unwrap();
    assert_eq!(space.watch_range(bytes(range)).err(), Some(Refusal::Unmapped));
    assert_eq!(own.register(first), Err(Refusal::Claimed));
    drop(watched);
    assert_eq!(own.register(first), Ok(()));
    own.unregister(first).unwrap();
}

scenario!(s123_a_refused_watch_leaves_nothing, 30, { refused_watch(false) });

scenario!(s123_a_refused_watch_leaves_nothing_in_strict_mode, 30, { refused_watch(true) });

/// How many of the look-ups on an untouched object succeed, in per cent, beside two threads that
/// acquire and unmap elsewhere all the time, each `apart` bytes away.
fn beside_a_storm(apart: [usize; 2]) -> f64 {
    const LOOKS: u32 = 100_000;
    const UNMAPS: u64 = 1_000;
    let stack = stack(false);
    let still = memory::map(PAGE).unwrap();
    let object = stack.object(still.address, still.bytes);
    drop(lease(&object));
    let stop = AtomicBool::new(false);
    let unmaps = stack.space.stats().unmaps;
    let (looks, good) = std::thread::scope(|scope| {
        for apart in apart {
            let (stack, stop) = (&stack, &stop);
            scope.spawn(move || {
                let at = still.address + apart;
                while !stop.load(Ordering::Relaxed) {
                    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                    let range = memory::map_at(at, PAGE, kind).unwrap();
                    let watched = stack.space.watch_range(bytes(range)).unwrap();
                    memory::unmap(range).unwrap();
                    drop(watched);
                }
            });
        }
        let deadline = Instant::now() + Duration::from_secs(100);
        let (mut looks, mut good) = (0_u32, 0_u32);
        while looks < LOOKS || stack.space.stats().unmaps < unmaps + UNMAPS {
            looks += 1;
            good += u32::from(object.try_acquire().is_ok());
            if Instant::now() > deadline {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        (looks, good)
    });
    let seen = stack.space.stats().unmaps - unmaps;
    let share = 100.0 * f64::from(good) / f64::from(looks);
    println!("{apart:?} bytes away: {share:.2} % of {looks} look-ups, {seen} unmaps meanwhile");
    assert!(seen >= UNMAPS, "no storm: {seen} unmaps");
    share
}

scenario!(s129_an_untouched_object_beside_a_storm_elsewhere, 150, {
    assert!(beside_a_storm([1 << 30, 2 << 30]) >= 99.0);
});

scenario!(
    /// One page away is the same mapping, and the same descriptor: a figure, and no promise but
    /// that a look-up that waits gets its lease.
    s129_an_untouched_object_one_page_away,
    150,
    {
        let share = beside_a_storm([PAGE, 1 << 30]);
        assert!(share > 0.0, "no look-up at all succeeded");
    }
);

scenario!(
    /// A discard is told where its memory was watched, and the memory is watched anew elsewhere
    /// before that is passed on: it is not pinned before.
    s118_memory_that_changes_its_userfaultfd_waits_for_the_old_one,
    60,
    {
        let stack = Stack::new(Options { lag: Duration::from_millis(300), ..Options::default() });
        let [range, first, second] = [0, 1, 2].map(|n| {
            let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            memory::map_at(memory::ELSEWHERE + (n << 24), PAGE, kind).unwrap()
        });
        // Pieces apart from each other have one userfaultfd each: this one is the first's.
        let _first = stack.space.watch_range(bytes(first)).unwrap();
        let object = stack.object(range.address, range.bytes);
        drop(lease(&object));
        // Returns when its message is read; the monitor sleeps before it passes it on.
        memory::advise(range, libc::MADV_DONTNEED).unwrap();
        assert_eq!(stack.space.stats().discards, 0, "passed on already: the monitor did not sleep");
        drop(object);
        // Takes the userfaultfd that is free now, so that the range gets another one.
        let _second = stack.space.watch_range(bytes(second)).unwrap();
        let object = stack.object(range.address, range.bytes);
        drop(lease(&object));
        assert_eq!(stack.space.stats().discards, 1, "pinned before the discard was passed on");
        assert_eq!(stack.space.stats().descriptors, 3, "the range has its userfaultfd still");
    }
);
