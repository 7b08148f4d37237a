//! The protocol, on objects that are nothing but protocol.

use super::Stage;
use super::ext::AddressSpaceSide;
use super::stage::{Home, Probe, ProbeRef, World, assert_quiet, invalidate, notifier, pages, start_zap_end};
use core::time::Duration;
use std::sync::Arc;
use userptr::notifier::State;
use userptr::{AddrRange, Blockable, Notifier, Outcome};

/// One object over one page.
fn stage<P: Stage>() -> (Home<P>, Arc<World<P>>, ProbeRef<P>) {
    let (home, world) = (notifier::<P>(), World::new());
    let probe = Probe::new(&home, &world, pages(0, 1));
    (home, world, probe)
}

fn spawn_invalidate<P: Stage>(
    home: &Home<P>,
    world: &Arc<World<P>>,
    range: AddrRange,
    probe: &ProbeRef<P>,
) -> P::Join {
    let (home, world, probe) = (home.clone(), world.clone(), probe.clone());
    P::spawn(move || invalidate(&home, &world, range, &probe))
}

/// Nothing is attached: the start looks without the lock. Either it sees the attach, or the attach
/// sees its window.
pub fn start_against_attach<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    let t = spawn_invalidate(&home, &world, pages(0, 1), &probe);
    P::met(if Probe::acquire(&probe) { "acquired" } else { "not acquired" });
    P::join(t);
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    drop(probe);
    assert_quiet(&home, &world);
}

/// Pages are there or not, leases are taken, the object is acquired again: whenever a lease is had,
/// its pages are fresh.
pub fn invalidate_against_acquire<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    assert!(Probe::acquire(&probe));
    let t = spawn_invalidate(&home, &world, pages(0, 1), &probe);
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    P::met(if Probe::acquire(&probe) { "acquired" } else { "not acquired" });
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    P::join(t);
    drop(probe);
    assert_quiet(&home, &world);
}

/// Both return only when the pages are released, whoever releases them.
pub fn two_invalidations<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    assert!(Probe::acquire(&probe));
    let threads = [0, 1].map(|_| {
        let (home, world, probe) = (home.clone(), world.clone(), probe.clone());
        P::spawn(move || {
            let outcome = home.invalidate_and_wait(pages(0, 1), Blockable::Yes).unwrap();
            assert_eq!(outcome, Outcome::Idle);
            assert_eq!(world.pins(), 0, "a start returned before the pages were released");
            assert_eq!(Notifier::state(&probe), State::Idle);
            world.zap();
            home.end(pages(0, 1));
        })
    });
    for t in threads {
        P::join(t);
    }
    drop(probe);
    assert_quiet(&home, &world);
}

/// Two windows open at once: an acquire gets in after the last end only.
pub fn two_windows<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    let threads = [0, 1].map(|_| spawn_start_zap_end(&home, &world, pages(0, 1)));
    P::met(if Probe::acquire(&probe) { "acquired" } else { "not acquired" });
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    for t in threads {
        P::join(t);
    }
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    drop(probe);
    assert_quiet(&home, &world);
}

fn spawn_start_zap_end<P: Stage>(home: &Home<P>, world: &Arc<World<P>>, range: AddrRange) -> P::Join {
    let (home, world) = (home.clone(), world.clone());
    P::spawn(move || start_zap_end(&home, &world, range))
}

/// Two windows over the same range end at once: each end closes one, though not its own.
pub fn equal_windows<P: Stage>() {
    let (home, world) = (notifier::<P>(), World::<P>::new());
    let t = spawn_start_zap_end::<P>(&home, &world, pages(0, 1));
    start_zap_end(&home, &world, pages(0, 1));
    P::join(t);
    assert_quiet(&home, &world);
}

