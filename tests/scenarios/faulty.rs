//! Drivers that hang or panic: one deadline for all, nobody hung, no lock left taken.

use crate::world::{Host, until};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use userptr::device::{Device, Limits, PlatformOf, Prepare};
use userptr::notifier::{Event, Outcome, State};
use userptr::platforms::std::Running;
use userptr::{Context, Error, Flags, UserPtr};
use userptr_sim::{DmaDevice, DmaMap, Machine, PAGE, Process, Space};

/// What a driver gets wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Prepare,
    Stop,
    WaitIdle,
    Unmap,
    /// Does not panic, and is never idle.
    Hang,
}

struct Faulty<P: Host> {
    inner: DmaDevice<P>,
    fault: Arc<AtomicUsize>,
    /// Quarantines and releases that it heard of.
    heard: Arc<[AtomicUsize; 3]>,
    /// The time-outs that it was asked with.
    asked: Arc<std::sync::Mutex<Vec<Option<Duration>>>>,
}

impl<P: Host> Faulty<P> {
    fn meets(&self, fault: Fault) -> bool {
        self.fault.load(Ordering::SeqCst) == fault as usize
    }
    fn may_panic(&self, fault: Fault) {
        assert!(!self.meets(fault), "the driver panics in {fault:?}");
    }
}

impl<P: Host> Device for Faulty<P> {
    type Space = Space<P>;
    type Map = DmaMap;

    fn limits(&self) -> Limits {
        self.inner.limits().deadline(Some(Duration::from_millis(100)))
    }
    fn prepare(&self, what: Prepare<'_, Space<P>>) -> Result<DmaMap, Error> {
        self.may_panic(Fault::Prepare);
        self.inner.prepare(what)
    }
    fn stop(&self, map: &DmaMap) {
        self.may_panic(Fault::Stop);
        self.inner.stop(map);
    }
    fn wait_idle(&self, map: &DmaMap, timeout: Option<Duration>) -> Outcome {
        self.may_panic(Fault::WaitIdle);
        if self.meets(Fault::Hang) {
            self.asked.lock().unwrap().push(timeout);
            thread::sleep(timeout.unwrap());
            return Outcome::TimedOut;
        }
        self.inner.wait_idle(map, timeout)
    }
    fn unmap(&self, map: DmaMap) {
        self.inner.unmap(map);
        self.may_panic(Fault::Unmap);
    }
    fn event(&self, event: Event) {
        let which = match event {
            Event::Revoked(_) => 0,
            Event::Quarantined(..) => 1,
            Event::Finished(_) => 2,
            _ => return,
        };
        self.heard[which].fetch_add(1, Ordering::SeqCst);
    }
}

struct Stage<P: Host> {
    machine: Machine,
    process: Process,
    context: Running<Faulty<P>>,
    fault: Arc<AtomicUsize>,
    heard: Arc<[AtomicUsize; 3]>,
    asked: Arc<std::sync::Mutex<Vec<Option<Duration>>>>,
}

impl<P: Host> Stage<P>
where
    Faulty<P>: Device<Space = Space<P>>,
    PlatformOf<Faulty<P>>: userptr::platforms::std::Threads,
{
    fn new() -> Self {
        let machine = Machine::new();
        let process = machine.process();
        let (fault, heard, asked) = (Arc::default(), Arc::default(), Arc::default());
        let inner = DmaDevice::new(&machine);
        let device =
            Faulty { inner, fault: Arc::clone(&fault), heard: Arc::clone(&heard), asked: Arc::clone(&asked) };
        let context = Context::builder(device).spawn().unwrap();
        Self { machine, process, context, fault, heard, asked }
    }

    fn set(&self, fault: Fault) {
        self.fault.store(fault as usize, Ordering::SeqCst);
    }

    fn heard(&self) -> [usize; 3] {
        [0, 1, 2].map(|which| self.heard[which].load(Ordering::SeqCst))
    }

    /// Objects over neighbouring pages, `Ready`.
    fn ready(&self, objects: usize) -> (userptr::AddrRange, Vec<UserPtr<Faulty<P>>>) {
        let _in = self.machine.enter(&self.process);
        let all = self.process.map(objects * PAGE);
        self.process.fill(all, 1).unwrap();
        let page = |n| userptr::AddrRange::new(all.start() + n * PAGE, PAGE).unwrap();
        let objects: Vec<_> = (0..objects)
            .map(|n| self.context.register(&self.process.space(), page(n), Flags::NONE).unwrap())
            .collect();
        for object in &objects {
            drop(object.acquire().unwrap());
        }
        (all, objects)
    }
}

