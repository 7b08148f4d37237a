//! Scenarios 83, 84 and 86: deadlines, the lock-free start, the last record inside a cancel.

use crate::bare::Bare;
use crate::ext::AddressSpaceSide;
use crate::world::{Host, Object, Setup, World, range, rounds, until};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use userptr::notifier::State;
use userptr::{Blockable, Error, Notifier, Outcome};
use userptr_sim::{PAGE, Seam};

fn s83_a_lease_beyond_the_deadline<P: Host>() {
    for queued in [false, true] {
        let w = World::<P>::with(Setup::deadline(1).threads(1).queued(queued));
        let _in = w.enter();
        let (a, object) = w.object(2);
        let n = w.notifier(&object);
        let (one, two) = (w.lease(&object), w.lease(&object));
        let page = w.record().page_at(a).unwrap();
        w.process.munmap(a, PAGE);
        assert_eq!(w.machine.take_outcomes(), [Outcome::TimedOut]);
        assert_eq!((object.state(), w.machine.pins()), (State::Quarantined, 2));
        assert!(!w.machine.page(page).freed, "the device may still use it");
        assert_eq!((n.stats().quarantined, n.stats().quarantined_ever), (1, 1));
        // It refuses acquires, and each start says so again without waiting for the deadline twice.
        assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
        thread::scope(|s| {
            s.spawn(|| assert_eq!(object.put_pages(), Err(Error::TimedOut)));
        });
        // To the holder it is said at once (rule 29).
        assert_eq!(object.put_pages(), Err(Error::Deadlock));
        w.process.dontneed(a + PAGE, PAGE);
        assert_eq!(w.machine.take_outcomes(), [Outcome::TimedOut]);
        assert_eq!(n.retry_quarantined(), Outcome::Idle, "nothing was tried: it is left to the leases");
        assert_eq!((object.state(), w.machine.pins()), (State::Quarantined, 2));
        drop(one);
        assert_eq!(object.state(), State::Quarantined);
        drop(two);
        assert_eq!((object.state(), w.machine.pins()), (State::Idle, 0));
        assert!(w.machine.page(page).freed);
        assert_eq!((n.stats().quarantined, n.stats().quarantined_ever), (0, 1));
        w.process.mmap_fixed(a, 2 * PAGE, userptr_sim::Prot::RW);
        drop(w.lease(&object));

        // The object's last reference goes while it is quarantined: the lease holder's is the last.
        let lease = object.acquire_owned().unwrap();
        w.process.munmap(a, 2 * PAGE);
        assert_eq!(w.machine.take_outcomes(), [Outcome::TimedOut]);
        drop(object);
        assert_eq!(n.stats().quarantined, 1);
        drop(lease);
        assert_eq!((n.stats().attached, w.machine.pins()), (0, 0));
        drop(n);
        w.finish();
    }
}

fn s83_a_device_beyond_the_deadline_or_lost<P: Host>() {
    for lost in [false, true] {
        let w = World::<P>::with(Setup::deadline(1));
        let _in = w.enter();
        let (a, object) = w.object(1);
        let n = w.notifier(&object);
        let outcome = if lost { Outcome::DeviceLost } else { Outcome::TimedOut };
        let quarantine = |job_of: &Object<P>| {
            let job = (!lost).then(|| w.job(&w.lease(job_of)));
            if lost {
                w.machine.inject().idle(Outcome::DeviceLost);
            }
            job
        };
        drop(w.lease(&object));
        let job = quarantine(&object);
        w.process.dontneed(a, PAGE);
        assert_eq!(w.machine.take_outcomes(), [outcome]);
        assert_eq!((object.state(), w.machine.pins()), (State::Quarantined, 1));
        assert_eq!(w.count(Seam::Unmap), 0, "nothing was taken from the device");
        // A retry in vain, then a retry that works.
        if lost {
            w.machine.inject().idle(Outcome::DeviceLost);
        }
        assert_eq!(n.retry_quarantined(), outcome);
        assert_eq!(w.machine.pins(), 1);
        drop(job);
        assert_eq!(n.retry_quarantined(), Outcome::Idle);
        assert_eq!((object.state(), w.machine.pins()), (State::Idle, 0));
        drop(w.lease(&object));

        // The release of the object meets the deadline: it lives on in quarantine, and a retry ends
        // it.
        let job = quarantine(&object);
        drop(object);
        assert_eq!((n.stats().quarantined, w.machine.pins()), (1, 1));
        w.process.dontneed(a, PAGE);
        assert_eq!(w.machine.take_outcomes(), [outcome]);
        drop(job);
        assert_eq!(n.retry_quarantined(), Outcome::Idle);
        assert_eq!((n.stats().attached, w.machine.pins()), (0, 0));
        drop(n);
        w.finish();
    }
}

