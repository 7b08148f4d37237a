//! Mappings, page tables, frames and pins.

use super::*;
use std::thread;
use userptr::Error;

#[test]
fn memory_is_zero_then_what_was_written() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(3 * PAGE);
    assert_eq!(p.load(a + 5), Ok(0));
    assert_eq!(m.used(), 0, "a read maps the page of zeros");
    p.store(a + 5, 7).unwrap();
    assert_eq!((p.load(a + 5), p.load(a + PAGE + 5)), (Ok(7), Ok(0)));
    assert_eq!(m.used(), 1);
    assert_eq!(p.load(a + 3 * PAGE), Err(Error::Fault));
    p.exit();
    m.assert_empty();
}

#[test]
fn partial_unmap_and_fixed_map_and_the_lowest_gap() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(4 * PAGE);
    p.touch(a, 4 * PAGE, 1).unwrap();
    p.munmap(a + PAGE, PAGE);
    assert_eq!([0, 1, 2, 3].map(|n| p.load(a + n * PAGE).is_ok()), [true, false, true, true]);
    assert_eq!(p.mmap(PAGE), a + PAGE, "the hole is the lowest place");
    assert_eq!(p.load(a + PAGE), Ok(0));
    p.mmap_fixed(a + 2 * PAGE, 2 * PAGE, Prot::R);
    assert_eq!((p.load(a + 2 * PAGE), p.store(a + 2 * PAGE, 1)), (Ok(0), Err(Error::Fault)));
    assert_eq!(p.load(a), Ok(1));
    drop(p);
    m.assert_empty();
}

#[test]
fn mremap_takes_the_pages_along() {
    let m = Machine::new();
    let p = m.process();
    let (a, b) = (p.mmap(2 * PAGE), p.mmap(2 * PAGE));
    p.touch(a, 2 * PAGE, 3).unwrap();
    p.touch(b, 2 * PAGE, 4).unwrap();
    let page = p.record().page_at(a).unwrap();
    p.mremap(a, 2 * PAGE, b).unwrap();
    assert_eq!((p.load(a), p.load(b)), (Err(Error::Fault), Ok(3)));
    assert_eq!(p.record().page_at(b), Some(page));
    assert_eq!(p.mremap(b, 2 * PAGE, b + PAGE), Err(Error::Invalid));
    assert_eq!(m.used(), 2);
    drop(p);
    m.assert_empty();
}

#[test]
fn dontneed_and_mprotect() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(2 * PAGE);
    p.touch(a, 2 * PAGE, 3).unwrap();
    p.dontneed(a, PAGE);
    assert_eq!((p.load(a), p.load(a + PAGE)), (Ok(0), Ok(3)));
    p.mprotect(a + PAGE, PAGE, Prot::R);
    assert_eq!((p.load(a + PAGE), p.store(a + PAGE, 1)), (Ok(3), Err(Error::Fault)));
    p.mprotect(a, 2 * PAGE, Prot::NONE);
    assert_eq!(p.load(a + PAGE), Err(Error::Fault));
    p.mprotect(a, 2 * PAGE, Prot::RW);
    p.store(a + PAGE, 4).unwrap();
    assert_eq!(p.load(a + PAGE), Ok(4));
    drop(p);
    m.assert_empty();
}

#[test]
fn shared_memory_is_shared_with_a_child_and_by_an_alias() {
    let m = Machine::new();
    let p = m.process();
    let s = p.shared();
    let (a, b) = (0x10_0000, 0x20_0000);
    p.mmap_shared(a, 2 * PAGE, &s, 0);
    p.mmap_shared(b, PAGE, &s, 1);
    let child = p.fork();
    p.store(a + PAGE, 9).unwrap();
    assert_eq!((p.load(b), child.load(a + PAGE)), (Ok(9), Ok(9)));
    p.munmap(a, 2 * PAGE);
    assert_eq!(p.load(b), Ok(9));
    drop((p, child));
    m.assert_clean();
}

#[test]
fn reclaim_puts_pages_away_unless_they_are_pinned_or_locked() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(3 * PAGE);
    p.touch(a, 3 * PAGE, 5).unwrap();
    let pinned = p.record().pin_fast(range(a, PAGE), true).unwrap();
    let locked = p.record().page_at(a + PAGE).unwrap();
    assert!(m.try_lock_page(locked));
    p.reclaim(a, 3 * PAGE, true).unwrap();
    assert_eq!(p.record().page_at(a), Some(pinned[0]));
    assert_eq!(p.record().page_at(a + PAGE), Some(locked));
    assert_eq!(p.record().page_at(a + 2 * PAGE), None);
    assert_eq!(p.load(a + 2 * PAGE), Ok(5), "it comes back");
    m.unlock_page(locked);
    p.record().unpin(&pinned, false, false);
    p.reclaim(a, 3 * PAGE, true).unwrap();
    assert_eq!(m.used(), 0);
    assert_eq!(p.load(a), Ok(5));
    p.oom_reap(a, 3 * PAGE).unwrap();
    assert_eq!(p.load(a), Ok(0), "the reaper throws away");
    drop(p);
    m.assert_empty();
}

