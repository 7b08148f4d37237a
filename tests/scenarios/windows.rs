//! Scenarios 20 to 26: starts, windows, and what is stale after them.

use crate::ext::AddressSpaceSide;
use crate::world::{Host, Setup, World, range, rounds, until};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use userptr::notifier::State;
use userptr::{Blockable, Error, Outcome};
use userptr_sim::{Op, PAGE, Process, Prot, Seam};

fn s20_a_start_returns_when_the_device_is_idle_and_the_pages_are_unpinned<P: Host>() {
    for queued in [false, true] {
        let w = World::<P>::with(Setup::default().threads(1).queued(queued));
        let _in = w.enter();
        let (a, object) = w.object(2);
        let job = w.job(&w.lease(&object));
        let machine = w.machine.clone();
        w.machine.once(Seam::Started, move |_| assert_eq!(machine.pins(), 0));
        let (to_wait, waits) = channel();
        w.machine.once(Seam::WaitIdle, move |_| to_wait.send(()).unwrap());
        let done = AtomicBool::new(false);
        thread::scope(|s| {
            s.spawn(|| {
                w.process.munmap(a, PAGE);
                done.store(true, Ordering::SeqCst);
            });
            waits.recv().unwrap();
            // The device works on while it is waited for. All of it is still legal: checked by the
            // machine.
            job.write(3, 9);
            assert!(!done.load(Ordering::SeqCst), "the start returned while the device worked");
            assert_eq!(w.machine.pins(), 2);
            drop(job);
        });
        drop(object);
        w.finish();
    }
}

std::thread_local! {
    /// Holds on users that code at a seam may not drop there, under the address-space lock.
    static PARKED: std::cell::RefCell<Vec<Process>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Against the naive device of the machine's own tests, which fails each of these: with the core,
/// no operation leaves the device a stale page.
fn s20_after_no_operation_is_a_page_stale<P: Host>() {
    type Change = fn(&Process, usize);
    let changes: [Change; 11] = [
        |p, a| p.munmap(a, PAGE),
        |p, a| p.munmap(a - PAGE, 2 * PAGE),
        |p, a| {
            p.munmap(a, PAGE);
            p.mmap_fixed(a, PAGE, Prot::RW);
            p.store(a, 9).unwrap();
        },
        |p, a| p.mmap_fixed(a, PAGE, Prot::RW),
        |p, a| p.mremap(a, PAGE, 0x7000_0000).unwrap(),
        |p, a| {
            p.mmap_fixed(0x7000_0000, PAGE, Prot::RW);
            p.mremap(0x7000_0000, PAGE, a).unwrap();
        },
        |p, a| p.dontneed(a, PAGE),
        |p, a| p.mprotect(a, PAGE, Prot::R),
        |p, a| {
            let child = p.fork();
            p.store(a, 7).unwrap();
            child.store(a, 8).unwrap();
        },
        |p, a| p.reclaim(a, PAGE, true).unwrap(),
        |p, a| {
            // The page of zeros, replaced by the first write.
            p.dontneed(a, PAGE);
            p.load(a).unwrap();
            p.store(a, 5).unwrap();
        },
    ];
    for (n, change) in changes.into_iter().enumerate() {
        for flags in [0, 1] {
            let w = World::<P>::new();
            let _in = w.enter();
            let a = w.memory(3) + PAGE;
            let object = w.try_create(a, PAGE, flags).unwrap();
            assert_eq!(w.read(&w.lease(&object), 0), 1);
            change(&w.process, a);
            assert_ne!(object.state(), State::Ready, "operation {n}");
            // The device uses whatever it can get from now on; the machine checks each access.
            for _ in 0..3 {
                let Ok(lease) = object.try_acquire() else {
                    w.work();
                    continue;
                };
                assert_eq!(w.read(&lease, 0), w.process.load(a).unwrap(), "operation {n}");
                if flags == 0 {
                    w.write(&lease, 1, 4);
                    assert_eq!(w.process.load(a + 1), Ok(4), "operation {n}");
                }
            }
            drop(object);
            w.finish();
        }
    }
}

fn s21_a_submission_is_inside_its_lease<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, object) = w.pinned(1);
    let lease = w.lease(&object);
    let (to_wait, waits) = channel();
    w.machine.once(Seam::WaitIdle, move |_| to_wait.send(()).unwrap());
    thread::scope(|s| {
        s.spawn(|| w.process.munmap(a, PAGE));
        // The start has closed the object: it waits for our lease.
        until(|| object.state() == State::Revoking);
        assert_eq!(object.try_acquire().unwrap_err(), Error::Again, "no new lease");
        // Checked before, published now: the cancel has not asked the device yet.
        assert!(waits.try_recv().is_err());
        let job = w.job(&lease);
        drop(lease);
        waits.recv().unwrap();
        job.write(0, 3);
        assert_eq!(w.machine.pins(), 1);
        drop(job);
    });
    drop(object);
    w.finish();
}

