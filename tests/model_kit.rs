//! The test kit of the loom platform: what a model that fails looks like, and when deadlines
//! expire.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    reason = "a test: it stops where something is wrong"
)]

use core::time::Duration;
use userptr::device::Prepare;
use userptr::platform::{AtomicUsize as _, Load, Platform, Store};
use userptr::platforms::loom::{Deadlines, Frame, Loom, Memory, Model, Served, context, spawn};
use userptr::work::Waiter;
use userptr::{AddrRange, Device, Error, Flags, Outcome, Ref, UserPtr};

/// A device that is idle once it was told to be, and waits for that as long as it may.
struct Slow {
    idle: <Loom as Platform>::Usize,
    waiter: Ref<Waiter<Loom>, Loom>,
}

impl Slow {
    fn finish(&self) {
        self.idle.store(1, Store::Release);
        self.waiter.wake_all();
    }
}

impl Device for Slow {
    type Space = Memory;
    type Map = Frame;
    fn prepare(&self, what: Prepare<'_, Memory>) -> Result<Frame, Error> {
        Ok(what.pages[0])
    }
    fn wait_idle(&self, _: &Frame, timeout: Option<Duration>) -> Outcome {
        let idle = || self.idle.load(Load::Acquire) != 0;
        if self.waiter.wait_until(timeout, idle) { Outcome::Idle } else { Outcome::TimedOut }
    }
    fn unmap(&self, _: Frame) {}
}

/// An object that has its pages, on a device with the default deadline.
fn ready() -> (Memory, AddrRange, Served<Slow>, UserPtr<Slow>) {
    let (memory, page) = (Memory::new(), AddrRange::new(0, 4096).unwrap());
    let idle = <Loom as Platform>::Usize::new(0);
    let context = context(Slow { idle, waiter: Waiter::try_new().unwrap() }).unwrap();
    assert_eq!(context.limits().deadline, Some(Duration::from_secs(10)));
    let object = context.register(&memory, page, Flags::NONE).unwrap();
    drop(object.acquire().unwrap());
    (memory, page, context, object)
}

/// The device finishes while the unmap waits for it.
fn finished_in_time() {
    let (memory, page, context, object) = ready();
    let device = spawn({
        let context = (*context).clone();
        move || context.device().finish()
    });
    assert_eq!(memory.replace(page), Outcome::Idle);
    device.join();
    drop(object);
    context.assert_quiet();
}

/// It never finishes.
fn never_finished() {
    let (memory, page, context, object) = ready();
    assert_eq!(memory.replace(page), Outcome::TimedOut);
    assert_eq!((context.stats().quarantined, memory.pins()), (1, 1));
    context.device().finish();
    assert_eq!(context.retry_quarantined(), Outcome::Idle);
    drop(object);
    context.assert_quiet();
}

#[test]
fn a_deadline_expires_where_the_model_says_and_nowhere_else() {
    Model::new().check(finished_in_time);
    let stuck = Model::new().run(never_finished).unwrap_err().to_string();
    assert!(stuck.contains("deadlock"), "{stuck}");
    assert_eq!(Model::new().deadlines(Deadlines::AtOnce).check(never_finished), 1);
    // The same, said in the middle.
    Model::new().check(|| {
        userptr::platforms::loom::set_deadlines(Deadlines::AtOnce);
        never_finished();
    });
    let early = Model::new().deadlines(Deadlines::AtOnce).run(finished_in_time).unwrap_err().to_string();
    assert!(early.contains("TimedOut"), "{early}");
}

#[test]
fn an_object_that_is_left_fails_the_model() {
    let left = Model::new().run(|| {
        let (.., context, object) = ready();
        core::mem::forget(object);
        context.assert_quiet();
    });
    assert!(left.unwrap_err().to_string().contains("objects are left"));
}

/// A panic with guards held, in a thread and in the main one, is an error with its text; what comes
/// after it in the test runs, each model with its own result.
#[test]
fn a_failing_model_takes_nobody_with_it() {
    let failed = Model::new().run(|| {
        let (.., context, object) = ready();
        let lease = object.acquire().unwrap();
        context.device().finish();
        assert!(lease.is_revoked(), "the first words");
    });
    assert!(failed.unwrap_err().to_string().contains("the first words"));
    let failed = Model::new().run(|| spawn(|| assert!(std::env::args().count() == 0, "in a thread")).join());
    assert!(failed.unwrap_err().to_string().contains("in a thread"));
    assert_eq!(Model::new().check(|| ()), 1);
    // As in a test that fails: a panic, no abort.
    let caught = std::panic::catch_unwind(|| Model::new().check(|| panic!("a bug")));
    assert!(caught.unwrap_err().downcast_ref::<String>().unwrap().contains("a bug"));
}

#[test]
fn a_model_that_does_not_end_is_given_up() {
    let long = Model::new().time_limit(Duration::from_millis(300)).run(|| {
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    assert!(long.unwrap_err().to_string().contains("did not end"));
}

#[test]
fn a_program_that_does_not_come_back_to_its_model_is_no_success() {
    if std::env::var_os("USERPTR_MODEL").is_none() {
        let lost = Model::new().run(|| ());
        assert!(lost.unwrap_err().to_string().contains("did not come to the model"));
    }
}

#[test]
fn an_exit_revokes_and_later_acquires_fail() {
    let executions = Model::new().preemptions(None).check(|| {
        let (memory, _, context, object) = ready();
        context.device().finish();
        let other = spawn({
            let object = object.clone();
            move || {
                if let Ok(lease) = object.try_acquire() {
                    let _ = lease.pages()[0];
                }
            }
        });
        assert_eq!(memory.exit(), Outcome::Idle);
        other.join();
        assert_eq!(object.acquire().unwrap_err(), Error::Gone);
        drop(object);
        context.assert_quiet();
        assert_eq!(memory.pins(), 0);
    });
    assert!(executions > 10, "{executions}");
}
