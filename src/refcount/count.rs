//! The count alone.

use crate::platform::{AtomicUsize, Load, Lock, LockGuard, Platform, RawLock, Rmw, Store};
use core::fmt;

/// A reference count that saturates: it never wraps and a saturated count never reaches zero
/// ([scenario 67](crate::docs::scenarios#scenario-67)).
///
/// Orderings: `get` provides none; `get_unless_zero` provides none beyond the lock it is called
/// under; a `put` releases, and the put that reaches zero also acquires, so that everything done
/// with any reference happens before the release of the object.
///
/// Source: `kref_init`, `kref_get`, `kref_get_unless_zero`, `kref_put`, `kref_put_mutex`.
///
/// ```
/// use userptr::{Refcount, platforms::std::Std};
/// let count = Refcount::<Std>::new();
/// assert!(count.get_unless_zero());
/// assert!(!count.put());
/// assert!(count.put(), "the last put says so");
/// assert!(!count.get_unless_zero(), "zero is the end");
/// ```
pub struct Refcount<P: Platform> {
    count: P::Usize,
}

/// From here on a count is saturated. Half the range stands between it and a wrap, more than there
/// can be threads between a `get` and its repair.
const SATURATED: usize = usize::MAX / 2;
/// What a saturated count is set to: as far from both ends as can be.
const PARKED: usize = SATURATED + SATURATED / 2;

impl<P: Platform> Refcount<P> {
    /// Makes a count of one.
    #[must_use]
    pub fn new() -> Self {
        Self::with_count(1)
    }

    /// Makes a count that starts at `n`, for tests of the far end. A count above half the range is
    /// saturated.
    #[must_use]
    pub fn with_count(n: usize) -> Self {
        Self { count: P::Usize::new(n) }
    }

    /// Returns the count at this moment: a snapshot.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Load::Relaxed)
    }

    /// Returns whether the count is saturated: it does not count any more, and its object leaks.
    #[must_use]
    pub fn is_saturated(&self) -> bool {
        self.count() >= SATURATED
    }

    /// Adds one reference. The caller must hold one already. A count of zero, a use after free in
    /// the making, is saturated instead.
    ///
    /// Ordering: none; the reference that the caller holds orders it.
    pub fn get(&self) {
        let old = self.count.fetch_add(1, Rmw::Relaxed);
        if old == 0 || old >= SATURATED {
            // A get from zero is a use after free in the making: as in the kernel, leak rather than
            // free twice.
            self.park();
        }
    }

    /// Adds one reference unless the count is zero. Returns `false` if it is.
    ///
    /// Ordering: none; the lock that the weak reference is read under orders it.
    #[must_use = "`false` means that the object is dying: do not touch it"]
    pub fn get_unless_zero(&self) -> bool {
        let mut old = self.count.load(Load::Relaxed);
        loop {
            if old == 0 {
                return false;
            }
            if old >= SATURATED {
                return true;
            }
            match self.count.compare_exchange(old, old.wrapping_add(1), Rmw::Relaxed, Load::Relaxed) {
                Ok(_) => return true,
                Err(now) => old = now,
            }
        }
    }

    /// Drops one reference. Returns `true` if it was the last: the caller then owns the object and
    /// must release it. A saturated count stays saturated.
    ///
    /// Ordering: releases; a `true` also acquires, so that everything done with any reference is
    /// visible.
    ///
    /// # Notes
    /// After a `false` another thread may have freed the object already: `self` must not be used
    /// again.
    #[must_use = "`true` means that the caller releases the object"]
    pub fn put(&self) -> bool {
        // ORDERING: releases what this holder did to the put that reaches zero, and if that is this
        // put, acquires what all the others did: it reads the end of the release sequence that
        // every put belongs to. Acquired by the subtraction itself: an acquire load behind it would
        // be ordered after this put only, and not after an earlier put of the same thread, for
        // Arm's processors with `ldapr` and for Linux (E1).
        let old = self.count.fetch_sub(1, Rmw::AcqRel);
        if old == 1 {
            return true;
        }
        if old == 0 || old >= SATURATED {
            self.park();
        }
        false
    }

    /// Drops one reference; if that would be the last, takes `lock` first, so that a lookup under
    /// the lock never meets a zero count. Returns the held lock if it was the last.
    ///
    /// Source: `kref_put_mutex`. The other order, decrement then lock, lets a lookup revive what is
    /// being freed ([scenario 46](crate::docs::scenarios#scenario-46)).
    ///
    /// # Safety
    /// The lock must be initialised, and this thread must not hold it.
    #[must_use = "a guard means that the caller unlinks the object, drops the guard, and releases the object"]
    pub unsafe fn put_and_lock<'l, R: RawLock, U>(
        &self,
        lock: &'l Lock<R, P, U>,
    ) -> Option<LockGuard<'l, R, P, U>> {
        let mut old = self.count.load(Load::Relaxed);
        while old != 1 {
            if old == 0 || old >= SATURATED {
                self.park();
                return None;
            }
            // ORDERING: as in `put`: releases to the put that reaches zero (E2).
            match self.count.compare_exchange(old, old.wrapping_sub(1), Rmw::Release, Load::Relaxed) {
                Ok(_) => return None,
                Err(now) => old = now,
            }
        }
        // SAFETY: the lock is initialised and not held by this thread (caller).
        let guard = unsafe { lock.hold() };
        if self.put() { Some(guard) } else { None }
    }

    /// Raises a count of zero to one. For the one owner of a dying object that has to live on: a
    /// quarantined object, a record whose release is a work item.
    pub(crate) fn revive(&self) {
        // Relaxed: the caller is alone with the object (nobody upgrades a count of zero), and hands
        // it on by a lock or a queue, which order it.
        self.count.store(1, Store::Relaxed);
    }

    fn park(&self) {
        self.count.store(PARKED, Store::Relaxed);
    }
}

impl<P: Platform> Default for Refcount<P> {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> fmt::Debug for Refcount<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Refcount({})", self.count())
    }
}
