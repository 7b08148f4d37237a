//! Strict mode: which region a watch counts on, and what else belongs to it alone.

use crate::child::scenario;
use crate::stack::{Stack, eventually, lease};
use crate::stale::io::Range;
use crate::stale::memory;
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
