//! The VFIO device over a container that is not the kernel's: who is called when, what is refused,
//! and what is left. The hardware's half is in the virtual machine (`kernel/vm-test vfio`).

mod world;

use crate::child::scenario;
use crate::stack::{Stack, eventually, lease};
use crate::stale::io::Range;
use crate::stale::memory;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use userptr::notifier::State;
use userptr::{Buffer, Device, Error, Flags, Outcome, Prepare, SgLimits, SgTable, UserPtr};
use userptr_linux::vfio::{IovaRange, Malformed, Setup, Span, Vfio};
use userptr_linux::{Linux, Options, Refusal};
use world::{Fake, World};

const PAGE: usize = 4096;
const BYTES: usize = 4 * PAGE;
const LARGE: u64 = 2 << 20;
/// Long enough for anything that does not wait for the device.
const LONG: Duration = Duration::from_millis(300);

type Card = Vfio<Arc<World>, Fake>;

fn strict() -> Linux {
    Linux::with(Options { strict: true, ..Options::default() }).unwrap()
}

fn stack(world: &Arc<World>, setup: Setup) -> Stack<Card> {
    Stack::with(strict(), Vfio::open(Fake(world.clone()), world.clone(), setup).unwrap())
}

fn refusal(stack: &Stack<Card>, object: &UserPtr<Card>) -> (Error, Option<Refusal>) {
    (object.acquire().unwrap_err(), stack.context.device().refusal())
}

/// Maps the range by a lease, and returns where it lies for the device.
fn span(object: &UserPtr<Card>) -> Span {
    lease(object).map().span()
}

scenario!(an_unmap_waits_for_the_hardware_and_for_the_container, 30, {
    let world = World::new();
    let stack = stack(&world, Setup::default());
    let range = memory::map(BYTES).unwrap();
    let object = stack.object(range.address, range.bytes);
    assert_eq!(span(&object).bytes, BYTES as u64);
    world.set_busy(true);
    let (tell, told) = mpsc::channel();
    let unmapper = {
        let world = world.clone();
        std::thread::spawn(move || {
            memory::unmap(range).unwrap();
            tell.send(world.mapped()).unwrap();
        })
    };
    assert!(told.recv_timeout(LONG).is_err(), "the unmap has returned while the hardware was busy");
    eventually("the hardware is asked to stop", || world.stops.load(Ordering::SeqCst) == 1);
    assert_eq!(world.mapped(), 1);
    world.set_busy(false);
    assert_eq!(told.recv_timeout(Duration::from_secs(5)), Ok(0), "mapped when the unmap has returned");
    unmapper.join().unwrap();
    assert_eq!((world.counts(), world.too_early.load(Ordering::SeqCst)), ((1, 1), 0));
    assert_eq!(stack.space.stats().overdue, 0);
});

