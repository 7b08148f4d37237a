//! The machine's own atomic word and a plain cell: for every platform that runs on the bare
//! language, a kernel included.

use crate::platform::{AtomicUsize, Cell, Load, Rmw, Store};
use core::cell::UnsafeCell;
use core::fmt;
use core::sync::atomic::{self, Ordering};

/// `core::sync::atomic::AtomicUsize`.
#[derive(Debug)]
#[repr(transparent)]
pub struct NativeUsize(atomic::AtomicUsize);

pub(super) const fn load(o: Load) -> Ordering {
    match o {
        Load::Relaxed => Ordering::Relaxed,
        Load::Acquire => Ordering::Acquire,
    }
}

pub(super) const fn store(o: Store) -> Ordering {
    match o {
        Store::Relaxed => Ordering::Relaxed,
        Store::Release => Ordering::Release,
    }
}

pub(super) const fn rmw(o: Rmw) -> Ordering {
    match o {
        Rmw::Relaxed => Ordering::Relaxed,
        Rmw::Acquire => Ordering::Acquire,
        Rmw::Release => Ordering::Release,
        Rmw::AcqRel => Ordering::AcqRel,
    }
}

// SAFETY: the language's own atomics, with the orderings asked for.
unsafe impl AtomicUsize for NativeUsize {
    fn new(v: usize) -> Self {
        Self(atomic::AtomicUsize::new(v))
    }
    #[inline]
    fn load(&self, o: Load) -> usize {
        self.0.load(load(o))
    }
    #[inline]
    fn store(&self, v: usize, o: Store) {
        self.0.store(v, store(o));
    }
    #[inline]
    fn swap(&self, v: usize, o: Rmw) -> usize {
        self.0.swap(v, rmw(o))
    }
    #[inline]
    fn fetch_add(&self, v: usize, o: Rmw) -> usize {
        self.0.fetch_add(v, rmw(o))
    }
    #[inline]
    fn fetch_sub(&self, v: usize, o: Rmw) -> usize {
        self.0.fetch_sub(v, rmw(o))
    }
    #[inline]
    fn compare_exchange(&self, old: usize, new: usize, ok: Rmw, no: Load) -> Result<usize, usize> {
        self.0.compare_exchange(old, new, rmw(ok), load(no))
    }
}

/// A plain `UnsafeCell`: nothing is tracked.
#[repr(transparent)]
pub struct NativeCell<T>(UnsafeCell<T>);

// SAFETY: both methods pass the cell's own pointer and synchronise nothing.
unsafe impl<T> Cell<T> for NativeCell<T> {
    fn new(value: T) -> Self {
        Self(UnsafeCell::new(value))
    }
    #[inline]
    fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }
    #[inline]
    fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

impl<T> fmt::Debug for NativeCell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NativeCell")
    }
}