/// Waits in the processor for a while: two threads that leave the scheduler in step never meet
/// within nanoseconds.
fn spin_until(mut f: impl FnMut() -> bool) {
    for _ in 0..if cfg!(miri) { 0 } else { 2000 } {
        if f() {
            return;
        }
        std::hint::spin_loop();
    }
    until(f);
}

/// Both look past each other only if one of the two full fences is missing (rule 30). A model shows
/// it for certain; here many rounds look for it on real hardware.
fn s84_a_lock_free_start_against_an_attach<P: Host>() {
    let rounds = if cfg!(miri) { 30 } else { 40_000 };
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, registered) = w.object(1);
    let n = w.notifier(&registered);
    let here = range(a, PAGE);
    let object = Bare::new(&n, here);
    let (go, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut missed = 0;
    thread::scope(|s| {
        s.spawn(|| {
            for round in 1..=rounds {
                spin_until(|| go.load(Ordering::Acquire) == round);
                let committed = Notifier::attach(&object).is_ok_and(|t| Bare::commit(&object, t));
                done.store(round * 2 + usize::from(committed), Ordering::Release);
            }
        });
        for round in 1..=rounds {
            go.store(round, Ordering::Release);
            // The attach has a lock to take before it comes to the place: meet it there, a little
            // earlier and a little later.
            for _ in 0..round % 64 {
                std::hint::spin_loop();
            }
            assert_eq!(n.invalidate_and_wait(here, Blockable::Yes), Ok(Outcome::Idle));
            // Whatever the attach did or does: inside the window nothing is installed.
            missed += usize::from(Notifier::state(&object) == State::Ready);
            spin_until(|| done.load(Ordering::Acquire) / 2 == round);
            missed += usize::from(Notifier::state(&object) != State::Idle);
            n.end(here);
        }
    });
    assert_eq!(missed, 0, "of {rounds} rounds");
    drop((n, object, registered));
    w.finish();
}

fn s86_the_records_last_reference_goes_inside_a_queued_cancel<P: Host>() {
    // Step by step: the cancel waits in its queue while the teardown begins.
    let w = World::<P>::with_stepped_revocations(Setup::default());
    let _in = w.enter();
    let (a, object) = w.pinned(1);
    let n = w.notifier(&object);
    n.invalidate_start(range(a, PAGE), Blockable::Yes).unwrap().finish_without_waiting();
    n.end(range(a, PAGE));
    drop((n, object));
    assert_eq!((w.ctx.stats().spaces, w.record().registered(), w.machine.pins()), (1, 1, 1));
    assert!(!w.release_queue.run_one(), "the record is still held by the cancel");
    assert!(w.revoke_queue.as_ref().unwrap().run_one());
    // The object was the cancel's alone, and is freed elsewhere (rule 32); so is the record after
    // it.
    assert_eq!((w.ctx.stats().spaces, w.record().registered(), w.machine.pins()), (1, 1, 0));
    assert!(w.release_queue.run_one());
    assert_eq!((w.ctx.stats().spaces, w.record().registered()), (0, 1));
    assert!(w.release_queue.run_one());
    assert_eq!(w.record().registered(), 0);
    w.finish();

    // By threads: the end of the address space, the cancel and the release of everything at once.
    for _ in 0..rounds(100) {
        let w = World::<P>::with(Setup::default().queued(true).threads(1));
        let other = w.machine.process();
        let object: Object<P> = {
            let _in = other.enter();
            let b = other.mmap(PAGE);
            other.store(b, 1).unwrap();
            let space = userptr_sim::Space::of(&other);
            let object = w.ctx.register_raw(&space, b, PAGE, 0).unwrap();
            drop(w.lease(&object));
            object
        };
        thread::scope(|s| {
            s.spawn(move || other.exit());
            s.spawn(move || drop(object));
        });
        assert_eq!(w.machine.pins(), 0);
        w.finish();
    }
}

crate::on_each_host! {
    s83_a_lease_beyond_the_deadline,
    s83_a_device_beyond_the_deadline_or_lost,
    s84_a_lock_free_start_against_an_attach,
    s86_the_records_last_reference_goes_inside_a_queued_cancel,
}