scenario!(no_change_of_the_range_leaves_a_mapping, 60, {
    let world = World::new();
    let stack = stack(&world, Setup::default());
    type Change = fn(Range);
    let changes: [(&str, Change); 6] = [
        ("munmap", |range| memory::unmap(range).unwrap()),
        ("munmap of a part", |range| memory::unmap(Range { bytes: PAGE, ..range }).unwrap()),
        ("mmap over it", |range| memory::map_over(range).unwrap()),
        ("mremap away", |range| _ = memory::remap(range, memory::ELSEWHERE, 0).unwrap()),
        ("mremap onto it", |range| {
            let other = memory::map_at(memory::ELSEWHERE, BYTES, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            _ = memory::remap(other.unwrap(), range.address, 0).unwrap();
        }),
        ("discard", |range| memory::advise(range, libc::MADV_DONTNEED).unwrap()),
    ];
    for (name, change) in changes {
        memory::clear();
        let range = memory::map(BYTES).unwrap();
        let object = stack.object(range.address, range.bytes);
        let before = span(&object);
        assert_eq!(world.mapped(), 1, "{name}");
        change(range);
        assert_eq!(world.mapped(), 0, "{name}");
        // Anew, at other addresses of the device.
        if memory::map(BYTES).is_err() {
            memory::map_over(range).unwrap();
        }
        object.reset();
        assert_ne!(span(&object), before, "{name}");
        drop(object);
        eventually("the release", || world.mapped() == 0);
    }
    let all = 2 * changes.len();
    eventually("each is taken away", || world.counts() == (all, all));
    eventually("the addresses are given back", || stack.context.device().stats().taken == 0);
});

scenario!(many_threads_share_a_window_of_few_pages, 60, {
    const THREADS: usize = 4;
    let world = World::new();
    let window = IovaRange { first: 1 << 20, last: (1 << 20) + (THREADS * BYTES) as u64 - 1 };
    let stack = stack(&world, Setup { window, ..Setup::default() });
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (stack, world) = (&stack, &world);
            scope.spawn(move || {
                let at = memory::ELSEWHERE + (thread << 24);
                let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                for _ in 0..200 {
                    let range = memory::map_at(at, BYTES, kind).unwrap();
                    let object = stack.object(range.address, range.bytes);
                    let at = span(&object);
                    assert!(window.first <= at.iova && at.iova + at.bytes - 1 <= window.last);
                    assert_eq!(world.mapped.lock().unwrap()[&at.iova].1, range.address);
                    memory::unmap(range).unwrap();
                }
            });
        }
    });
    // Not exactly as many: a monitor that is kept from its processor after it has read an unmap's
    // message passes it on late. By then the thread may have mapped anew and acquired: that acquire
    // is superseded, gives its mapping back, and begins again.
    eventually("all is taken away", || world.mapped() == 0 && world.counts().0 == world.counts().1);
    assert!(world.counts().0 >= THREADS * 200, "{:?}", world.counts());
    eventually("all is given back", || stack.context.device().stats().taken == 0);
    assert_eq!((world.mapped(), stack.context.device().stats().foreign), (0, 0));
});

scenario!(a_failed_unmap_is_told_and_tried_again, 30, {
    let world = World::new();
    let stack = stack(&world, Setup::default());
    let range = memory::map(2 * BYTES).unwrap();
    let object = stack.object(range.address, BYTES);
    let at = span(&object);
    world.unmap_fails.store(libc::EINVAL, Ordering::SeqCst);
    assert_eq!(object.put_pages(), Err(Error::DeviceLost));
    assert_eq!(stack.context.device().refusal(), Some(Refusal::Stuck(libc::EINVAL)));
    assert_eq!((object.state(), world.mapped()), (State::Quarantined, 1));
    // Nobody gets the addresses meanwhile.
    let other = stack.object(range.address + BYTES, BYTES);
    assert_ne!(span(&other).iova, at.iova);
    assert_eq!(stack.context.retry_quarantined(), Outcome::DeviceLost);
    world.unmap_fails.store(0, Ordering::SeqCst);
    assert_eq!(stack.context.retry_quarantined(), Outcome::Idle);
    assert_eq!((world.mapped(), world.counts()), (1, (2, 1)));
    drop(other);
    eventually("the release", || stack.context.device().stats().taken == 0);
    // And the object is as good as new.
    assert_eq!(span(&object).bytes, BYTES as u64);
});

/// A mapping that no object has committed.
fn prepare(stack: &Stack<Card>, range: Range, write: bool) -> Result<<Card as Device>::Map, Error> {
    let mut pages = Buffer::with_capacity(range.bytes / PAGE).unwrap();
    for page in 0..range.bytes / PAGE {
        pages.push(range.address / PAGE + page).unwrap();
    }
    let sg = SgTable::build(pages.iter().copied(), SgLimits::NONE).unwrap();
    // SAFETY: memory of the test's own; the fake container touches nothing.
    let what = unsafe { Prepare::new(&stack.space, range.address, &pages, &sg, write) };
    stack.context.device().prepare(what)
}

