//! A vector of fixed capacity whose memory comes from the platform.

use crate::error::Error;
use crate::platform::Platform;
use core::alloc::Layout;
use core::fmt;
use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

/// A vector of plain values with a capacity fixed when it is made: it never allocates again, so it
/// can be filled, emptied and dropped where nothing may be allocated.
///
/// # Invariants
/// `ptr` has room for `capacity` values, of which the first `len` are initialised.
pub struct Buffer<T: Copy, P: Platform> {
    ptr: NonNull<T>,
    capacity: usize,
    len: usize,
    _owns: PhantomData<(T, fn() -> P)>,
}

// SAFETY: it owns its values, like `Vec`.
unsafe impl<T: Copy + Send, P: Platform> Send for Buffer<T, P> {}
// SAFETY: a shared buffer gives `&[T]` only, as `Vec` does.
unsafe impl<T: Copy + Sync, P: Platform> Sync for Buffer<T, P> {}

impl<T: Copy, P: Platform> Buffer<T, P> {
    /// Makes an empty buffer with room for `capacity` values.
    ///
    /// # Errors
    /// [`Error::NoMemory`] if there is no memory, [`Error::TooBig`] if so many values cannot exist.
    pub fn with_capacity(capacity: usize) -> Result<Self, Error> {
        let layout = Layout::array::<T>(capacity).map_err(|_| Error::TooBig)?;
        let ptr = if layout.size() == 0 {
            NonNull::dangling()
        } else {
            P::alloc(layout).ok_or(Error::NoMemory)?.cast()
        };
        Ok(Self { ptr, capacity, len: 0, _owns: PhantomData })
    }

    /// Returns the number of values it has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Appends a value.
    ///
    /// # Errors
    /// Returns the value, if there is no room.
    pub fn push(&mut self, value: T) -> Result<(), T> {
        match self.spare_capacity_mut().first_mut() {
            Some(slot) => {
                slot.write(value);
                // CANNOT WRAP: there was room.
                self.len = self.len.wrapping_add(1);
                Ok(())
            }
            None => Err(value),
        }
    }

    /// Returns the room that is left, for an address space that fills in an array. Declare what was
    /// filled with [`set_len`](Self::set_len).
    pub fn spare_capacity_mut(&mut self) -> &mut [MaybeUninit<T>] {
        // SAFETY: the places from `len` to `capacity` are ours (invariant), and may be
        // uninitialised.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.ptr.as_ptr().add(self.len).cast::<MaybeUninit<T>>(),
                self.capacity.wrapping_sub(self.len),
            )
        }
    }

    /// Declares the first `len` values initialised.
    ///
    /// # Safety
    /// They must be, and `len <= capacity`.
    pub unsafe fn set_len(&mut self, len: usize) {
        debug_assert!(len <= self.capacity);
        self.len = len;
    }

    /// Removes every value; the memory stays.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl<T: Copy, P: Platform> Deref for Buffer<T, P> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the first `len` values are initialised (invariant).
        unsafe { core::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Copy, P: Platform> DerefMut for Buffer<T, P> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the first `len` values are initialised and borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Copy, P: Platform> Drop for Buffer<T, P> {
    fn drop(&mut self) {
        // CANNOT FAIL: the same computation succeeded in `with_capacity`.
        let Ok(layout) = Layout::array::<T>(self.capacity) else { return };
        if layout.size() != 0 {
            // SAFETY: the memory came from `P::alloc` with this layout and is not used again. `T:
            // Copy` needs no drop.
            unsafe { P::dealloc(self.ptr.cast(), layout) };
        }
    }
}

impl<T: Copy, P: Platform> fmt::Debug for Buffer<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {})", self.len, self.capacity)
    }
}