/// The last reference goes while a start comes: the start waits until the release has unpinned.
pub fn last_put_against_invalidate<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    assert!(Probe::acquire(&probe));
    let t = {
        let (home, world) = (home.clone(), world.clone());
        P::spawn(move || {
            assert_eq!(home.invalidate_and_wait(pages(0, 1), Blockable::Yes).unwrap(), Outcome::Idle);
            assert_eq!(world.pins(), 0, "a start returned before the release had unpinned");
            world.zap();
            home.end(pages(0, 1));
        })
    };
    drop(probe);
    P::join(t);
    assert_quiet(&home, &world);
}

/// Two handles to one object are closed while a start comes: one release.
pub fn two_closes<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    assert!(Probe::acquire(&probe));
    let other = probe.clone();
    let t = spawn_start_zap_end(&home, &world, pages(0, 1));
    let c = P::spawn(move || drop(other));
    drop(probe);
    P::join(t);
    P::join(c);
    assert_quiet(&home, &world);
}

/// A cancel without a window: the node stays in the index until the pages are unpinned.
pub fn evict_against_start<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    assert!(Probe::acquire(&probe));
    let t = spawn_invalidate(&home, &world, pages(0, 1), &probe);
    assert_eq!(Notifier::revoke(&probe), Outcome::Idle);
    P::met(if Probe::acquire(&probe) { "acquired" } else { "not acquired" });
    P::join(t);
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    drop(probe);
    assert_quiet(&home, &world);
}

/// A lease is taken with no lock on the way, by another thread than installed the pages.
pub fn lease_elsewhere<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    let t = {
        let probe = probe.clone();
        P::spawn(move || {
            P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
        })
    };
    assert!(Probe::acquire(&probe));
    P::join(t);
    drop(probe);
    assert_quiet(&home, &world);
}

/// Once a cancel has begun, a holder who takes turns with another cannot keep it waiting.
pub fn lease_refused<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    assert!(Probe::acquire(&probe));
    let t = spawn_invalidate(&home, &world, pages(0, 1), &probe);
    let h = {
        let probe = probe.clone();
        P::spawn(move || turns(&probe))
    };
    turns(&probe);
    P::join(t);
    P::join(h);
    drop(probe);
    assert_quiet(&home, &world);
}

fn turns<P: Stage>(probe: &ProbeRef<P>) {
    let Some(first) = Notifier::lease(probe) else { return };
    let revoked = first.is_revoked();
    let second = Notifier::lease(probe);
    assert!(!(revoked && second.is_some()), "a lease was given while a cancel waits");
    drop(first);
    if let Some(second) = &second {
        Probe::check(second);
    }
    drop(second);
}

/// Each start owns one object at least and may have to wait for the other's.
pub fn partly_overlapping<P: Stage>() {
    let (home, world) = (notifier::<P>(), World::new());
    let probes = [Probe::new(&home, &world, pages(0, 2)), Probe::new(&home, &world, pages(1, 2))];
    for probe in &probes {
        assert!(Probe::acquire(probe));
    }
    let threads = [pages(0, 2), pages(2, 1)].map(|range| {
        let (home, world) = (home.clone(), world.clone());
        P::spawn(move || {
            assert_eq!(home.invalidate_and_wait(range, Blockable::Yes).unwrap(), Outcome::Idle);
            home.end(range);
            drop(world);
        })
    });
    for t in threads {
        P::join(t);
    }
    for probe in probes {
        assert_eq!(Notifier::state(&probe), State::Idle);
        drop(probe);
    }
    assert_quiet(&home, &world);
}

/// An acquire that was superseded commits after another acquire attached: its pin is stale and must
/// be dropped.
pub fn old_ticket<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    let t = spawn_start_zap_end(&home, &world, pages(0, 1));
    let a = {
        let probe = probe.clone();
        P::spawn(move || {
            P::met(if Probe::acquire(&probe) { "acquired" } else { "not acquired" });
            P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
        })
    };
    P::met(if Probe::acquire(&probe) { "acquired" } else { "not acquired" });
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    P::join(t);
    P::join(a);
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    drop(probe);
    assert_quiet(&home, &world);
}

