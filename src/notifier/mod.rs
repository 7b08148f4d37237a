//! The invalidation protocol of one address space for one device. Knows [`Subscriber`], not the object behind it.
//!
//! ```text
//!                 attach                       commit (same ticket)
//!     Idle ─────────────────────▶ Acquiring ─────────────────────────▶ Ready
//!      ▲ ▲                          │    │                               │  start, revoke, release:
//!      │ │   start, abandon         │    │ EFAULT                        │  close the lease word
//!      │ └──────────────────────────┘    ▼                               ▼
//!      │        start, reset           Failed                         Revoking ◀── last lease dropped, retry ──┐
//!      │◀────────────────────────────────┘                               │                                     │
//!      │                                                                 ├─ deadline passed ─────────▶ Quarantined
//!      └───── drained, device idle, unmapped, unpinned ──────────────────┘
//!
//!     in the index:  Idle no;  every other state yes
//! ```
//!
//! All of it is guarded by the notifier's spinlock. No cancel path takes a mutex: who moves an object to `Revoking` owns
//! its cancel. A start waits until nothing that overlaps is `Ready` or `Revoking`, whoever owns it.
//!
//! The rules by number stand in [`docs::protocol`](crate::docs::protocol).

mod acquire;
mod attachment;
mod cancel;
mod hold;
mod lease;
mod start;
mod summary;
mod windows;

pub use acquire::{Refused, Ticket};
pub use attachment::{Attachment, State, Subscriber};
pub use hold::Hold;
pub use start::{Blockable, Stopping, WouldBlock};

use crate::error::Error;
use crate::interval::{IntervalIndex, Tree};
use crate::platform::{LockClass, Platform, SpinLock, WaitQueue};
use crate::range::AddrRange;
use crate::refcount::Object;
use attachment::Edge;
use core::fmt;
use summary::Summary;
use windows::{Spill, Windows};

/// How a cancel ended, and so how much of an invalidation's promise holds (rule 23). Ordered from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use = "anything but `Idle` means that pages of the range are still pinned"]
pub enum Outcome {
    /// The device has stopped and the pages are released.
    Idle,
    /// A deadline passed: a lease was still held, or the device had not stopped. The object is quarantined: its pages stay
    /// pinned and belong to nobody else until the last lease is dropped or the cancel is tried again.
    TimedOut,
    /// The device is lost. The object is quarantined until [`Notifier::retry_quarantined`], after a reset.
    DeviceLost,
}

impl Outcome {
    /// For callers that cannot go on from anything but `Idle`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], [`Error::DeviceLost`].
    pub const fn into_result(self) -> Result<(), Error> {
        match self {
            Self::Idle => Ok(()),
            Self::TimedOut => Err(Error::TimedOut),
            Self::DeviceLost => Err(Error::DeviceLost),
        }
    }
}

/// One address space as one device sees it: the index of its objects, the open invalidation windows, and who waits.
///
/// Source: `struct i915_mmu_notifier`; the end of a window, the typed outcome and the lock-free start are ours.
///
/// ```
/// # use userptr::platforms::std::{Std, Workers};
/// # use userptr_sim::{DmaDevice, Machine, PAGE, Space};
/// # use userptr::{Context, Limits, Queues};
/// # let machine = Machine::new();
/// # let process = machine.process();
/// # let (frees, pins) = (Workers::<Std>::start("frees", 1)?, Workers::<Std>::start("pins", 1)?);
/// # let queues = Queues { pins: pins.queue().clone(), cancels: None, frees: frees.queue().clone() };
/// # let context = Context::try_new(DmaDevice::<Std>::new(&machine, Limits::default()), queues).map_err(|(_, e)| e)?;
/// # let _inside = machine.enter(&process);
/// # let address = process.mmap(PAGE);
/// # process.touch(address, PAGE, 7)?;
/// # let space = Space::of(&process);
/// # let object = Context::create(&context, &space, address, PAGE, 0)?;
/// use userptr::{Blockable, Error, Outcome, UserPtr};
///
/// drop(UserPtr::acquire(&object)?);
/// let notifier = object.record().notifier()?;
/// // What a host does around every change of its page tables.
/// assert_eq!(notifier.invalidate_start(object.range(), Blockable::Yes), Ok(Outcome::Idle));
/// assert_eq!(machine.pins(), 0, "released before the start returns");
/// assert_eq!(UserPtr::try_acquire(&object).unwrap_err(), Error::Again, "until the end nothing attaches");
/// notifier.invalidate_end(object.range());
/// drop(UserPtr::try_acquire(&object)?);
/// # Ok::<(), userptr::Error>(())
/// ```
pub struct Notifier<P: Platform> {
    core: SpinLock<P, Core<P>>,
    windows: Windows<P>,
    summary: Summary<P>,
    /// Starts, evictions and waiting acquires sleep here; woken when a state changes or a window closes.
    changed: WaitQueue<P::Wait>,
    /// Where cancels run; `None`: in the thread that starts the invalidation. Never a queue that pins (rule 8).
    cancels: Option<P::Queue>,
}

