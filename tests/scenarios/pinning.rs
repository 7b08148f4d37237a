//! Scenarios 14 to 19: pins against invalidations.

use crate::world::{Gate, Host, Setup, World};
use std::sync::mpsc::channel;
use std::thread;
use userptr::Error;
use userptr::notifier::State;
use userptr_sim::{PAGE, Process, Prot, Seam};

fn s14_an_attach_inside_a_window_is_refused_until_its_end<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, object) = w.object(2);
    for seam in [Seam::Started, Seam::Cleared, Seam::Freed] {
        let late = object.clone();
        w.machine.once(seam, move |_| {
            assert_eq!(late.try_acquire().unwrap_err(), Error::Again);
            assert_eq!(late.state(), State::Idle);
        });
        w.process.dontneed(a, PAGE);
        drop(w.lease(&object));
    }
    drop(object);
    w.finish();
}

fn s15_an_object_released_inside_its_own_cancel<P: Host>() {
    for (seam, queued) in [
        (Seam::Stop, false),
        (Seam::WaitIdle, false),
        (Seam::Unmap, false),
        (Seam::Unpin, false),
        (Seam::WaitIdle, true),
        (Seam::Unpin, true),
    ] {
        let w = World::<P>::with(Setup::default().threads(1).queued(queued));
        let _in = w.enter();
        let (a, object) = w.pinned(2);
        w.machine.once(seam, move |_| drop(object));
        w.process.munmap(a, PAGE);
        assert_eq!((w.machine.pins(), w.count(Seam::Unmap), w.count(Seam::Unpin)), (0, 1, 1));
        w.finish();
    }
}

fn s16_made_and_released_inside_one_window<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, first) = w.object(1);
    let (n, n2) = (w.notifier(&first), w.notifier(&first));
    let object = w.create(a, 1);
    w.machine.once(Seam::Started, move |_| {
        assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
        drop(object);
        assert_eq!((n2.stats().attached, n2.stats().windows), (0, 1));
    });
    w.process.dontneed(a, PAGE);
    assert_eq!((n.stats().attached, n.stats().windows), (0, 0));
    drop((n, first));
    w.finish();
}

fn s17_an_invalidation_before_the_pin<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, object) = w.object(1);
    w.process.munmap(a, PAGE);
    w.process.mmap_fixed(a, PAGE, Prot::RW);
    w.process.store(a, 2).unwrap();
    assert_eq!(w.read(&w.lease(&object), 0), 2);
    drop(object);
    w.finish();
}

fn s18_an_invalidation_between_pin_and_install<P: Host>() {
    for seam in [Seam::PinBegin, Seam::Pinned, Seam::Prepare, Seam::Prepared] {
        let w = World::<P>::new();
        let _in = w.enter();
        let (a, object) = w.object(1);
        let process = w.record().users().unwrap();
        w.machine.once(seam, move |_| {
            process.munmap(a, PAGE);
            process.mmap_fixed(a, PAGE, Prot::RW);
            process.store(a, 2).unwrap();
        });
        assert_eq!(object.try_acquire().unwrap_err(), Error::Again, "{seam:?}");
        assert_eq!((object.state(), w.machine.pins()), (State::Idle, 0), "{seam:?}");
        assert_eq!(w.read(&w.lease(&object), 0), 2);
        drop(object);
        w.finish();
    }
}

/// The whole acquire inside the window, and an acquire that began before the window and pins inside
/// it.
fn s19_a_pin_between_start_and_clear_is_not_installed<P: Host>() {
    let changes: [fn(&Process, usize); 5] = [
        |p, a| p.munmap(a, PAGE),
        |p, a| p.dontneed(a, PAGE),
        |p, a| p.mprotect(a, PAGE, Prot::R),
        |p, a| p.oom_reap(a, PAGE).unwrap(),
        |p, a| p.reclaim(a, PAGE, true).unwrap(),
    ];
    for change in changes {
        let w = World::<P>::new();
        let _in = w.enter();
        let (a, object) = w.object(1);
        let late = object.clone();
        w.machine.once(Seam::Started, move |_| {
            assert_eq!(late.try_acquire().unwrap_err(), Error::Again);
        });
        change(&w.process, a);
        assert_eq!((w.machine.pins(), w.count(Seam::Pinned)), (0, 0));
        drop(object);
        w.finish();
    }
    // Attached, then start in another thread, then the pin, which still finds the old page.
    let w = World::<P>::new();
    let _in = w.enter();
    let (a, object) = w.object(1);
    let Gate { reached: started, open } = w.hold(Seam::Started);
    let process = w.record().users().unwrap();
    let (to_thread, thread) = channel();
    w.machine.once(Seam::PinBegin, move |_| {
        to_thread.send(thread::spawn(move || process.dontneed(a, PAGE))).unwrap();
        started.recv().unwrap();
    });
    let machine = w.machine.clone();
    w.machine.once(Seam::Pinned, move |_| assert_eq!(machine.pins(), 1, "the old page is pinned"));
    assert_eq!(object.try_acquire().unwrap_err(), Error::Again);
    assert_eq!(w.machine.pins(), 0);
    drop(open);
    thread.recv().unwrap().join().unwrap();
    assert_eq!(w.read(&w.lease(&object), 0), 0, "fresh pages after the end");
    drop(object);
    w.finish();
}

crate::on_each_host! {
    s14_an_attach_inside_a_window_is_refused_until_its_end,
    s15_an_object_released_inside_its_own_cancel,
    s16_made_and_released_inside_one_window,
    s17_an_invalidation_before_the_pin,
    s18_an_invalidation_between_pin_and_install,
    s19_a_pin_between_start_and_clear_is_not_installed,
}
