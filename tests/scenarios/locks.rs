//! Scenarios 53 to 59, and 85: locks and context. Scenario 58's checker has its own tests beside
//! it, in the package `userptr-sim`.

use crate::bare::Bare;
use crate::ext::AddressSpaceSide;
use crate::world::{Host, Setup, World, range};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use userptr::notifier::State;
use userptr::{Blockable, Client, Error, Flags, Notifier, Outcome, WouldBlock};
use userptr_sim::platform::lockdep::{self, Kind};
use userptr_sim::{Op, PAGE, Prot, Refused, Seam};

/// A driver's object lock, known to the lock checker.
struct DriverLock(Mutex<()>);

impl DriverLock {
    fn with<R>(&self, f: impl FnOnce() -> R) -> R {
        let _known = lockdep::section(lockdep::DRIVER, Kind::Mutex);
        let _held = self.0.lock().unwrap();
        f()
    }
}

/// The driver holds its object lock and something in there starts an invalidation of the object's
/// own range: by its address, and by an alias of the same memory.
fn s53_an_invalidation_under_the_drivers_object_lock<P: Host>() {
    for queued in [false, true] {
        let w = World::<P>::with(Setup::default().threads(1).queued(queued));
        let _in = w.enter();
        let shared = w.process.shared();
        let (a, alias) = (0x10_0000, 0x20_0000);
        w.process.mmap_shared(a, 2 * PAGE, &shared, 0);
        w.process.mmap_shared(alias, 2 * PAGE, &shared, 0);
        w.process.touch(a, 2 * PAGE, 1).unwrap();
        let (one, two) = (w.create(a, 2), w.create(alias, 2));
        let lock = Arc::new(DriverLock(Mutex::new(())));
        for _ in 0..3 {
            let job = w.job(&w.lease(&one));
            drop(w.lease(&two));
            // The device finishes on its own; nobody needs the lock for it.
            let (to_wait, waits) = channel();
            w.machine.once(Seam::WaitIdle, move |_| to_wait.send(()).unwrap());
            thread::scope(|s| {
                s.spawn(move || {
                    waits.recv().unwrap();
                    drop(job);
                });
                lock.with(|| {
                    w.process.reclaim(a, 2 * PAGE, true).unwrap();
                    w.process.reclaim(alias, 2 * PAGE, true).unwrap();
                });
            });
            assert_eq!(w.machine.pins(), 0);
            // Another thread takes the lock meanwhile, in its own order.
            let (a, w) = (&a, &w);
            thread::scope(|s| {
                s.spawn(|| lock.with(|| w.process.reclaim(*a, PAGE, true).unwrap()));
                s.spawn(|| w.process.dontneed(*a, PAGE));
            });
        }
        drop((one, two, shared));
        // The shared memory keeps its pages until it goes; the machine's frames are not counted
        // here.
        let machine = w.machine.clone();
        w.end();
        machine.assert_clean();
    }
}

fn s54_a_start_that_may_not_block_is_refused_and_changes_nothing<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, object) = w.pinned(2);
    let n = w.notifier(&object);
    let refused = |state| {
        let before = n.stats();
        w.machine.clear_trace();
        assert_eq!(n.invalidate_and_wait(range(a + PAGE, PAGE), Blockable::No), Err(WouldBlock));
        assert_eq!(w.process.oom_reap(a, PAGE), Err(Refused));
        assert_eq!(n.stats(), before);
        assert_eq!(w.machine.trace().iter().filter(|e| e.seam != Seam::Before).count(), 0);
        assert_eq!(object.state(), state);
    };
    let lease = w.lease(&object);
    refused(State::Ready);
    w.write(&lease, 0, 5);
    assert_eq!(w.process.load(a), Ok(5), "nothing was reaped");
    drop(lease);
    // It is still usable, and no window stayed behind.
    w.read(&w.lease(&object), 0);
    // While somebody else cancels.
    let gate = w.hold(Seam::WaitIdle);
    thread::scope(|s| {
        s.spawn(|| assert_eq!(object.put_pages(), Ok(())));
        gate.reached();
        refused(State::Revoking);
        drop(gate);
    });
    assert_eq!(n.stats().windows, 0);
    // While somebody acquires, and when the range failed.
    let (reaper, late) = (w.record().users().unwrap(), object.clone());
    w.machine.once(Seam::Pinned, move |_| {
        assert_eq!(reaper.oom_reap(a, PAGE), Err(Refused));
        assert_eq!(late.state(), State::Acquiring);
    });
    drop(object.try_acquire().unwrap());
    drop((n, object));
    w.finish();
}

