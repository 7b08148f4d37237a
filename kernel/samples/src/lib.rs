//! Test devices on `userptr-kernel`: one in software (`copier`), and QEMU's `edu` PCI device doing
//! DMA (`edu`).
//!
//! The Rust half of a module. The other half, in the folder above: `main.c` (module entry and
//! character devices), `copier.c`, `edu.c` (PCI driver, registers, DMA mappings), `uapi.h` (the
//! requests).
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
mod uapi;
