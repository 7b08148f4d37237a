//! The hardware: busy, deaf, late, and not allowed to write.

use super::case;
use crate::Case;
use crate::edu::{Edu, MAX_BYTES, Way};
use crate::memory;
use crate::setting::{PAGE, SETUP, Setting, eventually, lease, span, try_lease};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use userptr::notifier::State;
use userptr::{Buffer, Device, Error, Flags, Outcome, Prepare, SgLimits, SgTable};
use userptr_linux::Options;
use userptr_linux::vfio::{Container, IovaRange, Setup, Span};

const BYTES: usize = 4 * PAGE;

pub fn cases() -> Vec<Case> {
    vec![
        case("dma-both-ways", 0, dma_both_ways),
        case("unmapped-is-blocked", 1, unmapped_is_blocked),
        case("munmap-waits-for-the-device", 1, munmap_waits),
        case("discard-waits-for-the-device", 0, discard_waits),
        case("default-mode-keeps-the-old-page", 0, default_mode),
        case("deaf-device-is-quarantined", 0, quarantined),
        case("deaf-device-is-cut-off", 1, cut_off),
        case("read-only-cannot-be-written", 1, read_only),
        case("read-only-follows-the-process", 0, read_only_follows),
        case("many-threads", 0, many_threads),
        case("addresses-are-free-last", 0, free_last),
        case("large-object", 0, large_object),
    ]
}

/// Starts a write of the engine's buffer to memory.
fn start_write(edu: &Edu, at: Span) -> Instant {
    assert!(edu.start(at, 0, MAX_BYTES, Way::ToMemory), "the engine is at work");
    Instant::now()
}

fn dma_both_ways() -> String {
    let setting = Setting::new();
    let address = memory::map(BYTES);
    let object = setting.object(address, BYTES);
    for round in 1..=4 {
        let lease = lease(&object);
        let (at, offset) = (span(&lease), (round as usize - 1) * PAGE + 512);
        memory::fill(address + offset, MAX_BYTES, round);
        assert_eq!(setting.seen_by_device(at, offset, MAX_BYTES), memory::pattern(MAX_BYTES, round));
        setting.load(100 + round);
        setting.edu.transfer(at, offset, MAX_BYTES, Way::ToMemory);
        assert_eq!(memory::look(address + offset, MAX_BYTES), memory::pattern(MAX_BYTES, 100 + round));
    }
    assert_eq!(memory::locked_pages(), 1 + BYTES / PAGE);
    drop(object);
    setting.assert_released();
    format!("{} bytes each way, at the offset of each page", MAX_BYTES)
}

fn unmapped_is_blocked() -> String {
    let setting = Setting::new();
    let address = memory::map(BYTES);
    let object = setting.object(address, BYTES);
    let at = span(&lease(&object));
    setting.load(7);
    object.put_pages().unwrap();
    memory::fill(address, MAX_BYTES, 8);
    setting.edu.transfer(at, 0, MAX_BYTES, Way::ToMemory);
    assert_eq!(memory::look(address, MAX_BYTES), memory::pattern(MAX_BYTES, 8));
    "a write after the unmap is a fault, and memory is as it was".into()
}

fn munmap_waits() -> String {
    let setting = Setting::new();
    let address = memory::map(BYTES);
    let object = setting.object(address, BYTES);
    setting.load(3);
    let (at, began) = {
        let lease = lease(&object);
        (span(&lease), start_write(&setting.edu, span(&lease)))
    };
    memory::unmap(address, BYTES);
    let took = began.elapsed();
    assert!(!setting.edu.runs(), "the unmap has returned after {took:?}, and the engine is at work");
    assert_eq!(setting.device().stats().taken, 0, "the unmap has returned, and the mapping is there");
    assert_eq!(memory::locked_pages(), 1);
    assert!(took >= Duration::from_millis(90), "{took:?}: the engine has not been at work at all");
    assert_eq!(setting.space.stats().overdue, 0);
    // New memory at the same place: the device does not get there by the old addresses.
    memory::map_at(address, BYTES);
    memory::fill(address, BYTES, 4);
    setting.edu.transfer(at, 0, MAX_BYTES, Way::ToMemory);
    assert_eq!(
        memory::look(address, BYTES),
        memory::pattern(BYTES, 4),
        "a late write has reached new memory"
    );
    format!("munmap returned after {} ms, when the DMA was done and unmapped", took.as_millis())
}

fn discard_waits() -> String {
    let setting = Setting::new();
    let address = memory::map(BYTES);
    let object = setting.object(address, BYTES);
    setting.load(3);
    {
        let lease = lease(&object);
        start_write(&setting.edu, span(&lease));
    }
    memory::discard(address, BYTES);
    assert!(!setting.edu.runs() && setting.device().stats().taken == 0);
    assert_eq!(memory::look(address, BYTES), vec![0; BYTES]);
    let lease = lease(&object);
    assert_eq!(setting.seen_by_device(span(&lease), 0, MAX_BYTES), vec![0; MAX_BYTES]);
    "the device was done before the pages went, and sees the new ones".into()
}

