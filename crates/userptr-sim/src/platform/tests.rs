use super::lockdep::{self, Kind};
use super::{Meter, Sim};
use core::alloc::Layout;
use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use userptr::platform::{LockClass, Mutex, Platform, SpinLock, WaitQueue};

fn spin(class: LockClass) -> SpinLock<Sim, ()> {
    let lock = SpinLock::<Sim, _>::uninit(class, ());
    // SAFETY: nothing of it needs a fixed address before it is used, and it is settled once.
    unsafe { lock.init() };
    lock
}

fn mutex(class: LockClass) -> Mutex<Sim, ()> {
    let lock = Mutex::<Sim, _>::uninit(class, ());
    // SAFETY: as above.
    unsafe { lock.init() };
    lock
}

fn alloc_one() -> bool {
    let layout = Layout::new::<[u64; 4]>();
    let Some(ptr) = Sim::alloc(layout) else { return false };
    // SAFETY: allocated just now with this layout.
    unsafe { Sim::dealloc(ptr, layout) };
    true
}

#[test]
#[should_panic(expected = "an allocation while a lease is held")]
fn an_allocation_under_a_lease_is_caught() {
    Sim::note_lease(1, true);
    alloc_one();
}

#[test]
fn an_allocation_after_the_lease_passes() {
    Sim::note_lease(1, true);
    Sim::note_lease(2, true);
    Sim::note_lease(1, false);
    Sim::note_lease(2, false);
    assert!(alloc_one());
}

#[test]
fn locks_in_order_pass() {
    let (a, b) = (mutex(LockClass::REGISTRY), spin(LockClass::NOTIFIER));
    // SAFETY: settled, and not held by this thread.
    unsafe { a.with(|()| b.with(|()| assert_eq!(lockdep::depth(), 2))) };
    assert_eq!(lockdep::depth(), 0);
    assert!(alloc_one());
}

#[test]
#[should_panic(expected = "out of order")]
fn a_lower_rank_under_a_higher_one_is_caught() {
    let (a, b) = (spin(LockClass::QUEUE), spin(LockClass::NOTIFIER));
    // SAFETY: settled, and not held by this thread.
    unsafe { a.with(|()| b.with(|()| ())) };
}

#[test]
#[should_panic(expected = "out of order")]
fn two_locks_of_one_class_are_caught() {
    let (a, b) = (spin(LockClass::NOTIFIER), spin(LockClass::NOTIFIER));
    // SAFETY: settled, and not held by this thread.
    unsafe { a.with(|()| b.with(|()| ())) };
}

#[test]
#[should_panic(expected = "may sleep while userptr_notifier")]
fn a_mutex_under_a_spinlock_is_caught() {
    let (a, b) = (spin(LockClass::NOTIFIER), mutex(LockClass { name: "other", rank: 99 }));
    // SAFETY: settled, and not held by this thread.
    unsafe { a.with(|()| b.with(|()| ())) };
}

#[test]
#[should_panic(expected = "wait_until may sleep")]
fn a_wait_under_a_spinlock_is_caught() {
    let (a, wait) = (spin(LockClass::NOTIFIER), WaitQueue::<<Sim as Platform>::Wait>::uninit());
    // SAFETY: settled, and not held by this thread. The wait under the spinlock is the error that
    // is looked for.
    unsafe {
        wait.init();
        // A zero timeout asks once: no sleep.
        a.with(|()| assert!(!wait.wait_until(Some(Duration::ZERO), || false)));
        a.with(|()| wait.wait_until(None, || true));
    }
}

#[test]
#[should_panic(expected = "an allocation while userptr_registry")]
fn s58_an_allocation_under_the_registry_is_caught() {
    let a = mutex(LockClass::REGISTRY);
    // SAFETY: settled, and not held by this thread.
    unsafe { a.with(|()| alloc_one()) };
}

#[test]
#[should_panic(expected = "an allocation while userptr_notifier")]
fn s58_an_allocation_under_the_notifier_is_caught() {
    let a = spin(LockClass::NOTIFIER);
    // SAFETY: settled, and not held by this thread.
    unsafe { a.with(|()| alloc_one()) };
}

#[test]
#[should_panic(expected = "an allocation while mmu_notifier_callback")]
fn s58_an_allocation_in_a_callback_is_caught() {
    let _callback = lockdep::section(lockdep::CALLBACK, Kind::Section);
    alloc_one();
}

#[test]
#[should_panic(expected = "may sleep while non_block")]
fn a_sleep_where_blocking_is_forbidden_is_caught() {
    let _section = lockdep::section(lockdep::NON_BLOCK, Kind::NonBlock);
    lockdep::might_sleep("test");
}

#[test]
#[should_panic(expected = "pin is called while userptr_notifier")]
fn a_call_out_under_a_reclaim_lock_is_caught() {
    let a = spin(LockClass::NOTIFIER);
    // SAFETY: settled, and not held by this thread.
    unsafe { a.with(|()| lockdep::call_out("pin")) };
}

#[test]
#[should_panic(expected = "mmput while mmap_lock")]
fn something_held_is_caught() {
    let _section = lockdep::section(lockdep::MMAP, Kind::Mutex);
    lockdep::nothing_held("mmput");
}

#[test]
#[should_panic(expected = "does not hold")]
fn a_lock_given_back_twice_is_caught() {
    lockdep::release(1);
}

#[test]
fn the_nth_allocation_fails_once() {
    let meter = Meter::new();
    let _in = meter.enter();
    meter.fail_nth(2);
    assert_eq!([alloc_one(), alloc_one(), alloc_one()], [true, false, true]);
    assert_eq!((meter.failed(), meter.calls(), meter.live()), (1, 3, 0));
}

#[test]
fn a_leak_shows_in_the_balance_whoever_frees() {
    let meter = Meter::new();
    let layout = Layout::new::<u64>();
    let ptr = {
        let _in = meter.enter();
        Sim::alloc(layout).unwrap()
    };
    assert_eq!(meter.live(), 1);
    // This thread is not measured any more, yet the balance is the meter's.
    // SAFETY: allocated above with this layout.
    unsafe { Sim::dealloc(ptr, layout) };
    assert_eq!(meter.live(), 0);
}

#[test]
fn the_hook_recurses_once() {
    let meter = Meter::new();
    let _in = meter.enter();
    let runs = Arc::new(AtomicUsize::new(0));
    let seen = runs.clone();
    meter.on_alloc(Some(Box::new(move || {
        seen.fetch_add(1, Ordering::Relaxed);
        assert!(alloc_one(), "an allocation inside the hook does not call it again");
    })));
    assert!(alloc_one());
    assert_eq!(runs.load(Ordering::Relaxed), 1);
    meter.on_alloc(None);
    assert!(alloc_one());
    assert_eq!(runs.load(Ordering::Relaxed), 1);
}

#[test]
#[should_panic(expected = "freed inside a revocation")]
fn r32_a_free_inside_a_revocation_is_caught() {
    lockdep::releasing();
    alloc_one();
}

#[test]
fn r32_what_is_freed_after_the_notifiers_section_passes() {
    let notifier = spin(LockClass::NOTIFIER);
    lockdep::releasing();
    // SAFETY: settled, and not held by this thread.
    unsafe { notifier.with(|()| ()) };
    assert!(alloc_one());
}
