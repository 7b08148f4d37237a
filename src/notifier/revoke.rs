//! Revocations: inline, queued, by the last put, by an eviction, by the last lease. One sequence
//! for all: drain the leases → device idle → unmap → unpin; then under the lock `Idle` and out of
//! the index; wake; put, last.

use super::attachment::{Attachment, Subscriber, nanos};
use super::hull::Hull;
use super::state::{State, TakeOut};
use super::{Core, Event, Notifier, Outcome};
use crate::interval::IntervalIndex;
use crate::platform::{Platform, RawQueue};
use crate::refcount::{LastPut, Ref};
use core::mem::ManuallyDrop;
use core::time::Duration;

/// Gives a revocation that is the caller's its deadline: `began` plus what the object allows. Every
/// wait of the revocation gets what is left of it ([rule 31](crate::docs::protocol#rule-31)).
pub(super) fn set_deadline<P: Platform>(sub: &(impl Subscriber<P> + ?Sized), began: Duration) {
    let began = nanos(began);
    let until = sub.deadline().map(|deadline| Duration::from_nanos(began.saturating_add(nanos(deadline))));
    // SAFETY: the caller owns the revocation.
    unsafe { sub.attachment().set_until(until) };
}

/// Runs the revocation here, or on the notifier's queue if it has one.
pub(super) fn run_or_queue<P: Platform>(notifier: &Notifier<P>, sub: Ref<dyn Subscriber<P>, P>) {
    if let Some(queue) = &notifier.revokes {
        let work = sub.attachment().work_ptr();
        let inner = Ref::leak(sub);
        // SAFETY: the item is settled, and the count that was just leaked keeps it alive until it
        // runs.
        if unsafe { queue.enqueue(work) } {
            return;
        }
        // Refused. It cannot be pending, since it was attached (rule 9): the queue is shut down.
        // The revocation is still owed.
        // SAFETY: refused, so the count is ours again.
        let _ = run(unsafe { Ref::adopt(inner) });
        return;
    }
    let _ = run(sub);
}

/// The work function of a queued revocation.
///
/// # Safety
/// Called by the queue, for an item that `run_or_queue` enqueued.
pub(super) unsafe fn run_queued<P: Platform>(work: *const P::Work) {
    // SAFETY: the item lies in an attachment whose object lives by the count that was leaked for
    // this call; the back-pointer does not change while its revocation is owned, and the queue
    // orders its last write before this.
    let sub = unsafe { (*Attachment::<P>::of_work(work)).object().map(|object| Ref::adopt(object)) };
    if let Some(sub) = sub {
        let _ = run(sub);
    }
}

/// Revokes an object that is `Revoking`, with a reference of the revocation's own.
pub(super) fn run<P: Platform>(sub: Ref<dyn Subscriber<P>, P>) -> Outcome {
    let outcome = drain_and_release(&*sub, Owner::Reference);
    // The last touch: this may be the last reference (scenario 39).
    put(sub);
    outcome
}

/// Drops a revocation's reference. If it was the last, the object is freed elsewhere, where that
/// can be (rule 32).
fn put<P: Platform>(sub: Ref<dyn Subscriber<P>, P>) {
    let Some(dying) = Ref::put(sub) else { return };
    // SAFETY: the count is zero, and the object ours. It is `Idle`, because a quarantine would hold
    // a reference: nothing finds it any more.
    if unsafe { dying.free_later() } {
        core::mem::forget(dying);
    }
}

/// Who owns a revocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A thread with a reference to the object.
    Reference,
    /// The last put of an object whose count is zero.
    LastPut,
}

