//! The address space's side: an invalidation's start and end, and the exit.

use super::attachment::{Attachment, Subscriber};
use super::revoke::{self, Owner};
use super::state::State;
use super::{Core, Notifier, Outcome};
use crate::interval::IntervalIndex;
use crate::platform::Platform;
use crate::range::AddrRange;
use crate::refcount::Ref;
use core::fmt;
use core::ptr;

/// Whether an invalidation may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blockable {
    /// It may sleep, and never fails.
    Yes,
    /// It may not (the OOM reaper): anything attached in the range refuses it.
    No,
}

/// A non-blockable invalidation met something attached. Nothing was recorded and nothing changed (
/// [rule 10](crate::docs::protocol#rule-10)); `EAGAIN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WouldBlock;

impl From<WouldBlock> for crate::Error {
    fn from(_: WouldBlock) -> Self {
        Self::Again
    }
}

impl fmt::Display for WouldBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object is attached in the range, and the caller may not wait (EAGAIN)")
    }
}

impl core::error::Error for WouldBlock {}

impl<P: Platform> Notifier<P> {
    /// Invalidates `range`: stops the devices, waits for them, releases the pages, and keeps
    /// anything from being attached there until the returned guard is dropped. Both passes in one,
    /// and the end: for a program that changes its mappings by itself.
    ///
    /// When [`Invalidation::outcome`] is [`Outcome::Idle`], no overlapping object has pages
    /// installed or a lease, whoever began its revocation ([rule 5](crate::docs::protocol#rule-5)).
    /// Any other outcome says that something was quarantined.
    ///
    /// Takes no lock if `range` is outside the hull of all attached objects
    /// ([rule 30](crate::docs::protocol#rule-30)); in a gap inside it costs the lock and a query.
    /// Never allocates ([rule 11](crate::docs::protocol#rule-11)). The caller must hold no lock of
    /// this crate and no lease in `range`; with a lease, the call runs into the deadline
    /// ([rule 29](crate::docs::protocol#rule-29)).
    ///
    /// # Errors
    /// [`WouldBlock`], only for [`Blockable::No`]: nothing was recorded.
    ///
    /// Source: `i915_gem_userptr_mn_invalidate_range_start`.
    pub fn invalidate(&self, range: AddrRange, mode: Blockable) -> Result<Invalidation<'_, P>, WouldBlock> {
        let pending = self.invalidate_start(range, mode)?;
        // Before the device is waited for: a driver that unwinds there must not leave the window
        // open.
        let mut this = Invalidation { notifier: self, range, outcome: Outcome::Idle };
        this.outcome = pending.finish();
        Ok(this)
    }

    /// Returns whether the calling thread is known to hold a lease on an object in `range`: an
    /// invalidation by this thread would wait for its own lease ([rule
    /// 29](crate::docs::protocol#rule-29)). For an address space that can refuse the change.
    /// `false` where the platform does not keep track, and for an
    /// [`OwnedLease`](crate::OwnedLease), which belongs to no thread.
    #[must_use]
    pub fn is_held_here(&self, range: AddrRange) -> bool {
        // A lease of this thread was taken by this thread: it sees the hull with its node in it.
        self.hull.may_overlap(range)
            && self.with(|core| {
                core.any(range, |attachment| {
                    // SAFETY: the lock is held and the attachment is in the index, so its object is
                    // alive.
                    unsafe { attachment.object() }
                        .is_some_and(|object| unsafe { object.as_ref() }.value().is_held_here())
                })
            })
    }

    /// Pass one of an invalidation: records the window, closes every overlapping object to new
    /// leases, and asks their devices to stop; waits for nothing. With several devices on one
    /// address space, call it on each notifier and then finish each
    /// ([rule 24](crate::docs::protocol#rule-24)). Every `Ok` opens a window and must have its
    /// [`invalidate_end`](Self::invalidate_end).
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate).
    pub fn invalidate_start(
        &self,
        range: AddrRange,
        mode: Blockable,
    ) -> Result<PendingInvalidation<'_, P>, WouldBlock> {
        let recorded = self.windows.open(range);
        // ORDERING: store buffering with `attach` (E10): here the window, fence, then the hull;
        // there the node and the hull, fence, then the windows.
        // - If our fence comes first, the attach sees our window, and backs out.
        // - If its fence comes first, we see its node in the hull below, and take the lock.
        // Release and acquire alone would let both look past each other (rule 30).
        P::fence();
        // Nothing near: the window alone keeps attaches out. If no slot was free, the window still
        // has to be recorded under the lock.
        if recorded && !self.hull.may_overlap(range) {
            return Ok(PendingInvalidation::nothing(self, range));
        }
        let marked = self.with(|core| {
            // Refused before anything is changed; a quarantined or failed object refuses, too (rule
            // 10).
            if mode == Blockable::No && core.index.first(range).is_some() {
                return None;
            }
            if !recorded {
                core.overflow.open(range);
            }
            Some(self.mark(core, range))
        });
        let Some(marked) = marked else {
            // Our window was visible for a moment: an acquire that it refused waits for its end.
            if recorded {
                self.windows.close(range);
                self.wake();
            }
            return Err(WouldBlock);
        };
        Ok(self.stop_all(range, marked, true))
    }

    /// Returns how the revocations in `range` ended, the worst of them; `None` if an object there
    /// has pages that are not released and not given up on either. This is what
    /// [`finish`](PendingInvalidation::finish) waits for, asked once: for an address space that
    /// must not wait. What it says stays true while the caller has a window open over the range.
    pub fn outcome(&self, range: AddrRange) -> Option<Outcome> {
        let mut outcome = Outcome::Idle;
        let busy = self.with(|core| {
            core.any(range, |attachment| {
                // SAFETY: the lock is held.
                unsafe { is_busy(attachment, &mut outcome) }
            })
        });
        (!busy).then_some(outcome)
    }

    /// Ends the invalidation of `range`: the page tables have changed, and attaches are possible
    /// again.
    ///
    /// Closes one window with exactly this range, whoever opened it; an end that matches no window
    /// does nothing ([rule 12](crate::docs::protocol#rule-12)). While more than
    /// [`Platform::WINDOWS`] windows are open, only the hull of the others is known, and an end
    /// inside it closes one of them.
    ///
    /// Ordering: what the caller did before happens before any attach that this end lets through.
    ///
    /// # Safety
    /// The caller opened a window of exactly this range
    /// ([`invalidate_start`](Self::invalidate_start) or [`open_window`](Self::open_window)) and has
    /// not ended it, or no window of this range is open. A stray end could close another thread's
    /// window while the page tables still change, and a page that is freed in it would be
    /// installed.
    pub unsafe fn invalidate_end(&self, range: AddrRange) {
        self.close_window(range);
    }

    fn close_window(&self, range: AddrRange) {
        if self.windows.close(range) || self.with(|core| core.overflow.close(range)) {
            self.wake();
        }
    }

    /// Opens a window without stopping anything, for a platform that delivers an end for a start
    /// that was refused.
    pub fn open_window(&self, range: AddrRange) {
        if !self.windows.open(range) {
            self.with(|core| core.overflow.open(range));
        }
        // ORDERING: as in `invalidate_start` (E10), so that an attach that is not refused is
        // visible to the caller's next start.
        P::fence();
    }

    /// Ends the address space: releases everything, and nothing attaches any more
    /// ([rule 14](crate::docs::protocol#rule-14)). Like an invalidation of everything that never
    /// ends. Calling it twice is harmless.
    pub fn exit(&self) -> Outcome {
        let mut marked = self.with(|core| {
            core.dead = true;
            self.mark(core, AddrRange::ALL)
        });
        // Waiting acquires learn that the address space is gone, even if nothing was attached.
        marked.superseded = true;
        self.stop_all(AddrRange::ALL, marked, false).finish()
    }

    /// Tries the revocation of every quarantined object again whose device did not stop in time:
    /// for a driver that has reset its device. Runs in this thread under one deadline, and returns
    /// the worst outcome. Objects that wait for a lease are left to their last lease.
    pub fn retry_quarantined(&self) -> Outcome {
        self.retry_quarantined_in(AddrRange::ALL)
    }

    /// As [`retry_quarantined`](Self::retry_quarantined), for the objects that overlap `range`: for
    /// a driver that learns that its device has stopped using one of them.
    pub fn retry_quarantined_in(&self, range: AddrRange) -> Outcome {
        let own = self.with(|core| {
            let mut own = ptr::null();
            core.each(range, |_, attachment| {
                // SAFETY: the lock is held. A quarantined object that does not wait for leases has
                // no owner but the quarantine, whose reference goes with the revocation from here
                // on.
                unsafe {
                    if attachment.state() == State::Quarantined && !attachment.leases.is_left_to_leases() {
                        attachment.slot(|slot| slot.retry());
                        attachment.chain(own);
                        own = ptr::from_ref(attachment);
                    }
                }
            });
            own
        });
        let marked = Marked { own, superseded: false, met: false };
        let mut pending = self.stop_all(range, marked, false);
        let mut worst = Outcome::Idle;
        while let Some(sub) = pending.take() {
            worst = worst.max(pending.call(|| revoke::run(sub)));
        }
        worst
    }

    /// Under the lock: detaches what has no pages, and makes every `Ready` object that can be
    /// upgraded ours to revoke.
    fn mark(&self, core: &mut Core<P>, range: AddrRange) -> Marked<P> {
        let mut marked = Marked { own: ptr::null(), superseded: false, met: false };
        core.each(range, |core, attachment| {
            // SAFETY: the lock is held, and the attachment is in the index.
            unsafe {
                match attachment.state() {
                    // Not `Acquiring` any more, so the acquirer's commit fails; it drops its
                    // private pins there. If another acquire begins meanwhile, the ticket tells the
                    // two apart.
                    State::Acquiring | State::Failed => {
                        core.forget(attachment, &self.hull);
                        marked.superseded = true;
                    }
                    State::Ready => {
                        marked.met = true;
                        // A count of zero means dying: its last put owns the revocation, and the
                        // wait in `finish` is for that one, too (rule 2).
                        if attachment.object().is_some_and(|object| object.as_ref().count().get_unless_zero())
                        {
                            attachment.slot(|slot| slot.revoke());
                            attachment.leases.close();
                            attachment.chain(marked.own);
                            marked.own = ptr::from_ref(attachment);
                        }
                    }
                    // Another thread's, or waiting for its last lease.
                    State::Revoking | State::Quarantined => marked.met = true,
                    // Not in the index.
                    State::Idle => debug_assert!(false),
                }
            }
        });
        marked
    }

    /// Gives the marked objects their deadline and asks their devices to stop: all of them, before
    /// one is waited for.
    ///
    /// `window`: one was opened for the caller. If the driver unwinds in here, the caller never
    /// learns of it, and it is closed again.
    fn stop_all(&self, range: AddrRange, marked: Marked<P>, window: bool) -> PendingInvalidation<'_, P> {
        if marked.superseded {
            // A waiting acquire has something to look at.
            self.wake();
        }
        let mut pending = PendingInvalidation {
            notifier: self,
            range,
            own: marked.own,
            wait: marked.met,
            in_driver: false,
            window,
        };
        if pending.own.is_null() {
            pending.window = false;
            return pending;
        }
        // One deadline for all of them, from here (rule 31).
        let began = P::now();
        let mut at = pending.own;
        while !at.is_null() {
            // SAFETY: the chain is ours: each object is alive by the count taken in `mark`, its
            // back-pointer does not change, and the pages are installed.
            unsafe {
                if let Some(object) = (*at).object() {
                    let sub = object.as_ref().value();
                    revoke::set_deadline(sub, began);
                    pending.call(|| sub.stop());
                }
                at = (*at).chained();
            }
        }
        // From here on the window is the caller's to end.
        pending.window = false;
        pending
    }
}

