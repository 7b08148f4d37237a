//! What the protocol plays on: an address space with one page-table generation, and objects that
//! pin it.

use super::Stage;
use super::ext::AddressSpaceSide;
use core::time::Duration;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use userptr::notifier::{AttachError, Attachment, Event, Holder, LeaseGuard, Subscriber, Ticket};
use userptr::platform::{AtomicUsize as _, Cell, Load, Platform, Rmw, Store};
use userptr::{AddrRange, Blockable, LastPut, Notifier, Outcome, Ref, RefCounted, SharedQueue};

pub type Home<P> = Ref<Notifier<P>, P>;
pub type ProbeRef<P> = Ref<Probe<P>, P>;
pub type Queue<P> = Ref<SharedQueue<P>, P>;

/// One page of address space per number.
pub fn pages(first: usize, count: usize) -> AddrRange {
    AddrRange::new(first * 4096, count * 4096).unwrap()
}

thread_local! {
    /// The clock of a body of one thread.
    static CLOCK: std::cell::Cell<Duration> = const { std::cell::Cell::new(Duration::ZERO) };
}

/// What [`pass`] has let pass: the clock of a platform that has none of its own.
pub fn now() -> Duration {
    CLOCK.get()
}

/// Lets time pass.
pub fn pass(time: Duration) {
    CLOCK.set(CLOCK.get() + time);
}

/// The most changes of a mapping in one execution, and one.
const GENERATIONS: usize = 8;

/// The page table of one address space: a generation that every change of a mapping moves on, and
/// one page frame per generation. Shared by an `Arc` of the standard library, which is no step of a
/// model.
///
/// It orders nothing: whatever a walk has to see, and whoever may use a frame, the core has to
/// order. Real page tables are read without a lock, too.
pub struct World<P: Platform> {
    generation: P::Usize,
    /// What a generation maps. Whoever maps one anew takes its frame; from there on nobody may use
    /// it.
    frames: [P::Cell<bool>; GENERATIONS],
    /// Pins in existence. Bookkeeping only: not a step of a model.
    pins: AtomicUsize,
    /// The device does not stop in time.
    stuck: P::Usize,
    /// The calls into the driver that unwind. Bookkeeping, like what follows.
    unwinding: AtomicUsize,
    /// What the objects reported.
    events: Mutex<Vec<Event>>,
    /// The deadlines that releases were given.
    timeouts: Mutex<Vec<Option<Duration>>>,
}

/// The driver unwinds when it is asked to stop.
pub const STOP: usize = 1;
/// The driver unwinds when it is asked to release the pages.
pub const RELEASE: usize = 2;

// SAFETY: the frames are used under the protocol that is under test: the checker looks.
unsafe impl<P: Platform> Send for World<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for World<P> {}

impl<P: Platform> World<P> {
    #[allow(clippy::new_ret_no_self, reason = "always shared")]
    pub fn new() -> Arc<Self> {
        let (generation, stuck) = (P::Usize::new(0), P::Usize::new(0));
        let frames = core::array::from_fn(|_| <P::Cell<_> as Cell<_>>::new(true));
        let (unwinding, events, timeouts) = (AtomicUsize::new(0), Mutex::default(), Mutex::default());
        Arc::new(Self { generation, frames, pins: AtomicUsize::new(0), stuck, unwinding, events, timeouts })
    }

    /// The generation that a walk of the page table finds: the newest that is ordered before, or
    /// any later one.
    pub fn walk(&self) -> usize {
        self.generation.load(Load::Relaxed)
    }

    /// Changes the mapping: the frame that was mapped belongs to somebody else.
    pub fn zap(&self) {
        self.free(self.remap());
    }

    /// The first half: the page table changes. Returns the generation that was mapped.
    pub fn remap(&self) -> usize {
        self.generation.fetch_add(1, Rmw::Relaxed)
    }

    /// The second half: its frame belongs to somebody else.
    pub fn free(&self, old: usize) {
        // SAFETY: the promise of a start: nobody uses the frame any more. The checker looks.
        self.frames[old].with_mut(|mapped| unsafe { *mapped = false });
    }

    /// Uses the frame of a generation, as the processor or the device does. It must be the one that
    /// is mapped now: a read-modify-write finds the last value that was written, and orders
    /// nothing.
    pub fn use_frame(&self, seen: usize) {
        if std::thread::panicking() {
            // A failed body releases what it has: one complaint is enough.
            return;
        }
        assert_eq!(seen, self.generation.fetch_add(0, Rmw::Relaxed), "stale pages");
        self.use_old_frame(seen);
    }

