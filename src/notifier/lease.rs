//! Leases: the lease word, which counts who uses the pages right now, and the guard of one lease.
//!
//! ```text
//!   bit 63 CLOSED        no new lease
//!   bit 62 QUARANTINED   the revocation reached its deadline: the last lease finishes it
//!   bits 61..0           leases, the initial one of the installed pages included
//! ```

use super::Notifier;
use super::attachment::Subscriber;
use crate::platform::{AtomicUsize, Load, Platform, Rmw, Store};
use crate::refcount::Ref;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;

const CLOSED: usize = 1 << (usize::BITS - 1);
const QUARANTINED: usize = 1 << (usize::BITS - 2);
const COUNT: usize = QUARANTINED - 1;
/// More leases are refused. Far enough from the flags that no number of threads between load and
/// add can reach them.
const MOST: usize = COUNT / 2;

/// One lease word. An object has one or several: see [`Leases`](super::spread::Leases).
///
/// # Invariants
/// * Not `CLOSED` exactly while the object is `Ready`; then the count includes the initial lease.
/// * While the count is above zero the installed pages stay as they are.
pub(super) struct LeaseWord<P: Platform> {
    word: P::Usize,
}

/// What dropping a lease asks of the one who dropped it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the last lease has to wake the cancel, or finish it"]
pub(super) enum Put {
    /// Nothing.
    Held,
    /// Wake the revocation.
    Drained,
    /// The revocation reached its deadline: finish it.
    Finish,
}

impl<P: Platform> LeaseWord<P> {
    pub(super) fn new() -> Self {
        Self { word: P::Usize::new(CLOSED) }
    }

    /// Opens the word with the initial lease and `more`. Called under the notifier's lock, after
    /// the pages are installed.
    pub(super) fn open(&self, more: usize) {
        // ORDERING: publishes the installed pages; pairs with the acquire in `take` (E6).
        self.word.store(more.saturating_add(1), Store::Release);
    }

