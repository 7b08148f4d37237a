//! The invalidation protocol of one address space for one device. Knows [`Subscriber`], not the
//! object behind it.
//!
//! # States
//!
//! ```text
//!                1 attach                      2 commit
//!     Idle ─────────────────────▶ Acquiring ─────────────────────────▶ Ready
//!      ▲ ▲                          │    │                               │
//!      │ │      3 superseded        │    │ 4 EFAULT                      │ 6 revoked
//!      │ └──────────────────────────┘    ▼                               ▼            9 retried
//!      │        5 forgotten            Failed                         Revoking ◀──────────────────┐
//!      │◀────────────────────────────────┘                               │                        │
//!      │                                                                 ├─ 8 deadline ──▶ Quarantined
//!      └──────────────────── 7 released ─────────────────────────────────┘
//!
//!     in the index:  Idle no;  every other state yes
//! ```
//!
//! | | transition | who |
//! |---|---|---|
//! | 1 | attach | [`Notifier::attach`] |
//! | 2 | commit, with the current ticket | [`Notifier::commit`] |
//! | 3 | superseded | `mark` ([`invalidate_start`](Notifier::invalidate_start), [`exit`](Notifier::exit)), `claim` ([`revoke`](Notifier::revoke), [`detach`](Notifier::detach)), [`abandon`](Notifier::abandon), `rehome` (export) |
//! | 4 | the range is not memory | [`abandon`](Notifier::abandon) with `sticky` |
//! | 5 | forgotten | `mark`, `claim`, `rehome`, [`reset_failed`](Notifier::reset_failed) |
//! | 6 | revoked: the lease word closes | `mark`, `claim`; not for an object whose count is zero: its last put does it |
//! | 7 | released: drained, device idle, unmapped, unpinned | `init`, at the end of every revocation |
//! | 8 | a deadline passed, or the device is lost | `quarantine_for_leases`, `init` |
//! | 9 | retried | `finish_quarantined` (the last lease), [`retry_quarantined`](Notifier::retry_quarantined) |
//!
//! All of it is guarded by the notifier's spinlock. No path of a revocation takes a mutex: the
//! thread that moves an object to `Revoking` owns its revocation. An invalidation waits until
//! nothing that overlaps is `Ready` or `Revoking`, whoever owns it.
//!
//! # The files
//!
//! | file | what |
//! |---|---|
//! | `state` | the transitions above, one function each |
//! | `attachment` | what an object carries; the trait that it implements |
//! | `lease` | the lease word and the lease guard |
//! | `spread` | the lease words of one object: one, or one for each of a few threads |
//! | `windows`, `hull` | the lock-free side: open windows, and the hull of the index |
//! | `acquire` | attach, commit, abandon, wait |
//! | `invalidate` | start, finish, end, exit. Where a start waits: `PendingInvalidation::wait` |
//! | `revoke` | the one sequence that releases pages |
//!
//! The rules by number stand in [`docs::protocol`](crate::docs::protocol).

mod acquire;
mod attachment;
mod hull;
mod invalidate;
mod lease;
mod revoke;
mod spread;
mod state;
mod windows;

pub use acquire::{AttachError, Ticket};
pub use attachment::{Attachment, Subscriber};
pub use invalidate::{Blockable, Invalidation, PendingInvalidation, WouldBlock};
pub(crate) use lease::sealed;
pub use lease::{Holder, LeaseGuard};
pub use state::State;

use crate::error::Error;
use crate::interval::{IntervalIndex, Tree};
use crate::platform::{LockClass, Platform, SpinLock, WaitQueue};
use crate::range::AddrRange;
use crate::refcount::{Ref, RefCounted};
use core::fmt;
use hull::Hull;
use windows::{Overflow, Windows};

/// How a revocation ended, and so how much of an invalidation's promise holds
/// ([rule 23](crate::docs::protocol#rule-23)). Ordered from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use = "anything but `Idle` means that pages of the range are still pinned"]
pub enum Outcome {
    /// The device has stopped and the pages are released.
    Idle,
    /// A deadline passed: a lease was still held, or the device had not stopped. The object is
    /// quarantined: its pages stay pinned and belong to nobody else until the last lease is dropped
    /// or the revocation is tried again.
    TimedOut,
    /// The device is lost. The object is quarantined until [`Notifier::retry_quarantined`], after a
    /// reset.
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

/// What became of an object, for a driver's own log and counters: see [`Subscriber::event`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The object's pages were released: by an invalidation, an eviction, an export or the last
    /// put.
    Revoked(AddrRange),
    /// The object was quarantined, and why: its pages stay pinned.
    Quarantined(AddrRange, Outcome),
    /// The last lease of a quarantined object was dropped, and its pages were released.
    Finished(AddrRange),
}

