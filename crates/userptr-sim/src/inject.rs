//! Faults on order.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use userptr::Error;
use userptr::notifier::Outcome;

/// What the next pin does instead of what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinFault {
    /// Pins at most so many pages; zero is allowed, and is no error of its own.
    Part(usize),
    /// Fails, with nothing pinned by this call.
    Fail(Error),
}

/// Faults on order: each one is taken by the next call that it is meant for, in the order in which
/// they were put in.
#[derive(Debug, Default)]
pub struct Inject {
    pub(super) fast: Faults<PinFault>,
    pub(super) slow: Faults<PinFault>,
    pub(super) register: Faults<Error>,
    pub(super) prepare: Faults<Error>,
    pub(super) idle: Faults<Outcome>,
}

impl Inject {
    /// The next fast pin.
    pub fn fast_pin(&self, fault: PinFault) {
        self.fast.put(fault);
    }
    /// The next slow pin.
    pub fn slow_pin(&self, fault: PinFault) {
        self.slow.put(fault);
    }
    /// The next registration of a notifier fails.
    pub fn register(&self, error: Error) {
        self.register.put(error);
    }
    /// The next mapping by a device fails.
    pub fn prepare(&self, error: Error) {
        self.prepare.put(error);
    }
    /// The next wait for a device ends so, at once.
    pub fn idle(&self, idle: Outcome) {
        self.idle.put(idle);
    }
    /// How many faults nobody has met yet.
    #[must_use]
    pub fn left(&self) -> usize {
        self.fast.len() + self.slow.len() + self.register.len() + self.prepare.len() + self.idle.len()
    }
}

#[derive(Debug)]
pub(super) struct Faults<T>(Mutex<VecDeque<T>>);

impl<T> Default for Faults<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Faults<T> {
    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn put(&self, fault: T) {
        self.queue().push_back(fault);
    }
    pub(super) fn take(&self) -> Option<T> {
        self.queue().pop_front()
    }
    fn len(&self) -> usize {
        self.queue().len()
    }
}