/// # Invariants
/// `index` holds the node of every attachment whose state is not `Idle`, and no other; `summary` covers it.
struct Core<P: Platform> {
    index: Tree<P>,
    spill: Spill,
    /// The address space is gone: nothing attaches any more.
    dead: bool,
    /// How often a cancel ended in quarantine.
    quarantined: usize,
}

/// A snapshot of a notifier, for reports and for quiescence checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotifierStats {
    /// Objects in the index, in any state.
    pub attached: usize,
    /// Objects that are quarantined now.
    pub quarantined: usize,
    /// How often an object was ever quarantined.
    pub quarantined_ever: usize,
    /// Open windows.
    pub windows: usize,
    /// Whether the address space is gone.
    pub dead: bool,
}

// SAFETY: `settle` settles the lock and the wait. Nothing points to a notifier but counted references: the registration with
// the host, the record, and each object.
unsafe impl<P: Platform> Object<P> for Notifier<P> {
    unsafe fn settle(&self) {
        // SAFETY: the caller's promise, handed on.
        unsafe {
            self.core.settle();
            self.changed.settle();
        }
    }
}

impl<P: Platform> Notifier<P> {
    /// An inert notifier, for [`Ref::try_new`](crate::Ref::try_new).
    ///
    /// With a queue, cancels run there; without, in the thread that starts the invalidation. The queue must not run pins, nor
    /// anything that takes the host's locks or drops users (rule 8).
    #[must_use]
    pub fn blank(cancels: Option<P::Queue>) -> Self {
        let core = Core { index: Tree::new(), spill: Spill::new(), dead: false, quarantined: 0 };
        Self {
            core: SpinLock::<P, _>::blank(LockClass::NOTIFIER, core),
            windows: Windows::new(),
            summary: Summary::new(),
            changed: WaitQueue::blank(),
            cancels,
        }
    }

    /// Whether cancels run on a queue. A host whose notifying thread may not free memory or wait for a device asks for one.
    #[must_use]
    pub fn has_queue(&self) -> bool {
        self.cancels.is_some()
    }

    /// What is attached and open at this moment.
    #[must_use]
    pub fn stats(&self) -> NotifierStats {
        let mut stats = self.with(|c| {
            let mut stats = NotifierStats {
                attached: 0,
                quarantined: 0,
                quarantined_ever: c.quarantined,
                windows: c.spill.count(),
                dead: c.dead,
            };
            c.each(AddrRange::ALL, |_, attachment| {
                stats.attached = stats.attached.saturating_add(1);
                // SAFETY: the lock is held.
                if unsafe { attachment.state() } == State::Quarantined {
                    stats.quarantined = stats.quarantined.saturating_add(1);
                }
            });
            stats
        });
        stats.windows = stats.windows.saturating_add(self.windows.count());
        stats
    }

    fn with<R>(&self, f: impl FnOnce(&mut Core<P>) -> R) -> R {
        // SAFETY: settled by `Ref::try_new`. No section of this module enters another, sleeps, allocates or calls out.
        unsafe { self.core.with(f) }
    }

    fn wake(&self) {
        // SAFETY: settled; the caller's borrow keeps the notifier in place. Called with no lock held.
        unsafe { self.changed.wake_all() };
    }

    /// Waits for `condition`, asked under the lock. Called with no lock held.
    fn wait_for(
        &self,
        timeout: Option<core::time::Duration>,
        mut condition: impl FnMut(&mut Core<P>) -> bool,
    ) -> bool {
        // SAFETY: settled, and no spinlock is held.
        unsafe { self.changed.wait_until(timeout, || self.with(&mut condition)) }
    }
}

impl<P: Platform> Core<P> {
    /// Whether `f` holds for an attachment that overlaps; asks no further than the first.
    fn any(&self, range: AddrRange, mut f: impl FnMut(&Attachment<P>) -> bool) -> bool {
        let mut at = self.index.first(range);
        while let Some(node) = at {
            // SAFETY: in the index, so its object is alive, though its count may be zero (invariant of `Attachment`).
            if f(unsafe { Attachment::of(node).as_ref() }) {
                return true;
            }
            // SAFETY: the node is in the index.
            at = unsafe { self.index.next(node, range) };
        }
        false
    }

    /// Calls `f` for each attachment that overlaps. `f` may remove the one it is given from the index.
    fn each(&mut self, range: AddrRange, mut f: impl FnMut(&mut Self, &Attachment<P>)) {
        let mut at = self.index.first(range);
        while let Some(node) = at {
            // SAFETY: the node is in the index. Asked before `f`, which may take the node out.
            at = unsafe { self.index.next(node, range) };
            // SAFETY: in the index, so its object is alive, though its count may be zero (invariant of `Attachment`).
            f(self, unsafe { Attachment::of(node).as_ref() });
        }
    }
}

impl<P: Platform> fmt::Debug for Notifier<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.stats(), f)
    }
}