/// An invalidation in progress: nothing attaches in its range until this is dropped. Forgetting it
/// leaves the range closed forever, nothing worse.
#[must_use = "the invalidation ends when this is dropped: change the mapping before"]
pub struct Invalidation<'n, P: Platform> {
    notifier: &'n Notifier<P>,
    range: AddrRange,
    outcome: Outcome,
}

impl<P: Platform> Invalidation<'_, P> {
    /// Returns whether everything in the range was released.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }
}

impl<P: Platform> Drop for Invalidation<'_, P> {
    fn drop(&mut self) {
        // SAFETY: `invalidate` opened this window.
        unsafe { self.notifier.invalidate_end(self.range) };
    }
}

impl<P: Platform> fmt::Debug for Invalidation<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invalidation({:?}, {:?})", self.range, self.outcome)
    }
}

/// What a start found under the lock.
struct Marked<P: Platform> {
    /// The objects that are ours to revoke, chained; each comes with a count.
    own: *const Attachment<P>,
    /// An acquire was superseded or a failure forgotten.
    superseded: bool,
    /// An object with pages overlaps: there is something to wait for, or to report.
    met: bool,
}

/// An invalidation after pass one. [`finish`](Self::finish) it, or drop it, which does the same.
///
/// Forgetting it leaves its objects without an owner: later invalidations of them wait forever,
/// nothing worse.
#[must_use = "nothing is released before `finish`"]
pub struct PendingInvalidation<'n, P: Platform> {
    notifier: &'n Notifier<P>,
    range: AddrRange,
    /// The objects that are ours to revoke; each comes with a count.
    own: *const Attachment<P>,
    /// Whether an object with pages overlaps. If not, nothing can come before the end: the window
    /// keeps it out.
    wait: bool,
    /// A call into the driver is in progress. If this is dropped meanwhile, the driver unwinds.
    in_driver: bool,
    /// The window is to be closed if this is dropped: pass one is not done.
    window: bool,
}

