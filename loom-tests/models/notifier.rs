//! The protocol, on objects that are nothing but protocol.

use crate::harness::{Model, bounded, full};
use crate::stage::{Home, LoomRef, Probe, World, assert_quiet, invalidate, notifier, pages};
use core::time::Duration;
use loom::sync::Arc;
use loom::thread;
use userptr::notifier::State;
use userptr::{AddrRange, Blockable, Notifier, Outcome};

pub const MODELS: &[Model] = &[
    full("s26_s84_start_against_attach_on_empty_index", 2, start_against_attach),
    full("s17_to_s21_invalidate_against_acquire_and_lease", 2, invalidate_against_acquire),
    bounded("s20_two_invalidations_of_one_object", 3, 3, two_invalidations),
    bounded("s22_two_windows_against_acquire", 3, 3, two_windows),
    full("s40_s77_last_put_against_invalidate", 2, last_put_against_invalidate),
    bounded("s41_two_closes_against_invalidate", 3, 3, two_closes),
    full("s78_evict_against_start", 2, evict_against_start),
    bounded("s79_lease_refused_once_revoked", 3, 3, lease_refused),
    bounded("s80_partly_overlapping_windows", 3, 3, partly_overlapping),
    bounded("s82_old_ticket_against_new_attach", 3, 3, old_ticket),
    full("s83_lease_past_the_deadline", 2, lease_past_deadline),
    full("s48_exit_against_acquire", 2, exit_against_acquire),
    full("s54_non_blockable_against_acquire", 2, non_blockable),
];

/// One object over one page.
fn stage() -> (Home, Arc<World>, LoomRef<Probe>) {
    let (home, world) = (notifier(), World::new());
    let probe = Probe::new(&home, &world, pages(0, 1));
    (home, world, probe)
}

fn spawn_invalidate(
    home: &Home,
    world: &Arc<World>,
    range: AddrRange,
    probe: &LoomRef<Probe>,
) -> thread::JoinHandle<()> {
    let (home, world, probe) = (home.clone(), world.clone(), probe.clone());
    thread::spawn(move || invalidate(&home, &world, range, &[&probe]))
}

/// Nothing is attached: the start looks without the lock. Either it sees the attach, or the attach sees its window.
fn start_against_attach() {
    let (home, world, probe) = stage();
    let t = spawn_invalidate(&home, &world, pages(0, 1), &probe);
    Probe::acquire(&probe);
    t.join().unwrap();
    Probe::touch(&probe);
    drop(probe);
    assert_quiet(&home, &world);
}

/// Pages are there or not, leases are taken, the object is acquired again: whenever a lease is had, its pages are fresh.
fn invalidate_against_acquire() {
    let (home, world, probe) = stage();
    assert!(Probe::acquire(&probe));
    let t = spawn_invalidate(&home, &world, pages(0, 1), &probe);
    Probe::touch(&probe);
    Probe::acquire(&probe);
    Probe::touch(&probe);
    t.join().unwrap();
    drop(probe);
    assert_quiet(&home, &world);
}

/// Both return only when the pages are released, whoever releases them.
fn two_invalidations() {
    let (home, world, probe) = stage();
    assert!(Probe::acquire(&probe));
    let threads = [0, 1].map(|_| {
        let (home, world, probe) = (home.clone(), world.clone(), probe.clone());
        thread::spawn(move || {
            let outcome = home.invalidate_start(pages(0, 1), Blockable::Yes).unwrap();
            assert_eq!(outcome, Outcome::Idle);
            assert_eq!(world.pins(), 0, "a start returned before the pages were released");
            assert_eq!(Notifier::state(&probe), State::Idle);
            world.zap();
            home.invalidate_end(pages(0, 1));
        })
    });
    for t in threads {
        t.join().unwrap();
    }
    drop(probe);
    assert_quiet(&home, &world);
}

/// Two windows open at once: an acquire gets in after the last end only.
fn two_windows() {
    let (home, world, probe) = stage();
    let threads = [0, 1].map(|_| spawn_start_zap_end(&home, &world));
    Probe::acquire(&probe);
    Probe::touch(&probe);
    for t in threads {
        t.join().unwrap();
    }
    Probe::touch(&probe);
    drop(probe);
    assert_quiet(&home, &world);
}

fn spawn_start_zap_end(home: &Home, world: &Arc<World>) -> thread::JoinHandle<()> {
    let (home, world) = (home.clone(), world.clone());
    thread::spawn(move || {
        assert_eq!(home.invalidate_start(pages(0, 1), Blockable::Yes).unwrap(), Outcome::Idle);
        world.zap();
        home.invalidate_end(pages(0, 1));
    })
}

/// The last reference goes while a start comes: the start waits until the release has unpinned.
fn last_put_against_invalidate() {
    let (home, world, probe) = stage();
    assert!(Probe::acquire(&probe));
    let t = {
        let (home, world) = (home.clone(), world.clone());
        thread::spawn(move || {
            assert_eq!(home.invalidate_start(pages(0, 1), Blockable::Yes).unwrap(), Outcome::Idle);
            assert_eq!(world.pins(), 0, "a start returned before the release had unpinned");
            world.zap();
            home.invalidate_end(pages(0, 1));
        })
    };
    drop(probe);
    t.join().unwrap();
    assert_quiet(&home, &world);
}

