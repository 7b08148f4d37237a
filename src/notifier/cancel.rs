//! Cancels: inline, queued, by the release, by an eviction, by the last lease. One sequence for all:
//! drain the leases → device idle → unmap → unpin; then under the lock `Idle` and out of the index; wake; put, last.

use super::attachment::{Attachment, State, Subscriber};
use super::summary::Summary;
use super::{Core, Notifier, Outcome};
use crate::interval::IntervalIndex;
use crate::platform::{Platform, RawQueue};
use crate::refcount::{Fate, Ref};

/// Runs the cancel here, or on the notifier's queue if it has one.
pub(super) fn run_or_queue<P: Platform>(home: &Notifier<P>, sub: Ref<dyn Subscriber<P>, P>) {
    if let Some(queue) = &home.cancels {
        let work = sub.attachment().work_ptr();
        let inner = Ref::leak(sub);
        // SAFETY: the item is settled, and the count that was just leaked keeps it alive until it runs.
        if unsafe { queue.enqueue(work) } {
            return;
        }
        // Refused. It cannot be pending, since it was attached (rule 9): the queue is shut down. The cancel is still owed.
        // SAFETY: refused, so the count is ours again.
        let _ = run(unsafe { Ref::adopt(inner) });
        return;
    }
    let _ = run(sub);
}

/// The work function of a queued cancel.
///
/// # Safety
/// Called by the queue, for an item that `run_or_queue` enqueued.
pub(super) unsafe fn run_queued<P: Platform>(work: *const P::Work) {
    // SAFETY: the item lies in an attachment whose object lives by the count that was leaked for this call; the edge does not
    // change while its cancel is owned, and the queue orders its last write before this.
    let sub = unsafe { (*Attachment::<P>::of_work(work)).edge().map(|edge| Ref::adopt(edge)) };
    if let Some(sub) = sub {
        let _ = run(sub);
    }
}

/// Cancels an object that is `Revoking`, with a reference of the cancel's own.
pub(super) fn run<P: Platform>(sub: Ref<dyn Subscriber<P>, P>) -> Outcome {
    let outcome = drain_and_quiesce(&*sub, Owner::Reference);
    // The last touch: this may be the last reference (scenario 39).
    drop(sub);
    outcome
}

/// Who owns a cancel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// Somebody with a reference to the object.
    Reference,
    /// The release of an object whose count is zero.
    LastPut,
}

/// The whole sequence. The object is `Revoking` and ours.
fn drain_and_quiesce<P: Platform>(sub: &dyn Subscriber<P>, owner: Owner) -> Outcome {
    let (home, attachment) = (sub.home(), sub.attachment());
    // SAFETY: settled with the attachment; no spinlock is held.
    let drained = unsafe { attachment.drained.wait_until(sub.deadline(), || attachment.leases.is_drained()) };
    if !drained && home.quarantine_for_leases(attachment, owner) {
        home.wake();
        return Outcome::TimedOut;
    }
    quiesce(sub, owner)
}

/// The sequence after the leases are gone.
fn quiesce<P: Platform>(sub: &dyn Subscriber<P>, owner: Owner) -> Outcome {
    let (home, attachment) = (sub.home(), sub.attachment());
    let outcome = sub.cancel(sub.deadline());
    home.with(|core| {
        // SAFETY: the lock is held, and the cancel is ours, so the node is in the index.
        unsafe {
            debug_assert!(attachment.state() == State::Revoking);
            if outcome == Outcome::Idle {
                attachment.leases.reset();
                core.take_out(attachment, &home.summary);
            } else {
                core.quarantine(attachment, outcome, owner);
            }
        }
    });
    home.wake();
    outcome
}

impl<P: Platform> Core<P> {
    /// Takes an attached object out of the index: `Idle`.
    ///
    /// # Safety
    /// The lock is held and the attachment is in this index.
    pub(super) unsafe fn take_out(&mut self, attachment: &Attachment<P>, summary: &Summary<P>) {
        // SAFETY: the caller's promise.
        unsafe {
            attachment.set_state(State::Idle);
            self.index.remove(attachment.node_ptr());
        }
        summary.set(self.index.hull());
    }

    /// Quarantines an object whose cancel is the caller's. The quarantine takes a reference of its own.
    ///
    /// # Safety
    /// The lock is held and the cancel is the caller's.
    unsafe fn quarantine(&mut self, attachment: &Attachment<P>, outcome: Outcome, owner: Owner) {
        // SAFETY: the caller's promise; the object is alive, since it is attached.
        unsafe {
            attachment.quarantine(outcome);
            if let Some(edge) = attachment.edge() {
                let count = edge.as_ref().count();
                if owner == Owner::LastPut {
                    // One for the release itself, which gives it back when it learns of `Fate::Keep`.
                    count.revive();
                }
                count.get();
            }
        }
        self.quarantined = self.quarantined.saturating_add(1);
    }
}