fn default_mode() -> String {
    let setting = Setting::with(Options::default(), SETUP);
    let address = memory::map(BYTES);
    let object = setting.object(address, BYTES);
    setting.load(3);
    let began = {
        let lease = lease(&object);
        start_write(&setting.edu, span(&lease))
    };
    memory::unmap(address, BYTES);
    let took = began.elapsed();
    assert!(setting.edu.runs(), "the unmap has returned after {took:?}: it should not wait here");
    memory::map_at(address, BYTES);
    memory::fill(address, BYTES, 4);
    assert_eq!(setting.device().stats().taken, 1, "the old pages are the device's");
    eventually("the mapping is released", || setting.device().stats().taken == 0);
    assert!(!setting.edu.runs(), "released while the engine was at work");
    assert_eq!(memory::look(address, BYTES), memory::pattern(BYTES, 4));
    let lease = lease(&object);
    assert_eq!(setting.seen_by_device(span(&lease), 0, MAX_BYTES), memory::pattern(MAX_BYTES, 4));
    format!("munmap returned after {} ms, and the old pages stayed until the DMA was done", took.as_millis())
}

fn quarantined() -> String {
    let deadline = Some(Duration::from_millis(20));
    let setting = Setting::with(Options { strict: true, ..Options::default() }, Setup { deadline, ..SETUP });
    let address = memory::map(BYTES);
    let object = setting.object(address, BYTES);
    setting.load(3);
    let at = span(&lease(&object));
    setting.edu.deaf.store(true, Ordering::SeqCst);
    assert_eq!(object.put_pages(), Err(Error::TimedOut));
    assert_eq!(object.state(), State::Quarantined);
    // The device still has the pages, and nobody else.
    setting.edu.transfer(at, 0, MAX_BYTES, Way::ToMemory);
    assert_eq!(memory::look(address, MAX_BYTES), memory::pattern(MAX_BYTES, 3));
    setting.edu.deaf.store(false, Ordering::SeqCst);
    assert_eq!(setting.context.retry_quarantined(), Outcome::Idle);
    setting.assert_released();
    drop(lease(&object));
    "the pages stay the device's until it answers".into()
}

fn cut_off() -> String {
    let setup = Setup { deadline: Some(Duration::from_millis(20)), cut_off: true, ..SETUP };
    let setting = Setting::with(Options { strict: true, ..Options::default() }, setup);
    let address = memory::map(BYTES);
    let object = setting.object(address, BYTES);
    setting.load(3);
    setting.edu.deaf.store(true, Ordering::SeqCst);
    let began = {
        let lease = lease(&object);
        start_write(&setting.edu, span(&lease))
    };
    memory::unmap(address, BYTES);
    assert!(setting.edu.runs(), "too late to be cut off: {:?}", began.elapsed());
    memory::map_at(address, BYTES);
    memory::fill(address, BYTES, 4);
    setting.edu.finish();
    assert_eq!(memory::look(address, BYTES), memory::pattern(BYTES, 4), "the device has reached new memory");
    let stats = setting.device().stats();
    assert_eq!((stats.cut_off, stats.in_use), (1, 1), "its addresses are kept until a reset");
    setting.edu.deaf.store(false, Ordering::SeqCst);
    assert_eq!(setting.device().reclaim(), 0);
    setting.assert_released();
    "the unmap did not wait, and the DMA that came after it was a fault".into()
}

fn read_only() -> String {
    let setting = Setting::new();
    let address = memory::map(BYTES);
    memory::fill(address, BYTES, 1);
    let object = setting.create(address, BYTES, Flags::READ_ONLY);
    let lease = lease(&object);
    // First the write: QEMU's IOMMU refuses one through a translation that it has in its cache,
    // too, but says nothing.
    setting.load(2);
    setting.edu.transfer(span(&lease), 0, MAX_BYTES, Way::ToMemory);
    assert_eq!(memory::look(address, BYTES), memory::pattern(BYTES, 1), "the device has written");
    assert_eq!(setting.seen_by_device(span(&lease), 0, MAX_BYTES), memory::pattern(MAX_BYTES, 1));
    "reads work, and a write is a fault".into()
}

/// Memory that nobody has touched, pinned for reading: the process's first write must be seen.
fn read_only_follows() -> String {
    let setting = Setting::new();
    let naive = memory::map(PAGE);
    let at = Span { iova: 0xf10_0000, bytes: PAGE as u64 };
    // SAFETY: memory of system calls, which no reference points to; the span lies outside of the
    // window.
    unsafe { setting.device().container().map(at, naive, false) }.unwrap();
    memory::fill(naive, PAGE, 9);
    let stale = setting.seen_by_device(at, 0, MAX_BYTES) != memory::pattern(MAX_BYTES, 9);
    // SAFETY: mapped above.
    unsafe { setting.device().container().unmap(at) }.unwrap();

    let address = memory::map(PAGE);
    let object = setting.create(address, PAGE, Flags::READ_ONLY);
    let lease = lease(&object);
    memory::fill(address, PAGE, 9);
    assert_eq!(setting.seen_by_device(span(&lease), 0, MAX_BYTES), memory::pattern(MAX_BYTES, 9));
    format!("naive {}, userptr follows", if stale { "reads zeros for ever" } else { "follows, too" })
}