scenario!(a_mapping_that_was_never_used_is_taken_away_or_kept_on_the_books, 30, {
    let world = World::new();
    let stack = stack(&world, Setup::default());
    let device = stack.context.device();
    let range = memory::map(BYTES).unwrap();
    device.unmap(prepare(&stack, range, true).unwrap());
    assert_eq!((world.mapped(), device.stats().taken), (0, 0));
    let map = prepare(&stack, range, true).unwrap();
    world.unmap_fails.store(libc::EIO, Ordering::SeqCst);
    device.unmap(map);
    let stats = device.stats();
    assert_eq!((world.mapped(), stats.taken, stats.stuck), (1, 1, 1));
    assert_eq!((device.reclaim(), device.refusal()), (1, Some(Refusal::Stuck(libc::EIO))));
    world.unmap_fails.store(0, Ordering::SeqCst);
    assert_eq!(device.reclaim(), 0);
    assert_eq!((world.mapped(), device.stats().taken), (0, 0));
});

scenario!(a_mapping_is_unmapped_once, 30, {
    let world = World::new();
    let stack = stack(&world, Setup::default());
    let device = stack.context.device();
    let map = prepare(&stack, memory::map(BYTES).unwrap(), true).unwrap();
    for _ in 0..3 {
        assert_eq!(device.wait_idle(&map, None), Outcome::Idle);
    }
    device.unmap(map);
    assert_eq!((world.counts(), device.stats().taken), ((1, 1), 0));
});

scenario!(hardware_that_does_not_stop_is_waited_for_or_cut_off, 30, {
    let deadline = Some(Duration::from_millis(50));
    let world = World::new();
    let range = memory::map(BYTES).unwrap();
    {
        let stack = stack(&world, Setup { deadline, ..Setup::default() });
        let object = stack.object(range.address, range.bytes);
        span(&object);
        world.set_busy(true);
        assert_eq!(object.put_pages(), Err(Error::TimedOut));
        assert_eq!((object.state(), world.mapped()), (State::Quarantined, 1));
        world.set_busy(false);
        assert_eq!(stack.context.retry_quarantined(), Outcome::Idle);
        assert_eq!((world.mapped(), world.too_early.load(Ordering::SeqCst)), (0, 0));
    }
    let stack = stack(&world, Setup { deadline, cut_off: true, ..Setup::default() });
    let device = stack.context.device();
    let object = stack.object(range.address, range.bytes);
    span(&object);
    world.set_busy(true);
    assert_eq!(object.put_pages(), Ok(()));
    let stats = device.stats();
    assert_eq!((world.mapped(), stats.taken, stats.in_use, stats.cut_off), (0, 1, 1, 1));
    world.set_busy(false);
    assert_eq!((device.reclaim(), device.stats().taken), (0, 0));
});

scenario!(limits_are_named_and_nothing_is_left_behind, 30, {
    let world = World::new();
    let stack = stack(&world, Setup { mappings: 4, ..Setup::default() });
    let device = stack.context.device();
    let range = memory::map(8 * BYTES).unwrap();
    let objects: Vec<_> = (0..8).map(|n| stack.object(range.address + n * BYTES, BYTES)).collect();

    world.most.store(2, Ordering::SeqCst);
    assert_eq!(device.entries(), Ok(Some(2)));
    let spans = [span(&objects[0]), span(&objects[1])];
    assert_eq!(refusal(&stack, &objects[2]), (Error::Limit, Some(Refusal::DmaEntries)));
    assert_eq!(device.entries(), Ok(Some(0)));
    assert_eq!([span(&objects[0]), span(&objects[1])], spans, "those that are there stay");
    objects[0].put_pages().unwrap();
    span(&objects[2]);

    world.most.store(100, Ordering::SeqCst);
    world.map_fails.store(libc::ENOMEM, Ordering::SeqCst);
    let (error, why) = refusal(&stack, &objects[3]);
    assert!(
        matches!(
            (error, why),
            (Error::NoMemory, Some(Refusal::Memory)) | (Error::LockedMemory, Some(Refusal::LockedMemory(_)))
        ),
        "{error:?} {why:?}"
    );
    span(&objects[3]);
    span(&objects[4]);
    assert_eq!(refusal(&stack, &objects[5]), (Error::Slots, Some(Refusal::Table(4))));
    assert_eq!((world.mapped(), device.stats().taken), (4, 4));
    objects[1].put_pages().unwrap();
    // What is mapped is never called a hole.
    world.map_fails.store(libc::EFAULT, Ordering::SeqCst);
    assert_eq!(refusal(&stack, &objects[5]), (Error::Unpinnable, Some(Refusal::Unpinnable)));
    assert!(objects[5].reset());
    world.map_fails.store(libc::EEXIST, Ordering::SeqCst);
    assert_eq!(refusal(&stack, &objects[5]), (Error::Invalid, Some(Refusal::Overlap)));
    span(&objects[5]);
    drop(objects);
    eventually("all is given back", || (world.mapped(), stack.context.device().stats().taken) == (0, 0));
});

