//! Notifications of changes to an address space, as `mmu_notifier` gives them.

use super::machine::Machine;
use super::mm::Mm;
use super::seam::{Op, Seam};
use super::{PAGE, SHIFT};
use crate::platform::lockdep::{self, Kind};
use core::cell::RefCell;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use userptr::AddrRange;
use userptr::Error;

/// A start was refused, because it may not block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

/// The second half of a start.
pub type Finish<'a> = Box<dyn FnOnce() + 'a>;

/// One who is told of changes.
pub trait Callbacks: Send + Sync {
    /// A change of the range begins. All subscribers begin before one of them finishes. May sleep
    /// if `blockable`.
    ///
    /// # Errors
    /// [`Refused`], only if it is not `blockable`. No end comes for it.
    fn begin(&self, range: AddrRange, blockable: bool) -> Result<Finish<'_>, Refused>;
    /// The change is over.
    fn end(&self, range: AddrRange);
    /// The address space goes away.
    fn exit(&self);
}

/// A subscription to an address space. End it with
/// [`Record::unregister`](super::Record::unregister).
pub struct Subscription {
    callbacks: Box<dyn Callbacks>,
    /// Callbacks in flight.
    flying: Mutex<usize>,
    landed: Condvar,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}

/// The subscriptions of an address space and its open windows.
#[derive(Default)]
pub(super) struct Notify {
    list: Mutex<Vec<Arc<Subscription>>>,
    gate: Mutex<Gate>,
    moved: Condvar,
    registered: AtomicUsize,
}

#[derive(Default)]
struct Gate {
    windows: usize,
    /// A registration keeps windows from opening.
    shut: bool,
}

