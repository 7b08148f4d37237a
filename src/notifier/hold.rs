//! A taken lease.

use super::Notifier;
use super::attachment::Subscriber;
use super::lease::Put;
use crate::platform::Platform;
use crate::refcount::Ref;
use core::borrow::Borrow;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;

/// A lease on a `Ready` object: while it lives the installed pages stay, and a cancel waits.
///
/// Dropping it wakes that cancel; dropping the last lease of a quarantined object finishes the cancel, and may sleep. Forgetting it
/// leaks the pages, nothing worse (rules 23 and 25).
#[must_use = "the pages may be released as soon as the lease is dropped"]
pub struct Hold<T: Subscriber<P>, P: Platform, R: Borrow<Ref<T, P>>> {
    object: R,
    _of: PhantomData<fn(T, P)>,
}

impl<P: Platform> Notifier<P> {
    /// A lease, if pages are installed and no cancel has begun. One read-modify-write when nobody interferes.
    ///
    /// Ordering: the holder sees what the commit installed; what the holder does happens before the cancel's unmap.
    pub fn lease<T: Subscriber<P>, R: Borrow<Ref<T, P>>>(object: R) -> Option<Hold<T, P, R>> {
        if object.borrow().attachment().leases.take() {
            Some(Hold { object, _of: PhantomData })
        } else {
            None
        }
    }
}

impl<T: Subscriber<P>, P: Platform, R: Borrow<Ref<T, P>>> Hold<T, P, R> {
    /// The lease that a commit left for its caller.
    ///
    /// # Safety
    /// A commit with `lease` succeeded for this object, and this is called once for it.
    pub(crate) unsafe fn adopt(object: R) -> Self {
        Self { object, _of: PhantomData }
    }

    /// The object.
    pub fn object(&self) -> &Ref<T, P> {
        self.object.borrow()
    }

    /// The same lease with a reference of its own.
    pub fn into_owned(self) -> Hold<T, P, Ref<T, P>> {
        let object = self.object().clone();
        let this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again, and its own drop, which would give the lease back, does not run.
        drop(unsafe { core::ptr::read(&raw const this.object) });
        Hold { object, _of: PhantomData }
    }

    /// Whether a cancel has begun since: it waits for this lease.
    pub fn is_revoked(&self) -> bool {
        self.object().attachment().leases.is_closed()
    }
}

impl<T: Subscriber<P>, P: Platform, R: Borrow<Ref<T, P>>> Drop for Hold<T, P, R> {
    fn drop(&mut self) {
        let object = self.object();
        let attachment = object.attachment();
        match attachment.leases.put() {
            Put::Held => {}
            // SAFETY: settled with the attachment, in place by our reference; no lock is held.
            Put::Drained => unsafe { attachment.drained.wake_all() },
            Put::Finish => object.home().finish_quarantined(attachment),
        }
    }
}

impl<T: Subscriber<P>, P: Platform, R: Borrow<Ref<T, P>>> fmt::Debug for Hold<T, P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hold({:?})", self.object().attachment())
    }
}
