//! Scenarios 77 to 82: the corners of the protocol. Scenario 85 stands with the locks.

use crate::bare::Bare;
use crate::ext::AddressSpaceSide;
use crate::world::{Host, Setup, World, range, rounds, until};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use userptr::notifier::State;
use userptr::{Blockable, Error, Notifier, Outcome, UserPtr};
use userptr_sim::{Op, PAGE, Seam};

/// The release is held up in `seam` while a start arrives. The start must not return before the
/// release has unpinned.
fn s77_a_start_waits_for_a_release_that_has_pages<P: Host>() {
    for seam in [Seam::Stop, Seam::WaitIdle, Seam::Unmap, Seam::Unpin] {
        let w = World::<P>::new();
        let _in = w.enter();
        let (a, object) = w.pinned(1);
        let n = w.notifier(&object);
        let gate = w.hold(seam);
        let (machine, unpinned) = (w.machine.clone(), std::sync::Arc::new(AtomicUsize::new(9)));
        let seen = unpinned.clone();
        w.machine.once(Seam::Started, move |_| seen.store(machine.pins(), Ordering::SeqCst));
        thread::scope(|s| {
            s.spawn(move || drop(object));
            gate.reached();
            s.spawn(|| w.process.munmap(a, PAGE));
            // The start has recorded its window: it is in there, and has not come back.
            until(|| n.stats().windows == 1);
            assert_eq!((n.stats().attached, unpinned.load(Ordering::SeqCst)), (1, 9));
            drop(gate);
        });
        assert_eq!(unpinned.load(Ordering::SeqCst), 0, "{seam:?}");
        assert_eq!(w.count(Seam::Unpin), 1);
        drop(n);
        w.finish();
    }
}

/// As scenario 77, by an eviction; and the other way round, an eviction waits for a cancel that is
/// a start's.
fn s78_put_pages_against_a_start<P: Host>() {
    for seam in [Seam::Stop, Seam::WaitIdle, Seam::Unmap, Seam::Unpin] {
        for evict_first in [true, false] {
            let w = World::<P>::new();
            let _in = w.enter();
            let (a, object) = w.pinned(1);
            let n = w.notifier(&object);
            let gate = w.hold(seam);
            let after = AtomicUsize::new(0);
            let evict = || {
                object.put_pages().unwrap();
                assert_eq!(w.machine.pins(), 0, "evicted");
                after.fetch_add(1, Ordering::SeqCst);
            };
            let start = || {
                assert_eq!(n.invalidate_and_wait(range(a, PAGE), Blockable::Yes), Ok(Outcome::Idle));
                assert_eq!((w.machine.pins(), n.stats().attached), (0, 0), "started");
                after.fetch_add(1, Ordering::SeqCst);
                n.end(range(a, PAGE));
            };
            thread::scope(|s| {
                if evict_first {
                    s.spawn(evict);
                    gate.reached();
                    s.spawn(start);
                    until(|| n.stats().windows == 1);
                } else {
                    s.spawn(start);
                    gate.reached();
                    s.spawn(evict);
                }
                assert_eq!((n.stats().attached, after.load(Ordering::SeqCst)), (1, 0));
                drop(gate);
            });
            assert_eq!((w.count(Seam::Unmap), w.count(Seam::Unpin)), (1, 1), "{seam:?}");
            drop((n, object));
            w.finish();
        }
    }
}