/// More threads than the window has room for: an address is taken again the moment that it is free,
/// so one that becomes free before its mapping is gone is found out.
fn many_threads() -> String {
    const THREADS: usize = 6;
    const BLOCKS: usize = 4;
    const ROUNDS: usize = 30;
    let last = SETUP.window.first + (BLOCKS * BYTES) as u64 - 1;
    let setup = Setup { window: IovaRange { last, ..SETUP.window }, ..SETUP };
    let setting = Setting::with(Options { strict: true, ..Options::default() }, setup);
    let refusals = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (setting, refusals) = (&setting, &refusals);
            scope.spawn(move || {
                let address = 0x1200_0000_0000 + (thread << 24);
                for round in 0..ROUNDS {
                    memory::map_at(address, BYTES);
                    let object = setting.object(address, BYTES);
                    let lease = loop {
                        match try_lease(&object) {
                            Ok(lease) => break lease,
                            // All addresses are taken.
                            Err(Error::Limit) => drop(refusals.fetch_add(1, Ordering::Relaxed)),
                            Err(error) => panic!("{error}: {:?}", setting.device().refusal()),
                        }
                        std::thread::yield_now();
                    };
                    if round % 10 == thread {
                        memory::fill(address, BYTES, 1);
                        // Given up if the others keep the engine busy.
                        setting.edu.start(span(&lease), 0, MAX_BYTES, Way::FromMemory);
                    }
                    drop(lease);
                    memory::unmap(address, BYTES);
                }
            });
        }
    });
    setting.edu.finish();
    setting.assert_released();
    assert_eq!(setting.device().stats().foreign, 0);
    format!(
        "{} mappings by {THREADS} threads in {BLOCKS} places, {} refusals",
        THREADS * ROUNDS,
        refusals.into_inner()
    )
}

/// One place for three threads that map and unmap as fast as they can, below the objects: whoever
/// is given addresses whose mapping is not gone yet is refused by the kernel with `EEXIST`.
fn free_last() -> String {
    const THREADS: usize = 3;
    const ROUNDS: usize = 1500;
    let setup =
        Setup { window: IovaRange { last: SETUP.window.first + PAGE as u64 - 1, ..SETUP.window }, ..SETUP };
    let setting = Setting::with(Options::default(), setup);
    let refusals = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            let (device, space, refusals) = (setting.device(), &setting.space, &refusals);
            scope.spawn(move || {
                let address = memory::map(PAGE);
                memory::fill(address, PAGE, 1);
                let mut pages = Buffer::with_capacity(1).unwrap();
                pages.push(address / PAGE).unwrap();
                let sg = SgTable::build(pages.iter().copied(), SgLimits::NONE).unwrap();
                let mut made = 0;
                while made < ROUNDS {
                    // SAFETY: memory of the test's own, mapped until the map is taken away.
                    let what = unsafe { Prepare::new(space, address, &pages, &sg, true) };
                    match device.prepare(what) {
                        Ok(map) => {
                            made += 1;
                            device.unmap(map);
                        }
                        Err(Error::Limit) => drop(refusals.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => panic!("{error}: {:?}", device.refusal()),
                    }
                }
            });
        }
    });
    setting.assert_released();
    assert_eq!(setting.device().stats().foreign, 0);
    format!(
        "{} mappings by {THREADS} threads in one place, {} refusals",
        THREADS * ROUNDS,
        refusals.into_inner()
    )
}

/// Four megabytes: the addresses of the device lie in its large pages as those of the process do.
fn large_object() -> String {
    const LARGE: usize = 2 << 20;
    let setting = Setting::new();
    let address = memory::map(3 * LARGE);
    let object = setting.object(address + PAGE, 2 * LARGE);
    let lease = lease(&object);
    let at = span(&lease);
    assert_eq!(at.iova as usize % LARGE, (address + PAGE) % LARGE);
    for (round, offset) in [0, LARGE - 1024, 2 * LARGE - MAX_BYTES].into_iter().enumerate() {
        memory::fill(address + PAGE + offset, MAX_BYTES, round as u64);
        assert_eq!(setting.seen_by_device(at, offset, MAX_BYTES), memory::pattern(MAX_BYTES, round as u64));
    }
    assert_eq!(memory::locked_pages(), 1 + 2 * LARGE / PAGE);
    drop(lease);
    memory::unmap(address, 3 * LARGE);
    setting.assert_released();
    format!("{} pages in one mapping", 2 * LARGE / PAGE)
}
