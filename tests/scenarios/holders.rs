//! Rule 29: the holder of a lease is refused, with a type, what its own lease prevents.

use crate::world::{Host, World};
use std::thread;
use userptr::Error;

/// Asking for what waits for one's own lease is refused at once; for another object, or after the
/// lease, it is not.
fn r29_a_holder_is_refused_and_not_kept_waiting<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let ((_, held), (_, other)) = (w.pinned(1), w.pinned(1));
    let lease = w.lease(&held);
    assert_eq!(held.put_pages(), Err(Error::Deadlock));
    assert!(!lease.is_revoked(), "a refusal changes nothing");
    assert_eq!(other.put_pages(), Ok(()));
    drop(lease);
    assert_eq!(held.put_pages(), Ok(()));
}

/// The waiting acquire would wait for the cancel, which waits for the caller's lease.
fn r29_a_holder_does_not_wait_in_acquire<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (_, object) = w.pinned(1);
    let lease = w.lease(&object);
    thread::scope(|s| {
        let evict = s.spawn(|| object.put_pages());
        while !lease.is_revoked() {
            thread::yield_now();
        }
        assert_eq!(object.acquire().map(drop), Err(Error::Deadlock));
        drop(lease);
        assert_eq!(
            evict.join().unwrap(),
            Ok(()),
            "the other thread was not refused, and got what it asked for"
        );
    });
}

/// A lease that went to another thread with a reference of its own is nobody's business here.
fn r29_an_owned_lease_is_of_no_thread<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (_, object) = w.pinned(1);
    let owned = w.lease(&object).into_owned();
    thread::scope(|s| {
        s.spawn(move || drop(owned));
        assert_eq!(object.put_pages(), Ok(()));
    });
}

crate::on_each_host! {
    r29_a_holder_is_refused_and_not_kept_waiting,
    r29_a_holder_does_not_wait_in_acquire,
    r29_an_owned_lease_is_of_no_thread,
}
