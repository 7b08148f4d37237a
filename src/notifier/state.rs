//! Every transition of an object's state, and nothing else.
//!
//! Each transition asserts the state that it leaves. What it obliges the caller to do is its return
//! value, or stands under *Owes*. All of them run under the lock of the object's notifier. The
//! numbers are those of the diagram in [`notifier`](super).

use super::Outcome;
use super::attachment::Weak;
use crate::platform::Platform;

/// Where an object stands. See the diagram in [`notifier`](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Not in the index; no pages. Anyone may attach it.
    Idle,
    /// In the index; an acquire pins pages for the current ticket. No pages are installed.
    Acquiring,
    /// In the index; pages are installed and leases can be taken.
    Ready,
    /// In the index; the pages are being released. The thread that brought it here owns the
    /// revocation: it has a reference of its own, or is the object's last put.
    Revoking,
    /// In the index; a deadline passed or the device was lost. The quarantine owns a reference; the
    /// pages stay pinned.
    Quarantined,
    /// In the index; the range is not memory (`EFAULT`). No pages. An overlapping invalidation or a
    /// reset makes it `Idle`.
    Failed,
}

/// The state of one object, with what belongs to it.
///
/// # Invariants
/// Touched under the lock of the object's notifier only. The node is in that notifier's index
/// exactly while `state` is not `Idle`, when no section of the lock is running.
pub(super) struct Slot<P: Platform> {
    state: State,
    /// Counts attaches; a commit must bring back the newest
    /// ([rule 4](crate::docs::protocol#rule-4)). Wraps after 2^64 attaches.
    ticket: u64,
    /// Why the object is quarantined.
    outcome: Outcome,
    /// The object around this slot; set by every attach.
    object: Option<Weak<P>>,
}

/// The duty to take the node out of the index, under the same lock.
#[must_use = "the state says `Idle`: the node must leave the index in the same section"]
pub(super) struct TakeOut(());

impl<P: Platform> Slot<P> {
    pub(super) const fn new() -> Self {
        Self { state: State::Idle, ticket: 0, outcome: Outcome::Idle, object: None }
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Returns why the object is quarantined.
    pub(super) fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Returns the object around this slot.
    pub(super) fn object(&self) -> Option<Weak<P>> {
        self.object
    }

    /// Returns the ticket of the acquire in progress, if there is one.
    pub(super) fn current_ticket(&self) -> Option<u64> {
        (self.state == State::Acquiring).then_some(self.ticket)
    }

    /// Transition 1, `Idle -> Acquiring`: gives out a new ticket.
    ///
    /// Owes: the node is in the index.
    pub(super) fn begin_acquire(&mut self, object: Weak<P>) -> u64 {
        debug_assert!(self.state == State::Idle);
        self.object = Some(object);
        self.state = State::Acquiring;
        self.ticket = self.ticket.wrapping_add(1);
        self.ticket
    }

    /// Transition 2, `Acquiring -> Ready`. The caller has looked that `ticket` is the current one.
    ///
    /// Owes: the pages are installed, then the lease word is opened, in the same section.
    pub(super) fn commit(&mut self, ticket: u64) {
        debug_assert!(self.current_ticket() == Some(ticket));
        self.state = State::Ready;
    }

    /// Transition 4, `Acquiring -> Failed`. The caller has looked that `ticket` is the current one.
    pub(super) fn fail(&mut self, ticket: u64) {
        debug_assert!(self.current_ticket() == Some(ticket));
        self.state = State::Failed;
    }

    /// Transitions 3 and 5, `Acquiring | Failed -> Idle`. The acquire in progress finds its commit
    /// refused, and drops its private pins.
    pub(super) fn forget(&mut self) -> TakeOut {
        debug_assert!(matches!(self.state, State::Acquiring | State::Failed));
        self.state = State::Idle;
        TakeOut(())
    }

    /// Transition 6, `Ready -> Revoking`. The caller owns the revocation from here on.
    ///
    /// Owes: the lease word is closed in the same section; then the revocation, to its end.
    pub(super) fn revoke(&mut self) {
        debug_assert!(self.state == State::Ready);
        self.state = State::Revoking;
    }

    /// Transition 7, `Revoking -> Idle`: the pages are released. The caller owned the revocation.
    pub(super) fn released(&mut self) -> TakeOut {
        debug_assert!(self.state == State::Revoking);
        self.state = State::Idle;
        TakeOut(())
    }

    /// Transition 8, `Revoking -> Quarantined`: the pages stay pinned. The caller owned the
    /// revocation.
    ///
    /// Owes: one reference to the object, which is the quarantine's.
    pub(super) fn quarantine(&mut self, outcome: Outcome) {
        debug_assert!(self.state == State::Revoking && outcome != Outcome::Idle);
        self.state = State::Quarantined;
        self.outcome = outcome;
    }

    /// Transition 9, `Quarantined -> Revoking`. The caller owns the revocation from here on, and
    /// the quarantine's reference with it.
    pub(super) fn retry(&mut self) {
        debug_assert!(self.state == State::Quarantined);
        self.state = State::Revoking;
    }

    /// Sets the ticket, for a test of its wrap.
    #[cfg(test)]
    pub(super) fn set_ticket(&mut self, ticket: u64) {
        self.ticket = ticket;
    }
}
