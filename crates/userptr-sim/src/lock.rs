//! The address-space lock, known to the lock checker.

use crate::platform::lockdep::{self, Kind};
use std::sync::{Condvar, Mutex, PoisonError};

/// A reader-writer lock (`mmap_lock`). A thread takes it once: as in a kernel, a second read can
/// deadlock with a waiting writer.
#[derive(Default)]
pub(super) struct MmapLock {
    /// The number of readers, or `WRITER`.
    held: Mutex<usize>,
    free: Condvar,
}

const WRITER: usize = usize::MAX;

pub(super) struct MmapGuard<'a>(&'a MmapLock);

impl MmapLock {
    fn address(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    pub(super) fn read(&self) -> MmapGuard<'_> {
        self.take(|held| (held != WRITER).then(|| held + 1))
    }

    pub(super) fn write(&self) -> MmapGuard<'_> {
        self.take(|held| (held == 0).then_some(WRITER))
    }

    fn take(&self, next: impl Fn(usize) -> Option<usize>) -> MmapGuard<'_> {
        lockdep::acquire(lockdep::MMAP, Kind::Mutex, self.address());
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(next) = next(*held) {
                *held = next;
                return MmapGuard(self);
            }
            held = self.free.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for MmapGuard<'_> {
    fn drop(&mut self) {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held = if *held == WRITER { 0 } else { *held - 1 };
        drop(held);
        self.0.free.notify_all();
        lockdep::release(self.0.address());
    }
}
