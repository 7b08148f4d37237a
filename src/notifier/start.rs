//! The host's side: start, end, exit.

use super::attachment::{Attachment, State, Subscriber};
use super::{Core, Notifier, Outcome, cancel};
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

/// A non-blockable start met something attached. Nothing was recorded and nothing changed (rule 10); `EAGAIN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WouldBlock;

impl From<WouldBlock> for crate::Error {
    fn from(_: WouldBlock) -> Self {
        Self::Again
    }
}

impl fmt::Display for WouldBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("something is attached in the range, and the caller may not wait (EAGAIN)")
    }
}

impl core::error::Error for WouldBlock {}

impl<P: Platform> Notifier<P> {
    /// An invalidation of `range` begins: stops the devices and releases the pages, and keeps anything from being
    /// attached there until [`invalidate_end`](Self::invalidate_end) with the same range.
    ///
    /// When it returns [`Outcome::Idle`], no overlapping object has pages installed or a lease, whoever began its cancel (rule 5).
    /// Any other outcome says that something was quarantined. Every `Ok` opens a window and needs its end.
    ///
    /// If the range lies apart from the hull of everything that is attached, it takes no lock and touches two cache lines
    /// (rule 30); a range in a gap inside that hull costs the lock and a query. It never allocates (rule 11). Called with no lock of
    /// this crate held, and by nobody who holds a lease in the range: such a call meets the deadline (rule 29).
    ///
    /// # Errors
    /// [`WouldBlock`], only for [`Blockable::No`]: nothing was recorded, no end is due.
    ///
    /// Source: `i915_gem_userptr_mn_invalidate_range_start`.
    pub fn invalidate_start(&self, range: AddrRange, mode: Blockable) -> Result<Outcome, WouldBlock> {
        Ok(self.begin(range, mode)?.finish())
    }

    /// The first half of a start: records the window, closes every overlapping object to new leases, and asks their devices to
    /// stop; waits for nothing. With several devices on one address space, begin on each and then finish each (rule 24).
    ///
    /// # Errors
    /// As [`invalidate_start`](Self::invalidate_start).
    pub fn begin(&self, range: AddrRange, mode: Blockable) -> Result<Stopping<'_, P>, WouldBlock> {
        let recorded = self.windows.open(range);
        // ORDERING: store buffering with `attach`: here the window, fence, then the summary; there the node and the summary,
        // fence, then the windows. If our fence comes first, the attach sees our window and backs out; if its fence comes
        // first, we see its node in the summary. Release and acquire alone would let both look past each other (rule 30).
        P::fence();
        if recorded && !self.summary.may_overlap(range) {
            return Ok(Stopping { home: self, range, own: ptr::null(), wait: false });
        }
        let begun = self.with(|core| {
            if mode == Blockable::No && core.index.first(range).is_some() {
                return None;
            }
            if !recorded {
                core.spill.open(range);
            }
            Some(self.mark(core, range))
        });
        let Some(marked) = begun else {
            if recorded {
                self.windows.close(range);
                self.wake();
            }
            return Err(WouldBlock);
        };
        if marked.superseded {
            self.wake();
        }
        self.tell(marked.own);
        Ok(Stopping { home: self, range, own: marked.own, wait: marked.met })
    }

    /// The invalidation of `range` is over: the page tables have changed, and attaches are possible again.
    ///
    /// Ends are told apart by their range, and by nothing else: an end closes one open window of exactly its range, whoever opened it.
    /// An end for which there is none is ignored (rule 12), as long as at most [`Platform::WINDOWS`] windows are open: beyond that
    /// only the hull of their ranges is known, and an end inside it closes one of them. So an end without a start is harmless unless
    /// it meets a window like that; then attaches are let through too early, and the host must not send it.
    ///
    /// Ordering: what the caller did before happens before any attach that this end lets through.
    pub fn invalidate_end(&self, range: AddrRange) {
        if self.windows.close(range) || self.with(|core| core.spill.close(range)) {
            self.wake();
        }
    }

    /// Opens a window without stopping anything, for a host that delivers an end for a start that was refused.
    pub fn open_window(&self, range: AddrRange) {
        if !self.windows.open(range) {
            self.with(|core| core.spill.open(range));
        }
        // ORDERING: as in `begin`, so that an attach that is not refused is visible to the caller's next start.
        P::fence();
    }

    /// The address space is going away: everything is released and nothing attaches any more (rule 14). Like a start over
    /// everything that never ends. Calling it twice is harmless.
    pub fn exit(&self) -> Outcome {
        let marked = self.with(|core| {
            core.dead = true;
            self.mark(core, AddrRange::ALL)
        });
        self.wake();
        self.tell(marked.own);
        Stopping { home: self, range: AddrRange::ALL, own: marked.own, wait: marked.met }.finish()
    }

    /// Tries the cancel of every object again whose device did not stop in time: for a driver that has reset its device. Runs in
    /// this thread, and returns the worst outcome. Objects that wait for a lease are left to their last lease.
    pub fn retry_quarantined(&self) -> Outcome {
        let mut own = self.with(|core| {
            let mut own = ptr::null();
            core.each(AddrRange::ALL, |_, attachment| {
                // SAFETY: the lock is held. A quarantined object that does not wait for leases has no owner but the
                // quarantine, whose reference goes with the cancel from here on.
                unsafe {
                    if attachment.state() == State::Quarantined && !attachment.leases.is_left_to_leases() {
                        attachment.set_state(State::Revoking);
                        attachment.chain(own);
                        own = ptr::from_ref(attachment);
                    }
                }
            });
            own
        });
        self.tell(own);
        let mut worst = Outcome::Idle;
        while let Some(sub) = take(&mut own) {
            worst = worst.max(cancel::run(sub));
        }
        worst
    }

    /// Under the lock: detaches what has no pages, and makes every `Ready` object that can be upgraded ours to cancel.
    fn mark(&self, core: &mut Core<P>, range: AddrRange) -> Marked<P> {
        let mut marked = Marked { own: ptr::null(), superseded: false, met: false };
        core.each(range, |core, attachment| {
            // SAFETY: the lock is held, and the attachment is in the index.
            unsafe {
                match attachment.state() {
                    State::Acquiring | State::Failed => {
                        // A newer ticket is what makes the acquirer's commit fail; it drops its private pins there.
                        core.take_out(attachment, &self.summary);
                        marked.superseded = true;
                    }
                    State::Ready => {
                        marked.met = true;
                        // Dying: the releaser owns the cancel, and the wait below is for it, too (rule 2).
                        if attachment.edge().is_some_and(|edge| edge.as_ref().count().get_unless_zero()) {
                            attachment.set_state(State::Revoking);
                            attachment.leases.close();
                            attachment.chain(marked.own);
                            marked.own = ptr::from_ref(attachment);
                        }
                    }
                    // Somebody else's, or waiting for its last lease.
                    State::Revoking | State::Quarantined => marked.met = true,
                    // Not in the index.
                    State::Idle => debug_assert!(false),
                }
            }
        });
        marked
    }

    /// Asks the devices of a chain to stop: all of them, before one is waited for.
    fn tell(&self, mut own: *const Attachment<P>) {
        while !own.is_null() {
            // SAFETY: the chain is ours: each object is alive by the count taken in `mark`, and its edge does not change.
            unsafe {
                if let Some(edge) = (*own).edge() {
                    edge.as_ref().value().stop();
                }
                own = (*own).chained();
            }
        }
    }
}