fn quiet(f: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

/// Ten objects of a device that hangs cost one deadline: the first waits for all of it, the others
/// are asked once each, without waiting.
fn s180_a_hung_device_costs_one_deadline<P: Host>() {
    let stage = Stage::<P>::new();
    let (all, objects) = stage.ready(10);
    stage.set(Fault::Hang);
    let began = Instant::now();
    stage.process.discard(all);
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(95), "nobody waited: {took:?}");
    assert!(took < Duration::from_millis(600), "the deadlines add up: {took:?}");
    let asked = std::mem::take(&mut *stage.asked.lock().unwrap());
    assert_eq!(asked.len(), 10);
    assert!(asked[1..].iter().all(|timeout| *timeout == Some(Duration::ZERO)), "{asked:?}");
    assert!(objects.iter().all(|object| object.state() == State::Quarantined));
    assert_eq!(stage.heard(), [0, 10, 0], "no quarantine is silent");
    assert_eq!(stage.context.stats().quarantined, 10);
    // The next one meets them at once.
    let began = Instant::now();
    stage.process.discard(all);
    assert!(began.elapsed() < Duration::from_millis(95));
    stage.set(Fault::None);
    assert_eq!(stage.context.retry_quarantined(), Outcome::Idle);
    assert_eq!(stage.heard(), [10, 10, 0]);
    assert_eq!(stage.machine.pins(), 0);
}

/// A busy object beside one that has stopped: only the busy one is quarantined, though the time is
/// over.
fn s181_at_the_deadline_each_is_asked_once_more<P: Host>() {
    let stage = Stage::<P>::new();
    let (all, objects) = stage.ready(2);
    let leases: Vec<_> = {
        let _in = stage.machine.enter(&stage.process);
        objects[1..].iter().map(|object| object.acquire().unwrap()).collect()
    };
    // The chain begins with the last: its lease eats the deadline, and the other one is released
    // all the same.
    stage.process.discard(all);
    assert_eq!(objects[1].state(), State::Quarantined);
    assert_eq!(objects[0].state(), State::Idle);
    drop(leases);
    assert_eq!(objects[1].state(), State::Idle);
    assert_eq!(stage.heard(), [2, 1, 1], "released, quarantined, finished by its last lease");
    assert_eq!(stage.machine.pins(), 0);
}

/// A driver that panics in an invalidation: the panic is its thread's, the object is quarantined as
/// that of a lost device, and nobody waits for it. With two objects the second one is not asked: a
/// second panic would abort.
fn s182_a_panic_in_an_invalidation_hangs_nobody<P: Host>() {
    for fault in [Fault::Stop, Fault::WaitIdle, Fault::Unmap] {
        let stage = Stage::<P>::new();
        let (all, objects) = stage.ready(2);
        let notifier = objects[0].record().existing_notifier().unwrap().clone();
        stage.set(fault);
        assert!(quiet(|| drop(notifier.invalidate(all, userptr::Blockable::Yes))), "{fault:?}");
        assert!(objects.iter().all(|object| object.state() == State::Quarantined), "{fault:?} {objects:?}");
        // The window was closed by its guard, and no lock is taken.
        assert_eq!(notifier.stats().windows, 0);
        stage.set(Fault::None);
        assert_eq!(notifier.stats().quarantined, 2);
        let outcome = notifier.invalidate(all, userptr::Blockable::Yes).unwrap().outcome();
        assert_eq!(outcome, Outcome::DeviceLost);
        if fault != Fault::Unmap {
            assert_eq!(notifier.retry_quarantined(), Outcome::Idle);
            assert_eq!(stage.machine.pins(), 0);
        }
        drop(notifier);
        if fault == Fault::Unmap {
            // Its mapping is gone and its pages are not: they leak, nothing worse.
            std::mem::forget(objects);
        }
    }
}