/// What a device wrote is content like any other only if its pins are given back as dirty: a clean
/// page is dropped.
#[test]
fn reclaim_drops_clean_pages() {
    for (dirty, kept) in [(false, 0), (true, 9)] {
        let m = Machine::new();
        let p = m.process();
        let (a, shared, swapped) = (p.mmap(PAGE), 0x10_0000, p.mmap(PAGE));
        p.mmap_shared(shared, PAGE, &p.shared(), 0);
        p.touch(a, PAGE, 5).unwrap();
        p.touch(swapped, PAGE, 6).unwrap();
        p.free_lazily(a, PAGE);
        p.reclaim(swapped, PAGE, true).unwrap();
        assert_eq!((p.load(shared), p.load(swapped)), (Ok(0), Ok(6)), "present, writable and clean");
        for (at, before) in [(a, 0), (shared, 0), (swapped, 6)] {
            let pinned = p.record().pin_fast(range(at, PAGE), true).unwrap();
            assert_eq!(pinned.len(), 1);
            assert!(m.frames().store(pinned[0], 0, 9));
            // Not even a page lock that somebody holds excuses from the mark.
            assert!(m.try_lock_page(pinned[0]));
            p.record().unpin(&pinned, dirty, false);
            m.unlock_page(pinned[0]);
            p.reclaim(at, PAGE, true).unwrap();
            assert_eq!(p.load(at), Ok(before.max(kept)), "given back dirty: {dirty}");
        }
        // A slow pin for writing marks by itself, and so does a write.
        p.free_lazily(a, PAGE);
        let pinned = p.record().pin_slow(range(a, PAGE), true).unwrap();
        assert!(m.frames().store(pinned[0], 0, 7));
        p.record().unpin(&pinned, false, false);
        p.reclaim(a, PAGE, true).unwrap();
        assert_eq!(p.load(a), Ok(7));
        p.free_lazily(a, PAGE);
        p.store(a, 8).unwrap();
        p.reclaim(a, PAGE, true).unwrap();
        assert_eq!(p.load(a), Ok(8));
        p.exit();
        m.assert_empty();
    }
}

#[test]
fn a_pinned_frame_outlives_its_mapping_and_nothing_else() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(PAGE);
    p.store(a, 1).unwrap();
    let pages = p.record().pin_fast(range(a, PAGE), true).unwrap();
    p.munmap(a, PAGE);
    assert_eq!((m.page(pages[0]).maps, m.page(pages[0]).pins, m.used()), (0, 1, 1));
    p.record().unpin(&pages, true, true);
    assert!(m.page(pages[0]).freed);
    m.assert_clean();
    // Negative controls: given back twice, and used after it was freed.
    p.record().unpin(&pages, false, false);
    assert_eq!(m.take_violations(), [Violation::UseAfterFree(pages[0])]);
    p.mmap_fixed(a, PAGE, Prot::RW);
    p.store(a, 1).unwrap();
    let page = p.record().page_at(a).unwrap();
    assert_eq!(page.frame(), pages[0].frame(), "a freed frame is used again at once");
    assert_ne!(page, pages[0]);
    p.record().unpin(&[page], false, false);
    assert_eq!(m.take_violations(), [Violation::UnpinTwice(page)]);
}

#[test]
#[should_panic(expected = "pins are left")]
fn a_leaked_pin_is_reported() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(PAGE);
    p.store(a, 1).unwrap();
    p.record().pin_fast(range(a, PAGE), true).unwrap();
    m.assert_clean();
}

#[test]
fn pins_are_partial_charged_limited_and_marked() {
    let m = Machine::new();
    let p = m.process();
    let r = p.record();
    let a = p.mmap(4 * PAGE);
    p.touch(a, 2 * PAGE, 1).unwrap();
    assert_eq!(r.pin_fast(range(a, 4 * PAGE), true).unwrap().len(), 2);
    assert_eq!(r.charged(), 2);
    let first = [r.page_at(a).unwrap(), r.page_at(a + PAGE).unwrap()];
    r.unpin(&first, true, false);
    let state = m.page(first[0]);
    assert_eq!((state.dirty, state.accessed, r.charged()), (true, false, 0));
    let all = r.pin_slow(range(a, 4 * PAGE), true).unwrap();
    assert_eq!(all.len(), 4);
    r.unpin(&all, false, true);
    r.set_limit(3);
    assert_eq!(r.pin_slow(range(a, 4 * PAGE), true), Err(Error::Limit));
    assert_eq!((r.charged(), m.pins()), (0, 0));
    assert_eq!(r.pin_slow(range(a + 4 * PAGE, PAGE), true), Err(Error::Fault));
    m.inject().fast_pin(PinFault::Part(1));
    m.inject().slow_pin(PinFault::Part(0));
    m.inject().slow_pin(PinFault::Fail(Error::NoMemory));
    let one = r.pin_fast(range(a, 2 * PAGE), true).unwrap();
    assert_eq!(one.len(), 1);
    r.unpin(&one, false, false);
    assert_eq!(r.pin_slow(range(a, PAGE), true), Ok(Vec::new()));
    assert_eq!(r.pin_slow(range(a, PAGE), true), Err(Error::NoMemory));
    drop(p);
    m.assert_empty();
}

