//! An object of the notifier alone, without pages: for scenarios that play the object's side by
//! hand.

use std::time::Duration;
use userptr::notifier::{Attachment, Subscriber, Ticket};
use userptr::{AddrRange, LastPut, Notifier, Outcome, Platform, Ref, RefCounted};

pub(crate) struct Bare<P: Platform> {
    attachment: Attachment<P>,
    notifier: Ref<Notifier<P>, P>,
}

impl<P: Platform> Bare<P> {
    #[allow(clippy::new_ret_no_self, reason = "always shared")]
    pub(crate) fn new(notifier: &Ref<Notifier<P>, P>, range: AddrRange) -> Ref<Self, P> {
        Ref::try_new(Self { attachment: Attachment::uninit(range), notifier: notifier.clone() }).unwrap()
    }

    /// Commits without pages. Returns whether the ticket was current.
    pub(crate) fn commit(this: &Ref<Self, P>, ticket: Ticket) -> bool {
        // SAFETY: there is nothing that a lease holder reads, and no lease is left.
        unsafe { Notifier::commit(this, ticket, false, || ()) }.is_ok()
    }
}

// SAFETY: `init` settles the attachment; `last_put` detaches.
unsafe impl<P: Platform> RefCounted<P> for Bare<P> {
    unsafe fn init(&self) {
        // SAFETY: called once, at the final address (caller).
        unsafe { self.attachment.init() }
    }
    unsafe fn last_put(&self) -> LastPut {
        // SAFETY: called by the last put.
        unsafe { Notifier::detach(self) }
    }
}

// SAFETY: the attachment is a field, the notifier never changes, `last_put` detaches.
unsafe impl<P: Platform> Subscriber<P> for Bare<P> {
    fn attachment(&self) -> &Attachment<P> {
        &self.attachment
    }
    fn notifier(&self) -> &Notifier<P> {
        &self.notifier
    }
    fn deadline(&self) -> Option<Duration> {
        None
    }
    unsafe fn stop(&self) {}
    unsafe fn release(&self, _: Option<Duration>) -> Outcome {
        Outcome::Idle
    }
}