// SAFETY: the chain is ours alone, and its objects are `Send + Sync`.
unsafe impl<P: Platform> Send for PendingInvalidation<'_, P> {}

impl<'n, P: Platform> PendingInvalidation<'n, P> {
    fn nothing(notifier: &'n Notifier<P>, range: AddrRange) -> Self {
        Self { notifier, range, own: ptr::null(), wait: false, in_driver: false, window: false }
    }

    /// Returns whether it found an object with pages that no other thread was revoking yet, and so
    /// revokes it: for an address space's statistics.
    #[must_use]
    pub fn revokes_any(&self) -> bool {
        !self.own.is_null()
    }

    /// Pass two: revokes, then waits until nothing in the range is installed, whoever revokes it.
    pub fn finish(mut self) -> Outcome {
        self.run();
        let outcome = self.wait();
        core::mem::forget(self);
        outcome
    }

    /// Revokes, or queues the revocations if the notifier has a queue, and does not wait for those
    /// of other threads. For an address space that cannot let the invalidating thread wait: nothing
    /// is released when this returns, but no new lease is given either.
    pub fn finish_without_waiting(mut self) {
        self.run();
        core::mem::forget(self);
    }

    /// Takes the first object off the chain, with its count.
    fn take(&mut self) -> Option<Ref<dyn Subscriber<P>, P>> {
        // SAFETY: the chain is ours, so each object is alive by the count that came with it. The
        // next is read before this one is given away.
        unsafe {
            let attachment = self.own.as_ref()?;
            self.own = attachment.chained();
            attachment.object().map(|object| Ref::adopt(object))
        }
    }

