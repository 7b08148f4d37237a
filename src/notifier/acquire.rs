//! The object's side: attach, commit, abandon, wait.

use super::attachment::{Subscriber, Weak};
use super::state::State;
use super::{Core, Notifier};
use crate::error::Error;
use crate::interval::IntervalIndex;
use crate::platform::Platform;
use crate::refcount::Ref;
use core::fmt;
use core::time::Duration;

/// The right to commit one acquire of one object. Only the ticket of the newest attach is valid
/// ([rule 4](crate::docs::protocol#rule-4)): a generation number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "an attached object stays `Acquiring` until its ticket is committed or abandoned"]
pub struct Ticket {
    number: u64,
    /// The address of the attachment that it was given out for.
    of: usize,
}

impl Ticket {
    fn new<P: Platform, T: Subscriber<P>>(sub: &T, number: u64) -> Self {
        Self { number, of: core::ptr::from_ref(sub.attachment()).addr() }
    }

    /// Returns whether it was given out for this object.
    fn is_for<P: Platform, T: Subscriber<P>>(self, sub: &T) -> bool {
        self.of == core::ptr::from_ref(sub.attachment()).addr()
    }
}

/// Why an attach was refused. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttachError {
    /// The address space is gone.
    Dead,
    /// An invalidation of the range is in progress ([rule 6](crate::docs::protocol#rule-6)).
    Window,
    /// Another thread acquires or revokes, or the object is quarantined.
    Busy,
    /// The pages are installed: take a lease.
    Ready,
    /// The range is not memory; sticks until its mapping changes.
    Failed,
    /// The index could not take the range.
    NoMemory,
}

impl From<AttachError> for Error {
    fn from(error: AttachError) -> Self {
        match error {
            AttachError::Window | AttachError::Busy | AttachError::Ready => Self::Again,
            AttachError::Dead => Self::Gone,
            AttachError::Failed => Self::Fault,
            AttachError::NoMemory => Self::NoMemory,
        }
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dead => "the address space is gone (EFAULT)",
            Self::Window => "an invalidation of the range is in progress (EAGAIN)",
            Self::Busy => "another thread acquires or revokes the object (EAGAIN)",
            Self::Ready => "the pages are installed: take a lease (EAGAIN)",
            Self::Failed => "the range was found not to be memory (EFAULT): reset the object",
            Self::NoMemory => "out of memory (ENOMEM)",
        })
    }
}

impl core::error::Error for AttachError {}

impl<P: Platform> Notifier<P> {
    /// Puts an idle object into the index and returns the ticket to pin for.
    ///
    /// # Errors
    /// [`AttachError`], with nothing changed.
    ///
    /// Source: `add_object`; the ticket and the window are ours.
    pub fn attach<T: Subscriber<P>>(sub: &Ref<T, P>) -> Result<Ticket, AttachError> {
        let attachment = sub.attachment();
        let range = attachment.range();
        let inner = Ref::inner(sub);
        let object: Weak<P> = inner;
        Self::with_notifier(&**sub, |notifier, core| {
            if core.dead {
                return Err(AttachError::Dead);
            }
            // SAFETY: the lock is held.
            match unsafe { attachment.state() } {
                State::Idle => {}
                State::Ready => return Err(AttachError::Ready),
                State::Failed => return Err(AttachError::Failed),
                State::Acquiring | State::Revoking | State::Quarantined => return Err(AttachError::Busy),
            }
            if core.overflow.overlaps(range) {
                return Err(AttachError::Window);
            }
            // Insert first, look at the windows afterwards: an invalidation does it the other way
            // round.
            // SAFETY: idle, so the node is in no index. The object stays alive and in place while
            // it is attached (contract of `Subscriber`).
            unsafe { core.index.insert(attachment.node_ptr()) }.map_err(|_| AttachError::NoMemory)?;
            notifier.hull.set(core.index.hull());
            // ORDERING: store buffering with `invalidate_start` (E10): here the node and the hull,
            // fence, then the windows; there the window, fence, then the hull.
            // - If our fence comes first, the invalidation sees our node in the hull, and takes the
            //   lock.
            // - If its fence comes first, we see its window below, and back out.
            // Release and acquire alone would let both look past each other (rule 30).
            P::fence();
            if notifier.windows.overlaps(range) {
                // SAFETY: just inserted, under the same lock.
                unsafe { core.index.remove(attachment.node_ptr()) };
                notifier.hull.set(core.index.hull());
                return Err(AttachError::Window);
            }
            // Asked under the lock: a moment later another thread's acquire may have been revoked.
            debug_assert!(!notifier.has_pending(attachment), "attached with a revocation pending (rule 9)");
            // SAFETY: the lock is held; the pointer is to the object around the attachment.
            let number = unsafe { attachment.slot(|slot| slot.begin_acquire(object)) };
            Ok(Ticket::new(&**sub, number))
        })
    }

