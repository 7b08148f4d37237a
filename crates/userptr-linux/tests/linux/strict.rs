//! Strict mode: which region a watch counts on, and what else belongs to it alone.

use crate::child::scenario;
use crate::stack::{Stack, eventually, lease};
use crate::stale::io::Range;
use crate::stale::memory;
use std::time::Duration;
use userptr::AddrRange;
use userptr_linux::Options;

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
    /// `malloc_trim` holds the allocator's lock while it discards and unmaps. What it waits for must
    /// not need that lock (rule 32).
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
