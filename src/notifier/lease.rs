//! The lease word: who uses the pages right now.
//!
//! ```text
//!   bit 63 CLOSED        no new lease
//!   bit 62 QUARANTINED   the cancel gave up waiting: whoever drops the last lease finishes it
//!   bits 61..0           leases, the initial one of the installed pages included
//! ```

use crate::platform::{AtomicUsize, Load, Platform, Rmw, Store};
use core::fmt;

const CLOSED: usize = 1 << (usize::BITS - 1);
const QUARANTINED: usize = 1 << (usize::BITS - 2);
const COUNT: usize = QUARANTINED - 1;
/// More leases are refused. Far enough from the flags that no number of threads between load and add can reach them.
const MOST: usize = COUNT / 2;

/// # Invariants
/// * Not `CLOSED` exactly while the object is `Ready`; then the count includes the initial lease.
/// * While the count is above zero the installed pages stay as they are.
pub(crate) struct LeaseWord<P: Platform> {
    word: P::Usize,
}

/// What dropping a lease asks of the one who dropped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the last lease has to wake the cancel, or finish it"]
pub(crate) enum Put {
    /// Nothing.
    Held,
    /// Wake the cancel.
    Drained,
    /// The cancel gave up: finish it.
    Finish,
}

impl<P: Platform> LeaseWord<P> {
    pub(super) fn new() -> Self {
        Self { word: P::Usize::new(CLOSED) }
    }

    /// Opens the word with the initial lease and `more`. Called under the notifier's lock, after the pages are installed.
    pub(super) fn open(&self, more: usize) {
        // ORDERING: publishes the installed pages; pairs with the acquire in `take`.
        self.word.store(more.saturating_add(1), Store::Release);
    }

    /// One more lease, if the word is open. One read-modify-write when nobody interferes.
    pub(crate) fn take(&self) -> bool {
        let mut old = self.word.load(Load::Relaxed);
        loop {
            // `CLOSED`: without it two holders who take turns keep a cancel waiting for ever (scenario 79).
            if old & CLOSED != 0 || old & COUNT == 0 || old & COUNT >= MOST {
                return false;
            }
            // ORDERING: pairs with the release in `open`, directly or through the read-modify-writes since: the holder
            // sees the pages.
            match self.word.compare_exchange(old, old.wrapping_add(1), Rmw::Acquire, Load::Relaxed) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
    }

    /// One less.
    pub(crate) fn put(&self) -> Put {
        // ORDERING: releases the holder's use of the pages; pairs with the acquire of whoever sees zero: `is_drained`,
        // `quarantine`, or the load below.
        let old = self.word.fetch_sub(1, Rmw::Release);
        if old & COUNT != 1 {
            return Put::Held;
        }
        if old & QUARANTINED == 0 {
            return Put::Drained;
        }
        // ORDERING: this thread finishes the cancel: it must see the other holders' releases. It reads zero, the end of
        // their release sequence.
        self.word.load(Load::Acquire);
        Put::Finish
    }

    /// Refuses new leases and drops the initial one. Called under the notifier's lock, by whoever makes it `Revoking`.
    pub(super) fn close(&self) {
        // One step for both: sets CLOSED, which was clear, and takes one from the count, which was at least one.
        // ORDERING: none of its own: the pages are handed to the cancel by the notifier's lock and by `is_drained`.
        self.word.fetch_add(CLOSED.wrapping_sub(1), Rmw::Relaxed);
    }

    /// Whether every lease is gone, and their uses are visible.
    pub(super) fn is_drained(&self) -> bool {
        // ORDERING: pairs with the release in `put`.
        self.word.load(Load::Acquire) & COUNT == 0
    }

    /// Whether leases are refused.
    pub(crate) fn is_closed(&self) -> bool {
        // Relaxed: asked after `AddressSpace::quiet`, which orders it where it has to be: see `UserPtr::try_acquire`.
        self.word.load(Load::Relaxed) & CLOSED != 0
    }

    /// Leaves the rest of the cancel to the last lease, if there still is one. `false`: there is none, go on.
    /// One step: between the look and the mark no lease can end unseen (rule 23).
    pub(super) fn quarantine(&self) -> bool {
        let mut old = self.word.load(Load::Relaxed);
        loop {
            if old & COUNT == 0 {
                // ORDERING: as `is_drained`.
                self.word.load(Load::Acquire);
                return false;
            }
            match self.word.compare_exchange(old, old | QUARANTINED, Rmw::Relaxed, Load::Relaxed) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
    }

    /// Whether the rest of a cancel was left to the last lease, which has not come to the notifier's lock yet. Under that lock.
    pub(super) fn is_left_to_leases(&self) -> bool {
        self.word.load(Load::Relaxed) & QUARANTINED != 0
    }

    /// As new. Called under the notifier's lock, after the cancel.
    pub(super) fn reset(&self) {
        self.word.store(CLOSED, Store::Relaxed);
    }

    /// The number of leases at this moment, without the initial one, which goes when the word is closed.
    pub(crate) fn count(&self) -> usize {
        let word = self.word.load(Load::Relaxed);
        (word & COUNT).saturating_sub(usize::from(word & CLOSED == 0))
    }
}

impl<P: Platform> fmt::Debug for LeaseWord<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.word.load(Load::Relaxed);
        write!(f, "{} leases", word & COUNT)?;
        if word & CLOSED != 0 {
            f.write_str(", closed")?;
        }
        if word & QUARANTINED != 0 {
            f.write_str(", quarantined")?;
        }
        Ok(())
    }
}
