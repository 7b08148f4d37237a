//! Scenarios 1 to 10: what a caller may pass; handles, and what a start says of itself.

use crate::bare::Bare;
use crate::ext::AddressSpaceSide;
use crate::world::{Host, Setup, World, range, rounds};
use userptr::notifier::State;
use userptr::{AddrRange, Blockable, Client, Error, Flags, Notifier, Outcome};
use userptr_sim::{PAGE, Prot, TOP};

/// No record, no notifier, no registration, no allocation.
fn nothing_is_left<P: Host>(w: &World<P>, live: usize) {
    w.work();
    assert_eq!(w.ctx.stats().spaces, 0);
    assert_eq!(w.record().registered(), 0);
    assert_eq!(w.machine.meter().live(), live);
}

fn refused<P: Host>(w: &World<P>, address: usize, len: usize, flags: u32, error: Error) {
    let live = w.machine.meter().live();
    assert_eq!(w.try_create(address, len, flags).unwrap_err(), error);
    nothing_is_left(w, live);
}

fn s01_size_zero_is_invalid<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    refused(&w, w.memory(1), 0, 0, Error::Empty);
    w.finish();
}

fn s02_unaligned_is_invalid<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let a = w.memory(2);
    for (address, len) in [(a + 1, PAGE), (a, PAGE - 1), (a + 8, PAGE - 8), (a, 1), (a + PAGE / 2, PAGE)] {
        refused(&w, address, len, 0, Error::Unaligned);
    }
    w.finish();
}

fn s03_a_range_that_wraps_is_refused<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let top = usize::MAX - (PAGE - 1);
    refused(&w, top, 2 * PAGE, 0, Error::Fault);
    refused(&w, TOP - PAGE, 2 * PAGE, 0, Error::Fault);
    w.finish();
}

fn s04_a_range_that_ends_at_the_top<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let a = TOP - 2 * PAGE;
    w.process.mmap_fixed(a, 2 * PAGE, Prot::RW);
    w.process.touch(a, 2 * PAGE, 3).unwrap();
    let object = w.create(a, 2);
    assert_eq!((object.range().start(), object.range().last(), object.page_count()), (a, TOP - 1, 2));
    assert_eq!(w.read(&w.lease(&object), 2 * PAGE - PAGE), 3);
    // The last byte is inside: an invalidation of the last page alone reaches it, and so does one
    // that ends at the top of all addresses.
    w.process.dontneed(TOP - PAGE, PAGE);
    assert_eq!(object.state(), State::Idle);
    drop(w.lease(&object));
    let n = w.notifier(&object);
    let all = AddrRange::inclusive(TOP - 1, usize::MAX).unwrap();
    assert_eq!(n.invalidate_and_wait(all, Blockable::Yes), Ok(Outcome::Idle));
    assert_eq!(object.state(), State::Idle);
    n.end(all);
    drop((n, object));
    w.finish();
}

fn s05_unknown_flags_are_invalid<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let a = w.memory(1);
    for bit in 1..31 {
        refused(&w, a, PAGE, 1 << bit, Error::UnknownFlag);
        refused(&w, a, PAGE, 1 << bit | Flags::READ_ONLY.bits(), Error::UnknownFlag);
    }
    drop(w.try_create(a, PAGE, Flags::READ_ONLY.bits()).unwrap());
    w.finish();
}

fn s06_more_pages_or_segments_than_the_device_takes<P: Host>() {
    let w = World::<P>::with(Setup::default().limits(|l| {
        l.max_pages = 4;
        l.sg.max_segments = 2;
        l.sg.max_segment_pages = 2;
    }));
    let _in = w.enter();
    let a = w.memory(5);
    refused(&w, a, 5 * PAGE, 0, Error::TooBig);
    let object = w.create(a, 4);
    assert_eq!(w.lease(&object).sg().segments().len(), 2);
    // Four pages in two segments of two: not if one of them lies elsewhere.
    for at in [a + PAGE, a + 2 * PAGE] {
        let elsewhere = w.memory(2);
        w.process.mremap(elsewhere + PAGE, PAGE, at).unwrap();
    }
    assert_eq!(object.try_acquire().unwrap_err(), Error::TooBig);
    assert_eq!((object.state(), w.machine.pins()), (State::Idle, 0));
    drop(object);
    w.finish();

    // The default: what 32 bits count.
    let w = World::<P>::new();
    let _in = w.enter();
    refused(&w, PAGE, (u32::MAX as usize + 1) * PAGE, 0, Error::TooBig);
    drop(w.try_create(PAGE, u32::MAX as usize * PAGE, 0).unwrap());
    w.finish();
}

fn s07_two_and_four_gibibytes<P: Host>() {
    for gib in [2, 4] {
        let w = World::<P>::new();
        let _in = w.enter();
        let pages = gib << 18;
        let a = w.process.mmap(pages * PAGE);
        // Half of it is there for the fast pin, so both ways are taken.
        w.process.touch(a, pages * PAGE / 2, 1).unwrap();
        let object = w.create(a, pages);
        assert_eq!(object.page_count(), pages);
        let lease = w.lease(&object);
        assert_eq!((lease.pages().len(), lease.sg().pages()), (pages, pages));
        assert_eq!(lease.sg().segments().iter().map(|s| s.pages).sum::<usize>(), pages);
        assert_eq!(w.machine.pins(), pages);
        w.write(&lease, pages * PAGE - 1, 9);
        assert_eq!(w.process.load(a + pages * PAGE - 1), Ok(9));
        drop(lease);
        w.process.munmap(a + pages * PAGE - PAGE, PAGE);
        assert_eq!(w.machine.pins(), 0);
        drop(object);
        w.finish();
    }
}

