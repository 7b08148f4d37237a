//! Scenarios 140 to 142: what the device wrote survives reclaim, which holds the page lock (rule
//! 35).

use crate::world::{Host, World};
use userptr_sim::PAGE;

/// Three pages that are present, writable and clean, each in its own way. The value is what the
/// processor finds if a device's write is lost.
fn clean_pages<P: Host>(w: &World<P>) -> [(usize, u8); 3] {
    let (freed, shared, swapped) = (w.memory(1), 0x10_0000, w.memory(1));
    w.process.free_lazily(freed, PAGE);
    w.process.mmap_shared(shared, PAGE, &w.process.shared(), 0);
    w.process.reclaim(swapped, PAGE, true).unwrap();
    assert_eq!((w.process.load(shared), w.process.load(swapped)), (Ok(0), Ok(1)));
    [(freed, 0), (shared, 0), (swapped, 1)]
}

/// The device writes to clean pages, and reclaim takes them while their object is ready.
fn s140_what_the_device_wrote_survives_reclaim<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    for (a, lost) in clean_pages(&w) {
        let object = w.create(a, 1);
        // By the fast pin, which marks nothing: no worker was needed.
        let lease = object.try_acquire().unwrap();
        w.write(&lease, 0, 9);
        drop(lease);
        w.process.reclaim(a, PAGE, true).unwrap();
        assert_eq!(w.machine.pins(), 0);
        assert_eq!(w.process.load(a), Ok(9), "{lost} is what was there before the device");
        assert_eq!(w.read(&w.lease(&object), 0), 9);
    }
    w.finish();
}

/// Somebody holds the page lock while the object lets go of its pages for another reason; reclaim
/// comes later.
fn s141_a_page_lock_does_not_excuse_from_the_mark<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    for (a, lost) in clean_pages(&w) {
        let object = w.create(a, 1);
        let lease = object.try_acquire().unwrap();
        w.write(&lease, 0, 9);
        drop(lease);
        let page = w.record().page_at(a).unwrap();
        assert!(w.machine.try_lock_page(page));
        object.put_pages().unwrap();
        w.machine.unlock_page(page);
        w.process.reclaim(a, PAGE, true).unwrap();
        assert_eq!(w.process.load(a), Ok(9), "{lost} is what was there before the device");
    }
    w.finish();
}

/// Reclaim takes what the device only read, and what it did not write: dropped as it was.
fn s142_what_nobody_wrote_is_dropped<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    for (a, before) in clean_pages(&w) {
        let object = w.create(a, 1);
        let lease = object.try_acquire().unwrap();
        let _ = w.read(&lease, 0);
        drop(lease);
        w.process.reclaim(a, PAGE, true).unwrap();
        assert_eq!(w.process.load(a), Ok(before), "a page that nobody wrote is not made dirty");
    }
    w.finish();
}

crate::on_each_host! {
    s140_what_the_device_wrote_survives_reclaim,
    s141_a_page_lock_does_not_excuse_from_the_mark,
    s142_what_nobody_wrote_is_dropped,
}
