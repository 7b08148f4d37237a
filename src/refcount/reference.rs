//! Counted references to objects that stay in place.

use super::Refcount;
use crate::error::{Error, Rejected};
use crate::platform::{Cell, Lock, LockGuard, Platform, RawLock};
use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::mem::{ManuallyDrop, align_of_val, size_of_val};
use core::ops::Deref;
use core::ptr::NonNull;

/// What becomes of an object after its last put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastPut {
    /// The object is dropped and its memory freed.
    Drop,
    /// The object stays alive. `last_put` raised the count again by two: one reference for the new
    /// owner, and one for the put in progress, which drops it.
    Revived,
    /// The object stays as it is forever: a leak.
    Leak,
}

/// An object that is shared by counted references. Written by [`ref_counted!`](crate::ref_counted)
/// for types without a protocol of their own.
///
/// # Safety
/// An implementation must ensure:
/// * `init` initialises every lock, wait and work item inside the object.
/// * After `last_put` returned [`LastPut::Drop`] nothing points to the object any more.
/// * `last_put` returns [`LastPut::Revived`] only if it raised the count as described there.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be shared by `Ref` on the platform `{P}`",
    note = "implement `RefCounted<P>`: `init` its locks and work items, unlink it in `last_put`"
)]
pub unsafe trait RefCounted<P: Platform>: Send + Sync + 'static {
    /// Initialises what must not move afterwards: locks, waits, work items. Cannot fail.
    ///
    /// # Safety
    /// Called once, at the final address, before the object is shared.
    unsafe fn init(&self) {}

    /// Unlinks the object from everything that still finds it. Called by the last put, through a
    /// shared reference. Not `Drop`: an exclusive reference to a linked object is undefined
    /// behaviour.
    ///
    /// # Safety
    /// Called by [`Ref`]'s last put only: the count is zero, and the caller owns the object alone.
    unsafe fn last_put(&self) -> LastPut {
        LastPut::Drop
    }
}

/// The allocation behind a [`Ref`]. `value` lies last, so that a pointer to it unsizes.
pub(crate) struct Inner<T: ?Sized, P: Platform> {
    count: Refcount<P>,
    /// Read by every access through a `Ref`, written before the memory goes: a checking platform
    /// sees a use after free.
    alive: P::Cell<()>,
    value: T,
}

impl<T: ?Sized + RefCounted<P>, P: Platform> Inner<T, P> {
    /// For weak references: valid while the object is alive, though its count may be zero.
    pub(crate) fn count(&self) -> &Refcount<P> {
        &self.count
    }

    /// For weak references that own a count.
    pub(crate) fn value(&self) -> &T {
        self.alive.with(|_| ());
        &self.value
    }
}

/// A counted reference, as `Arc` but with the allocator, the atomics and the release of the
/// platform.
///
/// # Invariants
/// * A `Ref` owns one count of a live, initialised object.
/// * It never gives `&mut T` and never moves the value: the address is stable.
///
/// Ordering: cloning provides none; dropping releases, and the last drop acquires (see
/// [`Refcount`]).
///
/// ```
/// use userptr::{RefCounted, Ref, platforms::std::Std};
/// struct Frame(u32);
/// // SAFETY: there is nothing to initialise, and nothing points to a `Frame`.
/// unsafe impl RefCounted<Std> for Frame {}
///
/// let a = Ref::<Frame, Std>::try_new(Frame(7))?;
/// let b = a.clone();
/// drop(a);
/// assert_eq!(b.0, 7);
/// # Ok::<(), userptr::Error>(())
/// ```
pub struct Ref<T: ?Sized + RefCounted<P>, P: Platform> {
    ptr: NonNull<Inner<T, P>>,
    _owns: PhantomData<Inner<T, P>>,
}

// SAFETY: `RefCounted` asks for `Send + Sync`, and the count and the probe are made to be shared.
unsafe impl<T: ?Sized + RefCounted<P>, P: Platform> Send for Ref<T, P> {}
// SAFETY: a shared `Ref` gives `&T` and can be cloned into another thread: `T: Send + Sync` allows
// both.
unsafe impl<T: ?Sized + RefCounted<P>, P: Platform> Sync for Ref<T, P> {}

