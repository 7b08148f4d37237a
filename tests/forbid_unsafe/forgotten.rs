//! Everything that can be forgotten.

use crate::World;
use core::mem::forget;
use userptr::{AddrRange, Blockable, Client, Error, Outcome};

#[test]
fn forgotten_leases() {
    let world = World::new();
    let running = world.impatient();
    let object = world.object(&running);
    {
        let _inside = world.machine.enter(&world.process);
        forget(object.acquire().unwrap());
        forget(object.acquire_owned().unwrap());
        // This thread is known to hold one.
        assert_eq!(object.put_pages(), Err(Error::Deadlock));
    }
    world.unmap();
    assert_eq!(world.machine.take_outcomes().iter().max(), Some(&Outcome::TimedOut));
    assert_eq!(world.machine.pins(), 2, "the pages of a lease stay");
    assert_eq!(running.stats().quarantined, 1);
    let _ = running.retry_quarantined();
    drop(object);
    drop(running);
    assert_eq!(world.machine.pins(), 2);
}

#[test]
fn forgotten_owners() {
    let world = World::new();
    let inside = world.machine.enter(&world.process);
    let running = world.dma();
    let object = world.object(&running);
    drop(object.acquire().unwrap());
    forget(object);
    let other = world.object(&running);
    let _ = other.clone().into_raw();
    forget(Client::open(running.clone()).unwrap());
    forget(running);
    drop(other.acquire().unwrap());
    drop(inside);
    world.unmap();
    assert_eq!(world.machine.pins(), 0, "an object that is forgotten is revoked all the same");
}

#[test]
fn forgotten_invalidations() {
    let world = World::new();
    let _inside = world.machine.enter(&world.process);
    let running = world.impatient();
    let object = world.object(&running);
    drop(object.acquire().unwrap());
    let notifier = object.record().existing_notifier().unwrap().clone();
    // One that is dropped is finished.
    drop(notifier.invalidate_start(world.buffer, Blockable::Yes).unwrap());
    assert_eq!(world.machine.pins(), 0);
    // The window of one that is forgotten stays open: refused, and not for ever waited for.
    forget(notifier.invalidate(world.buffer, Blockable::Yes).unwrap());
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    assert_eq!(object.acquire().unwrap_err(), Error::TimedOut);
    // More than can be recorded one by one.
    for _ in 0..20 {
        notifier.open_window(world.buffer);
        forget(notifier.invalidate(AddrRange::ALL, Blockable::Yes).unwrap());
    }
    assert!(notifier.invalidate(world.buffer, Blockable::No).is_ok());
    assert_eq!(notifier.exit(), Outcome::Idle);
    assert_eq!(notifier.exit(), Outcome::Idle);
    assert_eq!(object.acquire().unwrap_err(), Error::Gone);
}

#[test]
fn a_forgotten_pass_one() {
    let world = World::new();
    let inside = world.machine.enter(&world.process);
    let running = world.impatient();
    let object = world.object(&running);
    drop(object.acquire().unwrap());
    let notifier = object.record().existing_notifier().unwrap().clone();
    forget(notifier.invalidate_start(world.buffer, Blockable::Yes).unwrap());
    assert_eq!(object.acquire().unwrap_err(), Error::TimedOut);
    drop((object, running, inside));
    assert_eq!(world.machine.pins(), 2, "nobody owns the revocation: leaked");
    // Its exit would wait for that revocation for ever, as documented.
    forget(world.process);
}
