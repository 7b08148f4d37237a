//! What an object carries to be found by an invalidation.

use super::lease::LeaseWord;
use super::{Notifier, Outcome};
use crate::interval::Node;
use crate::platform::{Cell, Platform, RawWork, WaitQueue};
use crate::range::AddrRange;
use crate::refcount::{Inner, Object};
use core::fmt;
use core::mem::offset_of;
use core::ptr::{self, NonNull};
use core::time::Duration;

/// Where an object stands. See the diagram in [`notifier`](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not in the index; no pages. Anyone may attach it.
    Idle,
    /// In the index; somebody pins for the current ticket. No pages are installed.
    Acquiring,
    /// In the index; pages are installed and leases can be taken.
    Ready,
    /// In the index; pages are being released. Whoever brought it here owns the cancel, with a reference of its own, or is
    /// the object's release.
    Revoking,
    /// In the index; a deadline passed. The quarantine owns a reference; the pages stay pinned.
    Quarantined,
    /// In the index; the range is not memory (`EFAULT`). No pages; an overlapping start or a reset makes it `Idle`.
    Failed,
}

/// An object that an invalidation can reach.
///
/// # Safety
/// * [`attachment`](Self::attachment) is one and the same, lies inside the object, and is settled by its `settle`.
/// * [`home`](Self::home) does not change while the attachment is attached, and lives as long as the object.
/// * The object's [`last_put`](Object::last_put) calls [`Notifier::detach`] and returns its fate.
#[diagnostic::on_unimplemented(message = "`{Self}` cannot be attached to a `Notifier<{P}>`")]
pub unsafe trait Subscriber<P: Platform>: Object<P> {
    /// The attachment inside the object.
    fn attachment(&self) -> &Attachment<P>;
    /// The notifier that it attaches to. A few loads: it is also asked under the notifier's lock.
    fn home(&self) -> &Notifier<P>;
    /// How long a cancel waits for leases, and again for the device. `None`: for ever.
    fn deadline(&self) -> Option<Duration>;
    /// Asks the device to stop. Never waits. No lock is held; the pages are still installed.
    fn stop(&self);
    /// Waits for the device, unmaps, unpins. No lock is held, all leases are gone, and nobody else is in here.
    /// On anything but [`Outcome::Idle`] nothing was unmapped or unpinned, and it will be called again.
    fn cancel(&self, timeout: Option<Duration>) -> Outcome;
}

/// A weak edge: a pointer without a count.
pub(super) type Edge<P> = NonNull<Inner<dyn Subscriber<P>, P>>;

/// The part of an object that a notifier works on: the index node, the state, the lease word, the cancel's work item.
///
/// # Invariants
/// * While attached (any state but `Idle`) the object is alive and in place, though its count may be zero: its release
///   passes through [`Notifier::detach`] under the same lock first.
/// * `slot` is touched under the home notifier's lock only; `next` by the owner of the cancel only.
pub struct Attachment<P: Platform> {
    pub(super) node: Node<P>,
    pub(super) leases: LeaseWord<P>,
    /// The cancel waits here for the last lease.
    pub(super) drained: WaitQueue<P::Wait>,
    pub(super) work: P::Work,
    slot: P::Cell<Slot<P>>,
    /// The next object that the same start has to cancel.
    next: P::Cell<*const Attachment<P>>,
}

struct Slot<P: Platform> {
    state: State,
    /// Given to each attach; a commit must bring back the newest (rule 4). Wraps after 2^64 attaches.
    ticket: u64,
    /// Why it is quarantined.
    outcome: Outcome,
    /// Set by every attach.
    edge: Option<Edge<P>>,
}

// SAFETY: `slot` and `next` are touched by one thread at a time (invariants); the edge is followed only while the object lives.
unsafe impl<P: Platform> Send for Attachment<P> {}
// SAFETY: as above.
unsafe impl<P: Platform> Sync for Attachment<P> {}

