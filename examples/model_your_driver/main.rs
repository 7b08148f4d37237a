//! The driver of `examples/npu` in the model checker: every interleaving of a job and of an unmap.
//!
//! `cargo run --example model_your_driver --features loom`
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "an example stops where something is wrong")]

#[path = "../npu/driver.rs"]
mod driver;

use driver::{Hardware, Job, Npu};
use userptr::device::PinnedRange;
use userptr::platforms::loom::{Frame, Memory, Model, context, spawn};
use userptr::{AddrRange, Error, Flags, Outcome};

/// Hardware whose accesses the checker sees.
struct Bus;

impl Hardware for Bus {
    type Space = Memory;
    type Table = (Memory, Frame);
    fn map(&self, what: &PinnedRange<'_, Memory>) -> Result<(Memory, Frame), Error> {
        Ok((what.space.clone(), what.pages[0]))
    }
    fn dma((memory, page): &Self::Table) -> u8 {
        memory.dma(*page);
        7
    }
}

/// One execution: a thread submits a job, and the process maps something else meanwhile.
fn unmap_while_busy(careless: bool) {
    let memory = Memory::new();
    let context = context(Npu { hardware: Bus, careless }).expect("nothing is missing");
    let buffer = AddrRange::new(0, 4096).expect("a page");
    let object = context.register(&memory, buffer, Flags::NONE).expect("nothing refuses");
    let device = spawn(move || {
        let Ok(lease) = object.try_acquire() else { return };
        let job = Job::submit(lease.map());
        drop(lease);
        // Asked to stop after this look, the device still makes one access.
        let _ = job.is_stopping() || job.dma() == 7;
    });
    assert_eq!(memory.replace(buffer), Outcome::Idle);
    device.join();
    context.assert_quiet();
}

fn main() {
    let executions = Model::new().check(|| unmap_while_busy(false));
    println!("a driver that waits for its device passes: {executions} executions");
    println!("of one that does not: {}", Model::new().run(|| unmap_while_busy(true)).expect_err("a bug"));
}

#[test]
fn the_driver_passes_and_the_planted_bug_is_caught() {
    assert!(Model::new().check(|| unmap_while_busy(false)) > 10);
    let caught = Model::new().run(|| unmap_while_busy(true)).expect_err("a bug");
    assert!(caught.to_string().contains("Causality violation"), "{caught}");
}
