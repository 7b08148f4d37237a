//! Drivers that unwind, deadlines, tickets and reports: what one thread does, so nothing here is a
//! race.

use super::Stage;
use super::ext::AddressSpaceSide;
use super::memory::{Machine, touch};
use super::stage::{Home, Probe, ProbeRef, RELEASE, STOP, World, assert_quiet, notifier, now, pages};
use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use userptr::notifier::{Event, State};
use userptr::{Blockable, Current, Error, Flags, Notifier, Outcome};

fn stage<P: Stage>(objects: usize, deadline: Option<Duration>) -> (Home<P>, Arc<World<P>>, Vec<ProbeRef<P>>) {
    let (home, world) = (notifier::<P>(), World::new());
    let probe = |page| Probe::with_deadline(&home, &world, pages(page, 1), deadline);
    let probes: Vec<_> = (0..objects).map(probe).collect();
    assert!(probes.iter().all(Probe::acquire));
    (home, world, probes)
}

fn unwinds(f: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(f)).is_err(), "the driver was not asked");
}

/// The driver is mended: what was quarantined is released, and reported so.
fn mend<P: Stage>(home: &Home<P>, world: &World<P>, probes: Vec<ProbeRef<P>>, quarantined: usize) {
    let lost = world.take_events();
    assert_eq!(lost.len(), quarantined, "{lost:?}");
    assert!(lost.iter().all(|e| matches!(e, Event::Quarantined(_, Outcome::DeviceLost))), "{lost:?}");
    let stats = home.stats();
    assert_eq!((stats.quarantined, world.pins()), (quarantined, quarantined), "{stats:?}");
    world.set_unwinding(0);
    assert_eq!(home.retry_quarantined(), Outcome::Idle);
    assert_eq!(world.take_events().len(), quarantined);
    drop(probes);
    assert_quiet(home, world);
}

/// Two objects in one invalidation, of a driver that always unwinds: it is asked once, both are
/// quarantined, nobody waits for them.
pub fn unwinds_in_an_invalidation<P: Stage>() {
    for calls in [STOP, RELEASE, STOP | RELEASE] {
        let (home, world, probes) = stage::<P>(2, None);
        world.set_unwinding(calls);
        unwinds(|| {
            let _ = home.invalidate_and_wait(pages(0, 2), Blockable::Yes);
        });
        // The start unwound after it opened its window.
        home.end(pages(0, 2));
        // No lock is held and no owner is missing: the next one only learns of it.
        let next = home.invalidate_and_wait(pages(0, 2), Blockable::Yes);
        assert_eq!(next, Ok(Outcome::DeviceLost));
        home.end(pages(0, 2));
        mend(&home, &world, probes, 2);
    }
}

/// A change under the guard, whose driver unwinds while it is waited for: its window does not stay
/// open.
pub fn unwinds_in_a_guarded_invalidation<P: Stage>() {
    let (home, world, probes) = stage::<P>(1, None);
    world.set_unwinding(RELEASE);
    unwinds(|| drop(home.invalidate(pages(0, 1), Blockable::Yes)));
    assert_eq!(home.stats().windows, 0, "the window stays open for ever");
    mend(&home, &world, probes, 1);
}

/// An eviction whose driver unwinds.
pub fn unwinds_in_an_eviction<P: Stage>() {
    for calls in [STOP, RELEASE] {
        let (home, world, probes) = stage::<P>(1, None);
        world.set_unwinding(calls);
        unwinds(|| {
            let _ = Notifier::revoke(&probes[0]);
        });
        assert_eq!(Notifier::state(&probes[0]), State::Quarantined);
        mend(&home, &world, probes, 1);
    }
}

/// A last put whose driver unwinds: the quarantine has the only reference, and gives the object's
/// memory back.
pub fn unwinds_in_the_last_put<P: Stage>() {
    for calls in [STOP, RELEASE] {
        let (home, world, probes) = stage::<P>(1, None);
        world.set_unwinding(calls);
        unwinds(|| drop(probes));
        mend(&home, &world, Vec::new(), 1);
    }
}

/// A driver that unwinds while the pages are still held: the last lease finishes it, and each step
/// is reported.
pub fn unwinds_under_a_lease<P: Stage>() {
    let (home, world, probes) = stage::<P>(1, None);
    let lease = Notifier::lease(&probes[0]).unwrap();
    world.set_unwinding(STOP);
    unwinds(|| {
        let _ = Notifier::revoke(&probes[0]);
    });
    world.set_unwinding(0);
    assert_eq!(world.take_events(), [Event::Quarantined(pages(0, 1), Outcome::TimedOut)]);
    drop(lease);
    assert_eq!(world.take_events(), [Event::Revoked(pages(0, 1)), Event::Finished(pages(0, 1))]);
    drop(probes);
    assert_quiet(&home, &world);
}