thread_local! {
    /// The address spaces in which this thread has a window open.
    static OWN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// An open window: between start and end.
pub(super) struct Window {
    told: Vec<Arc<Subscription>>,
    range: AddrRange,
}

impl Subscription {
    fn fly<R>(&self, f: impl FnOnce(&dyn Callbacks) -> R) -> R {
        let out = f(&*self.callbacks);
        let mut flying = lock(&self.flying);
        *flying -= 1;
        drop(flying);
        self.landed.notify_all();
        out
    }
}

impl Notify {
    /// The subscribers at this moment, each with a callback in flight.
    fn take_off(&self, only: Option<&[Arc<Subscription>]>) -> Vec<Arc<Subscription>> {
        let list = lock(&self.list);
        let listed = |s: &&Arc<Subscription>| only.is_none_or(|o| o.iter().any(|o| Arc::ptr_eq(o, s)));
        let all: Vec<_> = list.iter().filter(listed).cloned().collect();
        for s in &all {
            *lock(&s.flying) += 1;
        }
        all
    }

    pub(super) fn registered(&self) -> usize {
        self.registered.load(Ordering::Relaxed)
    }
}

impl Mm {
    /// The start callbacks. All begin before one finishes. If one refuses, those that began get
    /// their end, and nothing happened.
    pub(super) fn start(&self, range: AddrRange, blockable: bool) -> Result<Window, Refused> {
        let mut gate = lock(&self.notify.gate);
        while gate.shut {
            gate = self.notify.moved.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        gate.windows += 1;
        drop(gate);
        OWN.with_borrow_mut(|own| own.push(self.id));
        let (class, kind) = section(blockable);
        let told = self.notify.take_off(None);
        let result = {
            let _in = lockdep::section(class, kind);
            begin_all(&told, range, blockable)
        };
        for s in &told {
            s.fly(|_| ());
        }
        match result {
            Ok(()) => Ok(Window { told, range }),
            Err((Refused, begun)) => {
                for s in self.notify.take_off(Some(&told[..begun])) {
                    s.fly(|c| c.end(range));
                }
                self.close_window();
                Err(Refused)
            }
        }
    }

    /// The end callbacks, for those that were told of the start and are still there.
    pub(super) fn end(&self, window: Window) {
        // An end may come to one who registered in between only if a registration does not exclude
        // windows; ours does.
        for s in self.notify.take_off(Some(&window.told)) {
            let _in = lockdep::section(lockdep::CALLBACK, Kind::Section);
            s.fly(|c| c.end(window.range));
        }
        self.close_window();
    }

    fn close_window(&self) {
        OWN.with_borrow_mut(|own| {
            let at = own.iter().rposition(|id| *id == self.id);
            own.remove(at.unwrap());
        });
        lock(&self.notify.gate).windows -= 1;
        self.notify.moved.notify_all();
    }

    /// The callbacks of the end of the address space. The subscriptions stay until they are ended.
    pub(super) fn release_callbacks(&self) {
        for s in self.notify.take_off(None) {
            let _in = lockdep::section(lockdep::CALLBACK, Kind::Section);
            s.fly(|c| c.exit());
        }
    }

    /// Registers, with the address-space lock held for writing and all windows shut out.
    pub(super) fn register(&self, callbacks: Box<dyn Callbacks>) -> Result<Arc<Subscription>, Error> {
        lockdep::nothing_held("register");
        let machine = &self.machine;
        machine.arrive(Seam::Register, Op::Other, self.id, None);
        if let Some(error) = machine.inject().register.take() {
            return Err(error);
        }
        assert!(
            !OWN.with_borrow(|own| own.contains(&self.id)),
            "a registration inside one's own window waits for ever"
        );
        let _mmap = self.mmap.write();
        let mut gate = lock(&self.notify.gate);
        gate.shut = true;
        while gate.windows != 0 {
            gate = self.notify.moved.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        drop(gate);
        let subscription =
            Arc::new(Subscription { callbacks, flying: Mutex::new(0), landed: Condvar::new() });
        let dead = self.tables().dead;
        if !dead {
            lock(&self.notify.list).push(subscription.clone());
            self.notify.registered.fetch_add(1, Ordering::Relaxed);
        }
        lock(&self.notify.gate).shut = false;
        self.notify.moved.notify_all();
        if dead { Err(Error::Fault) } else { Ok(subscription) }
    }

    /// Ends a subscription: waits until none of its callbacks is in flight.
    pub(super) fn unregister(&self, subscription: &Arc<Subscription>) {
        lockdep::nothing_held("unregister");
        let mut list = lock(&self.notify.list);
        let at = list.iter().position(|s| Arc::ptr_eq(s, subscription));
        list.remove(at.expect("unregistered twice"));
        drop(list);
        self.notify.registered.fetch_sub(1, Ordering::Relaxed);
        let mut flying = lock(&subscription.flying);
        while *flying != 0 {
            flying = subscription.landed.wait(flying).unwrap_or_else(PoisonError::into_inner);
        }
        drop(flying);
        self.machine.arrive(Seam::Unregistered, Op::Other, self.id, None);
    }

    /// One whole invalidation: `change` clears the page tables and returns what to free, `after`
    /// runs between the free and the end. `op` names it at the seams.
    pub(super) fn invalidate<T>(
        &self,
        op: Op,
        pages: &Range<usize>,
        blockable: bool,
        change: impl FnOnce(&Machine) -> T,
        free: impl FnOnce(&Machine, T),
    ) -> Result<(), Refused> {
        let Some(range) = AddrRange::from_bounds(pages.start << SHIFT, pages.end * PAGE) else {
            return Ok(());
        };
        let machine = self.machine.clone();
        let at = |seam| machine.arrive(seam, op, self.id, Some(range));
        at(Seam::Before);
        let window = self.start(range, blockable)?;
        self.tables().closed.push(pages.clone());
        at(Seam::Started);
        let freed = change(&machine);
        at(Seam::Cleared);
        free(&machine, freed);
        at(Seam::Freed);
        let mut tables = self.tables();
        let open = tables.closed.iter().position(|r| r == pages);
        tables.closed.remove(open.unwrap());
        drop(tables);
        self.end(window);
        at(Seam::Ended);
        Ok(())
    }
}

fn section(blockable: bool) -> (userptr::platform::LockClass, Kind) {
    if blockable { (lockdep::CALLBACK, Kind::Section) } else { (lockdep::NON_BLOCK, Kind::NonBlock) }
}

/// On refusal: how many had begun. What they began is finished.
fn begin_all(told: &[Arc<Subscription>], range: AddrRange, blockable: bool) -> Result<(), (Refused, usize)> {
    let mut finish = Vec::new();
    let mut refused = Ok(());
    for s in told {
        match s.callbacks.begin(range, blockable) {
            Ok(f) => finish.push(f),
            Err(Refused) => {
                assert!(!blockable, "a blockable start was refused");
                refused = Err((Refused, finish.len()));
                break;
            }
        }
    }
    for f in finish {
        f();
    }
    refused
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
