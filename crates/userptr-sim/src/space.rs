//! The machine as the core sees it: [`AddressSpace`] and [`Device`] on it, for any platform of real
//! threads.

use super::SHIFT;
use super::engine::{DmaMap, Engine};
use super::frames::Page;
use super::machine::Machine;
use super::mm::{Process, Record};
use super::notify::{Callbacks, Finish, Refused, Subscription};
use crate::platform::lockdep;
use core::fmt;
use core::marker::PhantomData;
use core::time::Duration;
use std::boxed::Box;
use std::sync::Arc;
use std::vec::Vec;
use userptr::AddrRange;
use userptr::Error;
use userptr::address_space::{AddressSpace, Current, ForeignMemory, NoMemory, Pages, Usage, Users};
use userptr::device::{Device, Limits, Prepare};
use userptr::notifier::{Blockable, Notifier, Outcome};
use userptr::platform::Platform;
use userptr::refcount::Ref;

/// A process's address space: a hold on its record.
pub struct Space<P: Platform> {
    record: Record,
    _platform: PhantomData<fn() -> P>,
}

/// A checker sees its own locks and atomics only. A model on this machine would pass and have
/// checked nothing.
const fn refuse_models<P: Platform>() {
    const {
        assert!(
            !P::IS_MODEL,
            "the simulated machine does not run in a model checker, which would not see what it does: \
             use the address space of `userptr::platforms::loom`"
        );
    }
}

/// A pinned page, and whose it is: the device's check wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserPage {
    /// The page.
    pub page: Page,
    /// The address space that it was pinned in.
    pub mm: usize,
}

impl<P: Platform> Space<P> {
    /// The address space of a process.
    #[must_use]
    pub fn of(process: &Process) -> Self {
        Self::new(process.record().clone())
    }

    fn new(record: Record) -> Self {
        refuse_models::<P>();
        Self { record, _platform: PhantomData }
    }

    /// The record.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    fn put(&self, pages: Vec<Page>, out: &mut Pages<Self>) {
        for page in pages {
            out.push(UserPage { page, mm: self.record.id() }).expect("the core gave room for the range");
        }
    }
}

impl<P: Platform> fmt::Debug for Space<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Space({:?})", self.record)
    }
}

impl<P: Platform> AddressSpace for Space<P> {
    type Platform = P;
    type Page = UserPage;
    type Users<'a> = SpaceUsers<P>;
    type Registration = Arc<Subscription>;
    type Memory = NoMemory;

    fn id(&self) -> usize {
        self.record.id()
    }

    fn grab(&self) -> Self {
        Self::new(self.record.clone())
    }

    fn users(&self) -> Option<SpaceUsers<P>> {
        let process = self.record.users()?;
        Some(SpaceUsers { _process: process, space: self.grab() })
    }

    fn current(&self) -> Current {
        if self.record.is_current() {
            Current::This
        } else if Record::is_nobody_current() {
            Current::None
        } else {
            Current::Other
        }
    }

    fn page_shift(&self) -> u32 {
        SHIFT
    }

    fn access_ok(&self, range: AddrRange, _write: bool) -> bool {
        self.record.access_ok(range.last())
    }

    fn privileged(&self) -> bool {
        self.record.is_capable()
    }

    fn notifies(&self) -> bool {
        self.record.machine().notifies()
    }

    fn register(&self, notifier: Ref<Notifier<P>, P>) -> Result<Arc<Subscription>, Error> {
        let told = Told { notifier, machine: self.record.machine().clone() };
        self.record.register(Box::new(told))
    }

    unsafe fn unregister(&self, registration: Arc<Subscription>) {
        self.record.unregister(&registration);
    }

    fn pin_fast(&self, range: AddrRange, write: bool, out: &mut Pages<Self>) -> Result<(), Error> {
        lockdep::call_out("pin_fast");
        assert!(self.record.is_current(), "a fast pin in somebody else's memory");
        self.put(self.record.pin_fast(range, write)?, out);
        Ok(())
    }

    unsafe fn unpin(&self, pages: &[UserPage], usage: Usage) {
        lockdep::call_out("unpin");
        assert!(pages.iter().all(|p| p.mm == self.record.id()), "pages of another address space");
        let pages: Vec<_> = pages.iter().map(|p| p.page).collect();
        self.record.unpin(&pages, usage.dirty, usage.accessed);
    }