    /// Calls something that calls the driver.
    fn call<R>(&mut self, f: impl FnOnce() -> R) -> R {
        self.in_driver = true;
        let result = f();
        self.in_driver = false;
        result
    }

    /// All own revocations first: another invalidation may be waiting for one of them while we wait
    /// for its ([rule 8](crate::docs::protocol#rule-8),
    /// [scenario 80](crate::docs::scenarios#scenario-80)).
    fn run(&mut self) {
        while let Some(sub) = self.take() {
            let notifier = self.notifier;
            self.call(|| revoke::run_or_queue(notifier, sub));
        }
    }

    fn wait(&self) -> Outcome {
        let mut outcome = Outcome::Idle;
        if self.wait {
            self.notifier.wait_for(None, |core| {
                outcome = Outcome::Idle;
                // Stop at the first busy node; otherwise every wake-up would walk all overlapping
                // nodes under the lock.
                !core.any(self.range, |attachment| {
                    // SAFETY: the lock is held.
                    unsafe { is_busy(attachment, &mut outcome) }
                })
            });
        }
        outcome
    }
}

/// Whether an attachment keeps an invalidation waiting. Of one that is quarantined, notes why.
///
/// # Safety
/// The notifier's lock is held.
unsafe fn is_busy<P: Platform>(attachment: &Attachment<P>, outcome: &mut Outcome) -> bool {
    // SAFETY: the lock is held (caller).
    let (state, why) = unsafe { attachment.read(|slot| (slot.state(), slot.outcome())) };
    match state {
        // The index only; never the object, which may be dying (rule 2).
        State::Ready | State::Revoking => true,
        State::Quarantined => {
            *outcome = (*outcome).max(why);
            false
        }
        // No pages.
        State::Idle | State::Acquiring | State::Failed => false,
    }
}

impl<P: Platform> Drop for PendingInvalidation<'_, P> {
    fn drop(&mut self) {
        if self.in_driver {
            // The driver unwinds through here. It is asked nothing more, or a second panic would
            // abort: what is left is quarantined, and whoever waits for it goes on.
            while let Some(sub) = self.take() {
                revoke::give_up(&*sub, Owner::Reference);
            }
            if self.window {
                self.notifier.close_window(self.range);
            }
        } else {
            self.run();
            let _ = self.wait();
        }
    }
}

impl<P: Platform> fmt::Debug for PendingInvalidation<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PendingInvalidation({:?}, own: {})", self.range, !self.own.is_null())
    }
}