fn s55_a_start_that_may_not_block_succeeds_without_overlap<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let a = w.memory(6);
    let object = w.create(a + 2 * PAGE, 2);
    let n = w.notifier(&object);
    // An empty index, an index without overlap, an object without pages.
    w.process.oom_reap(a, 6 * PAGE).unwrap();
    w.process.touch(a, 6 * PAGE, 1).unwrap();
    drop(w.lease(&object));
    for at in [a, a + PAGE, a + 4 * PAGE] {
        assert_eq!(n.invalidate_and_wait(range(at, PAGE), Blockable::No), Ok(Outcome::Idle));
        n.end(range(at, PAGE));
        w.process.oom_reap(at, PAGE).unwrap();
    }
    assert_eq!(object.state(), State::Ready);
    object.put_pages().unwrap();
    w.process.oom_reap(a, 6 * PAGE).unwrap();
    // The window of a start that may not block counts like any other.
    let late = object.clone();
    w.machine.once_in(Op::OomReap, Seam::Started, move |_| {
        assert_eq!(late.try_acquire().unwrap_err(), Error::Again);
    });
    w.process.oom_reap(a, 6 * PAGE).unwrap();
    drop((n, object));
    w.finish();
}

fn s56_one_of_two_subscribers_refuses<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let second = w.another_device(Setup::default());
    let a = w.memory(2);
    let (free, busy) = (w.create(a, 1), second.create(a, 1));
    let (n1, n2) = (w.notifier(&free), second.notifier(&busy));
    drop(second.lease(&busy));
    for _ in 0..20 {
        assert_eq!(w.process.oom_reap(a, PAGE), Err(Refused));
        assert_eq!((n1.stats().windows, n2.stats().windows), (0, 0));
    }
    // Nothing is shut for ever.
    drop(w.lease(&free));
    drop(second.lease(&busy));
    w.process.munmap(a, 2 * PAGE);
    assert_eq!((n1.stats().windows, n2.stats().windows, w.machine.pins()), (0, 0, 0));
    drop((n1, n2, free, busy));
    second.end();
    w.finish();
}

fn s57_a_start_that_may_block_is_never_refused<P: Host>() {
    let w = World::<P>::with(Setup::deadline(1));
    let _in = w.enter();
    let (a, object) = w.object(1);
    let n = w.notifier(&object);
    let start = || {
        let outcome = n.invalidate_and_wait(range(a, PAGE), Blockable::Yes).unwrap();
        n.end(range(a, PAGE));
        outcome
    };
    assert_eq!(start(), Outcome::Idle, "idle");
    drop(w.lease(&object));
    assert_eq!(start(), Outcome::Idle, "ready");
    let bare = Bare::new(&n, range(a, PAGE));
    let ticket = Notifier::attach(&bare).unwrap();
    assert_eq!(start(), Outcome::Idle, "acquiring");
    assert!(!Notifier::abandon(&bare, ticket, true), "superseded");
    let ticket = Notifier::attach(&bare).unwrap();
    assert!(Notifier::abandon(&bare, ticket, true));
    assert_eq!(Notifier::state(&bare), State::Failed);
    assert_eq!(start(), Outcome::Idle, "failed");
    drop(bare);
    let lease = w.lease(&object);
    assert_eq!(start(), Outcome::TimedOut, "leased beyond the deadline");
    assert_eq!(start(), Outcome::TimedOut, "quarantined");
    drop(lease);
    assert_eq!(start(), Outcome::Idle, "finished by the last lease");
    drop((n, object));
    w.finish();
}

/// A whole life under the lock checker, with an allocation counted wherever one happens: none in a
/// callback, none under a lock.
fn s58_no_allocation_under_a_lock_in_a_whole_life<P: Host>() {
    let w = World::<P>::with(Setup::default().queued(true).threads(1));
    let _in = w.enter();
    let client = Client::open(w.ctx.clone()).unwrap();
    let handles: Vec<_> = (0..40)
        .map(|_| {
            let a = w.memory(3);
            (a, client.create(&w.space(), a, 3 * PAGE, 0).unwrap())
        })
        .collect();
    for (a, handle) in &handles {
        let object = client.lookup(*handle).unwrap();
        drop(w.lease(&object));
        let calls = w.machine.meter().calls();
        w.process.munmap(*a, PAGE);
        assert_eq!(w.machine.meter().calls(), calls, "an invalidation allocated");
    }
    for (_, handle) in handles {
        client.close(handle).unwrap();
    }
    drop(client);
    w.finish();
}