    fn frame(&self, page: UserPage) -> usize {
        page.page.frame()
    }
}

// SAFETY: the frames of the machine are a table of its own; no reference of the program points into
// one.
unsafe impl<P: Platform> ForeignMemory for Space<P> {}

/// A hold on the users.
#[derive(Debug)]
pub struct SpaceUsers<P: Platform> {
    space: Space<P>,
    _process: Process,
}

impl<P: Platform> Users for SpaceUsers<P> {
    type Space = Space<P>;

    fn pin(&self, range: AddrRange, write: bool, out: &mut Pages<Space<P>>) -> Result<(), Error> {
        lockdep::nothing_held("pin");
        self.space.put(self.space.record.pin_slow(range, write)?, out);
        Ok(())
    }
}

/// A notifier of the core as a subscriber of the machine.
struct Told<P: Platform> {
    notifier: Ref<Notifier<P>, P>,
    machine: Machine,
}

impl<P: Platform> Callbacks for Told<P> {
    fn begin(&self, range: AddrRange, blockable: bool) -> Result<Finish<'_>, Refused> {
        let mode = if blockable { Blockable::Yes } else { Blockable::No };
        let pending = self.notifier.invalidate_start(range, mode).map_err(|_| Refused)?;
        Ok(Box::new(move || self.machine.note(pending.finish())))
    }

    fn end(&self, range: AddrRange) {
        // SAFETY: the machine ends what it began, once.
        unsafe { self.notifier.invalidate_end(range) };
    }

    fn exit(&self) {
        self.machine.note(self.notifier.exit());
    }
}

/// The driver of a [`Engine`].
#[derive(Debug)]
pub struct DmaDevice<P: Platform> {
    engine: Engine,
    limits: Limits,
    _platform: PhantomData<fn() -> P>,
}

impl<P: Platform> DmaDevice<P> {
    /// A device in this machine, with the default limits; it honours read-only.
    #[must_use]
    pub fn new(machine: &Machine) -> Self {
        Self::with_limits(machine, Limits::default().read_only(true))
    }

    /// A device in this machine.
    #[must_use]
    pub fn with_limits(machine: &Machine, limits: Limits) -> Self {
        refuse_models::<P>();
        Self { engine: Engine::new(machine), limits, _platform: PhantomData }
    }

    /// Reads a byte at `offset` of a mapping, by DMA. See [`Engine::read`].
    #[must_use]
    pub fn read(&self, map: &DmaMap, offset: usize) -> u8 {
        self.engine.read(map, offset)
    }

    /// Writes a byte at `offset` of a mapping, by DMA. See [`Engine::write`].
    pub fn write(&self, map: &DmaMap, offset: usize, value: u8) {
        self.engine.write(map, offset, value);
    }

    /// Its engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl<P: Platform> Device for DmaDevice<P> {
    type Space = Space<P>;
    type Map = DmaMap;

    fn limits(&self) -> Limits {
        self.limits
    }

    fn prepare(&self, what: Prepare<'_, Space<P>>) -> Result<DmaMap, Error> {
        // The table says the same as the page array, in the same order.
        let mut frames = what.pages.iter().map(|p| p.page.frame());
        for segment in what.sg.segments() {
            assert!((0..segment.pages).all(|n| frames.next() == Some(segment.frame + n)), "a wrong segment");
            assert!(segment.pages <= self.limits.sg.max_segment_pages, "a segment over the limit");
        }
        assert!(frames.next().is_none() && what.sg.pages() == what.pages.len(), "pages without a segment");
        let pages: Vec<_> = what.pages.iter().map(|p| p.page).collect();
        self.engine.map(what.space.record(), what.address, &pages, what.write)
    }

    fn stop(&self, map: &DmaMap) {
        self.engine.stop(map);
    }

    fn wait_idle(&self, map: &DmaMap, timeout: Option<Duration>) -> Outcome {
        let outcome = self.engine.wait_idle(map, timeout);
        if outcome == Outcome::Idle {
            lockdep::releasing();
        }
        outcome
    }

    fn unmap(&self, map: DmaMap) {
        self.engine.unmap(&map);
    }
}