/// Two handles to one object are closed while a start comes: one release.
fn two_closes() {
    let (home, world, probe) = stage();
    assert!(Probe::acquire(&probe));
    let other = probe.clone();
    let t = spawn_start_zap_end(&home, &world);
    let c = thread::spawn(move || drop(other));
    drop(probe);
    t.join().unwrap();
    c.join().unwrap();
    assert_quiet(&home, &world);
}

/// A cancel without a window: the node stays in the index until the pages are unpinned.
fn evict_against_start() {
    let (home, world, probe) = stage();
    assert!(Probe::acquire(&probe));
    let t = spawn_invalidate(&home, &world, pages(0, 1), &probe);
    assert_eq!(Notifier::revoke(&probe), Outcome::Idle);
    Probe::acquire(&probe);
    t.join().unwrap();
    Probe::touch(&probe);
    drop(probe);
    assert_quiet(&home, &world);
}

/// Once a cancel has begun, a holder who takes turns with another cannot keep it waiting.
fn lease_refused() {
    let (home, world, probe) = stage();
    assert!(Probe::acquire(&probe));
    let t = spawn_invalidate(&home, &world, pages(0, 1), &probe);
    let h = {
        let probe = probe.clone();
        thread::spawn(move || turns(&probe))
    };
    turns(&probe);
    t.join().unwrap();
    h.join().unwrap();
    drop(probe);
    assert_quiet(&home, &world);
}

fn turns(probe: &LoomRef<Probe>) {
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
fn partly_overlapping() {
    let (home, world) = (notifier(), World::new());
    let probes = [Probe::new(&home, &world, pages(0, 2)), Probe::new(&home, &world, pages(1, 2))];
    for probe in &probes {
        assert!(Probe::acquire(probe));
    }
    let threads = [pages(0, 2), pages(2, 1)].map(|range| {
        let (home, world) = (home.clone(), world.clone());
        thread::spawn(move || {
            assert_eq!(home.invalidate_start(range, Blockable::Yes).unwrap(), Outcome::Idle);
            home.invalidate_end(range);
            drop(world);
        })
    });
    for t in threads {
        t.join().unwrap();
    }
    for probe in probes {
        assert_eq!(Notifier::state(&probe), State::Idle);
        drop(probe);
    }
    assert_quiet(&home, &world);
}

/// An acquire that was superseded commits after another acquire attached: its pin is stale and must be dropped.
fn old_ticket() {
    let (home, world, probe) = stage();
    let t = spawn_start_zap_end(&home, &world);
    let a = {
        let probe = probe.clone();
        thread::spawn(move || {
            Probe::acquire(&probe);
            Probe::touch(&probe);
        })
    };
    Probe::acquire(&probe);
    Probe::touch(&probe);
    t.join().unwrap();
    a.join().unwrap();
    Probe::touch(&probe);
    drop(probe);
    assert_quiet(&home, &world);
}

/// The deadline expires wherever it can: the outcome is typed, the pages stay while the lease lives, and its drop finishes.
fn lease_past_deadline() {
    let (home, world) = (notifier(), World::new());
    let probe = Probe::with_deadline(&home, &world, pages(0, 1), Some(Duration::from_millis(1)));
    assert!(Probe::acquire(&probe));
    let t = {
        let (home, world) = (home.clone(), world.clone());
        thread::spawn(move || {
            let outcome = home.invalidate_start(pages(0, 1), Blockable::Yes).unwrap();
            match outcome {
                Outcome::Idle => assert_eq!(world.pins(), 0),
                Outcome::TimedOut => {}
                Outcome::DeviceLost => unreachable!(),
            }
            home.invalidate_end(pages(0, 1));
        })
    };
    if let Some(hold) = Notifier::lease(&probe) {
        // The pages stay, quarantined or not.
        assert_eq!(world.pins(), 1);
        Probe::check(&hold);
        drop(hold);
    }
    t.join().unwrap();
    assert_eq!(world.pins(), 0, "the last lease did not finish the cancel");
    assert_eq!(Notifier::state(&probe), State::Idle);
    drop(probe);
    assert_quiet(&home, &world);
}

/// After an exit nothing is installed and nothing attaches.
fn exit_against_acquire() {
    let (home, world, probe) = stage();
    let t = {
        let (home, world) = (home.clone(), world.clone());
        thread::spawn(move || {
            assert_eq!(home.exit(), Outcome::Idle);
            world.zap();
        })
    };
    Probe::acquire(&probe);
    Probe::touch(&probe);
    t.join().unwrap();
    assert!(!Probe::acquire(&probe), "attached to a dead address space");
    probe.assert_released();
    drop(probe);
    assert_quiet(&home, &world);
}

/// Refused with nothing changed, or nothing there. Another window stays as it is.
fn non_blockable() {
    let (home, world, probe) = stage();
    let t = {
        let (home, world) = (home.clone(), world.clone());
        thread::spawn(move || {
            if home.invalidate_start(pages(0, 1), Blockable::No).is_ok() {
                assert_eq!(world.pins(), 0);
                world.zap();
                home.invalidate_end(pages(0, 1));
            }
        })
    };
    Probe::acquire(&probe);
    Probe::touch(&probe);
    t.join().unwrap();
    Probe::touch(&probe);
    Probe::acquire(&probe);
    assert!(Probe::touch(&probe), "a refused start left its window open");
    drop(probe);
    assert_quiet(&home, &world);
}
