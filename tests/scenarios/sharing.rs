//! Scenarios 60 to 68: several processes, devices and users; limits and accounts. Scenario 66
//! stands with the locks.

use crate::world::{Host, Setup, World, range, until};
use std::sync::mpsc::channel;
use std::thread;
use userptr::notifier::State;
use userptr::{Error, Flags, Refcount};
use userptr_sim::{PAGE, PinFault, Seam, Space};

fn s60_a_forked_child_gets_nothing<P: Host>() {
    let w = World::<P>::new();
    let (a, object) = {
        let _in = w.enter();
        w.object(1)
    };
    let child = w.process.fork();
    {
        let _in = child.enter();
        assert_eq!(object.try_acquire().unwrap_err(), Error::OtherSpace);
        assert_eq!(object.acquire().unwrap_err(), Error::OtherSpace);
        assert_eq!((object.state(), w.machine.pins()), (State::Idle, 0));
    }
    {
        let _in = w.enter();
        drop(w.lease(&object));
    }
    {
        // Not even what is there already.
        let _in = child.enter();
        assert_eq!(object.try_acquire().unwrap_err(), Error::OtherSpace);
        // Its own object over the same address is its own memory.
        let own = w.ctx.register_raw(&Space::of(&child), a, PAGE, 0).unwrap();
        w.process.store(a, 5).unwrap();
        assert_eq!(w.read(&w.lease(&own), 0), 1);
        assert_eq!(w.ctx.stats().spaces, 2);
        drop(own);
    }
    let _in = w.enter();
    // The pin for writing had broken the parent's copy-on-write, so the parent wrote to the
    // device's page.
    assert_eq!(object.state(), State::Ready);
    assert_eq!(w.read(&w.lease(&object), 0), 5);
    drop((object, child));
    w.finish();
}

fn s61_a_fork_during_a_pin<P: Host>() {
    for seam in [Seam::PinBegin, Seam::Pinned, Seam::Prepare, Seam::Prepared] {
        let w = World::<P>::new();
        let _in = w.enter();
        let (a, object) = w.object(1);
        let process = w.record().users().unwrap();
        let (to_child, child) = channel();
        w.machine.once(seam, move |_| to_child.send(process.fork()).unwrap());
        // Between attach and commit, so the pages that became shared are not installed.
        assert_eq!(object.try_acquire().unwrap_err(), Error::Again, "{seam:?}");
        assert_eq!(w.machine.pins(), 0, "{seam:?}");
        let child = child.recv().unwrap();
        let lease = w.lease(&object);
        w.write(&lease, 0, 6);
        assert_eq!((w.process.load(a), child.load(a)), (Ok(6), Ok(1)), "{seam:?}");
        drop(lease);
        drop((object, child));
        w.finish();
    }
}

fn s62_two_devices_stop_before_one_is_waited_for<P: Host>() {
    for queued in [false, true] {
        let w = World::<P>::with(Setup::default().threads(1).queued(queued));
        let _in = w.enter();
        let second = w.another_device(Setup::default().threads(1).queued(queued));
        let a = w.memory(4);
        // Two objects on the first device, and one on the second.
        let objects = [w.create(a, 2), w.create(a + PAGE, 2), second.create(a, 4)];
        let jobs = objects.each_ref().map(|object| w.job(&w.lease(object)));
        // Each job ends when every one was asked to stop: a host that waits for one before it tells
        // the next hangs here.
        thread::scope(|s| {
            s.spawn(move || {
                until(|| jobs.iter().all(|job| job.is_stopping()));
                drop(jobs);
            });
            w.process.munmap(a, 4 * PAGE);
        });
        let trace = w.machine.trace();
        let stops: Vec<_> = (0..trace.len()).filter(|n| trace[*n].seam == Seam::Stop).collect();
        let wait = trace.iter().position(|e| e.seam == Seam::Unmap).unwrap();
        assert_eq!(stops.len(), 3);
        assert!(stops.iter().all(|stop| *stop < wait));
        drop(objects);
        second.end();
        w.finish();
    }
}

fn s63_three_users_share_one_pin<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, object) = w.object(2);
    let (one, two, three) = (w.lease(&object), w.lease(&object), w.lease(&object));
    assert_eq!((object.leases(), w.count(Seam::Pinned), w.machine.pins()), (3, 1, 2));
    for lease in [two, one] {
        drop(lease);
        assert_eq!(w.count(Seam::Unpin), 0);
    }
    let owned = three.into_owned();
    drop(owned);
    assert_eq!((object.leases(), w.machine.pins()), (0, 2), "the pages stay for the next one");
    w.process.munmap(a, PAGE);
    assert_eq!((w.count(Seam::Unpin), w.machine.pins()), (1, 0));
    drop(object);
    w.finish();
}

fn s64_a_limit_that_is_exceeded_midway<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    w.record().set_limit(4);
    let (a, small) = w.pinned(2);
    let (_, object) = w.object(3);
    // Two are charged, and two more are allowed.
    assert_eq!(object.try_acquire().unwrap_err(), Error::Limit);
    assert_eq!((w.record().charged(), w.machine.pins()), (2, 2));
    assert_eq!(object.state(), State::Idle);
    // By a worker, in two parts: the first is given back, too.
    w.machine.inject().fast_pin(PinFault::Part(0));
    w.machine.inject().slow_pin(PinFault::Part(1));
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    w.work();
    assert_eq!((w.record().charged(), w.machine.pins()), (2, 2));
    assert_eq!(object.try_acquire().unwrap_err(), Error::Limit);
    // Room again.
    w.process.munmap(a, PAGE);
    assert_eq!(w.record().charged(), 0);
    drop(w.lease(&object));
    assert_eq!(w.record().charged(), 3);
    drop((small, object));
    assert_eq!(w.record().charged(), 0);
    w.finish();
}