fn s59_a_page_lock_of_the_caller_is_no_deadlock<P: Host>() {
    for queued in [false, true] {
        let w = World::<P>::with(Setup::default().threads(1).queued(queued));
        let _in = w.enter();
        let (a, object) = w.object(2);
        let lease = w.lease(&object);
        w.write(&lease, 0, 7);
        drop(lease);
        let page = w.record().page_at(a).unwrap();
        // Reclaim holds the page locks from before the start until after the clear.
        let machine = w.machine.clone();
        w.machine.once(Seam::Unpin, move |_| assert!(!machine.try_lock_page(page), "it is locked"));
        w.process.reclaim(a, PAGE, true).unwrap();
        assert_eq!(w.process.load(a), Ok(7), "what the device wrote came back from the store");
        // So does somebody who puts pages.
        let lease = w.lease(&object);
        w.write(&lease, 0, 8);
        drop(lease);
        let page = w.record().page_at(a).unwrap();
        assert!(w.machine.try_lock_page(page));
        object.put_pages().unwrap();
        w.machine.unlock_page(page);
        assert!(w.machine.page(page).dirty);
        drop(object);
        w.finish();
    }
}

/// Every allocation of every call reclaims: an invalidation of the whole range, on the same thread,
/// in the middle of things.
fn s85_an_allocation_recurses_into_an_invalidation<P: Host>() {
    for queued in [false, true] {
        let w = World::<P>::with(Setup::default().threads(1).queued(queued));
        let _in = w.enter();
        w.record().set_capable(true);
        let a = w.memory(4);
        let held = w.create(a, 2);
        drop(w.lease(&held));
        let users = w.record().users().unwrap();
        let (recursed, seen) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
        let (count, machine) = (recursed.clone(), w.machine.clone());
        w.machine.meter().on_alloc(Some(Box::new(move || {
            let before = machine.trace().len();
            users.reclaim(a, 4 * PAGE, true).unwrap();
            assert!(machine.trace().len() > before || before >= 4096);
            *count.lock().unwrap() += 1;
        })));
        let client = Client::open(w.ctx.clone()).unwrap();
        for _ in 0..3 {
            let handle = client.create(&w.space(), a, 4 * PAGE, 0).unwrap();
            let object = client.lookup(handle).unwrap();
            for _ in 0..4 {
                match object.try_acquire() {
                    Ok(lease) => {
                        assert_eq!(w.read(&lease, 0), 1);
                        *seen.lock().unwrap() += 1;
                    }
                    Err(Error::Again) => {}
                    Err(error) => panic!("{error}"),
                }
                let _ = held.try_acquire();
            }
            w.work();
            let lonely = w.try_create(a, PAGE, Flags::UNSYNCHRONIZED.bits()).unwrap();
            let _ = lonely.try_acquire();
            w.work();
            lonely.export().unwrap();
            drop((lonely, object));
            client.close(handle).unwrap();
        }
        w.machine.meter().on_alloc(None);
        if P::CHECKS {
            assert!(*recursed.lock().unwrap() > 20);
        }
        drop((client, held));
        w.finish();
    }
}

/// The write protection that `mprotect` and `fork` put on a page is not taken off under a lock
/// order of its own.
fn s58_faults_in_the_worker_hold_the_address_space_lock_only<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, object) = w.object(2);
    let child = w.process.fork();
    // The worker breaks the copy-on-write: an invalidation inside its own pin, of its own object.
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    w.work();
    let lease = w.lease(&object);
    w.write(&lease, 0, 9);
    assert_eq!((w.process.load(a), child.load(a)), (Ok(9), Ok(1)));
    drop(lease);
    w.process.mprotect(a, PAGE, Prot::R);
    drop((object, child));
    w.finish();
}

crate::on_each_host! {
    s53_an_invalidation_under_the_drivers_object_lock,
    s54_a_start_that_may_not_block_is_refused_and_changes_nothing,
    s55_a_start_that_may_not_block_succeeds_without_overlap,
    s56_one_of_two_subscribers_refuses,
    s57_a_start_that_may_block_is_never_refused,
    s58_no_allocation_under_a_lock_in_a_whole_life,
    s58_faults_in_the_worker_hold_the_address_space_lock_only,
    s59_a_page_lock_of_the_caller_is_no_deadlock,
    s85_an_allocation_recurses_into_an_invalidation,
}
