//! What the scenario tests share: a world to run in, a deadline, and each scenario on each host.
#![allow(unreachable_pub, missing_debug_implementations, reason = "tests")]

use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, Once};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use userptr::notifier::{NotifierStats, State};
use userptr::platforms::std::Std;
use userptr::{
    AddrRange, Context, Error, Lease, Limits, Notifier, Platform, Ref, SharedQueue, SoftWork, UserPtr,
};
use userptr_sim::platform::Sim;
use userptr_sim::{DmaDevice, DmaMap, Engine, Entered, Job, Machine, PAGE, Process, Record, Seam, Space};

/// A host of the scenarios.
pub trait Host: Platform<Queue = Ref<SharedQueue<Self>, Self>, Work = SoftWork<Self>> {
    /// Whether it checks locks and meters allocations.
    const CHECKS: bool;
}
impl Host for Std {
    const CHECKS: bool = false;
}
impl Host for Sim {
    const CHECKS: bool = true;
}

pub type Device<P> = DmaDevice<P>;
pub type Object<P> = UserPtr<Device<P>>;
pub type Ctx<P> = Context<Device<P>>;

/// Long enough for any machine, short enough for a report.
const DEADLINE: Duration = Duration::from_secs(if cfg!(miri) { 600 } else { 60 });

/// What panicked so far, in any thread: a scenario that hangs mostly does so because one of its
/// threads panicked.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static HOOK: Once = Once::new();

/// Runs a scenario. If it has not ended at the deadline, says so and ends the whole test binary: a
/// thread that hangs cannot be ended alone.
pub fn deadline(name: &str, body: impl FnOnce() + Send + 'static) {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.lock().unwrap().push(info.to_string());
            before(info);
        }));
    });
    let (done, wait) = channel::<()>();
    let thread = thread::Builder::new().name(name.into()).spawn(move || {
        // Dropped at the end of the thread, panic or not.
        let _done = done;
        body();
    });
    if wait.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
        let mut err = std::io::stderr();
        let _ = writeln!(err, "{name} hangs: not ended after {DEADLINE:?}. What panicked in this binary:");
        for panic in PANICS.lock().unwrap().iter() {
            let _ = writeln!(err, "  {panic}");
        }
        std::process::abort();
    }
    if let Err(panic) = thread.unwrap().join() {
        std::panic::resume_unwind(panic);
    }
}

