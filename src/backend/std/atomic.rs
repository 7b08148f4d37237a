//! The atomic word of the standard library.

use crate::platform::{AtomicUsize, Load, Rmw, Store};
use core::sync::atomic::{self, Ordering};

/// `core::sync::atomic::AtomicUsize`.
#[derive(Debug)]
#[repr(transparent)]
pub struct StdUsize(atomic::AtomicUsize);

pub(crate) const fn load(o: Load) -> Ordering {
    match o {
        Load::Relaxed => Ordering::Relaxed,
        Load::Acquire => Ordering::Acquire,
    }
}

pub(crate) const fn store(o: Store) -> Ordering {
    match o {
        Store::Relaxed => Ordering::Relaxed,
        Store::Release => Ordering::Release,
    }
}

pub(crate) const fn rmw(o: Rmw) -> Ordering {
    match o {
        Rmw::Relaxed => Ordering::Relaxed,
        Rmw::Acquire => Ordering::Acquire,
        Rmw::Release => Ordering::Release,
        Rmw::AcqRel => Ordering::AcqRel,
    }
}

// SAFETY: the language's own atomics, with the orderings asked for.
unsafe impl AtomicUsize for StdUsize {
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