    /// Makes the object `Ready`, if the ticket is still the newest and no invalidation came
    /// between: runs `install`, then opens the leases, with one for the caller if `lease`.
    ///
    /// Ordering: what happened before is visible to every lease holder.
    ///
    /// # Errors
    /// `install`, not run: the acquire was superseded. The caller drops what it pinned.
    ///
    /// # Safety
    /// * `install` puts in place all that a lease holder of this object reads, and does nothing
    ///   else: it runs under the notifier's spinlock, so it must not call into this crate, wait,
    ///   allocate or panic.
    /// * With `lease`, an `Ok` is followed by one [`LeaseGuard::adopt`](super::LeaseGuard::adopt).
    pub unsafe fn commit<T: Subscriber<P>, F: FnOnce()>(
        sub: &Ref<T, P>,
        ticket: Ticket,
        lease: bool,
        install: F,
    ) -> Result<(), F> {
        if !ticket.is_for(&**sub) {
            return Err(install);
        }
        let attachment = sub.attachment();
        let mut install = Some(install);
        Self::with_notifier(&**sub, |_, _| {
            // SAFETY: the lock is held. `Acquiring` with a current ticket: nobody owns a
            // revocation.
            let current = unsafe {
                let current = attachment.read(|slot| slot.current_ticket()) == Some(ticket.number);
                if current {
                    attachment.slot(|slot| slot.commit(ticket.number));
                }
                current
            };
            if current {
                // Installed before the word opens: the first lease is taken without the lock.
                if let Some(install) = install.take() {
                    install();
                }
                attachment.leases.open(usize::from(lease));
            }
        });
        if let Some(install) = install {
            return Err(install);
        }
        sub.notifier().wake();
        Ok(())
    }

    /// Gives an acquire up, if the ticket is still the newest: the object becomes `Idle`, or
    /// `Failed` if the failure is sticky. Returns `false` if the acquire had been superseded; then
    /// nothing changed.
    pub fn abandon<T: Subscriber<P>>(sub: &Ref<T, P>, ticket: Ticket, sticky: bool) -> bool {
        Self::abandon_with(sub, ticket, sticky, || ())
    }

    /// As [`abandon`](Self::abandon); if the ticket is current, also runs `report` under the lock,
    /// so that the next acquirer sees what it stored. `report` must only store a word.
    pub(crate) fn abandon_with<T: Subscriber<P>>(
        sub: &Ref<T, P>,
        ticket: Ticket,
        sticky: bool,
        report: impl Fn(),
    ) -> bool {
        if !ticket.is_for(&**sub) {
            return false;
        }
        let attachment = sub.attachment();
        let current = Self::with_notifier(&**sub, |notifier, core| {
            // SAFETY: the lock is held. `Acquiring` with a current ticket: the node is in this
            // index, and nobody owns a revocation.
            unsafe {
                if attachment.read(|slot| slot.current_ticket()) != Some(ticket.number) {
                    return false;
                }
                if sticky {
                    attachment.slot(|slot| slot.fail(ticket.number));
                } else {
                    core.forget(attachment, &notifier.hull);
                }
            }
            report();
            true
        });
        if current {
            sub.notifier().wake();
        }
        current
    }

    /// Returns the ticket of the acquire in progress, if there is one: what a worker serves when it
    /// begins.
    #[must_use]
    pub fn current_ticket<T: Subscriber<P>>(sub: &Ref<T, P>) -> Option<Ticket> {
        let attachment = sub.attachment();
        // SAFETY: the lock is held.
        let number =
            Self::with_notifier(&**sub, |_, _| unsafe { attachment.read(|slot| slot.current_ticket()) });
        number.map(|number| Ticket::new(&**sub, number))
    }

    /// Returns the object's state at this moment.
    #[must_use]
    pub fn state<T: Subscriber<P>>(sub: &Ref<T, P>) -> State {
        // SAFETY: the lock is held.
        Self::with_notifier(&**sub, |_, _| unsafe { sub.attachment().state() })
    }

    /// Waits until an attach may succeed: until the object is neither being acquired nor revoked,
    /// and no window is open over it. Returns `false` if `timeout` passed first. The caller must
    /// hold no lease and no lock ([rule 29](crate::docs::protocol#rule-29)).
    #[must_use = "`false` means that the time is over"]
    pub fn wait_ready<T: Subscriber<P>>(sub: &Ref<T, P>, timeout: Option<Duration>) -> bool {
        let notifier = sub.notifier();
        notifier.wait_for(timeout, |core| {
            // Moved by an export, which woke us: look again there.
            !core::ptr::eq(notifier, sub.notifier())
                // SAFETY: the lock of the object's notifier is held.
                || unsafe { notifier.is_settled_down(core, sub.attachment()) }
        })
    }

