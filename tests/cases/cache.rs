//! The registration cache: look-ups against invalidations, evictions and each other.

use super::Stage;
use super::memory::{Engine, Machine, Space};
use super::stage::pages;
use crate::registration_cache::{Access, Cache, CacheLease, Setup, Want};
use std::sync::Arc;
use userptr::{Current, Error};

/// A machine and a cache over it with `entries` slots.
fn setting<P: Stage>(entries: usize) -> (Machine<P>, Cache<Engine<P>>) {
    let machine = Machine::<P>::new(Current::This, 1, false);
    let setup = Setup::default().entries(entries).bytes(entries * 4096).shards(1);
    let cache = Cache::new(&machine.context, &Space::of(&machine.memory), setup).unwrap();
    (machine, cache)
}

fn end<P: Stage>(machine: Machine<P>, cache: Cache<Engine<P>>) {
    drop(cache);
    machine.assert_quiet();
}

/// Uses the pages of a lease: they must be what the page table says.
fn look<P: Stage>(machine: &Arc<super::memory::Memory<P>>, lease: &CacheLease<'_, Engine<P>>) {
    machine.world.use_frame(*lease.map());
}

/// A hit beside a change of its memory: the lease is on fresh pages, whichever comes first.
pub fn hit_against_invalidate<P: Stage>() {
    let (machine, cache) = setting::<P>(1);
    drop(cache.get(pages(0, 1), Access::Write).unwrap());
    let memory = machine.memory.clone();
    let t = P::spawn(move || memory.change(pages(0, 1)));
    let handle = match cache.get(pages(0, 1), Access::Write) {
        Ok(lease) => {
            look(&machine.memory, &lease);
            P::met("served");
            lease.handle()
        }
        Err(error) => {
            assert_eq!(error, Error::Busy);
            P::met("busy");
            None
        }
    };
    P::join(t);
    if let Some(Ok(lease)) = handle.map(|handle| cache.at(handle, pages(0, 1))) {
        look(&machine.memory, &lease);
    }
    look(&machine.memory, &cache.get(pages(0, 1), Access::Write).unwrap());
    end(machine, cache);
}

/// A hit beside a miss that needs its slot: the object stays in its place while it is used.
pub fn hit_against_eviction<P: Stage>() {
    let (machine, cache) = setting::<P>(1);
    drop(cache.get(pages(0, 1), Access::Write).unwrap());
    let (theirs, memory) = (cache.clone(), machine.memory.clone());
    let t = P::spawn(move || {
        let lease = theirs.get(pages(4, 1), Access::Write).unwrap();
        look(&memory, &lease);
        P::met(if lease.handle().is_some() { "evicted" } else { "not kept" });
    });
    let lease = cache.get(pages(0, 1), Access::Write).unwrap();
    look(&machine.memory, &lease);
    drop(lease);
    P::join(t);
    end(machine, cache);
}

/// A look-up by handle beside an eviction of what it names: that registration, or none.
pub fn handle_against_eviction<P: Stage>() {
    let (machine, cache) = setting::<P>(1);
    let handle = cache.get(pages(0, 1), Access::Write).unwrap().handle().unwrap();
    let theirs = cache.clone();
    let t = P::spawn(move || drop(theirs.get(pages(4, 1), Access::Write).unwrap()));
    match cache.at(handle, pages(0, 1)) {
        Ok(lease) => {
            assert_eq!(lease.range(), pages(0, 1), "another registration");
            look(&machine.memory, &lease);
            P::met("found");
        }
        Err(error) => {
            assert_eq!(error, Error::NoEntry);
            P::met("gone");
        }
    }
    P::join(t);
    end(machine, cache);
}

/// Two threads miss one range: both are served, and it is registered once.
pub fn two_misses<P: Stage>() {
    let (machine, cache) = setting::<P>(2);
    // The record of the address space is there already.
    let record = machine.record();
    record.notifier().unwrap();
    let (theirs, memory) = (cache.clone(), machine.memory.clone());
    let t = P::spawn(move || {
        let lease = theirs.get(pages(0, 1), Access::Write).unwrap();
        look(&memory, &lease);
    });
    let lease = cache.get(pages(0, 1), Access::Write).unwrap();
    look(&machine.memory, &lease);
    drop(lease);
    P::join(t);
    let stats = cache.stats();
    assert_eq!((stats.entries, stats.once), (1, 0), "{stats}");
    assert_eq!(machine.memory.world.pins(), 1, "registered twice");
    P::met(if stats.hits == 1 { "a hit" } else { "two misses" });
    drop(record);
    end(machine, cache);
}

/// A set beside a change of its ranges: all leases on fresh pages, or none.
pub fn set_against_invalidate<P: Stage>() {
    let (machine, cache) = setting::<P>(2);
    let wants = [0, 4].map(|page| Want { range: pages(page, 1), access: Access::Write });
    drop(cache.get_set(&wants).unwrap());
    let memory = machine.memory.clone();
    let t = P::spawn(move || memory.change(pages(0, 5)));
    match cache.get_set(&wants) {
        Ok(set) => {
            assert_eq!(set.len(), 2);
            set.iter().for_each(|lease| look(&machine.memory, lease));
            P::met("all");
        }
        Err(error) => {
            assert_eq!(error, Error::Busy);
            P::met("none");
        }
    }
    P::join(t);
    end(machine, cache);
}