impl<P: Platform> Attachment<P> {
    /// An attachment for `range`, in bytes, inert.
    #[must_use]
    pub fn blank(range: AddrRange) -> Self {
        let slot = Slot { state: State::Idle, ticket: 0, outcome: Outcome::Idle, edge: None };
        Self {
            node: Node::new(range),
            leases: LeaseWord::new(),
            drained: WaitQueue::blank(),
            work: P::Work::blank(super::cancel::run_queued::<P>),
            slot: <P::Cell<_> as Cell<_>>::new(slot),
            next: <P::Cell<_> as Cell<_>>::new(ptr::null()),
        }
    }

    /// Makes it usable.
    ///
    /// # Safety
    /// Called once, from the [`Object::settle`] of the object that contains it.
    pub unsafe fn settle(&self) {
        // SAFETY: the caller's promise, handed on.
        unsafe {
            self.drained.settle();
            self.work.settle();
        }
    }

    /// The range that it watches.
    #[must_use]
    pub fn range(&self) -> AddrRange {
        self.node.range()
    }

    /// The number of leases at this moment, the pages' own included.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.leases.count()
    }

    /// The attachment around an index node.
    ///
    /// # Safety
    /// The node is the `node` of an attachment, with provenance over all of it.
    pub(super) unsafe fn of(node: NonNull<Node<P>>) -> NonNull<Self> {
        // SAFETY: the caller's promise.
        unsafe { node.byte_sub(offset_of!(Self, node)).cast() }
    }

    /// The node, with provenance over the attachment.
    pub(super) fn node_ptr(&self) -> NonNull<Node<P>> {
        // SAFETY: inside the attachment.
        unsafe { NonNull::from(self).byte_add(offset_of!(Self, node)).cast() }
    }

    /// The work item, with provenance over the attachment.
    pub(super) fn work_ptr(&self) -> *const P::Work {
        ptr::from_ref(self).wrapping_byte_add(offset_of!(Self, work)).cast()
    }

    /// # Safety
    /// `work` is the `work` of an attachment, with provenance over all of it.
    pub(super) unsafe fn of_work(work: *const P::Work) -> *const Self {
        work.wrapping_byte_sub(offset_of!(Self, work)).cast()
    }

    /// # Safety
    /// The home notifier's lock is held.
    unsafe fn slot<R>(&self, f: impl FnOnce(&mut Slot<P>) -> R) -> R {
        // SAFETY: the lock is held, so nobody else reaches the slot (invariant).
        self.slot.with_mut(|s| f(unsafe { &mut *s }))
    }

    /// # Safety
    /// The home notifier's lock is held.
    pub(super) unsafe fn state(&self) -> State {
        // SAFETY: the lock is held: nobody writes.
        self.slot.with(|s| unsafe { (*s).state })
    }

    /// # Safety
    /// The home notifier's lock is held. The caller keeps the index in step.
    pub(super) unsafe fn set_state(&self, state: State) {
        // SAFETY: the caller's promise.
        unsafe { self.slot(|s| s.state = state) };
    }

    /// # Safety
    /// The home notifier's lock is held.
    pub(super) unsafe fn ticket(&self) -> u64 {
        // SAFETY: the lock is held: nobody writes.
        self.slot.with(|s| unsafe { (*s).ticket })
    }

    /// `Acquiring`, with a new ticket.
    ///
    /// # Safety
    /// The home notifier's lock is held; `edge` points to the object around this attachment.
    pub(super) unsafe fn begin_acquire(&self, edge: Edge<P>) -> u64 {
        // SAFETY: the caller's promise.
        unsafe {
            self.slot(|s| {
                s.edge = Some(edge);
                s.state = State::Acquiring;
                s.ticket = s.ticket.wrapping_add(1);
                s.ticket
            })
        }
    }

    /// The weak edge.
    ///
    /// # Safety
    /// The home notifier's lock is held, or the caller owns the cancel (the edge is written by attaches only).
    pub(super) unsafe fn edge(&self) -> Option<Edge<P>> {
        // SAFETY: nobody writes (caller).
        self.slot.with(|s| unsafe { (*s).edge })
    }

    /// Why it is quarantined.
    ///
    /// # Safety
    /// The home notifier's lock is held.
    pub(super) unsafe fn outcome(&self) -> Outcome {
        // SAFETY: the lock is held: nobody writes.
        self.slot.with(|s| unsafe { (*s).outcome })
    }

    /// `Quarantined`.
    ///
    /// # Safety
    /// The home notifier's lock is held, and the caller owned the cancel.
    pub(super) unsafe fn quarantine(&self, outcome: Outcome) {
        // SAFETY: the caller's promise.
        unsafe {
            self.slot(|s| {
                s.state = State::Quarantined;
                s.outcome = outcome;
            });
        }
    }

    /// Chains the attachment in front of `rest`.
    ///
    /// # Safety
    /// The caller owns the cancel.
    pub(super) unsafe fn chain(&self, rest: *const Self) {
        // SAFETY: nobody else touches it (invariant).
        self.next.with_mut(|n| unsafe { *n = rest });
    }

    /// What is chained behind it.
    ///
    /// # Safety
    /// The caller owns the cancel.
    pub(super) unsafe fn chained(&self) -> *const Self {
        // SAFETY: nobody else touches it (invariant).
        self.next.with(|n| unsafe { *n })
    }
}

