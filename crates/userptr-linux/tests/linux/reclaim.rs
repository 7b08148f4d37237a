//! Scenario 130: what the device wrote survives reclaim (rule 35).

use crate::child::scenario;
use crate::stack::{Stack, lease};
use crate::stale::io::{Part, Range, memfd};
use crate::stale::memory;
use std::fs::File;
use std::os::unix::fs::FileExt;
use userptr_linux::Options;
use userptr_linux::uring::{self, Uring};

const PAGE: usize = 4096;
const PAGES: usize = 64;
const BYTES: usize = PAGES * PAGE;
const SEED: u64 = 35;

/// Reads one byte of each page, so that it is there and clean.
fn read_each(range: Range) {
    for page in 0..PAGES {
        memory::look(range, Part { offset: page * PAGE, bytes: 1 });
    }
}

/// The number of pages that no longer hold what the device has written.
fn lost(range: Range) -> usize {
    // The kernel reclaims at once, as it would when memory is tight.
    memory::advise(range, libc::MADV_PAGEOUT).unwrap();
    let now = memory::look(range, Part { offset: 0, bytes: BYTES });
    let was = memory::pattern(BYTES, SEED);
    now.chunks(PAGE).zip(was.chunks(PAGE)).filter(|(now, was)| now != was).count()
}

fn source() -> File {
    let file = memfd().unwrap();
    file.write_all_at(&memory::pattern(BYTES, SEED), 0).unwrap();
    file
}

/// Prepares memory whose pages are there and clean, has the device write it, and reclaims.
fn written_and_reclaimed(make: impl FnOnce() -> Range) -> usize {
    let stack = Stack::new(Options::default());
    let range = make();
    let object = stack.object(range.address, range.bytes);
    let part = uring::Part { offset: 0, bytes: BYTES, at: 0 };
    assert_eq!(Uring::read(&lease(&object), part, source()).unwrap(), BYTES);
    // Whether the object still has its pages or not: a pin by itself must not be what keeps them.
    object.put_pages().unwrap();
    lost(range)
}

fn freed() -> Range {
    let range = memory::map(BYTES).unwrap();
    memory::fill(range, Part { offset: 0, bytes: BYTES }, 1);
    memory::advise(range, libc::MADV_FREE).unwrap();
    range
}

fn only_read() -> Range {
    let range = memory::map_shared(BYTES).unwrap();
    read_each(range);
    range
}

scenario!(s130_in_lazily_freed_memory_what_the_device_wrote_stays, 30, {
    assert_eq!(written_and_reclaimed(freed), 0, "of {PAGES} pages lost");
});

scenario!(s130_in_shared_memory_that_was_only_read_it_stays, 30, {
    assert_eq!(written_and_reclaimed(only_read), 0, "of {PAGES} pages lost");
});

scenario!(
    /// The memory is freed lazily while it is leased; the next lease has the device write anew.
    s130_after_a_free_under_a_lease_the_next_write_stays,
    30,
    {
        let stack = Stack::new(Options::default());
        let range = memory::map(BYTES).unwrap();
        let object = stack.object(range.address, range.bytes);
        let part = uring::Part { offset: 0, bytes: BYTES, at: 0 };
        let first = lease(&object);
        memory::advise(range, libc::MADV_FREE).unwrap();
        drop(first);
        assert_eq!(Uring::read(&lease(&object), part, source()).unwrap(), BYTES);
        object.put_pages().unwrap();
        assert_eq!(lost(range), 0, "of {PAGES} pages lost");
    }
);

scenario!(
    /// A ring of one's own without this package: what shows that the tests above meet the reclaim.
    s130_control_a_bare_fixed_buffer_loses_it,
    30,
    {
        use crate::stale::io::{Cache, Way};
        for make in [freed as fn() -> Range, only_read] {
            let range = make();
            let mut naive = crate::stale::naive::Naive::open().unwrap();
            let whole = Part { offset: 0, bytes: BYTES };
            assert_eq!(naive.run(range, whole, Way::FromFile, &source()).unwrap(), BYTES);
            // At once; the end of a ring unpins when it comes round.
            naive.forget();
            let lost = lost(range);
            println!("a bare fixed buffer: {lost} of {PAGES} pages lost");
            assert!(lost > 0);
            memory::unmap(range).unwrap();
        }
    }
);