scenario!(addresses_that_do_not_fit_are_named, 30, {
    let world = World::new();
    let window = IovaRange { first: 0x10_0000, last: 0x10_0000 + 3 * PAGE as u64 - 1 };
    let stack = stack(&world, Setup { window, ..Setup::default() });
    let range = memory::map(BYTES).unwrap();
    let object = stack.object(range.address, BYTES);
    assert_eq!(refusal(&stack, &object), (Error::Limit, Some(Refusal::Iova(BYTES as u64))));
    let less = stack.object(range.address, 3 * PAGE);
    assert_eq!(span(&less).iova, window.first);
    // A container that is no good at all is found out at the start.
    let open = |window| {
        let opened = Vfio::open(Fake(world.clone()), world.clone(), Setup { window, ..Setup::default() });
        opened.err()
    };
    assert_eq!(open(IovaRange { first: 1 << 40, last: 1 << 41 }), Some(Refusal::Iova(PAGE as u64)));
    world.page_sizes.store(1 << 16, Ordering::SeqCst);
    assert_eq!(open(Setup::default().window), Some(Refusal::LargePages(1 << 16)));
    world.page_sizes.store(0, Ordering::SeqCst);
    assert_eq!(open(Setup::default().window), Some(Refusal::Malformed(Malformed::Missing)));
    assert_eq!(Error::from(Refusal::Malformed(Malformed::Missing)), Error::NoDevice);
});

scenario!(large_pages_stay_large, 30, {
    let world = World::new();
    let stack = stack(&world, Setup::default());
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let range = memory::map_at(memory::ELSEWHERE, 3 * LARGE as usize, kind).unwrap();
    for offset in [0, PAGE, 7 * PAGE] {
        let object = stack.object(range.address + offset, LARGE as usize);
        assert_eq!(span(&object).iova % LARGE, offset as u64);
    }
});

scenario!(a_mapping_that_somebody_else_took_is_counted, 30, {
    let world = World::new();
    let stack = stack(&world, Setup::default());
    let range = memory::map(BYTES).unwrap();
    let object = stack.object(range.address, BYTES);
    span(&object);
    world.robbed.store(true, Ordering::SeqCst);
    object.put_pages().unwrap();
    let stats = stack.context.device().stats();
    assert_eq!((stats.foreign, stats.taken), (1, 0));
});

scenario!(the_device_may_write_only_where_the_object_says_so, 30, {
    let world = World::new();
    let stack = stack(&world, Setup::default());
    let range = memory::map(BYTES).unwrap();
    for (flags, write) in [(Flags::NONE, true), (Flags::READ_ONLY, false)] {
        let object = stack.create(range.address, BYTES, flags).unwrap();
        let at = span(&object);
        assert_eq!(world.mapped.lock().unwrap()[&at.iova], (BYTES as u64, range.address, write));
    }
});

scenario!(a_forked_child_takes_nothing_away, 30, {
    let world = World::new();
    let stack = stack(&world, Setup::default());
    let range = memory::map(BYTES).unwrap();
    let object = stack.object(range.address, BYTES);
    let map = prepare(&stack, Range { bytes: PAGE, ..range }, true).unwrap();
    span(&object);
    // SAFETY: the child calls nothing that needs the parent's threads, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let device = stack.context.device();
        device.stop(&map);
        let idle = device.wait_idle(&map, None) == Outcome::Idle;
        device.unmap(map);
        let quiet = world.counts() == (2, 0) && world.stops.load(Ordering::SeqCst) == 0;
        let refused = object.try_acquire().is_err();
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if idle && quiet && refused { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: a valid place for the status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child has touched its parent's mappings");
    drop(map);
    assert_eq!(world.counts(), (2, 1));
});
