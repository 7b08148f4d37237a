//! Limits: of the cache, and of the platform.

use crate::world::{World, pages};
use userptr::{Context, Error, UserPtr};
use userptr_cache::{Cache, Setup};
use userptr_sim::PAGE;

#[test]
fn s198_the_clock_keeps_what_is_found() {
    let world = World::new(Setup::default().entries(4));
    let memory = world.memory(64);
    let _in = world.machine.enter(&world.process);
    let hot = world.read(pages(memory, 0, 1)).unwrap().handle().unwrap();
    for page in 1..64 {
        drop(world.read(pages(memory, page, 1)).unwrap());
        drop(world.read(pages(memory, 0, 1)).unwrap());
    }
    assert!(world.cache.at(hot, pages(memory, 0, 1)).is_ok(), "found each time, and evicted");
    let stats = world.cache.stats();
    assert_eq!((stats.entries, stats.evictions, stats.misses), (4, 60, 64), "{stats}");
    assert_eq!(world.machine.pins(), 4, "what was evicted is released");
    drop(_in);
    world.finish();
}

#[test]
fn s198_bytes_are_limited_and_larger_requests_are_not_kept() {
    let world = World::new(Setup::default().bytes(4 * PAGE));
    let memory = world.memory(16);
    let _in = world.machine.enter(&world.process);
    for first in [0, 2, 4, 6, 8] {
        drop(world.read(pages(memory, first, 2)).unwrap());
        assert!(world.machine.pins() <= 4);
    }
    let kept = world.cache.stats();
    assert_eq!((kept.bytes, kept.evictions), (4 * PAGE, 3), "{kept}");
    let large = world.read(memory).unwrap();
    assert!(large.handle().is_none() && large.as_lease().is_none());
    assert_eq!(world.dma(&large), world.process.load(memory.start()).unwrap());
    assert_eq!(world.machine.pins(), 4 + 16, "nothing was evicted for it");
    drop(large);
    assert_eq!(world.machine.pins(), 4);
    assert_eq!(world.cache.stats().once, 1);
    drop(_in);
    world.finish();
}

#[test]
fn s198_what_is_in_use_is_not_evicted() {
    let world = World::new(Setup::default().entries(2));
    let memory = world.memory(4);
    let _in = world.machine.enter(&world.process);
    let held = [0, 1].map(|page| world.read(pages(memory, page, 1)).unwrap());
    let third = world.read(pages(memory, 2, 1)).unwrap();
    assert!(third.handle().is_none(), "no room");
    for (lease, page) in held.iter().zip(0..) {
        assert_eq!(world.dma(lease), page);
        assert!(lease.handle().is_some(), "taken out while in use");
    }
    assert_eq!(world.cache.stats().evictions, 0);
    drop((held, third));
    assert!(world.read(pages(memory, 3, 1)).unwrap().handle().is_some());
    drop(_in);
    world.finish();
}

/// At the limit of locked memory others are evicted, as many as it takes; if all are in use, the
/// look-up fails with the limit.
#[test]
fn s199_at_the_platforms_limit_it_evicts_and_tries_again() {
    let world = World::new(Setup::default());
    let memory = world.memory(16);
    let _in = world.machine.enter(&world.process);
    world.process.record().set_limit(4);
    for page in 0..16 {
        let lease = world.read(pages(memory, page, 1)).unwrap();
        assert_eq!(world.dma(&lease), page as u8);
    }
    let stats = world.cache.stats();
    assert_eq!((stats.evictions, stats.entries), (12, 4), "{stats}");
    // All of it needs all the room; then nothing is left to give way.
    let all = world.read(pages(memory, 0, 4)).unwrap();
    assert_eq!(world.machine.pins(), 4);
    assert_eq!(world.read(pages(memory, 8, 1)).unwrap_err(), Error::Limit);
    assert_eq!(world.dma(&all), 0);
    drop(all);
    assert!(world.read(pages(memory, 8, 1)).is_ok());
    // Many small ones give way to a large one.
    world.process.record().set_limit(16);
    for page in 0..16 {
        drop(world.read(pages(memory, page, 1)).unwrap());
    }
    let large = world.memory(16);
    let lease = world.read(large).unwrap();
    assert_eq!((world.machine.pins(), world.cache.stats().entries), (16, 1));
    assert!(lease.handle().is_some());
    drop(lease);
    drop(_in);
    world.finish();
}

/// An evicted registration whose lease went elsewhere stays until that is dropped.
#[test]
fn s198_an_owned_lease_outlives_the_cache() {
    let world = World::new(Setup::default().entries(1));
    let memory = world.memory(2);
    let _in = world.machine.enter(&world.process);
    let (owned, offset) = world.write(pages(memory, 0, 1)).unwrap().into_owned();
    drop(world.write(pages(memory, 1, 1)).unwrap());
    assert_eq!(world.cache.stats().evictions, 1);
    let World { cache, context, process, machine } = world;
    drop(cache);
    assert_eq!(context.device().read(owned.map(), offset), process.load(memory.start()).unwrap());
    assert_eq!(owned.object().handles(), 1, "the cache's own is dropped");
    drop(_in);
    drop(owned);
    context.drain();
    drop((context, process));
    machine.assert_clean();
}

/// Memory that is unmapped without a look-up: nothing piles up, and what is left goes bit by bit.
#[test]
fn s200_what_was_invalidated_goes_without_a_look_up_of_it() {
    let world = World::new(Setup::default().entries(64));
    let _in = world.machine.enter(&world.process);
    let mut dead = Vec::new();
    // Each elsewhere: the same place again and again would be a storm.
    let area = world.memory(32);
    for page in 0..32 {
        let lease = world.read(pages(area, page, 1)).unwrap();
        dead.push(UserPtr::clone(lease.object()));
        drop(lease);
        world.process.unmap(pages(area, page, 1));
    }
    assert_eq!(world.machine.pins(), 0, "an unmap releases the pages, whoever looks up");
    // Every miss sweeps a little, a flush the rest.
    let other = world.memory(64);
    for page in 32..40 {
        // Not where the dead ones were: nobody looks those up.
        assert!(!pages(other, page, 1).overlaps(area));
        drop(world.read(pages(other, page, 1)).unwrap());
    }
    let swept = dead.iter().filter(|object| object.handles() == 1).count();
    assert!((8..=32).contains(&swept), "{swept} were taken out by 8 misses");
    world.cache.flush();
    assert!(dead.iter().all(|object| object.handles() == 1), "the flush left some");
    let stats = world.cache.stats();
    assert_eq!((stats.invalidations, stats.entries, stats.bytes), (32, 8, 8 * PAGE), "{stats}");
    drop(dead);
    drop(_in);
    world.finish();
}

#[test]
fn a_cache_without_entries_is_refused() {
    let world = World::new(Setup::default());
    let context: &Context<_> = &world.context;
    for entries in [0, usize::MAX] {
        let refused = Cache::new(context, &world.process.space(), Setup::default().entries(entries));
        assert_eq!(refused.map(drop).unwrap_err(), Error::Invalid);
    }
    world.finish();
}

#[cfg(target_os = "linux")]
#[test]
fn the_default_keeps_within_the_limit_of_locked_memory() {
    let mut limit = libc_limit();
    if limit == libc::RLIM_INFINITY {
        limit = u64::MAX;
    }
    assert!(Setup::default().bytes as u64 <= limit / 2);
}

#[cfg(target_os = "linux")]
fn libc_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the place is ours.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) }, 0);
    limit.rlim_cur
}
