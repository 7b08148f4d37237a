//! One invalidation on the simulated machine, drawn: a process unmaps a buffer while the device
//! works on it.
//!
//! `cargo run --example timeline` draws it as text, `cargo run --example timeline svg` as the SVG
//! in the README.
#![allow(
    clippy::expect_used,
    clippy::disallowed_types,
    clippy::arithmetic_side_effects,
    reason = "an example stops where something is wrong"
)]

mod draw;

use draw::{Lane, Row};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;
use userptr::platforms::std::Std;
use userptr::{Context, Error, Flags};
use userptr_sim::{DmaDevice, Event, Machine, Op, PAGE, Seam};

/// What happened, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Row>>>);

impl Log {
    fn add(&self, lane: Lane, text: &'static str) {
        self.0.lock().expect("nothing panics in here").push(Row { lane, text });
    }
}

/// What the machine's steps are in the drawing.
const STEPS: [(Op, Seam, Lane, &str); 9] = [
    (Op::FastPin, Seam::Pinned, Lane::Core, "pages pinned"),
    (Op::Other, Seam::Prepared, Lane::Device, "mapped for the device"),
    (Op::Munmap, Seam::Before, Lane::Process, "munmap begins"),
    (Op::Other, Seam::Stop, Lane::Core, "pass one: no new leases, stop!"),
    (Op::Other, Seam::WaitIdle, Lane::Core, "no lease left: wait for the device"),
    (Op::Other, Seam::Unmap, Lane::Core, "idle: mapping removed"),
    (Op::Other, Seam::Unpin, Lane::Core, "pages unpinned"),
    (Op::Munmap, Seam::Cleared, Lane::Process, "page table cleared"),
    (Op::Munmap, Seam::Freed, Lane::Process, "pages freed"),
];

fn wait_for(steps: &mpsc::Receiver<Seam>, wanted: Seam) {
    while steps.recv_timeout(Duration::from_secs(20)).expect("the core takes this step") != wanted {}
}

fn run() -> Result<Vec<Row>, Error> {
    let (machine, log) = (Machine::new(), Log::default());
    let process = machine.process();
    let context = Context::builder(DmaDevice::<Std>::new(&machine)).spawn()?;
    let (steps, step) = mpsc::channel();
    for (op, seam, lane, text) in STEPS {
        let (log, steps) = (log.clone(), steps.clone());
        machine.always(seam, move |event: &Event| {
            if event.op == op {
                log.add(lane, text);
                // Nobody listens any more when the device is done.
                let _ = steps.send(seam);
            }
        });
    }
    let inside = machine.enter(&process);
    let buffer = process.map(PAGE);
    process.fill(buffer, 7)?;
    let object = context.register(&process.space(), buffer, Flags::NONE)?;
    log.add(Lane::Process, "acquire");
    let lease = object.acquire_owned()?;
    let engine = context.device().engine();
    let job = engine.start(lease.map());
    log.add(Lane::Device, "a lease, a job: DMA");
    drop(inside);

    // The device goes on until it is asked to stop, and is not idle at once.
    let last = log.clone();
    let device = thread::spawn(move || {
        wait_for(&step, Seam::Stop);
        last.add(Lane::Device, "lease dropped; the job goes on");
        drop(lease);
        wait_for(&step, Seam::WaitIdle);
        assert_eq!(job.read(0), 7, "the pages are still the process's");
        last.add(Lane::Device, "last access, job done");
        drop(job);
    });
    process.unmap(buffer);
    log.add(Lane::Process, "munmap returns");
    device.join().expect("nothing is wrong with the device");
    machine.assert_clean();
    let rows = core::mem::take(&mut *log.0.lock().expect("nothing panics in here"));
    Ok(rows)
}

fn main() -> Result<(), Error> {
    let rows = run()?;
    let svg = std::env::args().any(|arg| arg == "svg");
    print!("{}", if svg { draw::svg(&rows) } else { draw::text(&rows) });
    Ok(())
}

/// Another drawing means that the protocol takes other steps, or the same ones in another order.
#[test]
fn the_drawing_in_the_readme_is_of_this_run() {
    let rows = run().expect("the machine has room");
    assert_eq!(draw::svg(&rows), include_str!("timeline.svg"), "{}", draw::text(&rows));
}
