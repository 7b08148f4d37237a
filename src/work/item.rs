//! Typed work items.

use crate::platform::{Platform, RawQueue, RawWork};
use crate::refcount::{Ref, RefCounted};
use core::fmt;
use core::marker::PhantomData;

/// A work item inside a `T`. It carries `T` and an `ID`, so that the function and its container
/// cannot differ.
///
/// Source: `struct work_struct`, `INIT_WORK`.
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use userptr::platforms::std::{Std, Workers};
/// use userptr::{RawQueue, Ref, Work, ref_counted, work::enqueue};
///
/// struct Job {
///     done: AtomicBool,
///     work: Work<Job, Std>,
/// }
/// ref_counted! {
///     impl RefCounted<Std> for Job {
///         work: |job: Ref<Job, Std>| job.done.store(true, Ordering::Relaxed),
///     }
/// }
///
/// let workers = Workers::<Std>::start("jobs", 1)?;
/// let job = Ref::try_new(Job { done: false.into(), work: Work::uninit() })?;
/// if let Err(mine) = enqueue(workers.queue(), job.clone()) {
///     drop(mine); // refused: pending already, or shut down; the reference is ours again
/// }
/// workers.queue().flush();
/// assert!(job.done.load(Ordering::Relaxed));
/// # Ok::<(), userptr::Error>(())
/// ```
#[repr(transparent)]
pub struct Work<T, P: Platform, const ID: usize = 0> {
    raw: P::Work,
    _of: PhantomData<fn(T)>,
}

impl<T: HasWork<P, ID>, P: Platform, const ID: usize> Work<T, P, ID> {
    /// Makes an inert item.
    #[must_use]
    pub fn uninit() -> Self {
        Self { raw: P::Work::uninit(run::<T, P, ID>), _of: PhantomData }
    }
}

impl<T, P: Platform, const ID: usize> Work<T, P, ID> {
    /// Makes the item usable.
    ///
    /// # Safety
    /// Called once, from the [`RefCounted::init`] of the object that contains it.
    pub unsafe fn init(&self) {
        // SAFETY: called once, at the final address, from the object's `init` (caller).
        unsafe { self.raw.init() }
    }
}

impl<T, P: Platform, const ID: usize> fmt::Debug for Work<T, P, ID> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Work")
    }
}

/// An object with a work item `ID` inside, and what the item does. Written by
/// [`ref_counted!`](crate::ref_counted).
///
/// # Safety
/// A `Work<Self, P, ID>` must be at byte `OFFSET` of `Self`, initialised by [`RefCounted::init`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no work item {ID}",
    note = "name its field in `ref_counted!`"
)]
pub unsafe trait HasWork<P: Platform, const ID: usize = 0>: RefCounted<P> + Sized {
    /// The offset of the item in the object, in bytes.
    const OFFSET: usize;
    /// Runs the item, and owns the reference that was enqueued.
    fn run(this: Ref<Self, P>);
}

/// Gives the `OFFSET` of a work item for an impl of [`HasWork`](crate::HasWork):
/// `has_work!(field: Work<Self, P>)`, with a check that the field itself has this type.
#[macro_export]
macro_rules! has_work {
    ($field:ident : $work:ty) => {
        const OFFSET: usize = {
            // A pointer to the place, which nothing coerces: a `Box<Work<..>>` does not compile.
            let _check: fn(*const Self) -> *const $work =
                // SAFETY: never called.
                |this| unsafe { &raw const (*this).$field };
            ::core::mem::offset_of!(Self, $field)
        };
    };
}

