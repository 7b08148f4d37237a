//! What a [`SoftQueue`](super::SoftQueue) keeps under its lock: the list of its items, in turn, and
//! a mark for each that is running.

use super::soft::SoftWork;
use crate::platform::{Cell, Platform};
use core::ptr;

/// The place of an item in the list.
pub(super) struct Link<P: Platform> {
    prev: *const SoftWork<P>,
    next: *const SoftWork<P>,
    /// The turn (a number that grows with each enqueue) in which the item was queued.
    pub(super) turn: u64,
    pub(super) queued: bool,
}

impl<P: Platform> Link<P> {
    pub(super) const fn new() -> Self {
        Self { prev: ptr::null(), next: ptr::null(), turn: 0, queued: false }
    }
}

/// What a worker is running. Lives on the worker's stack, because the item may be freed by its own
/// function.
pub(super) struct Mark<P: Platform> {
    /// Compared, never followed.
    pub(super) item: *const SoftWork<P>,
    pub(super) turn: u64,
    pub(super) next: P::Cell<*const Mark<P>>,
}

/// # Invariants
/// * The list is in ascending order of `turn`.
/// * An item in the list is alive; a mark is alive until its worker unlinks it.
pub(super) struct State<P: Platform> {
    pub(super) head: *const SoftWork<P>,
    tail: *const SoftWork<P>,
    pub(super) running: *const Mark<P>,
    /// The last turn that was assigned.
    pub(super) turn: u64,
    pub(super) shut: bool,
}

// SAFETY: the pointers are followed under the lock around the state only, while what they point to
// is alive (invariants).
unsafe impl<P: Platform> Send for State<P> {}

impl<P: Platform> State<P> {
    pub(super) const fn new() -> Self {
        Self { head: ptr::null(), tail: ptr::null(), running: ptr::null(), turn: 0, shut: false }
    }

    /// Returns the first item that no worker is running already.
    pub(super) fn runnable(&self) -> Option<*const SoftWork<P>> {
        let mut at = self.head;
        // SAFETY: the lock is held: what is in the list is alive.
        while let Some(item) = unsafe { at.as_ref() } {
            if self.run_of(at).is_none() {
                return Some(at);
            }
            // SAFETY: the lock is held: `item` is in the list and alive.
            at = unsafe { item.link(|l| l.next) };
        }
        None
    }

    /// Returns the turn for which a worker is running `item`.
    pub(super) fn run_of(&self, item: *const SoftWork<P>) -> Option<u64> {
        let mut at = self.running;
        // SAFETY: the lock is held: a mark is alive until it is unlinked.
        while let Some(mark) = unsafe { at.as_ref() } {
            if ptr::eq(mark.item, item) {
                return Some(mark.turn);
            }
            // SAFETY: the lock is held: `mark` is alive until it is unlinked.
            at = mark.next.with(|p| unsafe { *p });
        }
        None
    }

    /// Returns the number of items that are queued or running.
    pub(super) fn len(&self) -> usize {
        let mut n = 0_usize;
        // SAFETY: the lock is held: marks and queued items are alive.
        unsafe {
            let mut at = self.running;
            while let Some(mark) = at.as_ref() {
                n = n.saturating_add(1);
                at = mark.next.with(|p| *p);
            }
            let mut at = self.head;
            while let Some(item) = at.as_ref() {
                n = n.saturating_add(1);
                at = item.link(|l| l.next);
            }
        }
        n
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.head.is_null() && self.running.is_null()
    }

    /// Returns whether something of turn `turn` or earlier is queued or running.
    pub(super) fn has_until(&self, turn: u64) -> bool {
        // SAFETY: the lock is held: items and marks are alive. The list ascends, so its head is the
        // earliest.
        unsafe {
            if self.head.as_ref().is_some_and(|item| item.link(|l| l.turn) <= turn) {
                return true;
            }
            let mut at = self.running;
            while let Some(mark) = at.as_ref() {
                if mark.turn <= turn {
                    return true;
                }
                at = mark.next.with(|p| *p);
            }
        }
        false
    }

    /// # Safety
    /// The lock must be held, the item alive and not in a list.
    pub(super) unsafe fn append(&mut self, item: *const SoftWork<P>) {
        // CANNOT WRAP in practice: 2^64 enqueues.
        self.turn = self.turn.wrapping_add(1);
        // SAFETY: the lock is held; the old tail is in the list and so alive.
        unsafe {
            (*item).link(|l| *l = Link { prev: self.tail, next: ptr::null(), turn: self.turn, queued: true });
            match self.tail.as_ref() {
                Some(tail) => tail.link(|l| l.next = item),
                None => self.head = item,
            }
        }
        self.tail = item;
    }

    /// # Safety
    /// The lock must be held, and the item must be in the list.
    pub(super) unsafe fn unlink(&mut self, item: *const SoftWork<P>) {
        // SAFETY: the lock is held; the neighbours are in the list and so alive.
        unsafe {
            let (prev, next) = (*item).link(|l| {
                l.queued = false;
                (l.prev, l.next)
            });
            match prev.as_ref() {
                Some(prev) => prev.link(|l| l.next = next),
                None => self.head = next,
            }
            match next.as_ref() {
                Some(next) => next.link(|l| l.prev = prev),
                None => self.tail = prev,
            }
        }
    }

    /// # Safety
    /// The lock must be held, and the mark must be in the list.
    pub(super) unsafe fn unmark(&mut self, mark: *const Mark<P>) {
        // SAFETY: the lock is held: every mark in the list is alive.
        unsafe {
            let next = (*mark).next.with(|p| *p);
            if ptr::eq(self.running, mark) {
                self.running = next;
                return;
            }
            let mut at = self.running;
            while let Some(here) = at.as_ref() {
                let after = here.next.with(|p| *p);
                if ptr::eq(after, mark) {
                    here.next.with_mut(|p| *p = next);
                    return;
                }
                at = after;
            }
        }
    }
}