/// A device that is lost under the pages of many address spaces, and is mended: one call releases
/// them all.
fn s262_a_retry_reaches_every_address_space<P: Host>() {
    const MANY: usize = 70;
    let stage = Stage::<P>::new();
    let processes: Vec<Process> = (0..MANY).map(|_| stage.machine.process()).collect();
    let mut objects = Vec::new();
    for process in &processes {
        let _in = stage.machine.enter(process);
        let range = process.map(PAGE);
        process.fill(range, 1).unwrap();
        let object = stage.context.register(&process.space(), range, Flags::NONE).unwrap();
        drop(object.acquire().unwrap());
        objects.push((range, object));
    }
    stage.set(Fault::WaitIdle);
    for (range, object) in &objects {
        let notifier = object.record().existing_notifier().unwrap();
        assert!(quiet(|| drop(notifier.invalidate(*range, userptr::Blockable::Yes))));
    }
    assert_eq!(stage.context.stats().quarantined, MANY);
    stage.set(Fault::None);
    assert_eq!(stage.context.retry_quarantined(), Outcome::Idle);
    assert!(objects.iter().all(|(_, object)| object.state() == State::Idle), "one was passed over");
    assert_eq!((stage.context.stats().revoked, stage.machine.pins()), (MANY, 0));
    drop(objects);
    stage.context.drain();
    assert!(stage.context.registry().is_empty(), "a count is left");
}

/// The same in an eviction and in the last put.
fn s183_a_panic_in_a_release_hangs_nobody<P: Host>() {
    for fault in [Fault::Stop, Fault::WaitIdle] {
        let stage = Stage::<P>::new();
        let (all, mut objects) = stage.ready(2);
        stage.set(fault);
        assert!(quiet(|| objects[0].put_pages().unwrap()));
        assert_eq!(objects[0].state(), State::Quarantined);
        let last = objects.pop().unwrap();
        let notifier = last.record().existing_notifier().unwrap().clone();
        assert!(quiet(|| drop(last)));
        assert_eq!(notifier.stats().quarantined, 2);
        stage.set(Fault::None);
        assert_eq!(notifier.retry_quarantined(), Outcome::Idle);
        assert_eq!(stage.machine.pins(), 0);
        drop(notifier);
        stage.process.unmap(all);
    }
}

/// A driver that panics while it maps, here and on a worker: the ticket and the worker's place come
/// back, the pages are unpinned, and the worker lives.
fn s184_a_panic_in_prepare_leaves_nothing<P: Host>() {
    let stage = Stage::<P>::new();
    let (all, objects) = stage.ready(1);
    let object = &objects[0];
    for worker in [false, true] {
        for _ in 0..20 {
            stage.process.discard(all);
            if !worker {
                stage.process.fill(all, 1).unwrap();
            }
            stage.set(Fault::Prepare);
            let _in = stage.machine.enter(&stage.process);
            let panicked = quiet(|| {
                // Pages that are not there yet are a worker's.
                let _ = object.try_acquire();
            });
            assert_eq!(panicked, !worker);
            until(|| object.state() == State::Idle && stage.context.stats().workers == 0);
            assert_eq!(stage.machine.pins(), 0);
            stage.set(Fault::None);
        }
    }
    let _in = stage.machine.enter(&stage.process);
    drop(object.acquire().unwrap());
}

crate::on_each_host! {
    s180_a_hung_device_costs_one_deadline,
    s181_at_the_deadline_each_is_asked_once_more,
    s182_a_panic_in_an_invalidation_hangs_nobody,
    s262_a_retry_reaches_every_address_space,
    s183_a_panic_in_a_release_hangs_nobody,
    s184_a_panic_in_prepare_leaves_nothing,
}
