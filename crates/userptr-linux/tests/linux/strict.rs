//! Strict mode: which region a watch counts on, and what else belongs to it alone.

use crate::child::scenario;
use crate::stack::{Stack, eventually, lease};
use crate::stale::io::Range;
use crate::stale::memory;
use std::fs::File;
use std::io::Write;
use std::os::fd::FromRawFd;
use std::time::{Duration, Instant};
use userptr::notifier::State;
use userptr::{AddrRange, Error, UserPtr};
use userptr_linux::uring::{self, Direction, Setup, Uring};
use userptr_linux::{Linux, MAX_REGIONS, Options, Refusal};

const PAGE: usize = 4096;

fn strict() -> Stack {
    Stack::new(Options { strict: true, ..Options::default() })
}

fn part(of: Range, pages: core::ops::Range<usize>) -> Range {
    Range { address: of.address + pages.start * PAGE, bytes: pages.len() * PAGE }
}

fn bytes(range: Range) -> AddrRange {
    AddrRange::new(range.address, range.bytes).unwrap()
}

scenario!(
    /// Three watches overlap, because a part was mapped anew between them. The end of one must not
    /// end the watch that an object needs.
    s120_an_unwatch_counts_off_where_the_watch_counted_on,
    20,
    {
        let stack = strict();
        let whole = memory::map(8 * PAGE).unwrap();
        let low = stack.space.watch_range(bytes(part(whole, 0..4))).unwrap();
        let both = stack.space.watch_range(bytes(part(whole, 2..3))).unwrap();
        memory::unmap(part(whole, 2..4)).unwrap();
        memory::map_at(part(whole, 2..4).address, 2 * PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unwrap();
        let high = part(whole, 2..5);
        let object = stack.object(high.address, high.bytes);
        drop(lease(&object));
        drop(both);
        let seen = stack.space.stats().unmaps;
        memory::unmap(part(whole, 4..5)).unwrap();
        eventually("the unmap of what the object watches", || stack.space.stats().unmaps > seen);
        assert!(object.acquire().is_err(), "a lease on a page that is not mapped any more");
        drop(low);
    }
);

scenario!(
    /// `malloc_trim` holds the allocator's lock while it discards and unmaps. What it waits for
    /// must not need that lock (rule 32).
    s121_an_unmapper_with_the_allocators_lock,
    60,
    {
        let hold = Duration::from_secs(8);
        let stack = Stack::new(Options { strict: true, hold, ..Options::default() });
        const CHUNKS: usize = 24;
        const CHUNK: usize = 64 << 10;
        for _ in 0..3 {
            // More pages than the allocator's own cache for a thread takes, in chunks below its
            // threshold for mappings: they lie in the heap.
            // SAFETY: plain memory, given back below, reached by system calls alone meanwhile.
            let chunks = [(); CHUNKS].map(|()| unsafe { libc::malloc(CHUNK) });
            let low = chunks.iter().map(|chunk| chunk.addr()).min().unwrap().next_multiple_of(PAGE);
            let high = chunks.iter().map(|chunk| chunk.addr() + CHUNK).max().unwrap() & !(PAGE - 1);
            let object = stack.object(low, high - low);
            assert!(object.page_count() > 256, "{object:?}");
            drop(lease(&object));
            // SAFETY: allocated above.
            chunks.iter().for_each(|chunk| unsafe { libc::free(*chunk) });
            // SAFETY: takes no pointer.
            unsafe { libc::malloc_trim(0) };
            drop(object);
        }
        assert_eq!(stack.space.stats().overdue, 0, "an unmapper was let go at the end of its hold");
    }
);

/// A read that waits for a pipe, from an object's memory.
struct Busy {
    op: uring::Op,
    to: File,
}

impl Busy {
    fn start(object: &UserPtr<Uring>) -> Self {
        let (from, to) = pipe();
        let part = uring::Part { offset: 0, bytes: PAGE, at: u64::MAX };
        let op = Uring::start(&lease(object), Direction::FromFile, part, &from).unwrap();
        Self { op, to }
    }

    fn end(mut self) {
        self.to.write_all(&[1; PAGE]).unwrap();
        assert_eq!(self.op.wait().unwrap(), PAGE);
    }
}

scenario!(
    /// An unmapper is held because its device is busy. Another object does not notice.
    s126_a_held_unmapper_refuses_nobody_else,
    60,
    {
        let stack = strict();
        let [held, other] = [memory::map(PAGE).unwrap(), elsewhere(PAGE)];
        let [busy, idle] = [held, other].map(|range| stack.object(range.address, range.bytes));
        drop(lease(&idle));
        let job = Busy::start(&busy);
        let unmapper = std::thread::spawn(move || memory::unmap(held));
        eventually("the unmapper is held", || busy.state() == State::Revoking);
        let refused = (0..10_000).filter(|_| idle.try_acquire().is_err()).count();
        assert!(!unmapper.is_finished());
        assert_eq!(refused, 0, "of 10,000 look-ups on an untouched object");
        job.end();
        unmapper.join().unwrap().unwrap();
    }
);

scenario!(
    /// Part and whole, and halves that overlap, in any order; each notices its changes.
    s127_overlapping_objects_share_regions,
    60,
    {
        let stack = strict();
        let whole = memory::map(8 * PAGE).unwrap();
        for parts in [[0..8, 2..4], [2..4, 0..8], [0..5, 3..8], [3..8, 0..5]] {
            let objects = parts.map(|pages| part(whole, pages)).map(|range| stack.object(range.address, range.bytes));
            drop(objects.each_ref().map(lease));
            assert!(stack.space.stats().watched <= 3, "{:?}", stack.space.stats());
            // Page 3 is in all of them.
            memory::map_over(part(whole, 3..4)).unwrap();
            for object in &objects {
                eventually("its pages are released", || object.state() == State::Idle);
            }
            drop(objects.each_ref().map(lease));
            let [first, second] = objects;
            drop(first);
            memory::map_over(part(whole, 3..4)).unwrap();
            eventually("the other one is still watched", || second.state() == State::Idle);
            drop(second);
            // A revocation may have had the last reference: it ends elsewhere (rule 32).
            eventually("nothing is watched", || stack.space.stats().watched == 0);
        }
    }
);

scenario!(
    /// What is watched already, and what was watched before, needs no new descriptor.
    s127_an_acquire_again_opens_nothing,
    60,
    {
        let stack = strict();
        let range = memory::map(PAGE).unwrap();
        let object = stack.object(range.address, range.bytes);
        drop(lease(&object));
        let open = stack.space.stats().descriptors;
        let files: Vec<_> = std::iter::from_fn(|| File::open("/proc/self/exe").ok()).take(1 << 20).collect();
        for _ in 0..10 {
            object.put_pages().unwrap();
            drop(lease(&object));
        }
        drop(object);
        let again = stack.object(range.address, range.bytes);
        drop(lease(&again));
        assert_eq!(stack.space.stats().descriptors, open);
        // And what does need one says so.
        let far = elsewhere(PAGE);
        let refused = stack.space.watch_range(bytes(far)).err();
        assert_eq!(refused, Some(Refusal::Descriptors));
        assert_eq!(stack.space.stats().watched, 1);
        drop(files);
        drop(stack.space.watch_range(bytes(far)).unwrap());
    }
);

scenario!(s127_the_number_of_regions_is_named, 60, {
    // Descriptors enough for all of them.
    let limit = libc::rlimit { rlim_cur: 2048, rlim_max: 4096 };
    // SAFETY: a valid limit.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        println!("skipped: RLIMIT_NOFILE cannot be set to 2048");
        return;
    }
    let stack = strict();
    let range = memory::map((2 * MAX_REGIONS + 2) * PAGE).unwrap();
    let watch = |n: usize| stack.space.watch_range(bytes(part(range, 2 * n..2 * n + 1)));
    let watched: Vec<_> = (0..MAX_REGIONS).map(|n| watch(n).unwrap()).collect();
    assert_eq!(watch(MAX_REGIONS).err(), Some(Refusal::Regions(MAX_REGIONS)));
    assert_eq!(Error::from(Refusal::Regions(MAX_REGIONS)), Error::Slots);
    drop(watched);
    drop(watch(MAX_REGIONS).unwrap());
});

