//! The memory of one process, in a model.

use super::{Loom, LoomCell, LoomUsize};
use crate::address_space::{AddressSpace, Current, ForeignMemory, NoMemory, Pages, Usage, Users};
use crate::error::Error;
use crate::notifier::{Blockable, Notifier, Outcome};
use crate::platform::{AtomicUsize as _, Cell, Load, Rmw, Store};
use crate::range::AddrRange;
use crate::refcount::Ref;
use ::loom::sync::{Condvar, Mutex, MutexGuard};
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::vec::Vec;

extern crate std;

type Home = Ref<Notifier<Loom>, Loom>;

/// The memory of one process, as an address space for models. Clones are the same memory.
///
/// All of it is mapped, to frames that change together: frame 0 at first, another one after each
/// [`replace`](Self::replace). Every access of a device to a frame ([`dma`](Self::dma)) is a step
/// that the checker sees. The page table is a relaxed word and orders nothing, as a real one is
/// read without a lock: whatever has to be ordered, the core and the driver have to order.
#[derive(Clone)]
pub struct Memory {
    inner: Arc<Inner>,
}

struct Inner {
    /// The number of the frame that is mapped.
    table: LoomUsize,
    /// 0 once the process has ended.
    users: LoomUsize,
    registered: Mutex<Registered>,
    /// `unregister` waits here for callbacks.
    quiet: Condvar,
    /// Whether each frame belongs to somebody else by now. The list is bookkeeping and no step of a
    /// model; the cells are tracked.
    frames: std::sync::Mutex<Vec<Arc<Owner>>>,
    /// Bookkeeping: no step of a model.
    pins: AtomicUsize,
}

struct Registered {
    notifiers: Vec<Home>,
    windows: Vec<AddrRange>,
    callbacks: usize,
}

/// Whether a frame belongs to somebody else by now.
struct Owner(LoomCell<bool>);

// SAFETY: the checker fails the model at two accesses of which one writes and neither is ordered
// before the other.
unsafe impl Sync for Owner {}

/// A pinned page: the frame that was mapped when it was pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame(usize);

impl Memory {
    /// Makes memory. To be called in the model, as everything that the checker tracks.
    #[must_use]
    pub fn new() -> Self {
        let registered = Registered { notifiers: Vec::new(), windows: Vec::new(), callbacks: 0 };
        let inner = Inner {
            table: LoomUsize::new(0),
            users: LoomUsize::new(1),
            registered: Mutex::new(registered),
            quiet: Condvar::new(),
            frames: std::sync::Mutex::default(),
            pins: AtomicUsize::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Does what a device does to a page that it was given: uses it, whatever the process maps by
    /// now.
    ///
    /// # Panics
    /// If the frame belongs to somebody else. An access that is not ordered before the frame is
    /// given away fails the model, too: "Causality violation".
    #[track_caller]
    pub fn dma(&self, page: Frame) {
        // A failed model releases what it has: one complaint is enough.
        if !std::thread::panicking() {
            let owner = self.owner(page.0);
            // SAFETY: the checker looks whether the access is ordered.
            let gone = owner.0.with(|gone| unsafe { *gone });
            assert!(!gone, "the device used a page after the unmap had returned");
        }
    }

    /// Maps other pages over the range, as `mmap(MAP_FIXED)` does: the start of an invalidation,
    /// the change of the page table, the end. Returns how the start ended. After
    /// [`Outcome::Idle`] the old frame is given to somebody else; otherwise the device still has
    /// it.
    pub fn replace(&self, range: AddrRange) -> Outcome {
        let notifiers = self.enter(|registered| registered.windows.push(range));
        // Every device is asked to stop before one is waited for.
        let pending: Vec<_> =
            notifiers.iter().filter_map(|n| n.invalidate_start(range, Blockable::Yes).ok()).collect();
        let mut worst = Outcome::Idle;
        for pending in pending {
            worst = worst.max(pending.finish());
        }
        self.leave(notifiers);
        let old = self.inner.table.fetch_add(1, Rmw::Relaxed);
        if worst == Outcome::Idle {
            self.give_away(old);
        }
        let notifiers = self.enter(|registered| {
            let open = registered.windows.iter().position(|open| *open == range);
            open.map(|at| registered.windows.swap_remove(at));
        });
        for notifier in &notifiers {
            // SAFETY: its start, or its registration, opened this window, and the page table has
            // changed.
            unsafe { notifier.invalidate_end(range) };
        }
        self.leave(notifiers);
        worst
    }

    /// Ends the process: nothing can be pinned any more, and every object is revoked. Returns how
    /// that ended.
    pub fn exit(&self) -> Outcome {
        self.inner.users.store(0, Store::Relaxed);
        let notifiers = self.enter(|_| ());
        let worst = notifiers.iter().map(|notifier| notifier.exit()).max().unwrap_or(Outcome::Idle);
        self.leave(notifiers);
        if worst == Outcome::Idle {
            self.give_away(self.inner.table.load(Load::Relaxed));
        }
        worst
    }

    /// Pins that were not given back, over all frames.
    #[must_use]
    pub fn pins(&self) -> usize {
        self.inner.pins.load(Ordering::Relaxed)
    }

    /// Whoever maps the frame anew writes to it.
    fn give_away(&self, frame: usize) {
        // SAFETY: the checker looks whether the access is ordered behind every other.
        self.owner(frame).0.with_mut(|gone| unsafe { *gone = true });
    }

    fn owner(&self, number: usize) -> Arc<Owner> {
        let mut frames = self.inner.frames.lock().unwrap_or_else(PoisonError::into_inner);
        while frames.len() <= number {
            frames.push(Arc::new(Owner(LoomCell::new(false))));
        }
        frames.get(number).cloned().unwrap_or_else(|| Arc::new(Owner(LoomCell::new(true))))
    }

    fn registered(&self) -> MutexGuard<'_, Registered> {
        self.inner.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In one section: `step`, and who is registered. Their callbacks run until
    /// [`leave`](Self::leave).
    fn enter(&self, step: impl FnOnce(&mut Registered)) -> Vec<Home> {
        let mut registered = self.registered();
        step(&mut registered);
        registered.callbacks = registered.callbacks.saturating_add(1);
        registered.notifiers.clone()
    }

    fn leave(&self, notifiers: Vec<Home>) {
        drop(notifiers);
        let mut registered = self.registered();
        registered.callbacks = registered.callbacks.saturating_sub(1);
        drop(registered);
        self.inner.quiet.notify_all();
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} pins)", self.pins())
    }
}