/// The whole sequence. The object is `Revoking` and ours.
fn drain_and_release<P: Platform>(sub: &dyn Subscriber<P>, owner: Owner) -> Outcome {
    let (notifier, attachment) = (sub.notifier(), sub.attachment());
    // Wait for the holders first: the device is asked for idleness only when nobody can give it new
    // work.
    // SAFETY: the revocation is ours; the wait was settled with the attachment; no spinlock is
    // held.
    let drained =
        unsafe { attachment.drained.wait_until(attachment.time_left(), || attachment.leases.is_drained()) };
    if !drained && notifier.quarantine_for_leases(attachment, owner) {
        notifier.wake();
        sub.event(Event::Quarantined(attachment.range(), Outcome::TimedOut));
        return Outcome::TimedOut;
    }
    release(sub, owner)
}

/// The sequence after the leases are gone.
fn release<P: Platform>(sub: &dyn Subscriber<P>, owner: Owner) -> Outcome {
    // If the driver unwinds, the object is quarantined as that of a lost device: nobody waits
    // forever.
    let unwound = Unwound { sub, owner };
    // SAFETY: the revocation is ours, and the leases are gone.
    let outcome = unsafe { sub.release(sub.attachment().time_left()) };
    let _ = ManuallyDrop::new(unwound);
    settle(sub, owner, outcome);
    outcome
}

/// Ends a revocation in the state that its outcome asks for.
fn settle<P: Platform>(sub: &dyn Subscriber<P>, owner: Owner, outcome: Outcome) {
    let (notifier, attachment) = (sub.notifier(), sub.attachment());
    notifier.with(|core| {
        // SAFETY: the lock is held, and the revocation is ours, so the node is in the index.
        unsafe {
            if outcome == Outcome::Idle {
                attachment.leases.reset();
                let duty = attachment.slot(|slot| slot.released());
                core.take_out(attachment, &notifier.hull, duty);
            } else {
                core.quarantine(attachment, outcome, owner);
            }
        }
    });
    notifier.wake();
    sub.event(match outcome {
        Outcome::Idle => Event::Revoked(attachment.range()),
        why => Event::Quarantined(attachment.range(), why),
    });
}

/// A call into the driver that may unwind, on platforms that can. Dropped only then: the object is
/// quarantined, and the driver is not asked again.
struct Unwound<'a, P: Platform> {
    sub: &'a dyn Subscriber<P>,
    owner: Owner,
}

impl<P: Platform> Drop for Unwound<'_, P> {
    fn drop(&mut self) {
        give_up(self.sub, self.owner);
    }
}

/// Ends a revocation that is the caller's without asking the driver, which has just unwound: the
/// object is quarantined for its leases or, without any, as that of a lost device.
pub(super) fn give_up<P: Platform>(sub: &dyn Subscriber<P>, owner: Owner) {
    if sub.notifier().quarantine_for_leases(sub.attachment(), owner) {
        sub.notifier().wake();
        sub.event(Event::Quarantined(sub.attachment().range(), Outcome::TimedOut));
    } else {
        settle(sub, owner, Outcome::DeviceLost);
    }
}

/// Asks the device of a revocation that is the caller's to stop.
pub(super) fn stop<P: Platform>(sub: &dyn Subscriber<P>, owner: Owner) {
    let unwound = Unwound { sub, owner };
    // SAFETY: the revocation is ours, and the pages are installed.
    unsafe { sub.stop() };
    let _ = ManuallyDrop::new(unwound);
}

impl<P: Platform> Core<P> {
    /// Takes the node of an object that has just become `Idle` out of the index.
    ///
    /// # Safety
    /// The lock is held and the node is in this index.
    pub(super) unsafe fn take_out(&mut self, attachment: &Attachment<P>, hull: &Hull<P>, duty: TakeOut) {
        let TakeOut { .. } = duty;
        // SAFETY: in the index (caller).
        unsafe { self.index.remove(attachment.node_ptr()) };
        hull.set(self.index.hull());
    }