/// One address space as one device sees it: the index of its objects, the open invalidation
/// windows, and the waiting threads.
///
/// Source: `struct i915_mmu_notifier`; the end of a window, the typed outcome and the lock-free
/// start are ours.
///
/// ```
/// use userptr::{AddrRange, Blockable, Notifier, Outcome, platforms::std::Std};
///
/// let notifier = Notifier::<Std>::try_new(None)?;
/// let range = AddrRange::new(0x1000, 0x1000)?;
/// // What an address space does around every change of its page tables.
/// let change = notifier.invalidate(range, Blockable::Yes)?;
/// assert_eq!(change.outcome(), Outcome::Idle);
/// assert_eq!(notifier.stats().windows, 1, "until the end nothing attaches in the range");
/// drop(change);
/// assert_eq!(notifier.stats().windows, 0);
/// # Ok::<(), userptr::Error>(())
/// ```
pub struct Notifier<P: Platform> {
    core: SpinLock<P, Core<P>>,
    windows: Windows<P>,
    hull: Hull<P>,
    /// Invalidations, evictions and waiting acquires sleep here; woken when a state changes or a
    /// window closes.
    changed: WaitQueue<P::Wait>,
    /// Where revocations run; `None`: in the thread that invalidates. Never a queue that pins
    /// ([rule 8](crate::docs::protocol#rule-8)).
    revokes: Option<P::Queue>,
}

/// # Invariants
/// `index` holds the node of every attachment whose state is not `Idle`, and no other; the hull
/// covers it.
struct Core<P: Platform> {
    index: Tree<P>,
    overflow: Overflow,
    /// The address space is gone: nothing attaches any more.
    dead: bool,
    /// How often a revocation ended in quarantine.
    quarantined: usize,
}

/// A snapshot of a notifier, for reports and for quiescence checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
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

// SAFETY: `init` settles the lock and the wait. Nothing points to a notifier but counted
// references: the registration with the address space, the record, and each object.
unsafe impl<P: Platform> RefCounted<P> for Notifier<P> {
    unsafe fn init(&self) {
        // SAFETY: called once, at the final address (caller).
        unsafe {
            self.core.init();
            self.changed.init();
        }
    }
}

impl<P: Platform> Notifier<P> {
    /// Makes a notifier.
    ///
    /// With a queue, revocations run there; without, in the thread that invalidates. The queue must
    /// not run pins, nor anything that takes the address space's locks or drops its users
    /// ([rule 8](crate::docs::protocol#rule-8)).
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn try_new(revokes: Option<P::Queue>) -> Result<Ref<Self, P>, Error> {
        let core = Core { index: Tree::new(), overflow: Overflow::new(), dead: false, quarantined: 0 };
        let this = Self {
            core: SpinLock::<P, _>::uninit(LockClass::NOTIFIER, core),
            windows: Windows::new(),
            hull: Hull::new(),
            changed: WaitQueue::uninit(),
            revokes,
        };
        Ok(Ref::try_new(this)?)
    }

    /// Returns whether revocations run on a queue. An address space whose notifying thread may not
    /// free memory or wait for a device asks for one.
    #[must_use]
    pub fn has_queue(&self) -> bool {
        self.revokes.is_some()
    }

    /// Returns what is attached and open at this moment.
    #[must_use]
    pub fn stats(&self) -> NotifierStats {
        let mut stats = self.with(|c| {
            let mut stats = NotifierStats {
                attached: 0,
                quarantined: 0,
                quarantined_ever: c.quarantined,
                windows: c.overflow.count(),
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
        // SAFETY: settled by `Ref::try_new`. No section of this module enters another, sleeps,
        // allocates or calls out.
        unsafe { self.core.with(f) }
    }

    fn wake(&self) {
        // SAFETY: settled; the caller's borrow keeps the notifier in place. Called with no lock
        // held.
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
            // SAFETY: in the index, so its object is alive, though its count may be zero (invariant
            // of `Attachment`).
            if f(unsafe { Attachment::of(node).as_ref() }) {
                return true;
            }
            // SAFETY: the node is in the index.
            at = unsafe { self.index.next(node, range) };
        }
        false
    }

    /// Calls `f` for each attachment that overlaps. `f` may remove the one it is given from the
    /// index.
    fn each(&mut self, range: AddrRange, mut f: impl FnMut(&mut Self, &Attachment<P>)) {
        let mut at = self.index.first(range);
        while let Some(node) = at {
            // SAFETY: the node is in the index. Asked before `f`, which may take the node out.
            at = unsafe { self.index.next(node, range) };
            // SAFETY: in the index, so its object is alive, though its count may be zero (invariant
            // of `Attachment`).
            f(self, unsafe { Attachment::of(node).as_ref() });
        }
    }
}

impl<P: Platform> fmt::Debug for Notifier<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.stats(), f)
    }
}