impl<T: RefCounted<P>, P: Platform> Ref<T, P> {
    /// Allocates room for an object: [`Room::fill`] cannot fail any more.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub(crate) fn reserve() -> Result<Room<T, P>, Error> {
        let raw = P::alloc(Layout::new::<Inner<T, P>>()).ok_or(Error::NoMemory)?;
        Ok(Room { raw: raw.cast(), _of: PhantomData })
    }

    /// Allocates and initialises an object with a count of one.
    ///
    /// # Errors
    /// [`Error::NoMemory`], with the value, if the platform has no memory.
    pub fn try_new(value: T) -> Result<Self, Rejected<T>> {
        match Self::reserve() {
            Ok(room) => Ok(room.fill(value)),
            Err(error) => Err(Rejected { value, error }),
        }
    }

    /// Returns the pointer to the value, without dropping the reference. Pair with
    /// [`from_raw`](Self::from_raw).
    #[must_use = "the count that the reference owned goes with the pointer"]
    pub fn into_raw(this: Self) -> *const T {
        let this = ManuallyDrop::new(this);
        Self::as_ptr(&this)
    }

    /// Returns the pointer to the value, with provenance over the whole allocation.
    #[must_use]
    pub fn as_ptr(this: &Self) -> *const T {
        // SAFETY: the object is live; only an address is taken.
        unsafe { &raw const (*this.ptr.as_ptr()).value }
    }

    /// Makes the reference again.
    ///
    /// # Safety
    /// `value` must come from [`into_raw`](Self::into_raw) or [`as_ptr`](Self::as_ptr), and the
    /// caller must own the count that goes with it.
    #[must_use]
    pub unsafe fn from_raw(value: *const T) -> Self {
        let offset = core::mem::offset_of!(Inner<T, P>, value);
        // SAFETY: `value` is the field of a live `Inner`, with provenance over all of it.
        let ptr = unsafe { NonNull::new_unchecked(value.byte_sub(offset).cast::<Inner<T, P>>().cast_mut()) };
        Self { ptr, _owns: PhantomData }
    }
}

/// Room for an object that is not there yet.
pub(crate) struct Room<T: RefCounted<P>, P: Platform> {
    raw: NonNull<Inner<T, P>>,
    _of: PhantomData<T>,
}

impl<T: RefCounted<P>, P: Platform> Room<T, P> {
    /// Moves the object in and initialises it, with a count of one.
    pub(crate) fn fill(self, value: T) -> Ref<T, P> {
        let ptr = ManuallyDrop::new(self).raw;
        let inner = Inner { count: Refcount::new(), alive: <P::Cell<()> as Cell<()>>::new(()), value };
        // SAFETY: the room is fresh, of the right layout, and nobody else knows it.
        unsafe { ptr.write(inner) };
        // SAFETY: the value is at its final address, is not shared yet, and was not initialised
        // before.
        unsafe { ptr.as_ref().value.init() };
        Ref { ptr, _owns: PhantomData }
    }
}

impl<T: RefCounted<P>, P: Platform> Drop for Room<T, P> {
    fn drop(&mut self) {
        // SAFETY: allocated by `reserve` with this layout, and not filled.
        unsafe { P::dealloc(self.raw.cast(), Layout::new::<Inner<T, P>>()) };
    }
}

impl<T: ?Sized + RefCounted<P>, P: Platform> Ref<T, P> {
    /// Adopts a count that was left at `ptr`.
    ///
    /// # Safety
    /// The object must be live, and the caller must own one count of it.
    pub(crate) unsafe fn adopt(ptr: NonNull<Inner<T, P>>) -> Self {
        Self { ptr, _owns: PhantomData }
    }

    /// Returns the pointer to the allocation; the reference keeps its count.
    pub(crate) fn inner(this: &Self) -> NonNull<Inner<T, P>> {
        this.ptr
    }

    /// Returns the pointer to the allocation, which owns the count from now on.
    pub(crate) fn leak(this: Self) -> NonNull<Inner<T, P>> {
        ManuallyDrop::new(this).ptr
    }

    /// Returns whether the two refer to the same object.
    #[must_use]
    pub fn ptr_eq(a: &Self, b: &Self) -> bool {
        core::ptr::addr_eq(a.ptr.as_ptr(), b.ptr.as_ptr())
    }

    /// Returns the number of references at this moment: a snapshot.
    #[must_use]
    pub fn count(this: &Self) -> usize {
        this.header().count.count()
    }

    /// Drops the reference. Returns the object if it was the last.
    pub(crate) fn put(this: Self) -> Option<Dying<T, P>> {
        let this = ManuallyDrop::new(this);
        let last = this.header().count.put();
        last.then(|| Dying { ptr: this.ptr, _owns: PhantomData })
    }

    /// Drops the reference; if it is the last, takes `lock` first. See [`Refcount::put_and_lock`].
    ///
    /// Returns the object, now without references, and the held lock: unlink it, drop the guard,
    /// then drop the [`Dying`].
    ///
    /// # Safety
    /// The lock must be initialised, and this thread must not hold it.
    #[allow(clippy::type_complexity, reason = "a pair: the object and the held lock")]
    pub unsafe fn put_and_lock<'l, R: RawLock, U>(
        this: Self,
        lock: &'l Lock<R, P, U>,
    ) -> Option<(Dying<T, P>, LockGuard<'l, R, P, U>)> {
        let this = ManuallyDrop::new(this);
        // SAFETY: the lock is initialised and not held by this thread (caller). The count that
        // `this` owned is dropped here.
        let guard = unsafe { this.header().count.put_and_lock(lock) }?;
        Some((Dying { ptr: this.ptr, _owns: PhantomData }, guard))
    }

    fn header(&self) -> &Inner<T, P> {
        // SAFETY: a `Ref` owns a count, so the object is live; nobody makes an exclusive reference
        // to it.
        unsafe { self.ptr.as_ref() }
    }
}