/// A ticket of another object is none of this one, though the number is the same.
pub fn foreign_ticket<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    let other = Probe::new(&home, &world, pages(5, 1));
    let t = spawn_start_zap_end(&home, &world, pages(0, 1));
    let foreign = Notifier::attach(&other).unwrap();
    if let Ok(own) = Notifier::attach(&probe) {
        let seen = world.pin();
        assert!(!Probe::commit(&probe, foreign, seen), "committed with a ticket of another object");
        assert!(!Notifier::abandon(&probe, foreign, false));
        let committed = Probe::commit(&probe, own, seen);
        P::met(if committed { "committed" } else { "superseded" });
        if !committed {
            world.unpin();
        }
    } else {
        P::met("refused");
    }
    assert!(Notifier::abandon(&other, foreign, false));
    P::join(t);
    drop((probe, other));
    assert_quiet(&home, &world);
}

/// The deadline expires wherever it can: the outcome is typed, the pages stay while the lease
/// lives, and its drop finishes.
pub fn lease_past_deadline<P: Stage>() {
    let (home, world) = (notifier::<P>(), World::new());
    let probe = Probe::with_deadline(&home, &world, pages(0, 1), Some(Duration::from_millis(1)));
    assert!(Probe::acquire(&probe));
    let t = {
        let (home, world) = (home.clone(), world.clone());
        P::spawn(move || {
            let outcome = home.invalidate_and_wait(pages(0, 1), Blockable::Yes).unwrap();
            match outcome {
                Outcome::Idle => {
                    assert_eq!(world.pins(), 0);
                    P::met("released in time");
                }
                Outcome::TimedOut => P::met("quarantined"),
                Outcome::DeviceLost => panic!("nothing was lost"),
            }
            home.end(pages(0, 1));
        })
    };
    if let Some(hold) = Notifier::lease(&probe) {
        // The pages stay, quarantined or not.
        assert_eq!(world.pins(), 1);
        Probe::check(&hold);
        drop(hold);
        P::met("leased");
    }
    P::join(t);
    assert_eq!(world.pins(), 0, "the last lease did not finish the cancel");
    assert_eq!(Notifier::state(&probe), State::Idle);
    drop(probe);
    assert_quiet(&home, &world);
}

/// After an exit nothing is installed and nothing attaches.
pub fn exit_against_acquire<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    let t = {
        let (home, world) = (home.clone(), world.clone());
        P::spawn(move || {
            assert_eq!(home.exit(), Outcome::Idle);
            world.zap();
        })
    };
    P::met(if Probe::acquire(&probe) { "acquired" } else { "not acquired" });
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    P::join(t);
    assert!(!Probe::acquire(&probe), "attached to a dead address space");
    probe.assert_released();
    drop(probe);
    assert_quiet(&home, &world);
}

/// AttachError with nothing changed, or nothing there. Another window stays as it is.
pub fn non_blockable<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    let t = {
        let (home, world) = (home.clone(), world.clone());
        P::spawn(move || {
            if home.invalidate_and_wait(pages(0, 1), Blockable::No).is_ok() {
                assert_eq!(world.pins(), 0);
                world.zap();
                home.end(pages(0, 1));
                P::met("started");
            } else {
                P::met("start refused");
            }
        })
    };
    P::met(if Probe::acquire(&probe) { "acquired" } else { "not acquired" });
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    P::join(t);
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    P::met(if Probe::acquire(&probe) { "acquired" } else { "not acquired" });
    assert!(Probe::touch(&probe), "a refused start left its window open");
    drop(probe);
    assert_quiet(&home, &world);
}