#[test]
fn a_fast_pin_for_writing_stops_at_a_shared_page() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(PAGE);
    p.store(a, 1).unwrap();
    let child = p.fork();
    assert_eq!(p.record().pin_fast(range(a, PAGE), true), Ok(Vec::new()));
    let read = p.record().pin_fast(range(a, PAGE), false).unwrap();
    let write = p.record().pin_slow(range(a, PAGE), true).unwrap();
    assert_ne!(read, write, "the copy-on-write was broken for the pin");
    assert_eq!(child.record().page_at(a), Some(read[0]));
    p.record().unpin(&read, false, false);
    p.record().unpin(&write, false, false);
    drop((p, child));
    m.assert_empty();
}

#[test]
fn memory_runs_out() {
    let m = Machine::with_frames(3);
    let p = m.process();
    let a = p.mmap(3 * PAGE);
    assert_eq!(p.touch(a, 3 * PAGE, 1), Err(Error::NoMemory));
    p.dontneed(a, PAGE);
    p.store(a + 2 * PAGE, 1).unwrap();
    drop(p);
    m.assert_empty();
}

#[test]
fn users_keep_the_memory_and_records_do_not() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(PAGE);
    p.store(a, 1).unwrap();
    let record = p.record().clone();
    let users = record.users().unwrap();
    p.exit();
    assert!(record.is_alive());
    assert_eq!(users.load(a), Ok(1));
    drop(users);
    assert!(!record.is_alive());
    assert_eq!((m.used(), m.records(), record.count()), (0, 1, 1));
    drop(record);
    m.assert_empty();
}

#[test]
fn the_current_process_is_the_threads_own() {
    let m = Machine::new();
    let (p, q) = (m.process(), m.process());
    assert!(Record::is_nobody_current());
    let _in = p.enter();
    assert!(p.record().is_current() && !q.record().is_current());
    {
        let _in = m.enter(&q);
        assert!(q.record().is_current());
        let _in = m.enter_nobody();
        assert!(Record::is_nobody_current());
    }
    assert!(p.record().is_current());
    thread::scope(|s| {
        s.spawn(|| assert!(Record::is_nobody_current()));
    });
}

#[test]
fn shared_memory_goes_with_its_last_mapping_or_handle() {
    let m = Machine::new();
    let p = m.process();
    let shared = p.shared();
    let (a, b) = (p.mmap(PAGE), 0x7000_0000);
    p.mmap_shared(a, PAGE, &shared, 0);
    p.mmap_shared(b, PAGE, &shared, 0);
    p.store(a, 3).unwrap();
    assert_eq!((p.load(b), m.used()), (Ok(3), 1));
    p.munmap(a, PAGE);
    p.munmap(b, PAGE);
    assert_eq!(m.used(), 1, "its content stays as long as the handle");
    p.mmap_shared(a, PAGE, &shared, 0);
    drop(shared);
    assert_eq!(p.load(a), Ok(3));
    drop(p);
    m.assert_empty();
}

#[test]
fn what_is_given_back_twice_or_to_the_wrong_process_is_reported() {
    let m = Machine::new();
    let (p, q) = (m.process(), m.process());
    let a = p.mmap(PAGE);
    p.store(a, 1).unwrap();
    let pages = p.record().pin_fast(range(a, PAGE), true).unwrap();
    q.record().unpin(&pages, false, false);
    assert_eq!(m.take_violations(), [Violation::Uncharged]);
    p.record().unpin(&pages, false, false);
    assert_eq!(m.take_violations(), [Violation::UnpinTwice(pages[0])]);
    let pages = p.record().pin_fast(range(a, PAGE), true).unwrap();
    p.munmap(a, PAGE);
    // The page table's own mistake, which no operation makes.
    m.frames().unmap(pages[0]);
    assert_eq!(m.take_violations(), [Violation::UnmapTwice(pages[0])]);
    p.record().unpin(&pages, false, false);
    assert_eq!(m.pins(), 0);
}

#[test]
fn what_must_not_happen_is_printed_with_addresses_in_hex() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(PAGE);
    p.store(a, 1).unwrap();
    let page = p.record().page_at(a).unwrap();
    let stale = Violation::Stale { address: a, page, write: true };
    assert_eq!(format!("{stale:?}"), "Stale { address: 0x10000000, page: Page(1, life 1), write: true }");
    assert_eq!(format!("{:?}", Violation::UseAfterFree(page)), "UseAfterFree(Page(1, life 1))");
    assert_eq!(format!("{:?}", Violation::NotMapped), "NotMapped");
}