    /// Returns whether an attach has a chance, or a lease.
    ///
    /// # Safety
    /// The lock is held, and this is the object's notifier.
    unsafe fn is_settled_down(&self, core: &Core<P>, attachment: &super::Attachment<P>) -> bool {
        // SAFETY: the lock is held (caller).
        match unsafe { attachment.state() } {
            State::Ready | State::Failed | State::Quarantined => true,
            State::Acquiring | State::Revoking => false,
            State::Idle => {
                let range = attachment.range();
                core.dead || !(core.overflow.overlaps(range) || self.windows.overlaps(range))
            }
        }
    }

    /// Moves an object without pages away from `from`: in one section of its lock supersedes an
    /// acquire in flight, forgets a failure, and runs `switch`, after which
    /// [`Subscriber::notifier`] returns the new one. Returns `false` if the object has pages or is
    /// being revoked. An object that is not at `from` any more has been moved already: nothing is
    /// left to do.
    ///
    /// It takes no ticket: two moves at once would supersede each other's forever.
    pub(crate) fn rehome<T: Subscriber<P>>(sub: &Ref<T, P>, from: &Self, switch: impl FnOnce()) -> bool {
        let attachment = sub.attachment();
        let moved = from.with(|core| {
            if !core::ptr::eq(from, sub.notifier()) {
                return true;
            }
            // SAFETY: the lock of the object's notifier is held; a node that is not `Idle` is in
            // its index.
            unsafe {
                match attachment.state() {
                    State::Idle => {}
                    State::Acquiring | State::Failed => core.forget(attachment, &from.hull),
                    State::Ready | State::Revoking | State::Quarantined => return false,
                }
            }
            switch();
            true
        });
        if moved {
            from.wake();
        }
        moved
    }

    /// Runs `f` under the lock of the object's notifier. An export can move the object between the
    /// look and the lock, so the notifier is looked at again under the lock, where it cannot
    /// change.
    pub(super) fn with_notifier<R>(
        sub: &(impl Subscriber<P> + ?Sized),
        mut f: impl FnMut(&Self, &mut Core<P>) -> R,
    ) -> R {
        loop {
            let notifier = sub.notifier();
            // At most one more turn: an object moves once.
            let done =
                notifier.with(|core| core::ptr::eq(notifier, sub.notifier()).then(|| f(notifier, core)));
            if let Some(done) = done {
                return done;
            }
        }
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::super::{Attachment, Outcome};
    use super::*;
    use crate::AddrRange;
    use crate::notifier::Blockable;
    use crate::platforms::std::Std;
    use crate::refcount::{LastPut, RefCounted};

    struct Bare {
        notifier: Ref<Notifier<Std>, Std>,
        attachment: Attachment<Std>,
    }

    // SAFETY: the attachment is settled, and `last_put` detaches.
    unsafe impl RefCounted<Std> for Bare {
        unsafe fn init(&self) {
            // SAFETY: called once, at the final address (caller).
            unsafe { self.attachment.init() }
        }
        unsafe fn last_put(&self) -> LastPut {
            // SAFETY: called with a count of zero.
            unsafe { Notifier::detach(self) }
        }
    }

    // SAFETY: one attachment, inside the object; one notifier, held by it.
    unsafe impl Subscriber<Std> for Bare {
        fn attachment(&self) -> &Attachment<Std> {
            &self.attachment
        }
        fn notifier(&self) -> &Notifier<Std> {
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

    fn commit(object: &Ref<Bare, Std>, ticket: Ticket) -> bool {
        // SAFETY: there is nothing that a lease holder reads.
        unsafe { Notifier::commit(object, ticket, false, || ()) }.is_ok()
    }

    /// The ticket passes the end of its word: the old one is not taken for the new one.
    #[test]
    fn s24_a_ticket_that_wraps() -> Result<(), Error> {
        let notifier = Notifier::<Std>::try_new(None)?;
        let range = AddrRange::new(4096, 4096)?;
        let attachment = Attachment::uninit(range);
        let object = Ref::try_new(Bare { notifier: notifier.clone(), attachment })?;
        // SAFETY: nobody else knows the object yet.
        unsafe { object.attachment.slot(|slot| slot.set_ticket(u64::MAX - 2)) };
        let mut old = Notifier::attach(&object).unwrap();
        for _ in 0..4 {
            drop(notifier.invalidate(range, Blockable::Yes)?);
            let new = Notifier::attach(&object).unwrap();
            assert!(!commit(&object, old));
            old = new;
        }
        assert_eq!(old.number, 2, "it went round");
        assert!(commit(&object, old));
        Ok(())
    }
}