fn s65_the_charge_goes_back_to_the_one_who_was_charged<P: Host>() {
    let w = World::<P>::new();
    let other = w.machine.process();
    let (a, object) = {
        let _in = w.enter();
        w.pinned(2)
    };
    assert_eq!((w.record().charged(), other.record().charged()), (2, 0));
    {
        // Evicted by a thread of another process, then pinned again, then released there.
        let _in = other.enter();
        object.put_pages().unwrap();
        assert_eq!((w.record().charged(), other.record().charged()), (0, 0));
    }
    {
        let _in = w.enter();
        drop(w.lease(&object));
        w.process.dontneed(a, PAGE);
        w.process.touch(a, PAGE, 1).unwrap();
        drop(w.lease(&object));
    }
    let _in = other.enter();
    assert_eq!(w.record().charged(), 2);
    drop(object);
    assert_eq!((w.record().charged(), other.record().charged()), (0, 0));
    drop(_in);
    drop(other);
    w.finish();
}

fn s67_a_saturated_count_never_frees<P: Host>() {
    for start in [usize::MAX / 2 - 2, usize::MAX / 2 + 5, usize::MAX - 1] {
        let count = Refcount::<P>::with_count(start);
        for _ in 0..8 {
            count.get();
        }
        assert!(count.is_saturated());
        let parked = count.count();
        for _ in 0..1000 {
            assert!(!count.put());
            assert!(count.get_unless_zero());
            assert!(!count.put());
        }
        assert!(count.is_saturated() && parked > usize::MAX / 2, "{start:#x}");
    }
    // A get from zero is a use after free in the making: it leaks.
    let count = Refcount::<P>::new();
    assert!(count.put());
    assert!(!count.get_unless_zero());
    count.get();
    assert!(count.is_saturated() && !count.put());
}

fn s68_a_read_only_object_is_never_dirtied<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let cases = [(Flags::NONE, true, true), (Flags::NONE, false, false), (Flags::READ_ONLY, true, false)];
    for (flags, written, dirty) in cases {
        let a = w.memory(1);
        let object = w.try_create(a, PAGE, flags.bits()).unwrap();
        let page = w.record().page_at(a).unwrap();
        let lease = w.lease(&object);
        assert_eq!(w.map(&lease).is_writable(), flags == Flags::NONE);
        if written {
            lease.mark_written();
        }
        drop(lease);
        object.put_pages().unwrap();
        let state = w.machine.page(page);
        assert_eq!((state.dirty, state.accessed), (dirty, true), "{flags:?}, written: {written}");
        // The mark belongs to the pages, not to the object.
        let other = w.memory(1);
        w.process.mremap(other, PAGE, a).unwrap();
        drop(w.lease(&object));
        let page = w.record().page_at(a).unwrap();
        drop(object);
        assert!(!w.machine.page(page).dirty);
    }
    // Written, but not wanted any more.
    let (a, object) = w.object(1);
    let page = w.record().page_at(a).unwrap();
    let lease = w.lease(&object);
    w.write(&lease, 0, 1);
    drop(lease);
    object.advise_wanted(false);
    object.put_pages().unwrap();
    assert_eq!((w.machine.page(page).dirty, w.machine.page(page).accessed), (false, false));
    // A read-only object over memory that may only be read, and one that may not be written over
    // the same.
    let b = w.memory(1);
    w.process.mprotect(b, PAGE, userptr_sim::Prot::R);
    let read = w.try_create(b, PAGE, Flags::READ_ONLY.bits()).unwrap();
    assert_eq!(w.read(&w.lease(&read), 0), 1);
    let write = w.create(b, 1);
    assert_eq!(write.try_acquire().unwrap_err(), Error::Again);
    w.work();
    assert_eq!(write.try_acquire().unwrap_err(), Error::Fault);
    assert!(range(b, PAGE).overlaps(read.range()));
    drop((object, read, write));
    w.finish();

    // A device that cannot be told.
    let w = World::<P>::with(Setup::default().limits(|l| l.read_only = false));
    let _in = w.enter();
    let a = w.memory(1);
    assert_eq!(w.try_create(a, PAGE, Flags::READ_ONLY.bits()).unwrap_err(), Error::NotReadOnly);
    w.finish();
}

/// `!CONFIG_MMU_NOTIFIER`: unsynchronised objects only.
fn s42_a_machine_without_notifications<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    w.machine.set_notifies(false);
    w.record().set_capable(true);
    let a = w.memory(1);
    assert_eq!(w.try_create(a, PAGE, 0).unwrap_err(), Error::NoNotifications);
    let object = w.try_create(a, PAGE, Flags::UNSYNCHRONIZED.bits()).unwrap();
    drop(w.lease(&object));
    assert_eq!(object.export(), Err(Error::NoNotifications));
    assert_eq!(object.state(), State::Ready);
    drop(object);
    w.finish();
}

crate::on_each_host! {
    s42_a_machine_without_notifications,
    s60_a_forked_child_gets_nothing,
    s61_a_fork_during_a_pin,
    s62_two_devices_stop_before_one_is_waited_for,
    s63_three_users_share_one_pin,
    s64_a_limit_that_is_exceeded_midway,
    s65_the_charge_goes_back_to_the_one_who_was_charged,
    s67_a_saturated_count_never_frees,
    s68_a_read_only_object_is_never_dirtied,
}