fn s22_the_last_end_opens_the_window<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, object) = w.object(4);
    let n = w.notifier(&object);
    let again = || {
        assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
        w.work();
        assert_eq!(w.machine.pins(), 0);
    };
    let windows = [range(a, PAGE), range(a, 4 * PAGE), range(a + 3 * PAGE, PAGE), range(a, PAGE)];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2]] {
        for window in windows {
            assert_eq!(n.invalidate_and_wait(window, Blockable::Yes), Ok(Outcome::Idle));
            again();
        }
        for at in order {
            again();
            n.end(windows[at]);
        }
        drop(w.lease(&object));
    }
    // More windows than there are slots for, and not all of them over the object.
    let elsewhere = range(a + 64 * PAGE, PAGE);
    for k in 0..40 {
        let window = if k % 2 == 0 { range(a, PAGE) } else { elsewhere };
        assert_eq!(n.invalidate_and_wait(window, Blockable::Yes), Ok(Outcome::Idle));
    }
    for k in 0..40 {
        again();
        n.end(if k % 2 == 0 { elsewhere } else { range(a, PAGE) });
    }
    drop(w.lease(&object));
    // Nested in reality: a reclaim inside an unmap, of the same page and of its neighbour.
    for page in [0, 1] {
        let (b, inner) = w.pinned(2);
        let (process, late) = (w.record().users().unwrap(), inner.clone());
        let process = std::mem::ManuallyDrop::new(process);
        let record = w.record().clone();
        w.machine.once_in(Op::Dontneed, Seam::Started, move |_| {
            process.reclaim(b + page * PAGE, PAGE, true).unwrap();
            assert_eq!(late.try_acquire().unwrap_err(), Error::Again);
            let _ = record;
            PARKED.with_borrow_mut(|p| p.push(std::mem::ManuallyDrop::into_inner(process)));
        });
        w.process.dontneed(b, PAGE);
        PARKED.with_borrow_mut(Vec::clear);
        drop(w.lease(&inner));
    }
    drop((n, object));
    w.finish();
}

fn s23_a_second_get_does_not_pin_again<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (_, object) = w.object(3);
    for _ in 0..5 {
        drop(w.lease(&object));
    }
    let (one, two) = (w.lease(&object), w.lease(&object));
    assert_eq!((w.count(Seam::Pinned), w.count(Seam::Prepare), w.machine.pins()), (1, 1, 3));
    drop((one, two));
    drop(object);
    w.finish();
}

fn s25_a_neighbour_keeps_its_pages<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let a = w.memory(3);
    let objects = [0, 1, 2].map(|n| w.create(a + n * PAGE, 1));
    for object in &objects {
        drop(w.lease(object));
    }
    w.process.munmap(a + PAGE, PAGE);
    assert_eq!(
        [0, 1, 2].map(|n| objects[n].state()),
        [State::Ready, State::Idle, State::Ready],
        "the pages that touch the range from both sides are not in it"
    );
    assert_eq!(w.machine.pins(), 2);
    drop(objects);
    w.finish();
}