/// What a start found under the lock.
struct Marked<P: Platform> {
    /// The objects that are ours to cancel, chained; each comes with a count.
    own: *const Attachment<P>,
    /// An acquire was superseded or a failure forgotten: a waiting acquire has something to look at.
    superseded: bool,
    /// Something with pages overlaps: there is something to wait for, or to report.
    met: bool,
}

/// Takes the first object, with its count, off a chain that is the caller's.
fn take<P: Platform>(own: &mut *const Attachment<P>) -> Option<Ref<dyn Subscriber<P>, P>> {
    // SAFETY: the chain is the caller's, so each object is alive by the count that came with it. The next is read before
    // this one is given away.
    unsafe {
        let attachment = own.as_ref()?;
        *own = attachment.chained();
        attachment.edge().map(|edge| Ref::adopt(edge))
    }
}

/// A start that has begun. [`finish`](Self::finish) it, or drop it, which does the same.
///
/// Forgetting it leaves its objects without an owner: later starts on them wait for ever, nothing worse.
#[must_use = "nothing is released before `finish`"]
pub struct Stopping<'n, P: Platform> {
    home: &'n Notifier<P>,
    range: AddrRange,
    /// The objects that are ours to cancel; each comes with a count.
    own: *const Attachment<P>,
    /// Whether anything with pages overlaps. If not, nothing can come before the end: the window keeps it out.
    wait: bool,
}

// SAFETY: the chain is ours alone, and its objects are `Send + Sync`.
unsafe impl<P: Platform> Send for Stopping<'_, P> {}

impl<P: Platform> Stopping<'_, P> {
    /// Whether this start found an object with pages that nobody was cancelling yet, and so cancels it: for a host's statistics.
    #[must_use]
    pub fn cancels_any(&self) -> bool {
        !self.own.is_null()
    }

    /// Cancels, then waits until nothing in the range is installed, whoever cancels it.
    pub fn finish(mut self) -> Outcome {
        self.run();
        let outcome = self.wait();
        core::mem::forget(self);
        outcome
    }

    /// Cancels, or queues the cancels if the notifier has a queue, and does not wait for anybody else's. For a host that
    /// cannot let the invalidating thread wait: nothing is released when this returns, but nobody gets a new lease either.
    pub fn let_go(mut self) {
        self.run();
        core::mem::forget(self);
    }

    /// All own cancels first: another start may be waiting for one of them while we wait for its (rule 8, scenario 80).
    fn run(&mut self) {
        while let Some(sub) = take(&mut self.own) {
            cancel::run_or_queue(self.home, sub);
        }
    }

    fn wait(&self) -> Outcome {
        let mut outcome = Outcome::Idle;
        if self.wait {
            self.home.wait_for(None, |core| {
                outcome = Outcome::Idle;
                // Ends at the first that is busy: with many, every wake would otherwise walk over all of them under the lock.
                !core.any(self.range, |attachment| {
                    // SAFETY: the lock is held.
                    match unsafe { attachment.state() } {
                        // The index only; never the object, which may be dying (rule 2).
                        State::Ready | State::Revoking => true,
                        State::Quarantined => {
                            // SAFETY: the lock is held.
                            outcome = outcome.max(unsafe { attachment.outcome() });
                            false
                        }
                        // No pages.
                        State::Idle | State::Acquiring | State::Failed => false,
                    }
                })
            });
        }
        outcome
    }
}

impl<P: Platform> Drop for Stopping<'_, P> {
    fn drop(&mut self) {
        self.run();
        let _ = self.wait();
    }
}

impl<P: Platform> fmt::Debug for Stopping<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stopping({:?}, own: {})", self.range, !self.own.is_null())
    }
}
