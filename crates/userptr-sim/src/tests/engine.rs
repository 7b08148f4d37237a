//! The DMA engine and what it reports; the naive device is the negative control of every scenario.

use super::*;
use core::time::Duration;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use userptr::Error;
use userptr::notifier::Outcome;

/// A page of a process that the device has mapped, and nobody watches.
struct Mapped {
    m: Machine,
    p: Process,
    engine: Engine,
    a: usize,
    pages: Vec<Page>,
    map: DmaMap,
}

fn mapped(write: bool) -> Mapped {
    let m = Machine::new();
    let (p, engine) = (m.process(), Engine::new(&m));
    let a = p.mmap(PAGE);
    p.store(a, 1).unwrap();
    let pages = p.record().pin_fast(range(a, PAGE), true).unwrap();
    let map = engine.map(p.record(), a, &pages, write).unwrap();
    Mapped { m, p, engine, a, pages, map }
}

#[test]
fn a_naive_device_reads_stale_pages_after_each_operation() {
    type Change = fn(&Process, usize);
    let changes: [(&str, Change); 9] = [
        ("munmap", |p, a| p.munmap(a, PAGE)),
        ("munmap and mmap", |p, a| {
            p.munmap(a, PAGE);
            p.mmap_fixed(a, PAGE, Prot::RW);
            p.store(a, 9).unwrap();
        }),
        ("MAP_FIXED", |p, a| p.mmap_fixed(a, PAGE, Prot::RW)),
        ("mremap away", |p, a| p.mremap(a, PAGE, 0x7000_0000).unwrap()),
        ("mremap onto", |p, a| {
            let b = p.mmap(PAGE);
            p.mremap(b, PAGE, a).unwrap();
        }),
        ("DONTNEED", |p, a| p.dontneed(a, PAGE)),
        ("mprotect", |p, a| p.mprotect(a, PAGE, Prot::R)),
        ("fork", |p, _| core::mem::forget(p.fork())),
        ("OOM reaper", |p, a| p.oom_reap(a, PAGE).unwrap()),
    ];
    for (name, change) in changes {
        let Mapped { m, p, engine, a, pages, map } = mapped(true);
        engine.write(&map, 3, 5);
        assert_eq!(p.load(a + 3), Ok(5), "{name}");
        m.assert_clean_but_pins();
        change(&p, a);
        engine.write(&map, 3, 6);
        let stale = Violation::Stale { address: a + 3, page: pages[0], write: true };
        assert_eq!(m.take_violations(), [stale], "{name}");
        engine.unmap(&map);
        p.record().unpin(&pages, true, true);
        m.assert_clean();
    }
}

#[test]
fn inside_a_window_the_device_may_not_touch_what_is_still_mapped() {
    let Mapped { m, p, engine, a, pages, map } = mapped(true);
    let (e, t) = (engine.clone(), map.clone());
    m.once(Seam::Before, move |_| assert_eq!(e.read(&t, 0), 1));
    let (e, t, inner) = (engine.clone(), map.clone(), m.clone());
    m.once(Seam::Started, move |_| {
        assert!(inner.take_violations().is_empty());
        assert_eq!(e.read(&t, 0), 1);
        assert_eq!(inner.take_violations().len(), 1);
    });
    p.munmap(a, PAGE);
    p.record().unpin(&pages, false, false);
    m.assert_clean();
}

#[test]
fn the_engine_reports_each_kind_of_misuse() {
    let Mapped { m, p, engine, a, pages, map } = mapped(false);
    engine.write(&map, 0, 1);
    assert_eq!(m.take_violations(), [Violation::ReadOnly]);
    let job = engine.start(&map);
    assert!(!job.is_stopping());
    engine.stop(&map);
    assert!(job.is_stopping());
    assert_eq!(engine.wait_idle(&map, Some(Duration::ZERO)), Outcome::TimedOut);
    engine.unmap(&map);
    assert_eq!(m.take_violations(), [Violation::UnmappedBusy]);
    drop(job);
    assert_eq!(engine.wait_idle(&map, None), Outcome::Idle);
    assert_eq!(engine.read(&map, 0), 1);
    assert_eq!(m.take_violations(), [Violation::NotMapped]);
    m.inject().idle(Outcome::DeviceLost);
    assert_eq!(engine.wait_idle(&map, None), Outcome::DeviceLost);
    m.inject().prepare(Error::NoMemory);
    assert_eq!(engine.map(p.record(), a, &pages, false).unwrap_err(), Error::NoMemory);
    let map = engine.map(p.record(), a, &pages, false).unwrap();
    p.record().unpin(&pages, false, false);
    assert_eq!(engine.read(&map, 0), 1);
    assert_eq!(m.take_violations(), [Violation::NotPinned(pages[0])]);
    p.munmap(a, PAGE);
    let _ = engine.read(&map, 0);
    let stale = Violation::Stale { address: a, page: pages[0], write: false };
    assert_eq!(m.take_violations(), [stale, Violation::UseAfterFree(pages[0])]);
    // The page of zeros is nobody's to write.
    p.mmap_fixed(a, PAGE, Prot::RW);
    p.load(a).unwrap();
    let zero = p.record().pin_fast(range(a, PAGE), false).unwrap();
    let map = engine.map(p.record(), a, &zero, true).unwrap();
    engine.write(&map, 0, 1);
    assert!(m.take_violations().contains(&Violation::ZeroPageWritten));
    p.record().unpin(&zero, false, false);
}

#[test]
fn a_wait_ends_with_the_last_job() {
    let m = Machine::new();
    let (p, engine) = (m.process(), Engine::new(&m));
    let a = p.mmap(PAGE);
    let map = engine.map(p.record(), a, &[], false).unwrap();
    let job = engine.start(&map);
    let ended = Arc::new(AtomicUsize::new(0));
    let (seen, e, t) = (ended.clone(), engine.clone(), map.clone());
    let (tx, rx) = mpsc::channel();
    m.once(Seam::WaitIdle, move |_| tx.send(()).unwrap());
    let waiter = thread::spawn(move || {
        assert_eq!(e.wait_idle(&t, None), Outcome::Idle);
        assert_eq!(seen.load(Ordering::SeqCst), 1, "the wait ended before the job");
    });
    rx.recv().unwrap();
    ended.store(1, Ordering::SeqCst);
    drop(job);
    waiter.join().unwrap();
}
