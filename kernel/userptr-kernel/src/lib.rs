//! The Linux kernel as a platform and as an address space of [`userptr`], for drivers that are
//! modules.
//!
//! This is the Rust half. The other is the C shim in the folder `shim`. A driver depends on this
//! crate and includes `Kbuild.include` in its own Kbuild: that compiles the shim for the kernel at
//! hand, builds the driver's Rust half with the flags that this kernel needs, and links both into
//! the module. How, step by step: [`userptr::docs::kernel`]. The smallest driver is
//! `kernel/samples/minimal`.
//!
//! - [`Kernel`]: spinlocks, mutexes, wait queues, workqueues and `kvmalloc` as the core's platform.
//! - [`Mm`]: a process's memory as the core's address space. An mmu notifier tells of its changes.
//! - [`now_ns`], [`pause`], [`signal_pending`], [`untagged`], [`counter`], [`allocations`]: what
//!   drivers need beside that.
//!
//! It calls the kernel only through the shim, allocates only through `kvmalloc`, and has no panic
//! in reach (`kernel/check-object` looks at the linked object).
#![no_std]

pub mod address_space;
mod ffi;
pub mod platform;

pub use address_space::{Mm, Page};
pub use ffi::PAGE_SHIFT;
pub use platform::{KQueue, KWait, Kernel, Kind};

/// Pages have this many bytes.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// Returns the nanoseconds of the monotonic clock.
#[must_use]
pub fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { ffi::uk_now_ns() }
}

/// Sleeps for about 100 microseconds, to look again at something that nobody reports.
///
/// Must not be called under a spinlock, nor from an interrupt.
pub fn pause() {
    // SAFETY: no arguments. Sleeping in the wrong context is a bug that the kernel reports, not
    // undefined behaviour.
    unsafe { ffi::uk_pause() }
}

/// Returns whether the calling thread has a signal to handle: a request should end with
/// [`Error::Interrupted`](userptr::Error::Interrupted).
#[must_use]
pub fn signal_pending() -> bool {
    // SAFETY: no arguments.
    unsafe { ffi::uk_signal_pending() }
}

/// Returns a user's address without the bits that the processor ignores in it, for the calling
/// process.
///
/// A driver that is to accept tagged addresses calls this first thing in a request. Without it they
/// are refused as no memory ([`Error::Fault`](userptr::Error::Fault)): invalidations come untagged
/// and would not be seen.
#[must_use]
pub fn untagged(address: usize) -> usize {
    // SAFETY: a plain number.
    unsafe { ffi::uk_untagged(address) }
}

/// Returns the value of a counter by its number in `shim/counters.h`; 0 if there is no such
/// counter.
#[must_use]
pub fn counter(which: u32) -> i64 {
    // SAFETY: a plain number.
    unsafe { ffi::uk_counter(which) }
}

/// Returns the number of allocations of the Rust half that live now.
#[must_use]
pub fn allocations() -> i64 {
    // SAFETY: no arguments.
    unsafe { ffi::uk_allocations() }
}

/// Out of reach, as `kernel/check-object` proves; the language asks for one. Not where the standard
/// library has one: a driver's own unit tests may depend on this crate.
#[cfg(target_os = "none")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
