//! Many address spaces on one device: more than the registry has lists for, so that several records
//! stand in one list.

use crate::on_each_host;
use crate::world::{Host, World};
use core::ptr;
use userptr::{Context, Flags, MmRegistry, SharedQueue};
use userptr_sim::{DmaDevice, Machine, PAGE, Process, Space};

/// The registry has 64 lists, so some of them hold two.
const MANY: usize = 100;

fn byte(n: usize) -> u8 {
    u8::try_from(n).unwrap() + 1
}

/// Each of a hundred processes has memory at one address. Each object is of its own process, and so
/// is what the device reads, in whatever order records come and go.
fn s260_a_hundred_address_spaces_are_told_apart<P: Host>() {
    let world = World::<P>::new();
    let mut others: Vec<(usize, Process)> = (0..MANY).map(|n| (n, world.machine.process())).collect();
    let addresses: Vec<usize> = others
        .iter()
        .map(|(n, process)| {
            let _in = world.machine.enter(process);
            let address = process.mmap(PAGE);
            process.touch(address, PAGE, byte(*n)).unwrap();
            address
        })
        .collect();
    assert!(addresses.iter().all(|address| *address == addresses[0]), "or a mistake could be an error");
    for round in 0..3 {
        let objects: Vec<_> = others
            .iter()
            .map(|(_, process)| {
                let _in = world.machine.enter(process);
                world.ctx.register_raw(&Space::<P>::of(process), addresses[0], PAGE, 0).unwrap()
            })
            .collect();
        assert_eq!(world.ctx.registry().len(), others.len(), "a record for each");
        for ((n, process), object) in others.iter().zip(&objects) {
            let again = MmRegistry::find(world.ctx.registry(), &Space::of(process)).unwrap();
            assert!(ptr::eq(&*again, &**object.record()), "two records of one address space");
            assert_eq!(again.space().record().id(), process.record().id(), "another's record");
            let _in = world.machine.enter(process);
            let lease = world.lease(object);
            assert_eq!(world.read(&lease, 0), byte(*n), "the device reads another process's memory");
        }
        // Records leave their lists from the front, the middle and the end.
        let (first, second): (Vec<_>, Vec<_>) =
            objects.into_iter().enumerate().partition(|(n, _)| n % (2 + round) == 0);
        drop(first);
        world.work();
        assert_eq!(world.ctx.registry().len(), second.len());
        drop(second);
        world.work();
        assert!(world.ctx.registry().is_empty());
        others.retain(|(n, _)| n % 7 != round);
    }
    drop(others);
    world.finish();
}

/// The registry is gone through while records are in use: each is met once, and keeps its count.
fn s261_each_record_is_met_once<P: Host>() {
    let world = World::<P>::new();
    let others: Vec<Process> = (0..MANY).map(|_| world.machine.process()).collect();
    let registry = world.ctx.registry();
    let records: Vec<_> =
        others.iter().map(|process| MmRegistry::find(registry, &Space::<P>::of(process)).unwrap()).collect();
    let mut ids: Vec<usize> = others.iter().map(|process| process.record().id()).collect();
    for _ in 0..3 {
        let mut met = Vec::new();
        registry.each(|record| met.push(record.clone()));
        let mut seen: Vec<usize> = met.iter().map(|record| record.space().record().id()).collect();
        seen.sort_unstable();
        ids.sort_unstable();
        assert_eq!(seen, ids);
        // The clones are references of their own, and not the last ones.
        drop(met);
        assert_eq!(registry.len(), MANY);
    }
    // The last reference is one that `each` gave.
    let mut last = Vec::new();
    registry.each(|record| last.push(record.clone()));
    drop(records);
    assert_eq!(registry.len(), MANY, "freed under its holder");
    drop(last);
    assert!(registry.is_empty(), "a count is left");
    drop(others);
    world.finish();
}

/// The release queue is shut down under the last object. A release in the caller could wait for the
/// callback that it runs in, so the record is kept for ever, with its subscription: changes of the
/// memory find no object, and nothing is pinned.
fn s263_a_record_that_no_queue_takes_is_kept<P: Host>() {
    let machine = Machine::new();
    let process = machine.process();
    let releases: P::Queue = SharedQueue::try_new().unwrap();
    let device = DmaDevice::<P>::new(&machine);
    let pins = SharedQueue::try_new().unwrap();
    let context = Context::builder(device).pin_queue(pins).release_queue(releases.clone()).build().unwrap();
    {
        let _in = machine.enter(&process);
        let range = process.map(PAGE);
        process.fill(range, 1).unwrap();
        let object = context.register(&Space::<P>::of(&process), range, Flags::NONE).unwrap();
        drop(object.acquire().unwrap());
        assert_eq!(process.record().registered(), 1);
        releases.shut_down();
        drop(object);
        assert!(context.registry().is_empty(), "nobody finds it any more");
        assert_eq!((process.record().registered(), machine.pins()), (1, 0));
        process.discard(range);
        process.fill(range, 2).unwrap();
    }
    assert_eq!(context.handles(), 1);
    drop(context);
    drop(process);
    assert_eq!(machine.records(), 1, "freed without the end of its subscription");
}

on_each_host! {
    s260_a_hundred_address_spaces_are_told_apart,
    s261_each_record_is_met_once,
    s263_a_record_that_no_queue_takes_is_kept,
}
