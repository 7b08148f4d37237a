//! The lock checker: which locks this thread holds, and what it may therefore not do.
//!
//! A thread takes locks in ascending rank, two of one class never together. It does not sleep while
//! it holds a spinlock or is in a [`NON_BLOCK`] section. It does not allocate while it holds a lock
//! that an invalidation takes, or inside a callback. It frees nothing between the device's idleness
//! and the moment in which the object is out of the index: the unmapper waits for that, and may
//! hold the allocator's lock (rule 32).
//!
//! The thread's list is plain thread-local data, so the checker adds no synchronisation that could
//! hide a race.

use core::cell::{Cell, RefCell};
use std::fmt::Write;
use userptr::platform::LockClass;

/// The machine's address-space lock (`mmap_lock`).
pub const MMAP: LockClass = LockClass { name: "mmap_lock", rank: 5 };
/// A driver's own object lock, for tests: it may be held across an invalidation.
pub const DRIVER: LockClass = LockClass { name: "driver_object", rank: 12 };
/// Not a lock: inside the callbacks of an invalidation. Nothing is allocated here (rule 11).
pub const CALLBACK: LockClass = LockClass { name: "mmu_notifier_callback", rank: 15 };
/// Not a lock: inside the callbacks of an invalidation that may not block.
pub const NON_BLOCK: LockClass = LockClass { name: "non_block", rank: 16 };

/// What is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A spinlock: no sleeping under it.
    Spin,
    /// A lock under which one may sleep.
    Mutex,
    /// A section that is no lock: callbacks. No allocation.
    Section,
    /// A section in which one may not sleep either.
    NonBlock,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    class: LockClass,
    kind: Kind,
    address: usize,
}

thread_local! {
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
    static RELEASING: Cell<bool> = const { Cell::new(false) };
    /// The objects that this thread holds leases on, each as often as it does.
    static LEASES: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// Notes that this thread takes or drops a lease on an object: for the threads that it waits for, a
/// lock.
pub fn note_lease(object: usize, taken: bool) {
    LEASES.with_borrow_mut(|leases| {
        if taken {
            leases.push(object);
        } else if let Some(at) = leases.iter().rposition(|held| *held == object) {
            leases.swap_remove(at);
        }
    });
}

/// Notes that this thread takes a lock, and checks that it may.
///
/// # Panics
/// If a lock of the same or a higher rank is held, or if it may sleep where sleeping is forbidden.
pub fn acquire(class: LockClass, kind: Kind, address: usize) {
    if matches!(kind, Kind::Mutex) {
        might_sleep(class.name);
    }
    if let Some(over) = find(|h| h.class.rank >= class.rank) {
        broken(&format!("{} is taken while {} is held: out of order", class.name, over.class.name));
    }
    HELD.with_borrow_mut(|held| held.push(Held { class, kind, address }));
}

/// Notes that this thread gives a lock back, in whatever order.
///
/// # Panics
/// If this thread does not hold it.
pub fn release(address: usize) {
    let found = HELD.with_borrow_mut(|held| {
        let at = held.iter().rposition(|h| h.address == address)?;
        Some(held.remove(at))
    });
    match found {
        None => broken("a lock is given back that this thread does not hold"),
        // The one section that ends a revocation: the object is out of the index, or quarantined.
        Some(held) if held.class.rank == LockClass::NOTIFIER.rank => RELEASING.set(false),
        Some(_) => {}
    }
}

/// Says that the device is idle, so that this thread releases pages until it leaves the notifier's
/// next section.
pub fn releasing() {
    RELEASING.set(true);
}

/// Says that this thread frees memory now.
///
/// # Panics
/// If it releases pages that an invalidation may wait for (rule 32).
pub fn might_free() {
    // A panic that unwinds frees what it meets; one report is enough.
    if RELEASING.get() && !std::thread::panicking() {
        broken("memory is freed inside a revocation: its unmapper may hold the allocator's lock");
    }
}

/// Says that this thread may sleep now.
///
/// # Panics
/// If it holds a spinlock or is in a [`NON_BLOCK`] section.
pub fn might_sleep(what: &str) {
    if let Some(h) = find(|h| matches!(h.kind, Kind::Spin | Kind::NonBlock)) {
        broken(&format!("{what} may sleep while {} is held", h.class.name));
    }
}

/// Says that this thread may allocate now.
///
/// # Panics
/// If it holds a lock that an invalidation takes, or a lease, or is inside a callback.
pub fn might_alloc() {
    let section = |h: &Held| matches!(h.kind, Kind::Section | Kind::NonBlock);
    if let Some(h) = find(|h| h.class.rank >= LockClass::REGISTRY.rank || section(h)) {
        broken(&format!("an allocation while {} is held: reclaim could start here", h.class.name));
    }
    if LEASES.with_borrow(|leases| !leases.is_empty()) {
        broken("an allocation while a lease is held: reclaim could start here, and wait for it");
    }
}

/// Says that the core calls its platform or its driver.
///
/// # Panics
/// If this thread holds a lock that an invalidation takes (rule 27).
pub fn call_out(what: &str) {
    if let Some(h) = find(|h| h.class.rank >= LockClass::REGISTRY.rank) {
        broken(&format!("{what} is called while {} is held", h.class.name));
    }
}

/// Says that nothing at all may be held: no lock, and not inside a callback.
///
/// # Panics
/// If something is.
pub fn nothing_held(what: &str) {
    if let Some(h) = find(|_| true) {
        broken(&format!("{what} while {} is held", h.class.name));
    }
}

/// Whether this thread is inside the callbacks of an invalidation.
#[must_use]
pub fn in_callback() -> bool {
    find(|h| matches!(h.kind, Kind::Section | Kind::NonBlock)).is_some()
}

/// How many locks and sections this thread is in.
#[must_use]
pub fn depth() -> usize {
    HELD.with_borrow(Vec::len)
}

/// A section or lock that ends when this is dropped.
#[derive(Debug)]
#[must_use = "the section ends when this is dropped"]
pub struct Section {
    address: usize,
    _not_send: core::marker::PhantomData<*const ()>,
}

/// Enters a section of this class and kind.
///
/// # Panics
/// As [`acquire`].
pub fn section(class: LockClass, kind: Kind) -> Section {
    // Sections have no address. Ranks do not repeat among what one thread holds, so the rank is as
    // good as one.
    let address = usize::from(class.rank);
    acquire(class, kind, address);
    Section { address, _not_send: core::marker::PhantomData }
}

impl Drop for Section {
    fn drop(&mut self) {
        release(self.address);
    }
}

fn find(f: impl Fn(&Held) -> bool) -> Option<Held> {
    HELD.with_borrow(|held| held.iter().rev().find(|h| f(h)).copied())
}

#[track_caller]
fn broken(what: &str) -> ! {
    let mut all = String::new();
    HELD.with_borrow(|held| {
        for h in held {
            let _ = write!(all, " {}({:?})", h.class.name, h.kind);
        }
    });
    panic!("lock checker: {what}; held:{all}");
}
