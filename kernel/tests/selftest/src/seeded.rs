//! Known bugs, one for each checker, behind the feature `seeded`: the check of the checks.
//! `vm-test` boots a module that has them and fails if a checker keeps silent. Each is in Rust
//! code, so it also shows that the checkers see that half, and is a function of its own, whose name
//! stands in the report.
//!
//! The stock kernel checks nothing by itself; there the bug is that the start of an invalidation is
//! ignored, which a subtest has to notice.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::hint::black_box;
use core::sync::atomic::{AtomicUsize, Ordering};
use userptr::platform::{LockClass, Mutex, RawWait, SpinLock};
use userptr::work::enqueue;
use userptr::{Error, Platform, RawQueue, Ref, RefCounted, ref_counted};
use userptr_kernel::{KQueue, KWait, Kernel, Kind};

/// The oldest mistake of such drivers: pages stay with the device after the mapping is gone. The
/// linker puts it into the place of `userptr_invalidate_start` (`--wrap`, in `vm/module`), so the
/// library does not know of it.
#[unsafe(no_mangle)]
extern "C" fn __wrap_userptr_invalidate_start(_: *const c_void, _: usize, _: usize, _: bool) -> c_int {
    0
}

/// Runs bug `which`; somebody should complain.
///
/// # Errors
/// [`Error::Invalid`]: there is no such bug. [`Error::NoMemory`].
pub(crate) fn run(which: u64) -> Result<(), Error> {
    let done = match which {
        100 => use_after_free(),
        101 => lock_order(),
        102 => sleep_under_spinlock(),
        103 => leak(),
        104 => race(),
        105 => lease_across_allocation(),
        _ => return Err(Error::Invalid),
    };
    done.ok_or(Error::NoMemory)
}

struct Plain(u64);
ref_counted! { impl RefCounted<Kernel> for Plain {} }

/// Reads an object after its last reference has gone.
#[inline(never)]
fn use_after_free() -> Option<()> {
    let object = Ref::<Plain, Kernel>::try_new(Plain(7)).ok()?;
    let at = Ref::as_ptr(&object);
    drop(object);
    // SAFETY: none: this is the bug.
    black_box(unsafe { (&raw const (*at).0).read_volatile() });
    Some(())
}

struct Locks {
    first: Mutex<Kernel, u32>,
    second: Mutex<Kernel, u32>,
    spin: SpinLock<Kernel, u32>,
    wait: KWait,
}
// SAFETY: initialises its locks; nothing points to it.
unsafe impl RefCounted<Kernel> for Locks {
    unsafe fn init(&self) {
        // SAFETY: once, at the final address (caller).
        unsafe {
            self.first.init();
            self.second.init();
            self.spin.init();
            self.wait.init();
        }
    }
}

fn locks() -> Option<Ref<Locks, Kernel>> {
    let locks = Locks {
        first: Mutex::<Kernel, _>::uninit(LockClass::HANDLES, 0),
        second: Mutex::<Kernel, _>::uninit(LockClass::REGISTRY, 0),
        spin: SpinLock::<Kernel, _>::uninit(LockClass::NOTIFIER, 0),
        wait: KWait::uninit(),
    };
    Ref::try_new(locks).ok()
}

/// Takes two mutexes in one order, then in the other.
#[inline(never)]
fn lock_order() -> Option<()> {
    let l = locks()?;
    // SAFETY: initialised, not held by this thread; that the order is wrong is the bug.
    unsafe {
        l.first.with(|a| *a = l.second.with(|b| *b));
        l.second.with(|b| *b = l.first.with(|a| *a));
    }
    Some(())
}

/// Allocates as the holder of a lease: reclaim could start there, and wait for it.
#[inline(never)]
fn lease_across_allocation() -> Option<()> {
    Kernel::note_lease(0, true);
    let object = Ref::<Plain, Kernel>::try_new(Plain(1));
    Kernel::note_lease(0, false);
    object.ok().map(drop)
}

/// Waits under a spinlock. Not for a mutex: lockdep would report that, too, and then be silent
/// about the order of two.
#[inline(never)]
fn sleep_under_spinlock() -> Option<()> {
    let l = locks()?;
    // SAFETY: initialised, not held by this thread; that a wait may sleep is the bug.
    unsafe { l.spin.with(|a| *a = l.wait.wait_until(None, &mut || true).into()) };
    Some(())
}

/// Forgets references: their objects are never freed, and nothing points there any more.
#[inline(never)]
fn leak() -> Option<()> {
    // Several, because a stale word on a stack or in a register may still point to one.
    for n in 0..8 {
        core::mem::forget(Ref::<Plain, Kernel>::try_new(Plain(n)).ok()?);
    }
    Some(())
}

/// Two threads add to a plain word.
struct Racer {
    work: userptr::Work<Self, Kernel>,
    sum: UnsafeCell<u64>,
    arrived: AtomicUsize,
}
// SAFETY: none for `sum`: this is the bug.
unsafe impl Send for Racer {}
// SAFETY: as above.
unsafe impl Sync for Racer {}
ref_counted! { impl RefCounted<Kernel> for Racer { work: |this: Ref<Racer, Kernel>| this.add() } }

impl Racer {
    #[inline(never)]
    fn add(&self) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
        while self.arrived.load(Ordering::Relaxed) < 2 {
            core::hint::spin_loop();
        }
        // The checker looks at one access in some thousand.
        for _ in 0..2_000_000 {
            // SAFETY: none: this is the bug.
            unsafe { *self.sum.get() = black_box(*self.sum.get()).wrapping_add(1) };
        }
    }
}

#[inline(never)]
fn race() -> Option<()> {
    let queue = KQueue::try_new(Kind::Revoke).ok()?;
    let racer =
        Racer { work: userptr::Work::uninit(), sum: UnsafeCell::new(0), arrived: AtomicUsize::new(0) };
    let racer = Ref::<Racer, Kernel>::try_new(racer).ok()?;
    enqueue::<_, Kernel, 0>(&queue, racer.clone()).ok()?;
    racer.add();
    queue.flush();
    Some(())
}