    /// The same where the page table may have changed already, and the frame is not yet anybody
    /// else's.
    pub fn use_old_frame(&self, seen: usize) {
        // SAFETY: whoever maps the generation anew waits for us: the checker looks.
        self.frames[seen].with(|mapped| unsafe { assert!(*mapped, "used after the mapping changed") });
    }

    pub fn pin(&self) -> usize {
        let seen = self.walk();
        self.pins.fetch_add(1, Ordering::Relaxed);
        seen
    }

    pub fn unpin(&self) {
        assert_ne!(self.pins.fetch_sub(1, Ordering::Relaxed), 0, "unpinned twice");
    }

    pub fn pins(&self) -> usize {
        self.pins.load(Ordering::Relaxed)
    }

    /// The calls that unwind from now on: [`STOP`], [`RELEASE`].
    pub fn set_unwinding(&self, calls: usize) {
        self.unwinding.store(calls, Ordering::Relaxed);
    }

    fn unwind(&self, call: usize) {
        if self.unwinding.load(Ordering::Relaxed) & call != 0 {
            // Without the hook's message: it is meant.
            std::panic::resume_unwind(Box::new("the driver unwinds"));
        }
    }

    /// What was reported since the last look.
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The deadlines that releases were given since the last look.
    pub fn take_timeouts(&self) -> Vec<Option<Duration>> {
        std::mem::take(&mut *self.timeouts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the device stops in time from now on.
    pub fn set_stuck(&self, stuck: bool) {
        self.stuck.store(usize::from(stuck), Store::Relaxed);
    }
}

pub fn notifier<P: Platform>() -> Home<P> {
    Notifier::try_new(None).unwrap()
}

pub fn queue<P: Stage>() -> Queue<P> {
    SharedQueue::try_new().unwrap()
}

/// A notifier whose cancels run on a queue.
pub fn queued_notifier<P: Stage>(queue: &Queue<P>) -> Home<P> {
    Notifier::try_new(Some(queue.clone())).unwrap()
}

/// An object of the protocol and nothing more: its "pages" are the generation that it pinned.
pub struct Probe<P: Platform> {
    attachment: Attachment<P>,
    home: Home<P>,
    world: Arc<World<P>>,
    installed: P::Cell<Option<usize>>,
    deadline: Option<Duration>,
}

// SAFETY: `installed` is touched under the protocol that is under test.
unsafe impl<P: Platform> Send for Probe<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for Probe<P> {}

// SAFETY: `init` settles the attachment; `last_put` detaches.
unsafe impl<P: Platform> RefCounted<P> for Probe<P> {
    unsafe fn init(&self) {
        // SAFETY: handed on.
        unsafe { self.attachment.init() }
    }
    unsafe fn last_put(&self) -> LastPut {
        // SAFETY: called by the last put.
        unsafe { Notifier::detach(self) }
    }
}

// SAFETY: the attachment is a field, the home never changes, `last_put` detaches.
unsafe impl<P: Platform> Subscriber<P> for Probe<P> {
    fn attachment(&self) -> &Attachment<P> {
        &self.attachment
    }
    fn notifier(&self) -> &Notifier<P> {
        &self.home
    }
    fn deadline(&self) -> Option<Duration> {
        self.deadline
    }
    unsafe fn stop(&self) {
        self.installed.with(|_| ());
        self.world.unwind(STOP);
    }
    unsafe fn release(&self, timeout: Option<Duration>) -> Outcome {
        self.world.unwind(RELEASE);
        self.world.timeouts.lock().unwrap_or_else(PoisonError::into_inner).push(timeout);
        if self.world.stuck.load(Load::Relaxed) != 0 {
            // It waits as long as it may.
            pass(timeout.unwrap_or_default());
            return Outcome::TimedOut;
        }
        // SAFETY: the leases are gone and the cancel is the caller's: the checker looks.
        let seen = self.installed.with_mut(|i| unsafe { (*i).take() });
        // The last that the device does to it.
        self.world.use_frame(seen.expect("no pages to release"));
        self.world.unpin();
        Outcome::Idle
    }
    fn event(&self, event: Event) {
        self.world.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

impl<P: Platform> Probe<P> {
    #[allow(clippy::new_ret_no_self, reason = "always shared")]
    pub fn new(home: &Home<P>, world: &Arc<World<P>>, range: AddrRange) -> ProbeRef<P> {
        Self::with_deadline(home, world, range, None)
    }

    pub fn with_deadline(
        home: &Home<P>,
        world: &Arc<World<P>>,
        range: AddrRange,
        deadline: Option<Duration>,
    ) -> ProbeRef<P> {
        Self::around(Attachment::uninit(range), home, world, deadline)
    }

    /// With several lease words.
    pub fn spread(
        home: &Home<P>,
        world: &Arc<World<P>>,
        range: AddrRange,
        deadline: Option<Duration>,
    ) -> ProbeRef<P> {
        Self::around(Attachment::spread(range).unwrap(), home, world, deadline)
    }

    fn around(
        attachment: Attachment<P>,
        home: &Home<P>,
        world: &Arc<World<P>>,
        deadline: Option<Duration>,
    ) -> ProbeRef<P> {
        let (home, world) = (home.clone(), world.clone());
        let installed = <P::Cell<_> as Cell<_>>::new(None);
        Ref::try_new(Self { attachment, home, world, installed, deadline }).unwrap()
    }

    pub fn leases(&self) -> usize {
        self.attachment.leases()
    }

    /// Attach, pin, commit. `false`: refused or superseded.
    pub fn acquire(this: &ProbeRef<P>) -> bool {
        match Notifier::attach(this) {
            Ok(ticket) => {
                let seen = this.world.pin();
                let committed = Self::commit(this, ticket, seen);
                if !committed {
                    this.world.unpin();
                }
                committed
            }
            Err(AttachError::Ready) => true,
            Err(_) => false,
        }
    }

    /// Commits what was pinned.
    pub fn commit(this: &ProbeRef<P>, ticket: Ticket, seen: usize) -> bool {
        // SAFETY: the closure installs what a lease holder reads, and leaves no lease.
        unsafe { Notifier::commit(this, ticket, false, || this.install(seen)) }.is_ok()
    }

    /// For a commit.
    pub fn install(&self, seen: usize) {
        // SAFETY: runs under the home's lock, with the commit's ticket: the checker looks.
        self.installed.with_mut(|i| unsafe { *i = Some(seen) });
    }

    /// Uses the pages under a lease, if there are any: they must be what the page table says.
    pub fn touch(this: &ProbeRef<P>) -> bool {
        let Some(hold) = Notifier::lease(this) else { return false };
        Self::check(&hold);
        true
    }

    pub fn check<R: Holder<Self, P>>(hold: &LeaseGuard<Self, P, R>) {
        let this = hold.object();
        // SAFETY: under a lease: the checker looks.
        let seen = this.installed.with(|i| unsafe { *i });
        this.world.use_frame(seen.expect("a lease without pages"));
    }

    /// No pages. The checker looks whether everybody who had some is ordered before this.
    pub fn assert_released(&self) {
        // SAFETY: only called where nobody may use the pages: the checker looks.
        self.installed.with_mut(|i| unsafe { assert_eq!(*i, None, "pages installed") });
    }
}

/// start, change of the mapping, end.
pub fn start_zap_end<P: Platform>(home: &Home<P>, world: &World<P>, range: AddrRange) {
    assert_eq!(home.invalidate_and_wait(range, Blockable::Yes).unwrap(), Outcome::Idle);
    world.zap();
    home.end(range);
}

/// The same, with the promise checked in between.
pub fn invalidate<P: Platform>(home: &Home<P>, world: &World<P>, range: AddrRange, probe: &ProbeRef<P>) {
    assert_eq!(home.invalidate_and_wait(range, Blockable::Yes).unwrap(), Outcome::Idle);
    // Nobody attaches before the end, so this may look without a lock.
    probe.assert_released();
    world.zap();
    home.end(range);
}

/// At the end: nothing attached, nothing open, nothing pinned.
pub fn assert_quiet<P: Platform>(home: &Home<P>, world: &World<P>) {
    let stats = home.stats();
    assert_eq!((stats.attached, stats.windows, stats.quarantined), (0, 0, 0), "{stats:?}");
    assert_eq!(world.pins(), 0, "pins left");
    assert_eq!(Ref::count(home), 1, "references to the notifier left");
}