impl<P: Platform> fmt::Debug for Attachment<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attachment({:?}, {:?})", self.range(), self.leases)
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::platforms::std::Std;
    use crate::refcount::{Fate, Ref};
    use crate::{Blockable, Error};

    struct Bare {
        home: Ref<Notifier<Std>, Std>,
        attachment: Attachment<Std>,
    }

    // SAFETY: the attachment is settled, and `last_put` detaches.
    unsafe impl Object<Std> for Bare {
        unsafe fn settle(&self) {
            // SAFETY: the caller's promise, handed on.
            unsafe { self.attachment.settle() }
        }
        fn last_put(&self) -> Fate {
            // SAFETY: called with a count of zero.
            unsafe { Notifier::detach(self) }
        }
    }

    // SAFETY: one attachment, inside the object; one home, held by it.
    unsafe impl Subscriber<Std> for Bare {
        fn attachment(&self) -> &Attachment<Std> {
            &self.attachment
        }
        fn home(&self) -> &Notifier<Std> {
            &self.home
        }
        fn deadline(&self) -> Option<Duration> {
            None
        }
        fn stop(&self) {}
        fn cancel(&self, _: Option<Duration>) -> Outcome {
            Outcome::Idle
        }
    }

    /// The ticket passes the end of its word: the old one is not taken for the new one.
    #[test]
    fn s24_a_ticket_that_wraps() -> Result<(), Error> {
        let home = Ref::try_new(Notifier::<Std>::blank(None)).map_err(|(_, e)| e)?;
        let range = AddrRange::new(4096, 4096)?;
        let attachment = Attachment::blank(range);
        let object = Ref::try_new(Bare { home: home.clone(), attachment }).map_err(|(_, e)| e)?;
        // SAFETY: nobody else knows the object yet.
        unsafe { object.attachment.slot(|s| s.ticket = u64::MAX - 2) };
        let mut old = Notifier::attach(&object).unwrap();
        for _ in 0..4 {
            home.invalidate_start(range, Blockable::Yes)?.into_result()?;
            home.invalidate_end(range);
            let new = Notifier::attach(&object).unwrap();
            assert!(Notifier::commit(&object, old, false, || ()).is_err());
            old = new;
        }
        assert_eq!(old.0, 2, "it went round");
        assert!(Notifier::commit(&object, old, false, || ()).is_ok());
        Ok(())
    }
}
