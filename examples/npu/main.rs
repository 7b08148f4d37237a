//! A driver and its test, on the simulated machine: a process unmaps a buffer while the device works
//! on it. The driver is in `driver.rs`; here is the hardware, and what happens.
//!
//! `cargo run --example npu`
#![allow(clippy::expect_used, clippy::disallowed_types, reason = "an example stops where something is wrong")]

mod driver;

use driver::{Hardware, Job, Npu};
use std::sync::mpsc;
use std::thread;
use userptr::device::PinnedRange;
use userptr::platforms::std::Std;
use userptr::{Context, Error, Flags};
use userptr_sim::{DmaMap, Engine, Machine, Op, PAGE, Seam, Space, Violation};

/// The DMA engine of the simulated machine, which checks each access against the page table.
struct Bus(Engine);

impl Hardware for Bus {
    type Space = Space<Std>;
    type Table = (Engine, DmaMap);
    fn map(&self, what: &PinnedRange<'_, Space<Std>>) -> Result<Self::Table, Error> {
        let pages: Vec<_> = what.pages.iter().map(|page| page.page).collect();
        let map = self.0.map(what.space.record(), what.address, &pages, what.write)?;
        Ok((self.0.clone(), map))
    }
    fn dma((engine, map): &Self::Table) -> u8 {
        engine.read(map, 0)
    }
    fn unmap(&self, (engine, map): &Self::Table) {
        engine.unmap(map);
    }
}

/// Unmaps a buffer that a job works on. Returns what the machine has to complain about.
fn unmap_while_busy(careless: bool) -> Result<Vec<Violation>, Error> {
    let machine = Machine::new();
    let process = machine.process();
    let context = Context::builder(Npu { hardware: Bus(Engine::new(&machine)), careless }).spawn()?;
    let inside = machine.enter(&process);
    let buffer = process.map(PAGE);
    process.store(buffer.start(), 7)?;
    let object = context.register(&process.space(), buffer, Flags::NONE)?;
    let lease = object.acquire()?;
    let job = Job::submit(lease.map());
    drop((lease, inside));

    let (freed, pages_are_freed) = mpsc::channel();
    machine.once_in(Op::Munmap, Seam::Freed, move |_| freed.send(()).expect("somebody listens"));
    thread::scope(|scope| {
        scope.spawn(|| process.unmap(buffer));
        while !job.is_stopping() {
            assert_eq!(job.dma(), 7);
            thread::yield_now();
        }
        // The device is slow to stop. A driver that waits for it holds the unmap up; the other one
        // does not, and the pages are gone when the device comes back to them.
        if careless {
            pages_are_freed.recv().expect("the unmap goes on");
        } else {
            assert_eq!(pages_are_freed.try_recv(), Err(mpsc::TryRecvError::Empty));
        }
        let _ = job.dma();
        drop(job);
    });
    assert_eq!(machine.pins(), 0);
    Ok(machine.take_violations())
}

fn main() -> Result<(), Error> {
    println!("a driver that waits for its device: {:?}", unmap_while_busy(false)?);
    println!("a driver that does not: {:#?}", unmap_while_busy(true)?);
    Ok(())
}

#[test]
fn a_driver_that_waits_is_off_the_pages_before_they_are_freed() {
    assert_eq!(unmap_while_busy(false), Ok(vec![]));
}

#[test]
fn a_driver_that_does_not_wait_is_caught() {
    let caught = unmap_while_busy(true).expect("the machine has room");
    assert!(caught.iter().any(|found| matches!(found, Violation::Stale { .. })), "{caught:?}");
    assert!(caught.iter().any(|found| matches!(found, Violation::NotMapped)), "{caught:?}");
}
