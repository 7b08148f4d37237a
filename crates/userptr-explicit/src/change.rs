//! A change: its start, its guard, its end.

use crate::state::{Open, Round, State};
use crate::{Explicit, Space};
use core::fmt;
use userptr::notifier::PendingInvalidation;
use userptr::platform::Platform;
use userptr::{AddrRange, Blockable, Error, Outcome};

/// An open change of a range: the devices were idle and the pages released when it was made, and
/// nothing in the range can be acquired until it is dropped. Change the memory in between.
///
/// Forgetting it leaves the range closed for ever, nothing worse.
#[must_use = "the change ends when this is dropped: change the memory before"]
pub struct Change<P: Platform> {
    space: Explicit<P>,
    open: Open,
    outcome: Outcome,
}

impl<P: Platform> Change<P> {
    /// Returns whether everything in the range was released. Anything but [`Outcome::Idle`] says
    /// that an object was quarantined ([`Notifier`](userptr::Notifier)): a device may still use the
    /// pages that are there now.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// Returns the range.
    #[must_use]
    pub fn range(&self) -> AddrRange {
        self.open.range
    }
}

impl<P: Platform> Drop for Change<P> {
    fn drop(&mut self) {
        if !self.space.is_mine() {
            // Copied into a forked child: its memory is another one, and its lock may have no
            // owner that could release it.
            return;
        }
        let (calls, ()) = Calls::begin(&self.space.space, |state, round| state.close(&self.open, round));
        for (notifier, window) in calls.round.calls.iter().flatten() {
            // SAFETY: this change opened the window, or the registration did for a notifier that
            // came later; `State::close` names it once.
            unsafe { notifier.invalidate_end(*window) };
        }
    }
}

impl<P: Platform> fmt::Debug for Change<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Change({:?}, {:?})", self.open.range, self.outcome)
    }
}

/// Calls into notifiers, with no lock held. The notifiers stay registered until it is dropped.
struct Calls<'a, P: Platform> {
    space: &'a Space<P>,
    round: Round<P>,
}

impl<'a, P: Platform> Calls<'a, P> {
    /// Names whom to call, in one section of the lock.
    fn begin<R>(space: &'a Space<P>, name: impl FnOnce(&mut State<P>, &mut Round<P>) -> R) -> (Self, R) {
        let mut this = Self { space, round: Round::new() };
        let said = space.with(|state| name(state, &mut this.round));
        (this, said)
    }
}

impl<P: Platform> Drop for Calls<'_, P> {
    fn drop(&mut self) {
        let mut called = 0_u16;
        for (place, call) in (0..).zip(&mut self.round.calls) {
            // The reference goes first: the last one is that of the state.
            if call.take().is_some() {
                called |= 1_u16.checked_shl(place).unwrap_or(0);
            }
        }
        if self.space.with(|state| state.done(called)) {
            self.space.wake();
        }
    }
}

impl<P: Platform> Explicit<P> {
    /// Begins a change of `range`, in bytes: closes it to new leases, stops the devices, waits for
    /// them, and releases the pages. Returns when that is done. Several devices are all asked
    /// before one is waited for ([rule 24](userptr::docs::protocol#rule-24)).
    ///
    /// Changes may overlap and nest: a range opens when the last of its changes has ended. Begin a
    /// change *before* the memory changes, and let it end *after*.
    ///
    /// Never allocates. It cannot be refused but for what the caller did himself:
    ///
    /// # Errors
    /// Nothing was begun:
    /// * [`Error::Deadlock`]: the calling thread is known to hold a lease in the range, and would
    ///   wait for itself ([rule 29](userptr::docs::protocol#rule-29)).
    /// * [`Error::OtherSpace`]: in a forked child, whose memory is another one.
    ///
    /// What the devices did is said by [`Change::outcome`].
    pub fn change(&self, range: AddrRange) -> Result<Change<P>, Error> {
        self.begin(range, Blockable::Yes)
    }

    /// Begins a change if nothing has to be waited for.
    ///
    /// # Errors
    /// [`Error::Again`]: an object in the range is attached, and nothing was begun; otherwise as
    /// [`change`](Self::change).
    pub fn try_change(&self, range: AddrRange) -> Result<Change<P>, Error> {
        self.begin(range, Blockable::No)
    }

    /// Tries the quarantined objects again that overlap `range`, of every device: for one that
    /// learns that a device is done with a page after the deadline. May free memory and wait for
    /// devices. Returns the worst outcome; what is quarantined again is reported as an event.
    pub fn retry_quarantined_in(&self, range: AddrRange) -> Outcome {
        if !self.is_mine() {
            return Outcome::Idle;
        }
        let (calls, ()) = Calls::begin(&self.space, |state, round| state.each(range, round));
        let tried = calls.round.calls.iter().flatten().map(|(n, range)| n.retry_quarantined_in(*range));
        tried.max().unwrap_or(Outcome::Idle)
    }

    fn begin(&self, range: AddrRange, mode: Blockable) -> Result<Change<P>, Error> {
        if !self.is_mine() {
            return Err(Error::OtherSpace);
        }
        let (calls, open) = Calls::begin(&self.space, |state, round| state.open(range, round));
        // From here on the drop of the change ends what was begun, also if a driver unwinds: it is
        // dropped after the pending invalidations.
        let mut change = Change { space: self.clone(), open, outcome: Outcome::Idle };
        let calls = &calls.round.calls;
        if calls.iter().flatten().any(|(notifier, _)| notifier.is_held_here(range)) {
            return Err(Error::Deadlock);
        }
        // Pass one: all devices are asked to stop before one is waited for (rule 24).
        let mut pending: [Option<PendingInvalidation<'_, P>>; crate::MAX_NOTIFIERS] =
            [const { None }; crate::MAX_NOTIFIERS];
        for ((place, call), slot) in (0..).zip(calls).zip(&mut pending) {
            let Some((notifier, _)) = call else { continue };
            *slot = Some(notifier.invalidate_start(range, mode)?);
            change.open.windows |= 1_u16.checked_shl(place).unwrap_or(0);
        }
        // Pass two.
        for slot in &mut pending {
            if let Some(pending) = slot.take() {
                change.outcome = change.outcome.max(pending.finish());
            }
        }
        drop(pending);
        Ok(change)
    }
}
