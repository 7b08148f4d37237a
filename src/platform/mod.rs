//! What the core asks of its platform: one bundle of raw, non-generic primitives.
//!
//! The core owns the lock types, the references and the protocol; a platform supplies the parts
//! below and nothing else. `std`, `loom`, a simulated machine and a kernel are four implementations
//! of [`Platform`]; the core names none of them.
//!
//! # Two steps
//! Nothing here needs a `const` constructor, and everything is initialised at its final address:
//! `uninit` is inert, movable and cannot fail; the allocation around it may fail; `init` runs
//! exactly once, at the final address, and cannot fail. A kernel's `spin_lock_init`, `INIT_WORK`
//! and `init_waitqueue_head` belong in `init`.

pub mod atomic;
pub mod cell;
pub mod lock;
pub mod wait;
pub mod work;

use core::alloc::Layout;
use core::ptr::NonNull;
use core::time::Duration;

pub use atomic::{AtomicUsize, Load, Rmw, Store};
pub use cell::Cell;
pub use lock::{Lock, LockClass, LockGuard, Mutex, RawLock, SpinLock};
pub use wait::{RawWait, WaitQueue};
pub use work::{RawQueue, RawWork};

/// The platform of the core: its atomics, cells, locks, waits, work queues and allocator.
///
/// # Safety
/// Beyond what each member trait demands, an implementation must ensure that
/// [`fence`](Platform::fence) is a full (sequentially consistent) fence, and that
/// [`alloc`](Platform::alloc) returns memory valid for the layout until the matching
/// [`dealloc`](Platform::dealloc).
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a platform of the core",
    label = "implement `Platform` for it, or use one of the crate: `platforms::std::Std`, `platforms::loom::Loom`"
)]
pub unsafe trait Platform: Sized + Send + Sync + 'static {
    /// An atomic word.
    type Usize: AtomicUsize;
    /// Plain data shared under a protocol of the core. Tracked by checking platforms, so that they
    /// see every access.
    type Cell<T>: Cell<T>;
    /// A lock whose holder never sleeps.
    type Spin: RawLock;
    /// A lock whose holder may sleep.
    type Mutex: RawLock;
    /// A queue of waiting threads.
    type Wait: RawWait;
    /// A work item, in place inside the object that it works on.
    type Work: RawWork;
    /// A handle to a work queue: the software queue of this crate, or the platform's own.
    type Queue: RawQueue<Self::Work> + Clone + 'static;

    /// How many open invalidation windows are recorded one by one; more are kept as a count and a
    /// hull. At most [`MAX_WINDOWS`]. A model checker wants a small number, any other platform the
    /// default.
    const WINDOWS: usize = MAX_WINDOWS;

    /// How many lease words an object has whose leases are spread
    /// ([`Limits::spread_leases`](crate::device::Limits::spread_leases)). At most [`MAX_SHARDS`]. A
    /// model checker wants a small number, any other platform the default.
    const SHARDS: usize = MAX_SHARDS;

    /// Whether this is a model checker, whose threads are not the machine's. What is made of real
    /// threads and locks, which such a checker does not see, refuses it when it is compiled.
    const IS_MODEL: bool = false;

    /// Executes a full fence: every access before it is ordered before every access after it,
    /// stores before loads included.
    fn fence();

    /// Returns the time on a clock that never goes back, from any fixed point. A revocation's
    /// deadline is one point on it, and every wait of the revocation gets what is left
    /// ([rule 31](crate::docs::protocol#rule-31)). Callable anywhere, an invalidation included.
    ///
    /// Without a clock (the default) each wait gets the whole deadline. A checker may stand still:
    /// no property of the core but the deadline's length depends on it.
    fn now() -> Duration {
        Duration::ZERO
    }

    /// Returns any number, by which the calling thread chooses one of the lease words of an object
    /// whose leases are spread: threads that run at once should get different ones. On the lease
    /// fast path: a few instructions.
    fn shard() -> usize {
        0
    }

    /// Called when this thread takes or drops a lease on the object at address `object`. A platform
    /// that keeps track makes a call that would wait for the caller's own lease fail with `EDEADLK`
    /// at once, instead of at the deadline ([rule 29](crate::docs::protocol#rule-29)). On the lease
    /// fast path: a few instructions.
    fn note_lease(object: usize, taken: bool) {
        let _ = (object, taken);
    }

    /// Returns whether the calling thread is known to hold a lease on the object at `object`.
    /// `false` if the platform does not keep track.
    fn holds_lease(object: usize) -> bool {
        let _ = object;
        false
    }

    /// Allocates, or returns `None`. Never called under a lock that an invalidation takes, nor with
    /// a zero-sized layout.
    fn alloc(layout: Layout) -> Option<NonNull<u8>>;

    /// Frees what [`alloc`](Platform::alloc) returned. Cannot fail, must not allocate, and may be
    /// called in an invalidation.
    ///
    /// # Safety
    /// `ptr` must come from `alloc` with the same layout, and must not be used again.
    unsafe fn dealloc(ptr: NonNull<u8>, layout: Layout);
}

/// The largest [`Platform::WINDOWS`].
pub const MAX_WINDOWS: usize = 8;

/// The largest [`Platform::SHARDS`].
pub const MAX_SHARDS: usize = 8;