/// A cancel without a window while two windows are open: nothing gets in before the last end,
/// nothing is released twice.
pub fn evict_with_two_windows<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    assert!(Probe::acquire(&probe));
    let threads = [0, 1].map(|_| spawn_start_zap_end::<P>(&home, &world, pages(0, 1)));
    assert_eq!(Notifier::revoke(&probe), Outcome::Idle);
    P::met(if Probe::acquire(&probe) { "acquired" } else { "not acquired" });
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    for t in threads {
        P::join(t);
    }
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    drop(probe);
    assert_quiet(&home, &world);
}

/// Two objects, a start over one and a start over both: the second returns when both are released,
/// whoever owns them.
pub fn start_over_two_owners<P: Stage>() {
    let (home, world) = (notifier::<P>(), World::new());
    // The second one's memory is not what changes.
    let probes = [Probe::new(&home, &world, pages(0, 2)), Probe::new(&home, &World::new(), pages(1, 2))];
    for probe in &probes {
        assert!(Probe::acquire(probe));
    }
    let t = spawn_start_zap_end::<P>(&home, &world, pages(0, 1));
    assert_eq!(home.invalidate_and_wait(pages(1, 1), Blockable::Yes).unwrap(), Outcome::Idle);
    // Through the cells, which the checker orders: the count of pins is no step of a model.
    probes.iter().for_each(|probe| probe.assert_released());
    home.end(pages(1, 1));
    P::join(t);
    drop(probes);
    assert_quiet(&home, &world);
}

/// An end without a start, of a range that is no window's, changes nothing: with the slots free,
/// and with all of them taken.
pub fn stray_end<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    let slots = P::WINDOWS;
    for _ in 0..slots {
        home.open_window(pages(9, 1));
    }
    let t = spawn_start_zap_end::<P>(&home, &world, pages(0, 1));
    home.end(pages(0, 2));
    home.end(pages(3, 1));
    P::met(if Probe::acquire(&probe) { "acquired" } else { "not acquired" });
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    for _ in 0..slots {
        home.end(pages(9, 1));
    }
    home.end(pages(9, 1));
    P::join(t);
    P::met(if Probe::touch(&probe) { "leased" } else { "no lease" });
    drop(probe);
    assert_quiet(&home, &world);
}

/// A device that did not stop in time is reset and tried again while a start comes: one cancel, and
/// the start's outcome is true.
pub fn retry_against_start<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    assert!(Probe::acquire(&probe));
    world.set_stuck(true);
    assert_eq!(home.invalidate_and_wait(pages(0, 1), Blockable::Yes).unwrap(), Outcome::TimedOut);
    home.end(pages(0, 1));
    assert_eq!((home.stats().quarantined, world.pins()), (1, 1));
    let t = {
        let (home, world) = (home.clone(), world.clone());
        P::spawn(move || {
            if home.invalidate_and_wait(pages(0, 1), Blockable::Yes).unwrap() == Outcome::Idle {
                assert_eq!(world.pins(), 0, "a start returned before the retry had unpinned");
                world.zap();
                P::met("released");
            } else {
                P::met("still quarantined");
            }
            home.end(pages(0, 1));
        })
    };
    world.set_stuck(false);
    assert_eq!(home.retry_quarantined(), Outcome::Idle);
    P::join(t);
    assert_eq!(Notifier::state(&probe), State::Idle);
    assert!(Probe::acquire(&probe));
    assert!(Probe::touch(&probe));
    drop(probe);
    assert_quiet(&home, &world);
}

/// A release whose device does not stop keeps the object, while the device is reset and tried
/// again: whoever gives back the last count frees it, once.
pub fn kept_release_against_retry<P: Stage>() {
    let (home, world, probe) = stage::<P>();
    assert!(Probe::acquire(&probe));
    world.set_stuck(true);
    let t = {
        let (home, world) = (home.clone(), world.clone());
        P::spawn(move || {
            world.set_stuck(false);
            let _ = home.retry_quarantined();
        })
    };
    drop(probe);
    P::join(t);
    assert_eq!(home.retry_quarantined(), Outcome::Idle);
    assert_quiet(&home, &world);
}
