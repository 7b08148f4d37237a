//! Typed work items.

use crate::platform::{Platform, RawQueue, RawWork};
use crate::refcount::{Object, Ref};
use core::fmt;
use core::marker::PhantomData;

/// A work item inside a `T`. It carries `T` and an `ID`, so that the function and its container cannot differ.
///
/// Source: `struct work_struct`, `INIT_WORK`.
///
/// ```
/// use userptr::platforms::std::{Std, Workers};
/// use userptr::{HasWork, Object, Ref, Work, has_work};
/// use userptr::work::{enqueue, flush_item};
///
/// struct Job {
///     done: std::sync::atomic::AtomicBool,
///     work: Work<Job, Std>,
/// }
/// // SAFETY: the work item is settled; nothing points to a `Job`.
/// unsafe impl Object<Std> for Job {
///     unsafe fn settle(&self) {
///         // SAFETY: once, at the final address: the caller's promise.
///         unsafe { self.work.settle() }
///     }
/// }
/// // SAFETY: the item is settled above; `has_work!` checks where it lies.
/// unsafe impl HasWork<Std> for Job {
///     has_work!(work: Work<Job, Std>);
///     fn run(this: Ref<Self, Std>) {
///         this.done.store(true, std::sync::atomic::Ordering::Relaxed);
///     }
/// }
///
/// let workers = Workers::<Std>::start("jobs", 1)?;
/// let job = Ref::<Job, Std>::try_new(Job { done: false.into(), work: Work::blank() }).map_err(|(_, e)| e)?;
/// if let Err(mine) = enqueue(workers.queue(), job.clone()) {
///     drop(mine); // refused: pending already, or shut down; the reference is ours again
/// }
/// flush_item(workers.queue(), &job);
/// assert!(job.done.load(std::sync::atomic::Ordering::Relaxed));
/// # Ok::<(), userptr::Error>(())
/// ```
#[repr(transparent)]
pub struct Work<T, P: Platform, const ID: usize = 0> {
    raw: P::Work,
    _of: PhantomData<fn(T)>,
}

impl<T: HasWork<P, ID>, P: Platform, const ID: usize> Work<T, P, ID> {
    /// An inert item.
    #[must_use]
    pub fn blank() -> Self {
        Self { raw: P::Work::blank(run::<T, P, ID>), _of: PhantomData }
    }
}

impl<T, P: Platform, const ID: usize> Work<T, P, ID> {
    /// Makes the item usable.
    ///
    /// # Safety
    /// Called once, from the [`Object::settle`] of the object that contains it.
    pub unsafe fn settle(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.raw.settle() }
    }
}

impl<T, P: Platform, const ID: usize> fmt::Debug for Work<T, P, ID> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Work")
    }
}

/// An object with a work item `ID` inside, and what the item does. Implement it with [`has_work!`](crate::has_work).
///
/// # Safety
/// A `Work<Self, P, ID>` lies at byte `OFFSET` of `Self` and is settled by [`Object::settle`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no work item {ID}",
    note = "use `has_work!` inside an impl of `HasWork`"
)]
pub unsafe trait HasWork<P: Platform, const ID: usize = 0>: Object<P> + Sized {
    /// Where the item lies.
    const OFFSET: usize;
    /// What it does. Owns the reference that was enqueued.
    fn run(this: Ref<Self, P>);
}

/// Gives the `OFFSET` of a work item for an impl of [`HasWork`](crate::HasWork): `has_work!(field: Work<Self, P>)`, with a check of the field's type.
#[macro_export]
macro_rules! has_work {
    ($field:ident : $work:ty) => {
        const OFFSET: usize = {
            // The field has the type it should have, or this does not compile.
            let _check: fn(&Self) -> &$work = |this| &this.$field;
            ::core::mem::offset_of!(Self, $field)
        };
    };
}

/// Called by the host's worker.
unsafe fn run<T: HasWork<P, ID>, P: Platform, const ID: usize>(raw: *const P::Work) {
    // SAFETY: the item was made by `blank` for `T` and lies at `OFFSET` inside one (`HasWork`); `enqueue` leaked a count
    // for this very call, and the pointer it passed has provenance over the object.
    let this = unsafe { Ref::<T, P>::from_raw(raw.byte_sub(T::OFFSET).cast::<T>()) };
    T::run(this);
}

fn raw_of<T: HasWork<P, ID>, P: Platform, const ID: usize>(r: &Ref<T, P>) -> *const P::Work {
    // `Work` begins with the raw item: it is its only field of non-zero size.
    // SAFETY: `OFFSET` lies inside the object (`HasWork`).
    unsafe { Ref::as_ptr(r).byte_add(T::OFFSET).cast::<P::Work>() }
}

/// Queues the object's item `ID`; the reference goes with it and comes to [`HasWork::run`].
///
/// # Errors
/// The reference, if the item is pending already or the queue is shut down (rule 9). The pending run has not begun: it will see
/// everything written before this call.
///
/// Source: `queue_work`, whose boolean leaks the reference when it is ignored.
pub fn enqueue<T: HasWork<P, ID>, P: Platform, const ID: usize>(
    queue: &P::Queue,
    r: Ref<T, P>,
) -> Result<(), Ref<T, P>> {
    let raw = raw_of::<T, P, ID>(&r);
    let value = Ref::into_raw(r);
    // SAFETY: the item is settled (`HasWork`) and the count that was just leaked keeps it alive until its function is called.
    if unsafe { queue.enqueue(raw) } {
        Ok(())
    } else {
        // SAFETY: refused, so the leaked count is ours again.
        Err(unsafe { Ref::from_raw(value) })
    }
}

/// Takes the object's item `ID` off the queue; gives back the reference that was queued, if it had not begun to run.
#[must_use = "the reference that was queued comes back here"]
pub fn cancel<T: HasWork<P, ID>, P: Platform, const ID: usize>(
    queue: &P::Queue,
    r: &Ref<T, P>,
) -> Option<Ref<T, P>> {
    // SAFETY: `r` keeps the settled item alive.
    if unsafe { queue.cancel(raw_of::<T, P, ID>(r)) } {
        // SAFETY: the item was pending and will not run: the count that `enqueue` leaked is ours.
        Some(unsafe { Ref::from_raw(Ref::as_ptr(r)) })
    } else {
        None
    }
}

/// Waits until the object's item `ID`, as queued or running at the call, has run to its end. Not from within the item itself.
pub fn flush_item<T: HasWork<P, ID>, P: Platform, const ID: usize>(queue: &P::Queue, r: &Ref<T, P>) {
    // SAFETY: `r` keeps the settled item alive.
    unsafe { queue.flush_item(raw_of::<T, P, ID>(r)) }
}

/// Whether the object's item `ID` is queued and has not begun to run. A snapshot.
#[must_use]
pub fn is_pending<T: HasWork<P, ID>, P: Platform, const ID: usize>(queue: &P::Queue, r: &Ref<T, P>) -> bool {
    // SAFETY: `r` keeps the settled item alive.
    unsafe { queue.is_pending(raw_of::<T, P, ID>(r)) }
}