/// Makes a type countable by [`Ref`](crate::Ref), and initialises and connects the work items in
/// it, without `unsafe` in the caller's code.
///
/// ```
/// use userptr::{Platform, Ref, Work, ref_counted};
///
/// struct Frame(u32);
/// ref_counted! { impl RefCounted<userptr::platforms::std::Std> for Frame {} }
///
/// // Generic over the platform, with two work items.
/// struct Job<P: Platform> {
///     first: Work<Job<P>, P>,
///     second: Work<Job<P>, P, 1>,
/// }
/// ref_counted! {
///     impl[P: Platform] RefCounted<P> for Job<P> {
///         first: |job: Ref<Job<P>, P>| drop(job),
///         second @ 1: |job: Ref<Job<P>, P>| drop(job),
///     }
/// }
/// ```
///
/// Each generic parameter takes one bound; a trait of your own joins several.
///
/// A field that is not itself the work item does not compile:
///
/// ```compile_fail
/// use userptr::{Ref, Work, platforms::std::Std, ref_counted};
/// struct Job { work: Box<Work<Job, Std>> }
/// ref_counted! { impl RefCounted<Std> for Job { work: |job: Ref<Job, Std>| drop(job) } }
/// ```
#[macro_export]
macro_rules! ref_counted {
    (
        impl $([$($generic:ident $(: $bound:path)?),* $(,)?])? RefCounted<$p:ty> for $t:ty {
            $($field:ident $(@ $id:literal)? : $run:expr),* $(,)?
        }
    ) => {
        // SAFETY: every work item that an impl of `HasWork` below connects is initialised; only
        // counted references point to the object.
        unsafe impl$(<$($generic $(: $bound)?),*>)? $crate::RefCounted<$p> for $t {
            unsafe fn init(&self) {
                $(
                    // SAFETY: called once, at the final address (caller).
                    unsafe { $crate::Work::init(&self.$field) };
                )*
            }
        }
        $crate::ref_counted!(
            // SAFETY: the items that follow are the ones settled above.
            @items (unsafe { $crate::work::Settled::promise() })
            [$($($generic $(: $bound)?),*)?] [$p] [$t] $($field $(@ $id)? : $run,)*
        );
    };
    // The steps below connect items that the step above settles. Called by anybody else they need a
    // `Settled`, and so an `unsafe` of the caller's. Generics are matched as such: as bare tokens
    // they could end this impl and begin another.
    (@items ($settled:expr) [$($generics:tt)*] [$p:ty] [$t:ty]) => {};
    (@items ($settled:expr) $g:tt [$p:ty] [$t:ty] $field:ident : $run:expr, $($rest:tt)*) => {
        $crate::ref_counted!(@item ($settled) $g [$p] [$t] $field 0 $run);
        $crate::ref_counted!(@items ($settled) $g [$p] [$t] $($rest)*);
    };
    (@items ($settled:expr) $g:tt [$p:ty] [$t:ty] $field:ident @ $id:literal : $run:expr, $($rest:tt)*) => {
        $crate::ref_counted!(@item ($settled) $g [$p] [$t] $field $id $run);
        $crate::ref_counted!(@items ($settled) $g [$p] [$t] $($rest)*);
    };
    (
        @item ($settled:expr) [$($generic:ident $(: $bound:path)?),*] [$p:ty] [$t:ty] $field:ident $id:literal
        $run:expr
    ) => {
        const _: $crate::work::Settled = $settled;
        // SAFETY: the item is settled (`Settled`); `has_work!` checks that the field is the item.
        unsafe impl<$($generic $(: $bound)?),*> $crate::HasWork<$p, $id> for $t {
            $crate::has_work!($field: $crate::Work<$t, $p, $id>);
            fn run(this: $crate::Ref<Self, $p>) {
                ($run)(this)
            }
        }
    };
}

/// The promise that the work items which [`ref_counted!`](crate::ref_counted) connects are settled.
/// For that macro alone.
#[doc(hidden)]
#[derive(Debug)]
pub struct Settled(());

impl Settled {
    /// Gives the promise.
    ///
    /// # Safety
    /// The [`RefCounted::init`] of the type settles every work item that is connected with it.
    #[must_use]
    pub const unsafe fn promise() -> Self {
        Self(())
    }
}

