//! The platform made of the standard library: [`Std`].

mod awaited;
mod clock;
pub(super) mod held;
mod running;
mod shard;
mod sync;
mod workers;

pub use awaited::{Acquire, OnThreads};
pub use running::Running;
pub use sync::{StdLock, StdWait};
pub use workers::{Threads, Workers};

use super::native::{NativeCell, NativeUsize};
use crate::platform::Platform;
use crate::refcount::Ref;
use crate::work::{SharedQueue, SoftWork};
use core::alloc::Layout;
use core::ptr::NonNull;
use core::time::Duration;

/// Threads, mutexes and condition variables of the standard library; its global allocator; the
/// software queue.
#[derive(Debug)]
pub enum Std {}

// SAFETY: the fence is the language's own full fence; the allocator is the global one.
unsafe impl Platform for Std {
    type Usize = NativeUsize;
    type Cell<T> = NativeCell<T>;
    type Spin = StdLock;
    type Mutex = StdLock;
    type Wait = StdWait;
    type Work = SoftWork<Self>;
    type Queue = Ref<SharedQueue<Self>, Self>;

    #[inline]
    fn fence() {
        full_fence();
    }

    fn now() -> Duration {
        clock::now()
    }

    #[inline]
    fn shard() -> usize {
        shard::current()
    }

    #[inline]
    fn note_lease(object: usize, taken: bool) {
        held::note(object, taken);
    }

    fn holds_lease(object: usize) -> bool {
        held::holds(object)
    }

    fn alloc(layout: Layout) -> Option<NonNull<u8>> {
        // SAFETY: zero-sized layouts are never passed (`Platform::alloc`).
        NonNull::new(unsafe { ::std::alloc::alloc(layout) })
    }

    unsafe fn dealloc(ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: from `alloc` with this layout, and not used again (caller).
        unsafe { ::std::alloc::dealloc(ptr.as_ptr(), layout) }
    }
}

/// Executes a full fence. On x86-64 a locked instruction on the stack, as kernels do it: half the
/// price of the `mfence` that the language's own fence becomes, and as strong for ordinary memory.
#[inline]
pub(super) fn full_fence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: it changes no value. Without options the compiler takes it to read and write all
    // memory, so it moves no access across; the processor moves none across a locked instruction.
    unsafe {
        core::arch::asm!("lock or dword ptr [rsp], 0");
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}
