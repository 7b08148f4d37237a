//! A range that changes all the time.

use crate::world::{World, pages};
use userptr_cache::Setup;
use userptr_sim::PAGE;

#[test]
fn s201_a_storm_backs_off_alone_and_ends() {
    let world = World::new(Setup::default());
    let memory = world.memory(4);
    let (stormy, calm) = (pages(memory, 0, 1), pages(memory, 2, 1));
    let _in = world.machine.enter(&world.process);
    drop(world.write(calm).unwrap());
    for round in 0..400 {
        let lease = world.write(stormy).unwrap();
        assert_eq!(world.dma(&lease), world.process.load(stormy.start()).unwrap());
        drop(lease);
        world.process.dontneed(stormy.start(), PAGE);
        world.process.store(stormy.start(), round as u8).unwrap();
        assert!(world.write(calm).unwrap().handle().is_some());
    }
    // Hundreds of other ranges: some are remembered in the same place as the stormy one.
    let others = world.memory(512);
    for page in 0..512 {
        assert!(world.read(pages(others, page, 1)).unwrap().handle().is_some(), "page {page} is not kept");
    }
    let stats = world.cache.stats();
    assert!(stats.storms > 300, "{stats}");
    assert!(stats.invalidations < 60, "{stats}");
    assert_eq!(stats.hits, 400, "the calm range is served as before: {stats}");
    // It ends when the range stays as it is: at most 64 misses later one is kept, and found.
    let kept = (0..=64).find(|_| world.write(stormy).unwrap().handle().is_some());
    assert!(kept.is_some(), "{}", world.cache.stats());
    let before = world.cache.stats();
    drop(world.write(stormy).unwrap());
    assert_eq!(world.cache.stats().hits, before.hits + 1);
    drop(_in);
    world.finish();
}
