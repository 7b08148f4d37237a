//! What serves a look-up, and what a handle names.

use crate::world::{World, pages};
use std::sync::mpsc::channel;
use std::thread;
use userptr::{AddrRange, Error, UserPtr};
use userptr_cache::{Access, Setup, Want};
use userptr_sim::{PAGE, PinFault, Seam};

#[test]
fn s192_a_contained_request_is_served_by_what_is_there() {
    let world = World::new(Setup::default());
    let memory = world.memory(8);
    let _in = world.machine.enter(&world.process);
    drop(world.write(memory).unwrap());
    for page in 0..8 {
        let inside = AddrRange::new(pages(memory, page, 1).start() + 17, 30).unwrap();
        let lease = world.read(inside).unwrap();
        assert_eq!((lease.offset(), lease.range()), (page * PAGE + 17, memory));
        assert_eq!(world.dma(&lease), world.process.load(inside.start()).unwrap());
    }
    let stats = world.cache.stats();
    assert_eq!((stats.misses, stats.hits, stats.entries, stats.bytes), (1, 8, 1, 8 * PAGE), "{stats}");
    drop(_in);
    world.finish();
}

#[test]
fn s192_of_several_the_one_that_begins_last_and_is_shortest_serves() {
    let world = World::new(Setup::default());
    let memory = world.memory(16);
    let _in = world.machine.enter(&world.process);
    // Each wider than the last, so that none is served by one before it.
    for (first, count) in [(6, 2), (5, 3), (5, 6), (0, 16)] {
        let lease = world.read(pages(memory, first, count)).unwrap();
        assert_eq!(lease.range(), pages(memory, first, count));
    }
    for (asked, serves) in [
        ((6, 1), (6, 2)),
        ((5, 3), (5, 3)),
        ((7, 2), (5, 6)),
        ((8, 3), (5, 6)),
        ((4, 2), (0, 16)),
        ((12, 1), (0, 16)),
    ] {
        let lease = world.read(pages(memory, asked.0, asked.1)).unwrap();
        assert_eq!(lease.range(), pages(memory, serves.0, serves.1), "for {asked:?}");
    }
    assert_eq!(world.cache.stats().entries, 4);
    // What only overlaps does not serve.
    let (left, right) = (world.memory(4), world.memory(4));
    assert_eq!(left.last() + 1, right.start());
    drop(world.read(left).unwrap());
    let across = pages(left, 2, 4);
    assert_eq!(world.read(across).unwrap().range(), across);
    drop(_in);
    world.finish();
}

#[test]
fn s193_a_read_only_registration_never_serves_a_write() {
    let world = World::new(Setup::default());
    let memory = world.memory(2);
    let _in = world.machine.enter(&world.process);
    let reads = world.read(memory).unwrap();
    assert!(!reads.map().is_writable());
    let writes = world.write(memory).unwrap();
    assert!(writes.map().is_writable());
    assert!(!UserPtr::ptr_eq(reads.object(), writes.object()));
    // Both are there; a write finds its own, a read one of the two.
    drop((reads, writes));
    assert!(world.write(pages(memory, 1, 1)).unwrap().map().is_writable());
    drop(world.read(pages(memory, 0, 1)).unwrap());
    assert_eq!((world.cache.stats().misses, world.cache.stats().hits), (2, 2));
    drop(_in);
    world.finish();
}

#[test]
fn s194_after_each_change_a_look_up_finds_the_new_pages() {
    let world = World::new(Setup::default());
    let memory = world.memory(4);
    let _in = world.machine.enter(&world.process);
    let size = 4 * PAGE;
    let changes: [(&str, &dyn Fn()); 4] = [
        ("munmap and mmap", &|| {
            world.process.unmap(memory);
            world.process.mmap_fixed(memory.start(), size, userptr_sim::Prot::RW);
        }),
        ("mmap over it", &|| world.process.mmap_fixed(memory.start(), size, userptr_sim::Prot::RW)),
        ("discard", &|| world.process.dontneed(memory.start(), size)),
        ("a part", &|| world.process.dontneed(memory.start() + PAGE, PAGE)),
    ];
    for (round, (name, change)) in changes.iter().enumerate() {
        let lease = world.write(memory).unwrap();
        let old = lease.handle().unwrap();
        assert_eq!(world.cache.at(old, memory).unwrap().range(), memory);
        drop(lease);
        change();
        world.process.touch(memory.start(), size, 100 + round as u8).unwrap();
        // A handle names what was, never what is there now.
        assert_eq!(world.cache.at(old, memory).unwrap_err(), Error::NoEntry, "after {name}");
        let lease = world.write(memory).unwrap();
        assert_eq!(world.dma(&lease), 100 + round as u8, "after {name}");
        assert_ne!(lease.handle(), Some(old), "after {name}");
        drop(lease);
        assert_eq!(world.cache.at(old, memory).unwrap_err(), Error::NoEntry, "after {name}");
    }
    assert_eq!(world.cache.stats().invalidations, 4);
    drop(_in);
    world.finish();
}