/// Makes a test of each scenario on each host.
#[macro_export]
macro_rules! on_each_host {
    ($($(#[$meta:meta])* $name:ident),* $(,)?) => {
        $crate::on_host! { on_std, userptr::platforms::std::Std; $($(#[$meta])* $name),* }
        $crate::on_host! { on_sim, userptr_sim::platform::Sim; $($(#[$meta])* $name),* }
    };
}

/// Makes a test of each scenario on one host.
#[macro_export]
macro_rules! on_host {
    ($module:ident, $host:ty; $($(#[$meta:meta])* $name:ident),* $(,)?) => {
        mod $module {
            $(
                $(#[$meta])*
                #[test]
                fn $name() {
                    $crate::world::deadline(stringify!($name), super::$name::<$host>);
                }
            )*
        }
    };
}

/// How a world is set up.
pub struct Setup {
    pub limits: Limits,
    /// Cancels run on a queue, not in the thread that invalidates.
    pub queued: bool,
    /// Threads for each queue. Without, the test runs the queues itself, in [`World::work`].
    pub threads: usize,
}

impl Default for Setup {
    fn default() -> Self {
        // No deadline: a wait that should end and does not is found by the watchdog, and not taken
        // for a time-out.
        let limits = Limits::default().read_only(true).deadline(None);
        Self { limits, queued: false, threads: 0 }
    }
}

impl Setup {
    pub fn deadline(ms: u64) -> Self {
        let mut this = Self::default();
        this.limits.deadline = Some(Duration::from_millis(ms));
        this
    }
    pub fn queued(mut self, queued: bool) -> Self {
        self.queued = queued;
        self
    }
    pub fn threads(mut self, n: usize) -> Self {
        self.threads = n;
        self
    }
    pub fn limits(mut self, f: impl FnOnce(&mut Limits)) -> Self {
        f(&mut self.limits);
        self
    }
}

/// A machine with one process and one device.
pub struct World<P: Host> {
    pub machine: Machine,
    pub process: Process,
    pub ctx: Ctx<P>,
    pub pin_queue: P::Queue,
    pub revoke_queue: Option<P::Queue>,
    pub release_queue: P::Queue,
    threads: Vec<JoinHandle<()>>,
}

fn queue<P: Host>(machine: &Machine, n: usize, threads: &mut Vec<JoinHandle<()>>) -> P::Queue {
    let queue: P::Queue = SharedQueue::try_new().unwrap();
    for _ in 0..n {
        let (queue, machine) = (queue.queue().clone(), machine.clone());
        threads.push(thread::spawn(move || {
            let _in = machine.enter_nobody();
            queue.work();
        }));
    }
    queue
}

impl<P: Host> World<P> {
    pub fn new() -> Self {
        Self::with(Setup::default())
    }

    pub fn with(setup: Setup) -> Self {
        let machine = Machine::new();
        let process = machine.process();
        // A thread that waits for a cancel cannot run it: somebody else has to.
        let revoke_threads = setup.queued.then(|| setup.threads.max(1));
        Self::on(machine, process, setup, revoke_threads)
    }

    /// The revoke queue has no thread either: only for tests in which nobody waits for a
    /// cancel.
    pub fn with_stepped_revocations(setup: Setup) -> Self {
        let machine = Machine::new();
        let process = machine.process();
        Self::on(machine, process, setup, Some(0))
    }

    fn on(machine: Machine, process: Process, setup: Setup, revoke_threads: Option<usize>) -> Self {
        let _metered = machine.enter_nobody();
        let mut threads = Vec::new();
        let pin_queue = queue::<P>(&machine, setup.threads, &mut threads);
        let release_queue = queue::<P>(&machine, setup.threads, &mut threads);
        let revoke_queue = revoke_threads.map(|n| queue::<P>(&machine, n, &mut threads));
        let device = Device::with_limits(&machine, setup.limits);
        let mut builder =
            Context::builder(device).pin_queue(pin_queue.clone()).release_queue(release_queue.clone());
        if let Some(queue) = &revoke_queue {
            builder = builder.revoke_queue(queue.clone());
        }
        let ctx = builder.build().unwrap();
        Self { machine, process, ctx, pin_queue, revoke_queue, release_queue, threads }
    }

    /// Another device on the same machine, with queues of its own. Ends with [`World::end_device`].
    pub fn another_device(&self, setup: Setup) -> Self {
        let revoke_threads = setup.queued.then(|| setup.threads.max(1));
        Self::on(self.machine.clone(), self.process.record().users().unwrap(), setup, revoke_threads)
    }

    /// This thread runs in the process.
    pub fn enter(&self) -> Entered {
        self.machine.enter(&self.process)
    }

    pub fn record(&self) -> &Record {
        self.process.record()
    }

    pub fn space(&self) -> Space<P> {
        Space::of(&self.process)
    }

    pub fn engine(&self) -> &Engine {
        self.ctx.device().engine()
    }

    pub fn try_create(&self, address: usize, len: usize, flags: u32) -> Result<Object<P>, Error> {
        self.ctx.register_raw(&self.space(), address, len, flags)
    }

    pub fn create(&self, address: usize, pages: usize) -> Object<P> {
        self.try_create(address, pages * PAGE, 0).unwrap()
    }

    /// New memory, written with `1`.
    pub fn memory(&self, pages: usize) -> usize {
        let address = self.process.mmap(pages * PAGE);
        self.process.touch(address, pages * PAGE, 1).unwrap();
        address
    }

    /// New memory and an object over it.
    pub fn object(&self, pages: usize) -> (usize, Object<P>) {
        let address = self.memory(pages);
        (address, self.create(address, pages))
    }

    /// New memory and an object over it, with its pages pinned.
    pub fn pinned(&self, pages: usize) -> (usize, Object<P>) {
        let (address, object) = self.object(pages);
        drop(self.lease(&object));
        assert_eq!(object.state(), State::Ready);
        (address, object)
    }

    /// A lease; runs the queues if that helps.
    pub fn lease<'a>(&self, object: &'a Object<P>) -> Lease<'a, Device<P>> {
        for _ in 0..64 {
            match object.try_acquire() {
                Ok(lease) => return lease,
                Err(Error::Again) => self.work(),
                Err(error) => panic!("no lease: {error}"),
            }
        }
        panic!("no lease after many tries: {object:?}")
    }

    /// Runs everything that is queued, in this thread, until nothing is left; if the queues have
    /// threads, waits for them.
    pub fn work(&self) {
        let _in = self.machine.enter_nobody();
        loop {
            let ran = self.pin_queue.run_one() | self.revoke_queue.as_ref().is_some_and(|q| q.run_one());
            if !ran && !self.release_queue.run_one() {
                break;
            }
        }
        self.ctx.drain();
    }

    /// The notifier's numbers for the process of an object.
    pub fn stats(&self, object: &Object<P>) -> NotifierStats {
        object.record().existing_notifier().unwrap().stats()
    }

    pub fn notifier(&self, object: &Object<P>) -> Ref<Notifier<P>, P> {
        object.record().existing_notifier().unwrap().clone()
    }

    /// What the device reads through a lease.
    pub fn read(&self, lease: &Lease<'_, Device<P>>, offset: usize) -> u8 {
        self.engine().read(lease.map(), offset)
    }

    /// What the device writes through a lease.
    pub fn write(&self, lease: &Lease<'_, Device<P>>, offset: usize, value: u8) {
        lease.mark_written();
        self.engine().write(lease.map(), offset, value);
    }

    /// A job that goes on after the lease is dropped.
    pub fn job(&self, lease: &Lease<'_, Device<P>>) -> Job {
        self.engine().start(lease.map())
    }

    pub fn map(&self, lease: &Lease<'_, Device<P>>) -> DmaMap {
        lease.map().clone()
    }

    /// Holds up the next thread that reaches the seam.
    pub fn hold(&self, seam: Seam) -> Gate {
        let ((tell, reached), (open, opened)) = (channel(), channel());
        self.machine.once(seam, move |_| {
            tell.send(()).unwrap();
            let _ = opened.recv();
        });
        Gate { reached, open }
    }

    /// How often a seam was reached.
    pub fn count(&self, seam: Seam) -> usize {
        self.machine.trace().iter().filter(|e| e.seam == seam).count()
    }

    /// Ends the device: everything runs to its end, nothing is left in the context.
    fn end_device(self) -> (Machine, Process) {
        let _in = self.machine.enter_nobody();
        self.work();
        let stats = self.ctx.stats();
        assert_eq!((stats.spaces, stats.workers), (0, 0), "address spaces or workers are left");
        assert_eq!(self.ctx.handles(), 1, "somebody still holds the context");
        let Self { machine, process, ctx, pin_queue, revoke_queue, release_queue, threads } = self;
        drop(ctx);
        for queue in [Some(pin_queue), revoke_queue, Some(release_queue)].into_iter().flatten() {
            queue.drain_with_threads(!threads.is_empty());
            queue.shut_down();
        }
        for thread in threads {
            thread.join().unwrap();
        }
        (machine, process)
    }

    /// Ends another device of the same machine.
    pub fn end(self) {
        drop(self.end_device());
    }

    /// Ends the world: nothing is left of it, and nothing happened that must not.
    #[track_caller]
    pub fn finish(self) {
        let (machine, process) = self.end_device();
        let _in = machine.enter_nobody();
        drop(process);
        machine.assert_empty();
    }
}

/// A closed gate at a seam; dropping it lets the thread go on.
pub struct Gate {
    pub reached: Receiver<()>,
    pub open: Sender<()>,
}

impl Gate {
    /// Waits until a thread stands there.
    pub fn reached(&self) {
        self.reached.recv().unwrap();
    }
}

trait Drained {
    fn drain_with_threads(&self, threads: bool);
}

impl<P: Host> Drained for Ref<SharedQueue<P>, P> {
    fn drain_with_threads(&self, threads: bool) {
        use userptr::RawQueue;
        if threads {
            self.drain();
        }
        assert!(self.is_empty(), "work is left");
    }
}

pub fn range(address: usize, len: usize) -> AddrRange {
    AddrRange::new(address, len).unwrap()
}

/// How often a race is run.
pub const fn rounds(n: usize) -> usize {
    if cfg!(miri) { 10 } else { n }
}

/// Waits until `f` holds, without sleeping for a guess: yields.
pub fn until(mut f: impl FnMut() -> bool) {
    while !f() {
        thread::yield_now();
    }
}
