//! What the models of the protocol play on: an address space with one page-table generation, and objects that pin it.

use core::time::Duration;
use loom::sync::Arc;
use loom::sync::atomic::AtomicUsize as Shared;
use std::sync::atomic::{AtomicUsize, Ordering};
use userptr::backend::loom::{Loom, LoomCell};
use userptr::notifier::{Attachment, Hold, Refused, Subscriber};
use userptr::platform::Cell;
use userptr::{AddrRange, Blockable, Fate, Notifier, Object, Outcome, Ref};

pub type LoomRef<T> = Ref<T, Loom>;
pub type Home = LoomRef<Notifier<Loom>>;

/// One page of address space per number.
pub fn pages(first: usize, count: usize) -> AddrRange {
    AddrRange::new(first * 4096, count * 4096).unwrap()
}

/// The page table of one address space: a generation that every change of a mapping moves on.
pub struct World {
    generation: Shared,
    /// Pins in existence. Bookkeeping only: not a step of the model.
    pins: AtomicUsize,
}

impl World {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { generation: Shared::new(0), pins: AtomicUsize::new(0) })
    }

    /// The generation that a walk of the page table finds: always the newest, as under the host's lock.
    pub fn walk(&self) -> usize {
        self.generation.fetch_add(0, Ordering::AcqRel)
    }

    /// Changes the mapping.
    pub fn zap(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
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
}

pub fn notifier() -> Home {
    Ref::try_new(Notifier::blank(None)).map_err(|(_, e)| e).unwrap()
}

/// An object of the protocol and nothing more: its "pages" are the generation that it pinned.
pub struct Probe {
    attachment: Attachment<Loom>,
    home: Home,
    world: Arc<World>,
    installed: LoomCell<Option<usize>>,
    deadline: Option<Duration>,
}

// SAFETY: `installed` is touched under the protocol that the models check.
unsafe impl Send for Probe {}
// SAFETY: as above.
unsafe impl Sync for Probe {}

// SAFETY: `settle` settles the attachment; `last_put` detaches.
unsafe impl Object<Loom> for Probe {
    unsafe fn settle(&self) {
        // SAFETY: handed on.
        unsafe { self.attachment.settle() }
    }
    fn last_put(&self) -> Fate {
        // SAFETY: called by the last put.
        unsafe { Notifier::detach(self) }
    }
}

// SAFETY: the attachment is a field, the home never changes, `last_put` detaches.
unsafe impl Subscriber<Loom> for Probe {
    fn attachment(&self) -> &Attachment<Loom> {
        &self.attachment
    }
    fn home(&self) -> &Notifier<Loom> {
        &self.home
    }
    fn deadline(&self) -> Option<Duration> {
        self.deadline
    }
    fn stop(&self) {
        self.installed.with(|_| ());
    }
    fn cancel(&self, _: Option<Duration>) -> Outcome {
        // SAFETY: the leases are gone and the cancel is the caller's: loom checks it.
        self.installed.with_mut(|i| unsafe { *i = None });
        self.world.unpin();
        Outcome::Idle
    }
}

impl Probe {
    pub fn new(home: &Home, world: &Arc<World>, range: AddrRange) -> LoomRef<Self> {
        Self::with_deadline(home, world, range, None)
    }

    pub fn with_deadline(
        home: &Home,
        world: &Arc<World>,
        range: AddrRange,
        deadline: Option<Duration>,
    ) -> LoomRef<Self> {
        let this = Self {
            attachment: Attachment::blank(range),
            home: home.clone(),
            world: world.clone(),
            installed: <LoomCell<_> as Cell<_>>::new(None),
            deadline,
        };
        Ref::try_new(this).map_err(|(_, e)| e).unwrap()
    }

    /// Attach, pin, commit. `false`: refused or superseded.
    pub fn acquire(this: &LoomRef<Self>) -> bool {
        match Notifier::attach(this) {
            Ok(ticket) => {
                let seen = this.world.pin();
                let install = || {
                    // SAFETY: runs under the home's lock, with our ticket: loom checks it.
                    this.installed.with_mut(|i| unsafe { *i = Some(seen) });
                };
                let committed = Notifier::commit(this, ticket, false, install).is_ok();
                if !committed {
                    this.world.unpin();
                }
                committed
            }
            Err(Refused::Ready) => true,
            Err(_) => false,
        }
    }

    /// Uses the pages under a lease, if there are any: they must be what the page table says.
    pub fn touch(this: &LoomRef<Self>) -> bool {
        let Some(hold) = Notifier::lease(this) else { return false };
        Self::check(&hold);
        true
    }

    pub fn check<R: std::borrow::Borrow<LoomRef<Self>>>(hold: &Hold<Self, Loom, R>) {
        let this = hold.object();
        // SAFETY: under a lease: loom checks it.
        let seen = this.installed.with(|i| unsafe { *i });
        assert_eq!(seen, Some(this.world.walk()), "a lease on stale pages");
    }

    /// No pages. Loom checks that everybody who had some is ordered before this.
    pub fn assert_released(&self) {
        // SAFETY: only called where nobody may use the pages: loom checks it.
        self.installed.with_mut(|i| unsafe { assert_eq!(*i, None, "pages installed") });
    }
}

/// start, change of the mapping, end; with the promise checked between.
pub fn invalidate(home: &Home, world: &World, range: AddrRange, probes: &[&LoomRef<Probe>]) {
    let outcome = home.invalidate_start(range, Blockable::Yes).unwrap();
    assert_eq!(outcome, Outcome::Idle);
    // Nobody attaches before the end, so this may look without a lock.
    for probe in probes {
        probe.assert_released();
    }
    world.zap();
    home.invalidate_end(range);
}

/// At the end of a model: nothing attached, nothing open, nothing pinned.
pub fn assert_quiet(home: &Home, world: &World) {
    let stats = home.stats();
    assert_eq!((stats.attached, stats.windows, stats.quarantined), (0, 0, 0), "{stats:?}");
    assert_eq!(world.pins(), 0, "pins left");
    assert_eq!(Ref::count(home), 1, "references to the notifier left");
}