    /// One more lease, if the word is open. One read-modify-write when nobody interferes.
    #[inline]
    pub(super) fn take(&self) -> bool {
        let mut old = self.word.load(Load::Relaxed);
        loop {
            // `CLOSED`: without it two holders that take turns keep a
            // revocation waiting forever (scenario 79).
            if old & CLOSED != 0 || old & COUNT == 0 || old & COUNT >= MOST {
                return false;
            }
            // ORDERING: pairs with the release in `open` (E6), directly or through the
            // read-modify-writes since: the holder sees the pages.
            match self.word.compare_exchange(old, old.wrapping_add(1), Rmw::Acquire, Load::Relaxed) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
    }

    /// One less.
    #[inline]
    pub(super) fn put(&self) -> Put {
        // ORDERING: releases the holder's use of the pages; pairs with the acquire of the thread
        // that sees zero: `is_drained` or `quarantine` (E7), or the load below (E8).
        let old = self.word.fetch_sub(1, Rmw::Release);
        if old & COUNT != 1 {
            return Put::Held;
        }
        if old & QUARANTINED == 0 {
            return Put::Drained;
        }
        // ORDERING: this thread finishes the revocation (E8), so it must see the other holders'
        // releases. It reads zero, the end of
        // their release sequence.
        self.word.load(Load::Acquire);
        Put::Finish
    }

    /// Refuses new leases and drops the initial one. Called under the notifier's
    /// lock, by the thread that makes it `Revoking`.
    pub(super) fn close(&self) {
        // One step for both: sets CLOSED, which was clear, and takes one from the count, which was
        // at least one.
        // ORDERING: none of its own (E9): the pages go to the revocation by the notifier's lock and
        // by `is_drained`.
        self.word.fetch_add(CLOSED.wrapping_sub(1), Rmw::Relaxed);
    }

    /// Whether every lease is gone, and their uses are visible.
    pub(super) fn is_drained(&self) -> bool {
        // ORDERING: pairs with the release in `put` (E7).
        self.word.load(Load::Acquire) & COUNT == 0
    }

    /// Whether leases are refused.
    pub(super) fn is_closed(&self) -> bool {
        // Relaxed: asked after `AddressSpace::quiet`, which orders it where it has to be (E9).
        self.word.load(Load::Relaxed) & CLOSED != 0
    }

    /// Leaves the rest of the revocation to the last lease, if there still is one. Returns `false`
    /// if there is none: the caller then continues. One step: between the look and the mark no
    /// lease can end unseen ([rule 23](crate::docs::protocol#rule-23)).
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

    /// Resets the word. Called under the notifier's lock, after the revocation.
    pub(super) fn reset(&self) {
        self.word.store(CLOSED, Store::Relaxed);
    }

    /// Returns the number of leases at this moment, without the initial one of the pages.
    pub(super) fn held(&self) -> usize {
        let word = self.word.load(Load::Relaxed);
        // A closed word has dropped the initial lease already.
        let initial = usize::from(word & CLOSED == 0);
        (word & COUNT).saturating_sub(initial)
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

pub(crate) mod sealed {
    /// Keeps [`Holder`](super::Holder) to this crate.
    pub trait Sealed {}
}

/// A counted or borrowed reference that always names the same object: `Ref<T, P>` or `&Ref<T, P>`.
/// Only this crate implements it: one that answered differently each time would drop another
/// object's lease.
pub trait Holder<T: Subscriber<P>, P: Platform>: sealed::Sealed {
    /// Returns the reference.
    fn held(&self) -> &Ref<T, P>;
}

impl<T: Subscriber<P>, P: Platform> sealed::Sealed for Ref<T, P> {}
impl<T: Subscriber<P>, P: Platform> Holder<T, P> for Ref<T, P> {
    fn held(&self) -> &Self {
        self
    }
}

impl<T: Subscriber<P>, P: Platform> sealed::Sealed for &Ref<T, P> {}
impl<T: Subscriber<P>, P: Platform> Holder<T, P> for &Ref<T, P> {
    fn held(&self) -> &Ref<T, P> {
        self
    }
}

/// A lease on a `Ready` object: while it lives the installed pages stay, and a revocation waits.
///
/// Dropping it wakes that revocation; dropping the last lease of a quarantined object finishes the
/// revocation, and may sleep. Forgetting it leaks the pages, nothing worse (rules
/// [23](crate::docs::protocol#rule-23) and [25](crate::docs::protocol#rule-25)).
///
/// `R` is `&Ref<T, P>` or `Ref<T, P>`.
#[must_use = "the pages may be released as soon as the lease is dropped"]
pub struct LeaseGuard<T: Subscriber<P>, P: Platform, R: Holder<T, P>> {
    object: R,
    /// The lease word that it counts in: it may be dropped by another thread.
    shard: usize,
    _of: PhantomData<fn(T, P)>,
}

impl<P: Platform> Notifier<P> {
    /// Takes a lease, if pages are installed and no revocation has begun. One read-modify-write
    /// when nobody interferes.
    ///
    /// Ordering: the holder sees what the commit installed; what the holder does happens before the
    /// revocation's unmap.
    #[inline]
    pub fn lease<T: Subscriber<P>, R: Holder<T, P>>(object: R) -> Option<LeaseGuard<T, P, R>> {
        let shard = object.held().attachment().leases.take()?;
        Some(LeaseGuard { object, shard, _of: PhantomData })
    }
}

impl<T: Subscriber<P>, P: Platform, R: Holder<T, P>> LeaseGuard<T, P, R> {
    /// Adopts the lease that a commit left for its caller.
    ///
    /// # Safety
    /// A commit with `lease` succeeded for this object, and this is called once for it.
    pub unsafe fn adopt(object: R) -> Self {
        Self { object, shard: 0, _of: PhantomData }
    }

    /// Returns the object.
    pub fn object(&self) -> &Ref<T, P> {
        self.object.held()
    }

    /// Returns the reference that the lease holds.
    pub(crate) fn holder(&self) -> &R {
        &self.object
    }

    /// Converts it into a lease with a reference of its own.
    pub fn into_owned(self) -> LeaseGuard<T, P, Ref<T, P>> {
        let object = self.object().clone();
        // SAFETY: the object is the same.
        unsafe { self.rehold(object) }
    }

    /// Moves the lease to another reference.
    ///
    /// # Safety
    /// `object` refers to the same object.
    pub(crate) unsafe fn rehold<U: Holder<T, P>>(self, object: U) -> LeaseGuard<T, P, U> {
        let this = ManuallyDrop::new(self);
        let shard = this.shard;
        // SAFETY: `this` is not used again, and its own drop, which would drop the lease, does not
        // run.
        drop(unsafe { core::ptr::read(&raw const this.object) });
        LeaseGuard { object, shard, _of: PhantomData }
    }

    /// Returns whether a revocation has begun: it waits for this lease.
    pub fn is_revoked(&self) -> bool {
        self.object().attachment().leases.is_closed(self.shard)
    }
}

impl<T: Subscriber<P>, P: Platform, R: Holder<T, P>> Drop for LeaseGuard<T, P, R> {
    #[inline]
    fn drop(&mut self) {
        match self.object().attachment().leases.put(self.shard) {
            Put::Held => {}
            last => self.ended(last),
        }
    }
}

impl<T: Subscriber<P>, P: Platform, R: Holder<T, P>> LeaseGuard<T, P, R> {
    /// Does what the end of the last lease asks for. Kept out of line: most leases are not the
    /// last.
    #[cold]
    #[inline(never)]
    fn ended(&self, put: Put) {
        let object = self.object();
        let attachment = object.attachment();
        match put {
            Put::Held => {}
            // SAFETY: settled with the attachment, in place by our reference; no lock is held.
            Put::Drained => unsafe { attachment.drained.wake_all() },
            Put::Finish => object.notifier().finish_quarantined(attachment),
        }
    }
}

impl<T: Subscriber<P>, P: Platform, R: Holder<T, P>> fmt::Debug for LeaseGuard<T, P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseGuard({:?})", self.object().attachment())
    }
}
