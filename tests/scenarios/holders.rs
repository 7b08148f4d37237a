//! Rule 29: the holder of a lease is refused, with a type, what its own lease prevents.

use crate::world::{Host, World};
use std::thread;
use userptr::{Error, UserPtr};

/// Asking for what waits for one's own lease is refused at once; for another object, or after the lease, it is not.
fn r29_a_holder_is_refused_and_not_kept_waiting<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let ((_, held), (_, other)) = (w.pinned(1), w.pinned(1));
    let lease = w.lease(&held);
    assert_eq!(UserPtr::put_pages(&held), Err(Error::Deadlock));
    assert!(!lease.is_revoked(), "a refusal changes nothing");
    assert_eq!(UserPtr::put_pages(&other), Ok(()));
    drop(lease);
    assert_eq!(UserPtr::put_pages(&held), Ok(()));
}

/// The waiting acquire would wait for the cancel, which waits for the caller's lease.
fn r29_a_holder_does_not_wait_in_acquire<P: Host>() {
    let w = World::<P>::new();
    let _in = w.enter();
    let (_, object) = w.pinned(1);
    let lease = w.lease(&object);
    thread::scope(|s| {
        let evict = s.spawn(|| UserPtr::put_pages(&object));
        while !lease.is_revoked() {
            thread::yield_now();
        }
        assert_eq!(UserPtr::acquire(&object).map(drop), Err(Error::Deadlock));
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
        assert_eq!(UserPtr::put_pages(&object), Ok(()));
    });
}

crate::on_each_host! {
    r29_a_holder_is_refused_and_not_kept_waiting,
    r29_a_holder_does_not_wait_in_acquire,
    r29_an_owned_lease_is_of_no_thread,
}
