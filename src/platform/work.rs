//! Work items and work queues, as the platform has them.

/// A work item, in place inside the object it works on.
///
/// # Safety
/// A queue of the platform must call the function given to `uninit` with a pointer to the item,
/// once per successful enqueue.
pub unsafe trait RawWork: Sized + Send + Sync {
    /// Makes an inert item that will call `f` with its own address.
    fn uninit(f: unsafe fn(*const Self)) -> Self;
    /// Makes the item usable (`INIT_WORK`).
    ///
    /// # Safety
    /// Called once, at the final address, before the first enqueue.
    unsafe fn init(&self) {}
}

/// A handle to a work queue. The verbs are the kernel's.
///
/// # Safety
/// An implementation must ensure:
/// * `enqueue` takes an item that is not pending and runs it once, later, on a worker; an item that
///   is pending already is refused.
/// * The pending mark is cleared **before** the function runs, with a full ordering against the
///   enqueue that set it: an enqueue that is refused happens before the run that serves it. The
///   item can be queued again while it runs.
/// * One item never runs on two workers at once.
/// * After the function has returned the queue does not touch the item: the function may have freed
///   it.
/// * `flush_item` returns when the item, as it was queued at the call, has run to its end; `flush`
///   does the same for every item that was queued or running at the call; `drain` goes on until
///   nothing is left, though items queue others. What the function wrote is visible after them.
pub unsafe trait RawQueue<W>: Send + Sync {
    /// Queues the item. Returns `false` if it is pending already or the queue is shut down; nothing
    /// was taken then.
    ///
    /// # Safety
    /// The item must be initialised and live until its function has been called, or until `cancel`
    /// returns `true` for it.
    #[must_use = "a refused item keeps the reference that would have gone with it: take it back"]
    unsafe fn enqueue(&self, item: *const W) -> bool;
    /// Waits until the item, as queued or running at the call, has run to its end.
    ///
    /// # Safety
    /// The item must be initialised, queued on no other queue, and live during the call. Must not
    /// be called from the item's own function.
    unsafe fn flush_item(&self, item: *const W);
    /// Takes the item off the queue if it has not begun to run. Returns `true` if it was pending
    /// and will not run for that enqueue; the reference that went with it is the caller's again.
    /// Does not wait for a run in progress.
    ///
    /// # Safety
    /// The item must be initialised, queued on no other queue, and live during the call.
    #[must_use = "the cancelled item's reference is the caller's again: take it back"]
    unsafe fn cancel(&self, item: *const W) -> bool;
    /// Returns whether the item is queued and has not begun to run. A snapshot.
    ///
    /// # Safety
    /// The item must be initialised and live during the call.
    unsafe fn is_pending(&self, item: *const W) -> bool;
    /// Waits for every item that is queued or running at the call.
    fn flush(&self);
    /// Waits until nothing is queued or running.
    fn drain(&self);
    /// Returns whether both are handles of one queue.
    #[must_use]
    fn is_same(&self, other: &Self) -> bool;
    /// Returns whether the queue refuses every further item.
    #[must_use]
    fn is_shut_down(&self) -> bool {
        false
    }
}