fn s79_alternating_leases_do_not_starve_a_cancel<P: Host>() {
    let w = World::<P>::with(Setup::default().threads(1));
    let _in = w.enter();
    let (a, pinned) = w.pinned(1);
    // Leases of the notifier alone: `try_acquire` looks twice, and would hide what is looked for.
    let object = Bare::new(&w.notifier(&pinned), range(a, PAGE));
    let stop = AtomicBool::new(false);
    let (turn, got) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                let _in = w.enter();
                let mut held = None;
                while !stop.load(Ordering::Relaxed) {
                    // The next lease is taken before the last is dropped, so one holder alone never
                    // lets the count reach zero, if only a new lease can still be had.
                    let next = Notifier::lease(&object);
                    got.fetch_add(usize::from(next.is_some()), Ordering::Relaxed);
                    let pin = next.is_none();
                    drop(core::mem::replace(&mut held, next));
                    if pin && let Ok(ticket) = Notifier::attach(&object) {
                        Bare::commit(&object, ticket);
                    }
                    turn.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..rounds(60) {
            w.process.dontneed(a, PAGE);
            w.process.store(a, 1).unwrap();
            let before = got.load(Ordering::Relaxed);
            until(|| got.load(Ordering::Relaxed) > before + 2);
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop((object, pinned));
    w.finish();
}

/// Two windows, begun before either finishes; each owns the cancel of one object that both overlap.
fn s80_two_windows_that_wait_for_each_others_cancels<P: Host>() {
    for queued in [false, true] {
        let w = World::<P>::with(Setup::default().threads(1).queued(queued));
        let _in = w.enter();
        let a = w.memory(6);
        // The first window owns `left`. `right` is Ready while the first window is open only
        // because they do not overlap; the wide object is owned by whoever comes first.
        let (left, wide, right) = (w.create(a, 2), w.create(a + PAGE, 4), w.create(a + 4 * PAGE, 2));
        let n = w.notifier(&left);
        let windows = [range(a, 3 * PAGE), range(a + 2 * PAGE, 4 * PAGE)];
        for first in [0, 1] {
            for object in [&left, &wide, &right] {
                drop(w.lease(object));
            }
            let one = n.invalidate_start(windows[first], Blockable::Yes).unwrap();
            let two = n.invalidate_start(windows[1 - first], Blockable::Yes).unwrap();
            thread::scope(|s| {
                // The second finishes first, and has to wait for the first's cancel of the wide
                // object.
                let second = s.spawn(|| two.finish());
                until(|| UserPtr::state(if first == 0 { &right } else { &left }) == State::Idle);
                assert_eq!(wide.state(), State::Revoking);
                assert!(!second.is_finished());
                assert_eq!(one.finish(), Outcome::Idle);
                assert_eq!(second.join().unwrap(), Outcome::Idle);
            });
            assert_eq!((w.machine.pins(), n.stats().attached), (0, 0));
            for window in windows {
                n.end(window);
            }
        }
        drop((n, left, wide, right));
        w.finish();
    }
    // By threads, over two devices, in both orders of everything.
    let w = World::<P>::new();
    let _in = w.enter();
    let second = w.another_device(Setup::default());
    let a = w.memory(4);
    let objects = [w.create(a, 3), w.create(a + PAGE, 3)];
    let others = [second.create(a, 3), second.create(a + PAGE, 3)];
    for _ in 0..rounds(300) {
        w.process.touch(a, 4 * PAGE, 1).unwrap();
        for (mine, theirs) in objects.iter().zip(&others) {
            drop(w.lease(mine));
            drop(second.lease(theirs));
        }
        thread::scope(|s| {
            s.spawn(|| w.process.reclaim(a, 3 * PAGE, true).unwrap());
            s.spawn(|| w.process.reclaim(a + PAGE, 3 * PAGE, true).unwrap());
        });
        assert_eq!(w.machine.pins(), 0);
    }
    drop((objects, others));
    second.end();
    w.finish();
}

fn s81_a_registration_while_a_window_is_open<P: Host>() {
    for op in [Op::Reclaim, Op::Dontneed] {
        let w = World::<P>::with(Setup::default().threads(1));
        let _in = w.enter();
        let a = w.memory(1);
        let (to_thread, thread) = channel();
        let (to_register, registering) = channel();
        let (users, ctx, machine) = (w.record().users().unwrap(), w.ctx.clone(), w.machine.clone());
        w.machine.once(Seam::Register, move |_| to_register.send(()).unwrap());
        w.machine.once(Seam::Started, move |_| {
            let creator = thread::spawn(move || {
                let _in = machine.enter(&users);
                let space = userptr_sim::Space::<P>::of(&users);
                let object = ctx.register_raw(&space, a, PAGE, 0).unwrap();
                // The old page may still be there. It must not be installed.
                let first = object.acquire().map(|lease| {
                    let _ = ctx.device().engine().read(lease.map(), 0);
                });
                assert_eq!(first, Ok(()));
                object
            });
            registering.recv().unwrap();
            to_thread.send(creator).unwrap();
        });
        match op {
            Op::Reclaim => w.process.reclaim(a, PAGE, true).unwrap(),
            _ => w.process.dontneed(a, PAGE),
        }
        let object = thread.recv().unwrap().join().unwrap();
        assert_eq!(w.stats(&object).windows, 0);
        drop(object);
        w.finish();
    }
    // An end without a start: before anything, with a window elsewhere, and with the same window
    // twice.
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, object) = w.pinned(2);
    let n = w.notifier(&object);
    let (here, there) = (range(a, PAGE), range(a + 16 * PAGE, PAGE));
    for _ in 0..3 {
        n.end(here);
        assert_eq!((n.stats().windows, object.state()), (0, State::Ready));
    }
    assert_eq!(n.invalidate_and_wait(there, Blockable::Yes), Ok(Outcome::Idle));
    n.end(here);
    n.end(range(a, 64 * PAGE));
    assert_eq!(n.stats().windows, 1, "it is not ours to close");
    n.end(there);
    assert_eq!(n.invalidate_and_wait(here, Blockable::Yes), Ok(Outcome::Idle));
    n.end(range(a, 2 * PAGE));
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again, "still open");
    n.end(here);
    n.end(here);
    drop(w.lease(&object));
    assert_eq!(n.stats().windows, 0);
    drop((n, object));
    w.finish();
}