impl AddressSpace for Memory {
    type Platform = Loom;
    type Page = Frame;
    type Users<'a> = MemoryUsers;
    type Registration = Home;
    type Memory = NoMemory;

    fn id(&self) -> usize {
        Arc::as_ptr(&self.inner).addr()
    }
    fn grab(&self) -> Self {
        self.clone()
    }
    fn users(&self) -> Option<MemoryUsers> {
        (self.inner.users.load(Load::Relaxed) != 0).then(|| MemoryUsers(self.clone()))
    }
    /// Every thread of the model runs in the process.
    fn current(&self) -> Current {
        Current::This
    }
    fn page_shift(&self) -> u32 {
        12
    }
    fn access_ok(&self, _: AddrRange, _: bool) -> bool {
        true
    }
    fn privileged(&self) -> bool {
        true
    }
    fn register(&self, notifier: Home) -> Result<Home, Error> {
        let mut registered = self.registered();
        // Windows that are open already get their ends, and no start.
        registered.windows.iter().for_each(|range| notifier.open_window(*range));
        registered.notifiers.push(notifier.clone());
        Ok(notifier)
    }
    unsafe fn unregister(&self, registration: Home) {
        let mut registered = self.registered();
        registered.notifiers.retain(|known| !Ref::ptr_eq(known, &registration));
        while registered.callbacks != 0 {
            registered = self.inner.quiet.wait(registered).unwrap_or_else(PoisonError::into_inner);
        }
    }
    fn pin_fast(&self, range: AddrRange, write: bool, out: &mut Pages<Self>) -> Result<(), Error> {
        let Some(users) = self.users() else { return Err(Error::Fault) };
        users.pin(range, write, out)
    }
    unsafe fn unpin(&self, pages: &[Frame], _: Usage) {
        let before = self.inner.pins.fetch_sub(pages.len(), Ordering::Relaxed);
        assert!(before >= pages.len(), "unpinned twice");
    }
    fn frame(&self, page: Frame) -> usize {
        page.0
    }
}

// SAFETY: a page is a number.
unsafe impl ForeignMemory for Memory {}

/// The users of a [`Memory`].
#[derive(Debug)]
pub struct MemoryUsers(Memory);

impl Users for MemoryUsers {
    type Space = Memory;
    fn pin(&self, range: AddrRange, _: bool, out: &mut Pages<Memory>) -> Result<(), Error> {
        let inner = &self.0.inner;
        for _ in 0..range.pages(12) {
            out.push(Frame(inner.table.load(Load::Relaxed))).map_err(|_| Error::NoMemory)?;
            inner.pins.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}