    /// Makes an `Acquiring` or `Failed` object `Idle`.
    ///
    /// # Safety
    /// The lock is held and the node is in this index.
    pub(super) unsafe fn forget(&mut self, attachment: &Attachment<P>, hull: &Hull<P>) {
        // SAFETY: the lock is held, and the node is in the index (caller).
        unsafe {
            let duty = attachment.slot(|slot| slot.forget());
            self.take_out(attachment, hull, duty);
        }
    }

    /// Quarantines an object whose revocation is the caller's. The quarantine takes a reference of
    /// its own.
    ///
    /// # Safety
    /// The lock is held and the revocation is the caller's.
    unsafe fn quarantine(&mut self, attachment: &Attachment<P>, outcome: Outcome, owner: Owner) {
        // SAFETY: the lock is held; the object is alive, since it is attached.
        unsafe {
            attachment.slot(|slot| slot.quarantine(outcome));
            if let Some(object) = attachment.object() {
                let count = object.as_ref().count();
                if owner == Owner::LastPut {
                    // One for the last put itself, which drops it when it learns of
                    // `LastPut::Revived`, or when it unwinds.
                    count.revive();
                }
                count.get();
            }
        }
        self.quarantined = self.quarantined.saturating_add(1);
    }
}

impl<P: Platform> Notifier<P> {
    /// Quarantines a `Revoking` object because leases are still held. Returns `false` if the last
    /// one has just been dropped; the caller then continues.
    fn quarantine_for_leases(&self, attachment: &Attachment<P>, owner: Owner) -> bool {
        self.with(|core| {
            // One section for the mark in the lease word and the state: the holder who drops the
            // last lease after the mark comes to this lock before it touches the object, so it
            // finds the state (rule 23).
            let marked = attachment.leases.quarantine();
            if marked {
                // SAFETY: the lock is held and the revocation is the caller's.
                unsafe { core.quarantine(attachment, Outcome::TimedOut, owner) };
            }
            marked
        })
    }

    /// Finishes the revocation of a quarantined object whose last lease is gone, in the thread that
    /// dropped it. That thread has a reference of its own.
    pub(super) fn finish_quarantined(&self, attachment: &Attachment<P>) {
        let began = P::now();
        let sub = self.with(|_| {
            // Another word has leases left.
            if !attachment.leases.was_last() {
                return None;
            }
            // SAFETY: the lock is held. The mark in the lease word made one thread a word come
            // here, of which this is the last, and the quarantine's reference is now the
            // revocation's.
            unsafe {
                attachment.slot(|slot| slot.retry());
                attachment.leases.reset();
                attachment.object().map(|object| Ref::adopt(object))
            }
        });
        if let Some(sub) = sub {
            set_deadline(&*sub, began);
            if release(&*sub, Owner::Reference) == Outcome::Idle {
                sub.event(Event::Finished(attachment.range()));
            }
        }
    }

    /// Detaches an object whose count has reached zero; called from its `last_put`, which returns
    /// the result.
    ///
    /// Pages that are installed are released here, in this thread, after the device stopped. The
    /// node leaves the index only after that, so an invalidation that comes meanwhile waits
    /// ([rule 2](crate::docs::protocol#rule-2), scenarios [77](crate::docs::scenarios#scenario-77)
    /// and [78](crate::docs::scenarios#scenario-78)).
    ///
    /// # Safety
    /// The object's count is zero and this is called from its `last_put`.
    pub unsafe fn detach(sub: &dyn Subscriber<P>) -> LastPut {
        let began = P::now();
        match Self::claim(sub) {
            State::Ready => {
                set_deadline(sub, began);
                stop(sub, Owner::LastPut);
                match drain_and_release(sub, Owner::LastPut) {
                    Outcome::Idle => LastPut::Drop,
                    Outcome::TimedOut | Outcome::DeviceLost => LastPut::Revived,
                }
            }
            State::Idle | State::Acquiring | State::Failed => LastPut::Drop,
            // The owner of a revocation holds a count, and so does a quarantine: the count cannot
            // be zero. Rather leak than free.
            State::Revoking | State::Quarantined => {
                debug_assert!(false, "the last put came while a revocation holds a reference");
                LastPut::Leak
            }
        }
    }