fn s82_an_old_ticket_does_not_commit<P: Host>() {
    // At the notifier, and then by a worker that is overtaken by an attach of its own object.
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, registered) = w.object(1);
    let n = w.notifier(&registered);
    let object = Bare::new(&n, range(a, PAGE));
    let old = Notifier::attach(&object).unwrap();
    n.invalidate_and_wait(range(a, PAGE), Blockable::Yes).unwrap().into_result().unwrap();
    n.end(range(a, PAGE));
    let new = Notifier::attach(&object).unwrap();
    assert_ne!(old, new);
    assert!(!Bare::commit(&object, old));
    assert!(!Notifier::abandon(&object, old, true), "it gives up nobody else's");
    assert_eq!(Notifier::state(&object), State::Acquiring);
    assert_eq!(Notifier::current_ticket(&object), Some(new));
    // A ticket of another object with the same number is no ticket of this one.
    let other = Bare::new(&n, range(a, PAGE));
    let foreign = [(); 2].map(|()| {
        let ticket = Notifier::attach(&other).unwrap();
        assert!(Notifier::abandon(&other, ticket, false));
        ticket
    });
    assert!(!Bare::commit(&object, foreign[1]) && !Notifier::abandon(&object, foreign[1], false));
    assert!(Notifier::abandon(&object, new, false));
    drop((n, object, other, registered));

    for seam in [Seam::Pinned, Seam::Prepared] {
        let b = w.process.mmap(PAGE);
        let object = w.create(b, 1);
        assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
        let (users, late) = (w.record().users().unwrap(), object.clone());
        let newer = move |_: &_| {
            users.dontneed(b, PAGE);
            // By nobody: a second ticket, with the worker's item queued again.
            assert_eq!(late.try_acquire().unwrap_err(), Error::Again);
            assert_eq!(late.state(), State::Acquiring);
        };
        match seam {
            Seam::Pinned => w.machine.once_in(Op::SlowPin, seam, newer),
            _ => w.machine.once(seam, newer),
        }
        {
            let _in = w.machine.enter_nobody();
            assert!(w.pin_queue.run_one());
        }
        assert_eq!((object.state(), w.machine.pins()), (State::Acquiring, 0), "{seam:?}");
        w.work();
        assert_eq!((object.state(), w.machine.pins()), (State::Ready, 1), "{seam:?}");
        drop(object);
    }
    w.finish();
}

crate::on_each_host! {
    s77_a_start_waits_for_a_release_that_has_pages,
    s78_put_pages_against_a_start,
    s79_alternating_leases_do_not_starve_a_cancel,
    s80_two_windows_that_wait_for_each_others_cancels,
    s81_a_registration_while_a_window_is_open,
    s82_an_old_ticket_does_not_commit,
}
