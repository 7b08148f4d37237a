//! What the feature `tracing` reports, to a collector of twenty lines.
#![cfg(not(miri))]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    reason = "a test: it stops where something is wrong"
)]

use core::fmt::{Debug, Write};
use core::time::Duration;
use std::sync::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use userptr::platforms::std::Std;
use userptr::{AddrRange, Context, Error, Flags};
use userptr_sim::{DmaDevice, Machine, PAGE, Space};

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Collector;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "userptr"
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        LINES.lock().unwrap().push(line.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// What was reported since the last call, with the range that is expected taken out.
fn reported(range: AddrRange) -> Vec<String> {
    let expected = format!(" start={} last={}", range.start(), range.last());
    let lines = std::mem::take(&mut *LINES.lock().unwrap());
    assert!(lines.iter().all(|line| line.contains(&expected)), "{lines:?}");
    lines.iter().map(|line| line.replace(&expected, "")).collect()
}

#[test]
fn a_life_is_reported() -> Result<(), Error> {
    tracing::subscriber::set_global_default(Collector).unwrap();
    let machine = Machine::new();
    let process = machine.process();
    let context = Context::builder(DmaDevice::<Std>::new(&machine))
        .limits(|limits| limits.deadline(Some(Duration::from_secs(1))))
        .spawn()?;
    let range = {
        let _inside = machine.enter(&process);
        let address = process.mmap(PAGE);
        process.touch(address, PAGE, 1)?;
        AddrRange::new(address, PAGE)?
    };
    let object = context.register(&Space::of(&process), range, Flags::NONE)?;

    // In the owner: the pages are there. A second lease is the fast path, and says nothing.
    let inside = machine.enter(&process);
    drop(object.acquire()?);
    drop(object.acquire()?);
    assert_eq!(reported(range), ["DEBUG message=pinned worker=false"]);
    assert_eq!(object.put_pages(), Ok(()));
    assert_eq!(reported(range), ["DEBUG message=revoked"]);
    drop(inside);

    // Elsewhere: a worker pins.
    let lease = object.acquire_owned()?;
    context.drain();
    let lines = reported(range);
    assert!(lines.contains(&"DEBUG message=not pinned worker=false error=\"EAGAIN\"".into()), "{lines:?}");
    assert!(lines.contains(&"DEBUG message=pinned worker=true".into()), "{lines:?}");

    // A lease that is kept, and dropped at last.
    process.dontneed(range.start(), PAGE);
    assert_eq!(reported(range), ["WARN message=quarantined outcome=TimedOut"]);
    drop(lease);
    assert_eq!(reported(range), ["DEBUG message=revoked", "DEBUG message=finished"]);
    Ok(())
}
