//! Sets: all or none.

use crate::world::{World, pages};
use std::thread;
use userptr::Error;
use userptr_cache::{Access, Setup, Want};
use userptr_sim::{PAGE, Prot, Seam};

fn wants(world: &World, count: usize) -> Vec<Want> {
    let memory = world.memory(2 * count);
    (0..count).map(|n| Want { range: pages(memory, 2 * n, 1), access: Access::Write }).collect()
}

#[test]
fn s202_a_set_gives_all_leases_in_order() {
    let world = World::new(Setup::default());
    let wants = wants(&world, 32);
    let _in = world.machine.enter(&world.process);
    for round in 0..2 {
        let set = world.cache.get_set(&wants).unwrap();
        assert_eq!(set.len(), 32);
        for (lease, want) in set.iter().zip(&wants) {
            assert_eq!(lease.range(), want.range);
            assert_eq!(world.dma(lease), world.process.load(want.range.start()).unwrap());
        }
        let stats = world.cache.stats();
        assert_eq!((stats.misses, stats.hits), (32, 32 * round), "{stats}");
    }
    assert_eq!(world.cache.get_set(&[]).unwrap().len(), 0);
    drop(_in);
    world.finish();
}

#[test]
fn s202_of_a_set_that_cannot_be_had_nothing_is_leased() {
    let world = World::new(Setup::default());
    let mut wants = wants(&world, 4);
    let _in = world.machine.enter(&world.process);
    world.process.unmap(wants[2].range);
    assert_eq!(world.cache.get_set(&wants).unwrap_err(), Error::Fault);
    // Nobody holds anything: every page can go at once.
    for want in wants.drain(..) {
        world.process.unmap(want.range);
    }
    assert_eq!(world.machine.pins(), 0);
    drop(_in);
    world.finish();
}

/// One that is changed while the others are leased is registered anew; the rest stays registered.
#[test]
fn s202_a_change_in_the_middle_costs_that_one_alone() {
    let world = World::new(Setup::default());
    let wants = wants(&world, 3);
    let _in = world.machine.enter(&world.process);
    drop(world.cache.get_set(&wants[1..]).unwrap());
    // While the first is pinned, the last is discarded: it is held registered already, or not yet.
    let (process, last) = (world.process.record().users().unwrap(), wants[2].range);
    let pinned = world.machine.clone();
    world.machine.once(Seam::Pinned, move |_| {
        let _in = pinned.enter(&process);
        process.mmap_fixed(last.start(), PAGE, Prot::RW);
        process.store(last.start(), 99).unwrap();
    });
    let set = world.cache.get_set(&wants).unwrap();
    assert_eq!(world.dma(&set[2]), 99);
    assert_eq!(world.cache.stats().invalidations, 1);
    drop(set);
    drop(_in);
    world.finish();
}

/// Two sets of the same ranges in opposite orders, with room for one of them, beside changes.
#[test]
fn s203_two_sets_with_room_for_one_both_end() {
    let world = World::new(Setup::default().entries(8));
    let forth = wants(&world, 8);
    let back: Vec<Want> = forth.iter().rev().copied().collect();
    let rounds = if cfg!(miri) { 3 } else { 300 };
    thread::scope(|scope| {
        for wants in [&forth, &back] {
            scope.spawn(|| {
                let _in = world.machine.enter(&world.process);
                for _ in 0..rounds {
                    match world.cache.get_set(wants) {
                        Ok(set) => assert_eq!(set.len(), 8),
                        Err(error) => assert!(error.is_retryable(), "{error}"),
                    }
                }
            });
        }
        scope.spawn(|| {
            let _in = world.machine.enter(&world.process);
            for round in 0..rounds {
                world.process.dontneed(forth[round % 8].range.start(), PAGE);
            }
        });
    });
    let _in = world.machine.enter(&world.process);
    assert_eq!(world.cache.get_set(&back).unwrap().len(), 8);
    drop(_in);
    world.finish();
}
