//! Random operations, each look-up verified by DMA.

use crate::deaf::{Deaf, DeafDevice};
use crate::world::{Device, World};
use std::thread;
use userptr::platforms::std::Std;
use userptr::{AddrRange, Context, Device as DeviceOf, Error, ForeignMemory};
use userptr_cache::{Access, Cache, Setup};
use userptr_sim::{DmaDevice, DmaMap, Engine, Machine, PAGE, Process, Prot, Violation};

/// Pages that the operations play on.
const PAGES: usize = 24;

pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % n
    }
}

/// Plays; returns how many look-ups were served, and how many found what is not there.
fn play<D>(
    cache: &Cache<D>,
    engine: impl Fn(&D::Map, usize) -> u8,
    process: &Process,
    area: AddrRange,
    operations: usize,
    seed: u64,
) -> (usize, usize)
where
    D: DeviceOf<Map = DmaMap>,
    D::Space: ForeignMemory,
{
    let mut rng = Rng::new(seed);
    let (mut served, mut stale) = (0, 0);
    for n in 0..operations {
        let first = rng.below(PAGES);
        let count = 1 + rng.below((PAGES - first).min(6));
        let (start, len) = (area.start() + first * PAGE, count * PAGE);
        match rng.below(20) {
            0 => {
                process.munmap(start, len);
                process.mmap_fixed(start, len, Prot::RW);
            }
            1 => process.mmap_fixed(start, len, Prot::RW),
            2 => process.dontneed(start, len),
            3 => process.store(start, n as u8).unwrap(),
            _ => {
                let access = if rng.below(2) == 0 { Access::Read } else { Access::Write };
                let lease = match cache.get(AddrRange::new(start + 1, len - 2).unwrap(), access) {
                    Ok(lease) => lease,
                    Err(error) => panic!("operation {n}: {error}"),
                };
                served += 1;
                assert_eq!(lease.range().start() + lease.offset(), start + 1);
                let offset = lease.offset() - 1;
                // The contents differ, where two generations of a page do.
                let there = process.load(start).unwrap();
                stale += usize::from(engine(lease.map(), offset) != there);
            }
        }
        if n % 997 == 0 {
            cache.flush();
        }
    }
    (served, stale)
}

fn operations() -> usize {
    if cfg!(miri) { 300 } else { 1_000_000 }
}

#[test]
fn s204_a_million_random_operations_and_nothing_stale() {
    let world = World::new(Setup::default().entries(12).bytes(40 * PAGE));
    let area = world.memory(PAGES);
    let _in = world.machine.enter(&world.process);
    let engine = |map: &DmaMap, offset| world.context.device().read(map, offset);
    let (served, stale) = play(&world.cache, engine, &world.process, area, operations(), 1);
    let stats = world.cache.stats();
    println!("{served} look-ups, {stale} stale; {stats}");
    assert_eq!(stale, 0);
    assert!(served > operations() / 2);
    if !cfg!(miri) {
        // Everything was met.
        assert!(stats.hits > 50_000 && stats.evictions > 1_000 && stats.invalidations > 1_000, "{stats}");
    }
    assert!(stats.entries <= 12 && stats.bytes <= 40 * PAGE, "{stats}");
    drop(_in);
    world.finish();
}

/// The same with two threads that look up and change the same memory: the machine compares each
/// access with the page table.
#[test]
fn s204_two_threads_and_nothing_stale() {
    let world = World::new(Setup::default().entries(6));
    let area = world.memory(PAGES);
    let rounds = operations() / 20;
    thread::scope(|scope| {
        for seed in 0..2_u64 {
            let world = &world;
            scope.spawn(move || {
                let _in = world.machine.enter(&world.process);
                let mut rng = Rng::new(seed + 7);
                for _ in 0..rounds {
                    let first = rng.below(PAGES - 3);
                    let range = AddrRange::new(area.start() + first * PAGE, 2 * PAGE).unwrap();
                    if rng.below(8) == 0 {
                        world.process.dontneed(range.start(), PAGE);
                        continue;
                    }
                    match world.cache.get(range, Access::Write) {
                        Ok(lease) => {
                            let _ = world.context.device().read(lease.map(), lease.offset());
                        }
                        Err(Error::Busy) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    println!("{}", world.cache.stats());
    world.finish();
}

/// The negative control: without notifications the same operations find thousands of stale pages.
#[test]
fn s204_control_without_notifications() {
    let machine = Machine::new();
    let process = machine.process();
    let device = DeafDevice(DmaDevice::<Std>::new(&machine));
    let context = Context::builder(device).spawn().unwrap();
    let cache = Cache::new(&context, &Deaf(process.space()), Setup::default().entries(12)).unwrap();
    let _in = machine.enter(&process);
    let area = process.map(PAGES * PAGE);
    process.touch(area.start(), PAGES * PAGE, 1).unwrap();
    let engine = |map: &DmaMap, offset| context.device().0.read(map, offset);
    let (served, stale) = play(&cache, engine, &process, area, operations() / 20, 1);
    let seen = machine.take_violations();
    let seen = seen.iter().filter(|violation| matches!(violation, Violation::Stale { .. })).count();
    println!("{served} look-ups, {stale} stale; the machine saw {seen}");
    assert!(seen > if cfg!(miri) { 0 } else { 5_000 }, "the machine saw {seen} stale accesses");
    assert!(stale > if cfg!(miri) { 0 } else { 1_000 }, "{stale} contents were stale");
    let _: fn(&Device) -> &Engine = Device::engine;
}