scenario!(
    /// A lease was lost. The object is quarantined and reported once, and delays no unmap after
    /// that.
    s128_a_quarantined_object_delays_one_unmap_at_most,
    60,
    {
        let hold = Duration::from_secs(20);
        let space = Linux::with(Options { strict: true, hold, ..Options::default() }).unwrap();
        let setup = Setup { deadline: Some(Duration::from_millis(200)), ..Setup::default() };
        let stack = Stack::with(space, Uring::open(setup).unwrap());
        let range = memory::map(PAGE).unwrap();
        let object = stack.object(range.address, range.bytes);
        std::mem::forget(lease(&object));
        let began = Instant::now();
        for _ in 0..4 {
            // What is mapped there by now is new.
            let _watched = stack.space.watch_range(bytes(range)).unwrap();
            memory::map_over(range).unwrap();
        }
        assert!(began.elapsed() < hold, "each of four unmaps waited: {:?}", began.elapsed());
        assert_eq!(object.state(), State::Quarantined);
        // Those that come while the first is let go are let go with it.
        let overdue = stack.space.stats().overdue;
        assert!((1..=4).contains(&overdue), "{overdue} are counted");
    }
);

fn elsewhere(size: usize) -> Range {
    memory::map_at(memory::ELSEWHERE, size, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unwrap()
}

fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: both are new.
    let [read, write] = ends.map(|fd| unsafe { File::from_raw_fd(fd) });
    (read, write)
}