/// The driver unwinds in an eviction, under a lease, beside a start: whichever of them owns the
/// revocation unwinds, and the other is woken and told.
pub fn unwinds_beside_a_start<P: Stage>() {
    let (home, world, probes) = stage::<P>(1, None);
    let lease = Notifier::lease(&probes[0]).unwrap();
    world.set_unwinding(STOP);
    let t = {
        let probe = probes[0].clone();
        P::spawn(move || {
            let evicted = catch_unwind(AssertUnwindSafe(|| Notifier::revoke(&probe)));
            P::met(if evicted.is_err() { "the eviction unwinds" } else { "the start unwinds" });
            assert!(evicted.is_err() || evicted.is_ok_and(|outcome| outcome == Outcome::TimedOut));
        })
    };
    let begun = catch_unwind(AssertUnwindSafe(|| home.invalidate_and_wait(pages(0, 1), Blockable::Yes)));
    assert!(begun.is_err() || begun.is_ok_and(|outcome| outcome == Ok(Outcome::TimedOut)));
    home.end(pages(0, 1));
    P::join(t);
    world.set_unwinding(0);
    assert_eq!(world.take_events(), [Event::Quarantined(pages(0, 1), Outcome::TimedOut)]);
    drop(lease);
    assert_eq!(world.take_events(), [Event::Revoked(pages(0, 1)), Event::Finished(pages(0, 1))]);
    drop(probes);
    assert_quiet(&home, &world);
}

/// Each quarantine, release and finish is reported once.
pub fn reports_once<P: Stage>() {
    let (home, world, probes) = stage::<P>(1, Some(Duration::ZERO));
    let lease = Notifier::lease(&probes[0]).unwrap();
    for _ in 0..2 {
        let outcome = home.invalidate_and_wait(pages(0, 1), Blockable::Yes);
        assert_eq!(outcome, Ok(Outcome::TimedOut));
        home.end(pages(0, 1));
    }
    assert_eq!(world.take_events(), [Event::Quarantined(pages(0, 1), Outcome::TimedOut)]);
    drop(lease);
    assert_eq!(world.take_events(), [Event::Revoked(pages(0, 1)), Event::Finished(pages(0, 1))]);
    assert!(Probe::acquire(&probes[0]));
    drop(probes);
    assert_eq!(world.take_events(), [Event::Revoked(pages(0, 1))]);
    assert_quiet(&home, &world);
}

/// A driver that unwinds while it maps the pages, in the caller or in a worker: the ticket, the
/// worker's place and the pins are given back, and a later acquire is served.
pub fn unwinds_in_prepare<P: Stage>() {
    for caller in [Current::This, Current::None] {
        let machine = Machine::<P>::new(caller, 1, false);
        let object = machine.object(0, Flags::NONE);
        machine.memory.set_unwinding(true);
        if caller == Current::None {
            assert_eq!(touch(&machine, &object), Err(Error::Again));
            unwinds(|| {
                machine.pin_queue.run_one();
            });
        } else {
            unwinds(|| {
                let _ = touch(&machine, &object);
            });
        }
        machine.memory.set_unwinding(false);
        assert_eq!((object.state(), machine.context.stats().workers), (State::Idle, 0));
        assert_eq!(machine.memory.world.pins(), 0, "pins left");
        if caller == Current::None {
            assert_eq!(touch(&machine, &object), Err(Error::Again));
            assert!(machine.pin_queue.run_one());
        }
        touch(&machine, &object).unwrap();
        drop(object);
        machine.assert_quiet();
    }
}

/// Ten objects of a device that hangs cost one deadline: the first gets all of it, each of the
/// others is asked once without waiting. On a platform whose clock is [`now`].
#[allow(dead_code, reason = "Miri's platform has a clock of its own")]
pub fn one_deadline<P: Stage>() {
    let deadline = Duration::from_millis(100);
    let (home, world, probes) = stage::<P>(10, Some(deadline));
    world.set_stuck(true);
    let began = now();
    assert_eq!(home.invalidate_and_wait(pages(0, 10), Blockable::Yes), Ok(Outcome::TimedOut));
    assert_eq!(now() - began, deadline, "the objects of one invalidation share its deadline");
    let given = world.take_timeouts();
    assert_eq!((given.len(), given[0]), (10, Some(deadline)));
    assert!(given[1..].iter().all(|left| *left == Some(Duration::ZERO)), "{given:?}");
    home.end(pages(0, 10));
    world.set_stuck(false);
    assert_eq!(home.retry_quarantined(), Outcome::Idle);
    drop(probes);
    assert_quiet(&home, &world);
}