    /// Detaches what has no pages, and makes a `Ready` object the caller's to revoke. Returns the
    /// state it found.
    fn claim(sub: &(impl Subscriber<P> + ?Sized)) -> State {
        let attachment = sub.attachment();
        let state = Self::with_notifier(sub, |notifier, core| {
            // SAFETY: the lock is held; a node that is not `Idle` is in this index.
            unsafe {
                let state = attachment.state();
                match state {
                    State::Acquiring | State::Failed => core.forget(attachment, &notifier.hull),
                    State::Ready => {
                        attachment.slot(|slot| slot.revoke());
                        attachment.leases.close();
                    }
                    State::Idle | State::Revoking | State::Quarantined => {}
                }
                state
            }
        });
        if matches!(state, State::Acquiring | State::Failed) {
            sub.notifier().wake();
        }
        state
    }

    /// Releases the pages of one object without a window: eviction, `put_pages`, an export. Waits
    /// for a revocation that another thread owns. Supersedes an acquire in flight and forgets a
    /// failure.
    ///
    /// The [`Outcome`] says whether the pages are released. The caller must hold no lease on the
    /// object: the revocation would wait for it until the deadline, and quarantine the object.
    pub fn revoke<T: Subscriber<P>>(sub: &Ref<T, P>) -> Outcome {
        let began = P::now();
        if Self::claim(&**sub) == State::Ready {
            set_deadline(&**sub, began);
            stop(&**sub, Owner::Reference);
            let _ = drain_and_release(&**sub, Owner::Reference);
        }
        let mut outcome = Outcome::Idle;
        let notifier = sub.notifier();
        notifier.wait_for(None, |_| {
            if !core::ptr::eq(notifier, sub.notifier()) {
                // Moved by an export, which revoked it first.
                return true;
            }
            // SAFETY: the lock is held.
            let (state, why) = unsafe { sub.attachment().read(|slot| (slot.state(), slot.outcome())) };
            outcome = if state == State::Quarantined { why } else { Outcome::Idle };
            state != State::Revoking
        });
        outcome
    }

    /// Forgets a sticky failure ([rule 15](crate::docs::protocol#rule-15)). Returns `false` if
    /// there was none.
    pub fn reset_failed<T: Subscriber<P>>(sub: &Ref<T, P>) -> bool {
        let attachment = sub.attachment();
        // Nobody is woken: nobody waits for an object to leave `Failed`.
        Self::with_notifier(&**sub, |notifier, core| {
            // SAFETY: the lock is held; a `Failed` node is in this index.
            unsafe {
                let was = attachment.state() == State::Failed;
                if was {
                    core.forget(attachment, &notifier.hull);
                }
                was
            }
        })
    }

    /// Calls `f` under the lock if the object is `Idle`.
    pub(crate) fn while_idle<T: Subscriber<P>>(sub: &Ref<T, P>, mut f: impl FnMut()) {
        Self::with_notifier(&**sub, |_, _| {
            // SAFETY: the lock is held.
            if unsafe { sub.attachment().state() } == State::Idle {
                f();
            }
        });
    }

    /// Returns whether a revocation of the object is queued and has not begun. An attached object
    /// has none ([rule 9](crate::docs::protocol#rule-9)).
    #[must_use]
    pub fn is_revoke_pending<T: Subscriber<P>>(sub: &Ref<T, P>) -> bool {
        sub.notifier().has_pending(sub.attachment())
    }

    /// A bit of the work item: also asked under the lock.
    pub(super) fn has_pending(&self, attachment: &Attachment<P>) -> bool {
        // SAFETY: settled with the attachment, alive by the caller's reference.
        self.revokes.as_ref().is_some_and(|queue| unsafe { queue.is_pending(attachment.work_ptr()) })
    }
}