/// Called by the platform's worker.
///
/// # Safety
/// `raw` must be the item of a live object whose enqueue leaked a count.
unsafe fn run<T: HasWork<P, ID>, P: Platform, const ID: usize>(raw: *const P::Work) {
    // SAFETY: the item was made by `uninit` for `T` and is at `OFFSET` inside one (`HasWork`);
    // `enqueue` leaked a count for this very call, and the pointer it passed has provenance over
    // the object.
    let this = unsafe { Ref::<T, P>::from_raw(raw.byte_sub(T::OFFSET).cast::<T>()) };
    T::run(this);
}

fn raw_of<T: HasWork<P, ID>, P: Platform, const ID: usize>(r: &Ref<T, P>) -> *const P::Work {
    // `Work` begins with the raw item: it is its only field of non-zero size.
    // SAFETY: `OFFSET` is inside the object (`HasWork`).
    unsafe { Ref::as_ptr(r).byte_add(T::OFFSET).cast::<P::Work>() }
}

/// Queues the object's item `ID`; the reference goes with it and comes to [`HasWork::run`].
///
/// # Errors
/// Returns the reference, if the item is pending already or the queue is shut down
/// ([rule 9](crate::docs::protocol#rule-9)). A pending run has not begun: it will see everything
/// written before this call.
///
/// Source: `queue_work`, whose boolean leaks the reference when it is ignored.
pub fn enqueue<T: HasWork<P, ID>, P: Platform, const ID: usize>(
    queue: &P::Queue,
    r: Ref<T, P>,
) -> Result<(), Ref<T, P>> {
    let raw = raw_of::<T, P, ID>(&r);
    let value = Ref::into_raw(r);
    // SAFETY: the item is initialised (`HasWork`), and the count that was just leaked keeps it
    // alive until its function is called.
    if unsafe { queue.enqueue(raw) } {
        Ok(())
    } else {
        // SAFETY: refused, so the leaked count is ours again.
        Err(unsafe { Ref::from_raw(value) })
    }
}

/// Takes the object's item `ID` off the queue; returns the reference that was queued, if the item
/// had not begun to run.
///
/// # Safety
/// The item must not be queued on another queue, now or during the call: it would be taken out of
/// that queue's list under the wrong lock.
#[must_use = "the reference that was queued comes back here"]
pub unsafe fn cancel<T: HasWork<P, ID>, P: Platform, const ID: usize>(
    queue: &P::Queue,
    r: &Ref<T, P>,
) -> Option<Ref<T, P>> {
    // SAFETY: `r` keeps the initialised item alive; only ever queued here (caller).
    if unsafe { queue.cancel(raw_of::<T, P, ID>(r)) } {
        // SAFETY: the item was pending and will not run: the count that `enqueue` leaked is ours.
        Some(unsafe { Ref::from_raw(Ref::as_ptr(r)) })
    } else {
        None
    }
}

/// Waits until the object's item `ID`, as queued or running at the call, has run to its end. To
/// wait for everything on a queue, use the safe [`RawQueue::flush`].
///
/// # Safety
/// The item must not be queued on another queue, now or during the call, and this must not be
/// called from the item itself.
pub unsafe fn flush_item<T: HasWork<P, ID>, P: Platform, const ID: usize>(queue: &P::Queue, r: &Ref<T, P>) {
    // SAFETY: `r` keeps the initialised item alive; only ever queued here (caller).
    unsafe { queue.flush_item(raw_of::<T, P, ID>(r)) }
}

/// Returns whether the object's item `ID` is queued and has not begun to run. A snapshot.
#[must_use]
pub fn is_pending<T: HasWork<P, ID>, P: Platform, const ID: usize>(queue: &P::Queue, r: &Ref<T, P>) -> bool {
    // SAFETY: `r` keeps the initialised item alive.
    unsafe { queue.is_pending(raw_of::<T, P, ID>(r)) }
}
