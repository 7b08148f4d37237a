//! The lease words of one object: one, or several, so that threads that take leases at once do not
//! write the same cache line.

use super::lease::{LeaseWord, Put};
use crate::error::Error;
use crate::platform::{Cell, MAX_SHARDS, Platform};
use crate::refcount::{Ref, RefCounted};
use core::{array, fmt, iter};
use crossbeam_utils::CachePadded;

/// # Invariants
/// Each word is closed exactly while the object is not `Ready`. `left` is the number of words whose
/// last lease has still to come to the notifier's lock, to finish a quarantine; it is touched under
/// that lock only.
pub(super) struct Leases<P: Platform> {
    first: LeaseWord<P>,
    /// The others; `None`: there is one word.
    rest: Option<Ref<Rest<P>, P>>,
    left: P::Cell<usize>,
}

/// The words after the first. Those beyond [`Platform::SHARDS`] are never used.
struct Rest<P: Platform> {
    words: [CachePadded<LeaseWord<P>>; MAX_SHARDS - 1],
}

// SAFETY: there is nothing to settle, and nothing to do at the end.
unsafe impl<P: Platform> RefCounted<P> for Rest<P> {}

impl<P: Platform> Leases<P> {
    /// Makes one word.
    pub(super) fn new() -> Self {
        Self { first: LeaseWord::new(), rest: None, left: <P::Cell<_> as Cell<_>>::new(0) }
    }

    /// Makes [`Platform::SHARDS`] words.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub(super) fn spread() -> Result<Self, Error> {
        const { assert!(P::SHARDS >= 1 && P::SHARDS <= MAX_SHARDS) };
        let words = array::from_fn(|_| CachePadded::new(LeaseWord::new()));
        Ok(Self { rest: Some(Ref::try_new(Rest { words })?), ..Self::new() })
    }

    /// Returns the word of a shard.
    #[inline]
    fn at(&self, shard: usize) -> &LeaseWord<P> {
        let Some(index) = shard.checked_sub(1) else { return &self.first };
        match self.rest.as_ref().and_then(|rest| rest.words.get(index)) {
            Some(word) => word,
            None => &self.first,
        }
    }

    fn each(&self) -> impl Iterator<Item = &LeaseWord<P>> {
        let rest = self.rest.iter().flat_map(|rest| rest.words.iter().take(P::SHARDS.saturating_sub(1)));
        iter::once(&self.first).chain(rest.map(|word| &**word))
    }

    /// Takes a lease, if the words are open. Returns the shard that it counts in.
    #[inline]
    pub(super) fn take(&self) -> Option<usize> {
        let shard = if self.rest.is_some() { P::shard().checked_rem(P::SHARDS)? } else { 0 };
        self.at(shard).take().then_some(shard)
    }

    /// Drops a lease that counts in `shard`.
    #[inline]
    pub(super) fn put(&self, shard: usize) -> Put {
        self.at(shard).put()
    }

    /// Opens the words; the first has `more` leases. Called under the notifier's lock, after the
    /// pages are installed.
    pub(super) fn open(&self, more: usize) {
        let mut more = more;
        for word in self.each() {
            word.open(core::mem::take(&mut more));
        }
    }

    /// Refuses new leases and drops the pages' own. Called under the notifier's lock, by the thread
    /// that makes the object `Revoking`.
    pub(super) fn close(&self) {
        self.each().for_each(LeaseWord::close);
    }

    /// Returns whether every lease is gone, with its use of the pages visible. The words are
    /// closed: one that was found drained stays so.
    pub(super) fn is_drained(&self) -> bool {
        self.each().all(LeaseWord::is_drained)
    }

    /// Returns whether leases are refused in this shard. All are closed in one section of the
    /// notifier's lock.
    pub(super) fn is_closed(&self, shard: usize) -> bool {
        self.at(shard).is_closed()
    }

    /// Leaves the rest of the revocation to the last lease, if there still is one. Returns `false`
    /// if there is none: the caller then continues. Called under the notifier's lock.
    ///
    /// Each word that has leases left sends its last one to the lock, where
    /// [`was_last`](Self::was_last) finds out which of them finishes. One that has none is seen
    /// here, with what its leases did.
    pub(super) fn quarantine(&self) -> bool {
        let marked = self.each().filter(|word| word.quarantine()).count();
        // SAFETY: the lock is held (caller).
        self.left.with_mut(|left| unsafe { *left = marked });
        marked != 0
    }

    /// Counts a word whose last lease has come to the notifier's lock, which is held. Returns
    /// whether it was the last word: the caller then finishes the revocation.
    pub(super) fn was_last(&self) -> bool {
        // SAFETY: the lock is held (caller).
        self.left.with_mut(|left| unsafe {
            *left = (*left).saturating_sub(1);
            *left == 0
        })
    }

    /// Returns whether the rest of a revocation was left to leases that have not all reached the
    /// notifier's lock yet, which is held.
    pub(super) fn is_left_to_leases(&self) -> bool {
        // SAFETY: the lock is held (caller).
        self.left.with(|left| unsafe { *left != 0 })
    }

    /// Resets the words. Called under the notifier's lock, after the revocation.
    pub(super) fn reset(&self) {
        self.each().for_each(LeaseWord::reset);
    }

    /// Returns the number of leases at this moment, without the pages' own.
    pub(super) fn held(&self) -> usize {
        self.each().fold(0, |held, word| held.saturating_add(word.held()))
    }
}

impl<P: Platform> fmt::Debug for Leases<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rest.is_none() {
            return fmt::Debug::fmt(&self.first, f);
        }
        f.debug_list().entries(self.each()).finish()
    }
}