fn s08_unsynchronised_needs_the_privilege<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let a = w.memory(1);
    let flags = Flags::UNSYNCHRONIZED.bits();
    refused(&w, a, PAGE, flags, Error::Permission);
    w.record().set_capable(true);
    let object = w.try_create(a, PAGE, flags).unwrap();
    assert_eq!(w.record().registered(), 0, "nobody watches it");
    assert_eq!(w.read(&w.lease(&object), 0), 1);
    drop(object);
    w.finish();
}

fn s09_an_empty_invalidation_does_nothing<P: Host>() {
    assert_eq!(AddrRange::from_bounds(PAGE, PAGE), None);
    assert_eq!(AddrRange::from_bounds(PAGE, 0), None);
    assert_eq!(AddrRange::from_bounds(0, 0), None);
    assert_eq!(AddrRange::from_bounds(usize::MAX, 0), None);
    assert_eq!(AddrRange::from_bounds(2 * PAGE, PAGE), None);
    assert_eq!(AddrRange::new(PAGE, 0), Err(Error::Empty));
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, object) = w.pinned(1);
    w.process.munmap(a, 0);
    w.process.dontneed(a, 0);
    assert_eq!(object.state(), State::Ready);
    // One byte is not nothing.
    let n = w.notifier(&object);
    assert_eq!(n.invalidate_and_wait(range(a + PAGE - 1, 1), Blockable::Yes), Ok(Outcome::Idle));
    assert_eq!(object.state(), State::Idle);
    n.end(range(a + PAGE - 1, 1));
    drop((n, object));
    w.finish();
}

fn s10_a_probe_finds_every_hole<P: Host>() {
    let w = World::<P>::with(Setup::default().threads(1));
    let _in = w.enter();
    for hole in 0..3 {
        let (a, object) = w.object(3);
        assert_eq!(object.probe(), Ok(()));
        w.process.munmap(a + hole * PAGE, PAGE);
        assert_eq!(object.probe(), Err(Error::Fault), "a hole at page {hole}");
        w.process.mmap_fixed(a + hole * PAGE, PAGE, Prot::RW);
        // Nothing was unmapped, so nothing was notified: the failure sticks until it is reset.
        assert_eq!(object.probe(), Err(Error::Fault));
        assert!(object.reset());
        assert_eq!(object.probe(), Ok(()));
        w.process.munmap(a, 3 * PAGE);
    }
    w.finish();
}

/// Creates and closes in an order that is not that of the handles, across several tables: a handle
/// means its own object, always.
fn handles_are_small_and_never_double<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let client = Client::open(w.ctx.clone()).unwrap();
    let n = rounds(300);
    let at = w.memory(n);
    let (mut open, mut seed, mut most) = (Vec::<(u32, usize)>::new(), 1_u32, 0);
    for round in 0..4 * n {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // More creations than closes at first, then the other way round.
        if (seed >> 8) % 8 < if round < 2 * n { 5 } else { 3 } {
            let a = at + (round % n) * PAGE;
            let handle = client.create(&w.space(), a, PAGE, 0).unwrap();
            assert!(open.iter().all(|(other, _)| *other != handle), "{handle} is in use");
            open.push((handle, a));
        } else if !open.is_empty() {
            let (handle, _) = open.swap_remove((seed >> 12) as usize % open.len());
            client.close(handle).unwrap();
            assert_eq!(client.close(handle), Err(Error::NoEntry));
            assert_eq!(client.lookup(handle).unwrap_err(), Error::NoEntry);
        }
        most = most.max(open.len());
        assert_eq!(client.len(), open.len());
        for (handle, a) in &open {
            assert_eq!(client.lookup(*handle).unwrap().range().start(), *a);
            assert!(*handle as usize <= most.next_power_of_two().max(16), "places are reused");
        }
    }
    for absent in [0, 1 << 20, u32::MAX] {
        assert_eq!(client.close(absent), Err(Error::NoEntry));
    }
    drop(client);
    w.finish();
}

/// What a start says of itself: it cancels an object with pages, and nothing else counts.
fn a_start_knows_whether_it_cancels_any<P: Host>() {
    let w = World::<P>::with_stepped_revocations(Setup::default());
    let _in = w.enter();
    let (a, object) = w.pinned(2);
    let beside = w.memory(1);
    let n = w.notifier(&object);
    let revokes = |address, pages| {
        let range = range(address, pages * PAGE);
        let stopping = n.invalidate_start(range, Blockable::Yes).unwrap();
        let any = stopping.revokes_any();
        stopping.finish_without_waiting();
        n.end(range);
        any
    };
    assert!(!revokes(beside, 1), "nothing overlaps");
    assert!(revokes(a + PAGE, 1), "a part of the object");
    assert!(!revokes(a, 2), "its cancel is somebody else's by now");
    w.work();
    assert!(!revokes(a, 2), "it has no pages");
    let acquiring = Bare::new(&n, range(a, 2 * PAGE));
    let _ticket = Notifier::attach(&acquiring).unwrap();
    assert!(!revokes(a, 2), "an acquire in flight has no pages yet");
    drop((n, object, acquiring));
    w.finish();
}

crate::on_each_host! {
    s01_size_zero_is_invalid,
    s02_unaligned_is_invalid,
    s03_a_range_that_wraps_is_refused,
    s04_a_range_that_ends_at_the_top,
    s05_unknown_flags_are_invalid,
    s06_more_pages_or_segments_than_the_device_takes,
    #[cfg_attr(miri, ignore = "a million pages")]
    s07_two_and_four_gibibytes,
    s08_unsynchronised_needs_the_privilege,
    s09_an_empty_invalidation_does_nothing,
    s10_a_probe_finds_every_hole,
    handles_are_small_and_never_double,
    a_start_knows_whether_it_cancels_any,
}
