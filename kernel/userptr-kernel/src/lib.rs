//! The Linux kernel as a host of `userptr`: the Rust half of the module. The other half is the C shim in `kernel/module`.
//!
//! Linked by Kbuild into one object with the shim. It calls the kernel only through [`ffi`], never allocates except
//! through `kvmalloc`, and has no panic in reach (`kernel/check-object` looks).
#![no_std]
#![allow(
    missing_docs,
    reason = "the modules are private to the module; what matters is documented where it stands"
)]

mod copier;
mod driver;
mod edu;
mod ffi;
mod job;
#[cfg(feature = "planted")]
mod planted;
mod platform;
mod selftest;
mod space;

/// Out of reach, as `kernel/check-object` proves; the language asks for one.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