impl<T: ?Sized + RefCounted<P>, P: Platform> Clone for Ref<T, P> {
    fn clone(&self) -> Self {
        self.header().count.get();
        Self { ptr: self.ptr, _owns: PhantomData }
    }
}

impl<T: ?Sized + RefCounted<P>, P: Platform> Deref for Ref<T, P> {
    type Target = T;
    fn deref(&self) -> &T {
        let inner = self.header();
        inner.alive.with(|_| ());
        &inner.value
    }
}

impl<T: ?Sized + RefCounted<P>, P: Platform> Drop for Ref<T, P> {
    fn drop(&mut self) {
        if self.header().count.put() {
            drop(Dying { ptr: self.ptr, _owns: PhantomData });
        }
    }
}

impl<T: ?Sized + RefCounted<P> + fmt::Debug, P: Platform> fmt::Debug for Ref<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

/// An object whose last reference is gone, owned by the thread that dropped it. Dropping this
/// releases the object.
///
/// # Invariants
/// The count is zero, the object is live, and this is its only owner (weak references refuse to
/// upgrade).
#[must_use = "dropping it releases the object; do so outside every lock"]
pub struct Dying<T: ?Sized + RefCounted<P>, P: Platform> {
    ptr: NonNull<Inner<T, P>>,
    _owns: PhantomData<Inner<T, P>>,
}

// SAFETY: it owns the object alone, and `RefCounted` asks for `Send + Sync`.
unsafe impl<T: ?Sized + RefCounted<P>, P: Platform> Send for Dying<T, P> {}

impl<T: ?Sized + RefCounted<P>, P: Platform> Dying<T, P> {
    /// Raises the count to one again. Only for an object that nothing finds any more: a release
    /// that must run as a work item hands the object over with this.
    pub fn revive(self) -> Ref<T, P> {
        let this = ManuallyDrop::new(self);
        // SAFETY: the object is live by the invariant.
        unsafe { this.ptr.as_ref() }.count.revive();
        Ref { ptr: this.ptr, _owns: PhantomData }
    }
}

impl<T: ?Sized + RefCounted<P>, P: Platform> Deref for Dying<T, P> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: the object is live and solely owned by the invariant.
        unsafe { &self.ptr.as_ref().value }
    }
}

impl<T: ?Sized + RefCounted<P>, P: Platform> Drop for Dying<T, P> {
    fn drop(&mut self) {
        // A loop, not another drop inside this one: a release inside an invalidation takes a stack
        // that is known.
        loop {
            let unwound = Unwound(self.ptr);
            // SAFETY: the count is zero and this `Dying` is the object's only owner (invariant).
            let fate = unsafe { self.last_put() };
            let _ = ManuallyDrop::new(unwound);
            match fate {
                LastPut::Drop => break,
                LastPut::Revived => {
                    // Not dropped inside `last_put`: the object must not go while a reference to it
                    // is an argument of a running function.
                    // SAFETY: the object is alive, and one count is ours by `LastPut::Revived`.
                    if !unsafe { self.ptr.as_ref() }.count.put() {
                        return;
                    }
                    // The other holder dropped its reference first: the object is ours alone again.
                }
                LastPut::Leak => return,
            }
        }
        // SAFETY: live until the end of this function.
        let layout = unsafe {
            let inner = self.ptr.as_ref();
            // A checking platform reports any access through a `Ref` that is not ordered before
            // this one.
            inner.alive.with_mut(|_| ());
            // CANNOT FAIL: it is the layout of a live value.
            Layout::from_size_align_unchecked(size_of_val(inner), align_of_val(inner))
        };
        // SAFETY: the count is zero and nothing points here (`RefCounted::last_put`), so this is
        // the only access. The memory came from `P::alloc` with this layout.
        unsafe {
            self.ptr.drop_in_place();
            P::dealloc(self.ptr.cast(), layout);
        }
    }
}

/// A `last_put` in progress. Dropped only if that unwinds, on platforms that can: if the object was
/// revived, gives the put's reference back; if not, nobody knows how far it came, and it stays as
/// it is for ever.
struct Unwound<T: ?Sized + RefCounted<P>, P: Platform>(NonNull<Inner<T, P>>);

impl<T: ?Sized + RefCounted<P>, P: Platform> Drop for Unwound<T, P> {
    fn drop(&mut self) {
        // SAFETY: live: nobody revived it and it is ours, or one count is ours
        // (`LastPut::Revived`).
        let count = unsafe { &self.0.as_ref().count };
        if count.count() != 0 && count.put() {
            drop(Dying { ptr: self.0, _owns: PhantomData });
        }
    }
}

impl<T: ?Sized + RefCounted<P>, P: Platform> fmt::Debug for Dying<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dying")
    }
}