#[test]
fn s194_a_handle_gives_no_lease_outside_of_its_range() {
    let world = World::new(Setup::default());
    let memory = world.memory(4);
    let _in = world.machine.enter(&world.process);
    let handle = world.read(pages(memory, 1, 2)).unwrap().handle().unwrap();
    assert_eq!(world.cache.at(handle, pages(memory, 2, 1)).unwrap().offset(), PAGE);
    assert_eq!(world.cache.at(handle, memory).unwrap_err(), Error::Invalid);
    drop(_in);
    world.finish();
}

/// Two threads that miss one range make one registration.
#[test]
fn s195_two_misses_of_one_range_pin_once() {
    let world = World::new(Setup::default());
    let memory = world.memory(4);
    let ((tell, reached), (open, opened)) = (channel::<()>(), channel::<()>());
    world.machine.once(Seam::PinBegin, move |_| {
        tell.send(()).unwrap();
        let _ = opened.recv();
    });
    thread::scope(|scope| {
        let miss = || {
            let _in = world.machine.enter(&world.process);
            let lease = world.write(pages(memory, 0, 2)).unwrap();
            UserPtr::clone(lease.object())
        };
        let first = scope.spawn(miss);
        reached.recv().unwrap();
        let second = scope.spawn(miss);
        // The first one pins: another range is not kept waiting.
        let _in = world.machine.enter(&world.process);
        drop(world.write(pages(memory, 3, 1)).unwrap());
        // The second one is counted before it waits.
        while world.cache.stats().misses < 3 {
            thread::yield_now();
        }
        drop(open);
        let (first, second) = (first.join().unwrap(), second.join().unwrap());
        assert!(UserPtr::ptr_eq(&first, &second));
    });
    assert_eq!(world.cache.stats().entries, 2);
    world.finish();
}

#[test]
fn s196_a_miss_that_fails_leaves_nothing() {
    let world = World::new(Setup::default());
    let memory = world.memory(2);
    let _in = world.machine.enter(&world.process);
    for error in [Error::Fault, Error::NoMemory, Error::Interrupted] {
        // The pin of every retry fails as well.
        for _ in 0..32 {
            world.machine.inject().fast_pin(PinFault::Fail(error));
        }
        assert_eq!(world.write(memory).unwrap_err(), error);
        while world.machine.inject().left() > 0 {
            let _ = world.process.record().pin_fast(memory, true);
        }
        let stats = world.cache.stats();
        assert_eq!((stats.entries, stats.bytes, world.machine.pins()), (0, 0, 0), "{stats}");
    }
    drop(world.write(memory).unwrap());
    world.process.unmap(memory);
    assert_eq!(world.write(memory).unwrap_err(), Error::Fault);
    assert_eq!(world.machine.pins(), 0);
    drop(_in);
    world.finish();
}

#[test]
fn s197_neighbours_are_merged_only_if_asked() {
    for merge in [false, true] {
        let world = World::new(Setup::default().merge(merge));
        let memory = world.memory(12);
        let _in = world.machine.enter(&world.process);
        drop(world.write(pages(memory, 0, 4)).unwrap());
        drop(world.write(pages(memory, 8, 4)).unwrap());
        drop(world.read(pages(memory, 3, 6)).unwrap());
        let lease = world.write(pages(memory, 4, 4)).unwrap();
        assert_eq!(lease.range(), if merge { memory } else { pages(memory, 4, 4) });
        assert_eq!(lease.offset(), if merge { 4 * PAGE } else { 0 });
        drop(lease);
        // The one with another access stays.
        assert_eq!(world.cache.stats().entries, if merge { 2 } else { 4 });
        drop(_in);
        world.finish();
    }
}

/// The hull cannot be had: the request alone can, and is not made to pay for its neighbour.
#[test]
fn s197_a_merge_that_fails_serves_the_request_alone() {
    let world = World::new(Setup::default().merge(true));
    let memory = world.memory(5);
    let _in = world.machine.enter(&world.process);
    world.process.record().set_limit(4);
    let (neighbour, wanted) = (pages(memory, 0, 4), pages(memory, 4, 1));
    drop(world.write(neighbour).unwrap());
    assert_eq!(world.write(wanted).unwrap().range(), wanted);
    drop(world.write(neighbour).unwrap());
    let set = [Want { range: wanted, access: Access::Write }];
    assert_eq!(world.cache.get_set(&set).unwrap()[0].range(), wanted);
    drop(_in);
    world.finish();
}

/// A forked child finds nothing of its parent's.
#[test]
fn s60_a_forked_child_gets_nothing_from_the_cache() {
    let world = World::new(Setup::default());
    let memory = world.memory(1);
    let handle = {
        let _in = world.machine.enter(&world.process);
        world.write(memory).unwrap().handle().unwrap()
    };
    let child = world.process.fork();
    let inside = world.machine.enter(&child);
    assert_eq!(world.write(memory).unwrap_err(), Error::OtherSpace);
    assert!(world.cache.at(handle, memory).is_err());
    drop(inside);
    drop(child);
    let _in = world.machine.enter(&world.process);
    assert!(world.cache.get(memory, Access::Write).is_ok());
    drop(_in);
    world.finish();
}
