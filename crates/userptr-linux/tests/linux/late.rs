//! Scenario 139: a request that ends after the deadline.

use crate::child::scenario;
use crate::stack::{Stack, eventually, lease};
use crate::stale::io::Range;
use crate::stale::memory;
use std::io::Write;
use std::time::Duration;
use userptr::notifier::{Event, State};
use userptr::{Device, Error, Outcome, Prepare};
use userptr_linux::uring::{Direction, Op, Part, Setup, Slot, Uring};
use userptr_linux::{Linux, Options};

const PAGE: usize = 4096;
const PART: Part = Part { offset: 0, bytes: PAGE, at: u64::MAX };

fn stack(strict: bool) -> Stack {
    let hold = Duration::from_millis(300);
    let space = Linux::with(Options { strict, hold, ..Options::default() }).unwrap();
    let deadline = Some(Duration::from_millis(20));
    Stack::with(space, Uring::open(Setup { deadline, ..Setup::default() }).unwrap())
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// A read of a silent pipe, whose buffer is unmapped and mapped anew.
fn read(stack: &Stack, range: Range, from: &std::io::PipeReader) -> (userptr::UserPtr<Uring>, Op) {
    let object = stack.object(range.address, range.bytes);
    let op = Uring::start(&lease(&object), Direction::FromFile, PART, from).unwrap();
    memory::unmap(range).unwrap();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    memory::map_at(range.address, range.bytes, flags).unwrap();
    eventually("quarantined", || object.state() == State::Quarantined);
    (object, op)
}

fn ends_by_itself(strict: bool) {
    let stack = stack(strict);
    let (one, other) = (memory::map(2 * PAGE).unwrap(), memory::ELSEWHERE);
    let one = Range { bytes: PAGE, ..one };
    let other = memory::map_at(other, PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS).unwrap();
    let (from, mut to) = std::io::pipe().unwrap();
    let (silent, _silent_to) = std::io::pipe().unwrap();
    let (stays, waiting) = read(&stack, other, &silent);
    for round in 0..20 {
        let (object, op) = read(&stack, one, &from);
        to.write_all(&[round; PAGE]).unwrap();
        assert_eq!(op.wait().unwrap(), PAGE);
        // Without a word from the program, though another one is still busy.
        eventually("not quarantined", || object.state() != State::Quarantined);
        drop(lease(&object));
    }
    assert_eq!(stays.state(), State::Quarantined, "its request has not ended");
    drop(_silent_to);
    assert_eq!(waiting.wait().unwrap(), 0);
    eventually("not quarantined", || stays.state() != State::Quarantined);
}

scenario!(s139_a_quarantine_ends_with_the_request, 30, { ends_by_itself(false) });

scenario!(s139_also_in_strict_mode, 60, { ends_by_itself(true) });

scenario!(
    /// Everything is dropped while the request waits: when it ends, all of it goes.
    s139_what_was_dropped_meanwhile_ends_with_the_request,
    30,
    {
        let before = threads();
        let stack = stack(false);
        let range = memory::map(PAGE).unwrap();
        let (from, to) = std::io::pipe().unwrap();
        let (object, op) = read(&stack, range, &from);
        drop((object, op, stack));
        assert!(threads() > before, "the device was dropped under a request");
        drop(to);
        eventually("every thread ends", || threads() == before);
    }
);

/// A ring whose buffers become idle after a wait has given up and before that is known.
struct Between(Uring);

impl Device for Between {
    type Space = Linux;
    type Map = Slot;

    fn prepare(&self, what: Prepare<'_, Linux>) -> Result<Slot, Error> {
        self.0.prepare(what)
    }

    fn wait_idle(&self, map: &Slot, _: Option<Duration>) -> Outcome {
        // Asked without a stop before, the ring's thread has not even begun.
        let outcome = self.0.wait_idle(map, Some(Duration::ZERO));
        assert_eq!(self.0.wait_idle(map, None), Outcome::Idle);
        outcome
    }

    fn unmap(&self, map: Slot) {
        self.0.unmap(map);
    }

    fn event(&self, event: Event) {
        self.0.event(event);
    }
}

scenario!(
    /// The tag comes before the quarantine: its end must not be missed.
    s139_a_tag_between_the_timeout_and_the_quarantine,
    30,
    {
        let ring = Uring::open(Setup::default()).unwrap();
        let stack = Stack::with(Linux::open().unwrap(), Between(ring));
        let range = memory::map(PAGE).unwrap();
        let object = stack.object(range.address, range.bytes);
        for _ in 0..50 {
            drop(lease(&object));
            let _ = object.put_pages();
            eventually("not quarantined", || object.state() != State::Quarantined);
        }
        assert!(stack.context.stats().quarantined > 0, "nothing came late");
    }
);