/// One object, one acquirer, one invalidator, on an index that is empty whenever the object is
/// idle.
fn s26_a_start_on_the_empty_index_never_misses_an_attach<P: Host>() {
    let w = World::<P>::with(Setup::default().threads(1));
    let (a, object) = {
        let _in = w.enter();
        w.object(1)
    };
    let got = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    thread::scope(|s| {
        s.spawn(|| {
            let _in = w.enter();
            while !stop.load(Ordering::Relaxed) {
                if let Ok(lease) = object.try_acquire() {
                    // The machine compares with what the process has there at this moment.
                    w.write(&lease, 2, 3);
                    got.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let _in = w.enter();
        for round in 0..rounds(2000) {
            match round % 3 {
                0 => w.process.dontneed(a, PAGE),
                1 => w.process.reclaim(a, PAGE, true).unwrap(),
                _ => w.process.mmap_fixed(a, PAGE, Prot::RW),
            }
            w.process.store(a, 1).unwrap();
            let before = got.load(Ordering::Relaxed);
            if round % 8 == 0 {
                until(|| got.load(Ordering::Relaxed) > before);
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(got.into_inner() >= rounds(250));
    drop(object);
    w.finish();
}

/// Everything at once: several objects that overlap, jobs that outlive their leases, every
/// operation, forks, evictions, closes.
fn s26_everything_at_once<P: Host>() {
    for queued in [false, true] {
        let w = World::<P>::with(Setup::default().threads(2).queued(queued));
        let a = {
            let _in = w.enter();
            w.memory(8)
        };
        let stop = Arc::new(AtomicBool::new(false));
        let used = AtomicUsize::new(0);
        thread::scope(|s| {
            for t in 0..3 {
                let (w, stop, used) = (&w, stop.clone(), &used);
                s.spawn(move || {
                    let _in = w.enter();
                    let mut round = t;
                    let mut object = w.create(a, 8);
                    while !stop.load(Ordering::Relaxed) {
                        round += 1;
                        if round % 16 == 0 {
                            object = w.create(a + round % 5 * PAGE, 1 + round % 3);
                        }
                        if round % 11 == 0 {
                            object.put_pages().unwrap();
                        }
                        match object.try_acquire() {
                            Ok(lease) => {
                                let job = w.job(&lease);
                                drop(lease);
                                job.write(5, round as u8);
                                let _ = job.read(object.page_count() * PAGE - 1);
                                used.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(Error::Again) => thread::yield_now(),
                            Err(Error::Fault) => {
                                object.reset();
                            }
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            let _in = w.enter();
            for round in 0..rounds(2000) {
                let at = a + round % 8 * PAGE;
                match round % 9 {
                    0 => w.process.munmap(at, PAGE),
                    1 => w.process.dontneed(a, 8 * PAGE),
                    2 => drop(w.process.fork()),
                    3 => w.process.reclaim(a, 4 * PAGE, true).unwrap(),
                    4 => w.process.mprotect(at, PAGE, Prot::R),
                    5 => {
                        let _ = w.process.oom_reap(at, PAGE);
                    }
                    6 => w.process.mmap_fixed(a, 8 * PAGE, Prot::RW),
                    7 => {
                        let _ = w.process.mremap(at, PAGE, a + 100 * PAGE);
                    }
                    _ => {
                        let before = used.load(Ordering::Relaxed);
                        w.process.mmap_fixed(a, 8 * PAGE, Prot::RW);
                        w.process.touch(a, 8 * PAGE, 1).unwrap();
                        if round % 5 == 0 {
                            until(|| used.load(Ordering::Relaxed) > before);
                        }
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        w.finish();
    }
}

crate::on_each_host! {
    s20_a_start_returns_when_the_device_is_idle_and_the_pages_are_unpinned,
    s20_after_no_operation_is_a_page_stale,
    s21_a_submission_is_inside_its_lease,
    s22_the_last_end_opens_the_window,
    s23_a_second_get_does_not_pin_again,
    s25_a_neighbour_keeps_its_pages,
    s26_a_start_on_the_empty_index_never_misses_an_attach,
    s26_everything_at_once,
}