impl<P: Platform> Notifier<P> {
    /// Quarantines a `Revoking` object for its leases. `false`: there are none any more, go on.
    fn quarantine_for_leases(&self, attachment: &Attachment<P>, owner: Owner) -> bool {
        self.with(|core| {
            // One section for the mark in the lease word and the state: the holder who drops the last lease after the mark
            // comes to this lock before it touches the object, so it finds the state (rule 23).
            let marked = attachment.leases.quarantine();
            if marked {
                // SAFETY: the lock is held and the cancel is the caller's.
                unsafe { core.quarantine(attachment, Outcome::TimedOut, owner) };
            }
            marked
        })
    }

    /// The last lease of a quarantined object is gone: finishes its cancel, in the thread that dropped it. That thread has
    /// a reference of its own.
    pub(crate) fn finish_quarantined(&self, attachment: &Attachment<P>) {
        let sub = self.with(|_| {
            // SAFETY: the lock is held. The mark in the lease word made this thread the only one to come here, and the
            // quarantine's reference is now the cancel's.
            unsafe {
                debug_assert!(attachment.state() == State::Quarantined);
                attachment.set_state(State::Revoking);
                attachment.leases.reset();
                attachment.edge().map(|edge| Ref::adopt(edge))
            }
        });
        if let Some(sub) = sub {
            let _ = quiesce(&*sub, Owner::Reference);
        }
    }

    /// The release of an object whose count has reached zero; called from its `last_put`, and returns its fate.
    ///
    /// Pages that are installed are released here, in this thread, after the device stopped. The node leaves the index only
    /// after that, so a start that comes meanwhile waits (rule 2, scenarios 77 and 78).
    ///
    /// # Safety
    /// The object's count is zero and this is called from its `last_put`.
    pub unsafe fn detach(sub: &dyn Subscriber<P>) -> Fate {
        match Self::claim(sub) {
            State::Ready => {
                sub.stop();
                match drain_and_quiesce(sub, Owner::LastPut) {
                    Outcome::Idle => Fate::Free,
                    Outcome::TimedOut | Outcome::DeviceLost => Fate::Keep,
                }
            }
            State::Idle | State::Acquiring | State::Failed => Fate::Free,
            // Whoever cancels holds a count, and so does a quarantine: the count cannot be zero. Rather leak than free.
            State::Revoking | State::Quarantined => {
                debug_assert!(false, "released while a cancel holds a reference");
                Fate::Leak
            }
        }
    }

    /// Detaches what has no pages, and makes a `Ready` object the caller's to cancel. Returns the state it found.
    fn claim(sub: &dyn Subscriber<P>) -> State {
        let attachment = sub.attachment();
        let state = Self::at_home(sub, |home, core| {
            // SAFETY: the lock is held.
            unsafe {
                let state = attachment.state();
                match state {
                    State::Acquiring | State::Failed => core.take_out(attachment, &home.summary),
                    State::Ready => {
                        attachment.set_state(State::Revoking);
                        attachment.leases.close();
                    }
                    State::Idle | State::Revoking | State::Quarantined => {}
                }
                state
            }
        });
        if matches!(state, State::Acquiring | State::Failed) {
            sub.home().wake();
        }
        state
    }

    /// Releases the pages of one object without a window: eviction, `put_pages`, an export. Waits for a cancel that is
    /// somebody else's. An acquire in flight is superseded; a failure is forgotten.
    ///
    /// The caller holds no lease on the object: it would meet the deadline and be quarantined.
    ///
    /// The [`Outcome`] says whether the pages are released.
    pub fn revoke<T: Subscriber<P>>(sub: &Ref<T, P>) -> Outcome {
        let attachment = sub.attachment();
        if Self::claim(&**sub) == State::Ready {
            sub.stop();
            let _ = drain_and_quiesce(&**sub, Owner::Reference);
        }
        let mut outcome = Outcome::Idle;
        let home = sub.home();
        home.wait_for(None, |_| {
            if !core::ptr::eq(home, sub.home()) {
                // Moved by an export, which revoked it first.
                return true;
            }
            // SAFETY: the lock is held.
            unsafe {
                outcome = Outcome::Idle;
                match attachment.state() {
                    State::Revoking => return false,
                    State::Quarantined => outcome = attachment.outcome(),
                    State::Idle | State::Acquiring | State::Ready | State::Failed => {}
                }
            }
            true
        });
        outcome
    }

    /// Forgets a sticky failure (rule 15). `false`: there was none.
    pub fn reset_failed<T: Subscriber<P>>(sub: &Ref<T, P>) -> bool {
        let attachment = sub.attachment();
        let was = Self::at_home(&**sub, |home, core| {
            // SAFETY: the lock is held.
            unsafe {
                let was = attachment.state() == State::Failed;
                if was {
                    core.take_out(attachment, &home.summary);
                }
                was
            }
        });
        if was {
            sub.home().wake();
        }
        was
    }

    /// Whether a cancel of the object is queued and has not begun. An attached object has none (rule 9).
    #[must_use]
    pub fn is_cancel_pending<T: Subscriber<P>>(sub: &Ref<T, P>) -> bool {
        sub.home().has_pending(sub.attachment())
    }

    /// A bit of the work item: also asked under the lock.
    pub(super) fn has_pending(&self, attachment: &Attachment<P>) -> bool {
        // SAFETY: settled with the attachment, alive by the caller's reference.
        self.cancels.as_ref().is_some_and(|queue| unsafe { queue.is_pending(attachment.work_ptr()) })
    }
}
