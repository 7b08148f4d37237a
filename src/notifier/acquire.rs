//! The object's side: attach, commit, abandon, wait.

use super::attachment::{State, Subscriber};
use super::{Edge, Notifier};
use crate::interval::IntervalIndex;
use crate::platform::Platform;
use crate::refcount::Ref;
use core::time::Duration;

/// The right to commit one acquire. The newest attach has the only valid one (rule 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub(super) u64);

/// Why an attach was refused. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The address space is gone.
    Dead,
    /// An invalidation of the range is in progress (rule 6).
    Window,
    /// Somebody else acquires or cancels, or the object is quarantined.
    Busy,
    /// The pages are there: take a lease.
    Ready,
    /// The range is not memory; sticks until its mapping changes.
    Failed,
    /// The index could not take the range.
    NoMemory,
}

impl<P: Platform> Notifier<P> {
    /// Puts an idle object into the index and gives its caller the ticket to pin for it.
    ///
    /// # Errors
    /// [`Refused`], with nothing changed.
    ///
    /// Source: `add_object`; the ticket and the window are ours.
    pub fn attach<T: Subscriber<P>>(sub: &Ref<T, P>) -> Result<Ticket, Refused> {
        let (home, attachment) = (sub.home(), sub.attachment());
        let range = attachment.range();
        let edge: Edge<P> = Ref::inner(sub);
        home.with(|core| {
            if core.dead {
                return Err(Refused::Dead);
            }
            // SAFETY: the lock is held.
            match unsafe { attachment.state() } {
                State::Idle => {}
                State::Ready => return Err(Refused::Ready),
                State::Failed => return Err(Refused::Failed),
                State::Acquiring | State::Revoking | State::Quarantined => return Err(Refused::Busy),
            }
            if core.spill.overlaps(range) {
                return Err(Refused::Window);
            }
            // SAFETY: idle, so the node is in no index. The object stays alive and in place while it is attached (contract
            // of `Subscriber`).
            unsafe { core.index.insert(attachment.node_ptr()) }.map_err(|_| Refused::NoMemory)?;
            home.summary.set(core.index.hull());
            // ORDERING: store buffering with `begin`: here the node's summary, fence, then the windows. See there.
            P::fence();
            if home.windows.overlaps(range) {
                // SAFETY: just inserted, under the same lock.
                unsafe { core.index.remove(attachment.node_ptr()) };
                home.summary.set(core.index.hull());
                return Err(Refused::Window);
            }
            // SAFETY: the lock is held; the edge is the object around the attachment.
            Ok(Ticket(unsafe { attachment.begin_acquire(edge) }))
        })
        .inspect(|_| debug_assert!(!Self::is_cancel_pending(sub), "attached with a cancel pending (rule 9)"))
    }

    /// If the ticket is still the newest and nothing came between: runs `install`, opens the leases, with one for the caller if
    /// `lease`, and the object is `Ready`. `install` runs under the spinlock: it moves a few words.
    ///
    /// # Errors
    /// `install`, not run: the acquire was superseded. The caller drops what it pinned.
    ///
    /// Ordering: what happened before is visible to every lease holder.
    pub fn commit<T: Subscriber<P>, F: FnOnce()>(
        sub: &Ref<T, P>,
        ticket: Ticket,
        lease: bool,
        install: F,
    ) -> Result<(), F> {
        let (home, attachment) = (sub.home(), sub.attachment());
        let committed = home.with(|_| {
            // SAFETY: the lock is held.
            unsafe {
                if attachment.state() != State::Acquiring || attachment.ticket() != ticket.0 {
                    return Err(install);
                }
                install();
                attachment.leases.open(usize::from(lease));
                attachment.set_state(State::Ready);
            }
            Ok(())
        });
        if committed.is_ok() {
            home.wake();
        }
        committed
    }

    /// Gives an acquire up, if the ticket is still the newest: `Idle`, or `Failed` if the failure is to stick. `false`: it had been
    /// superseded, and the object is somebody else's business.
    pub fn abandon<T: Subscriber<P>>(sub: &Ref<T, P>, ticket: Ticket, sticky: bool) -> bool {
        let (home, attachment) = (sub.home(), sub.attachment());
        let mine = home.with(|core| {
            // SAFETY: the lock is held; `Acquiring`, so the node is in the index.
            unsafe {
                let mine = attachment.state() == State::Acquiring && attachment.ticket() == ticket.0;
                match (mine, sticky) {
                    (true, true) => attachment.set_state(State::Failed),
                    (true, false) => core.take_out(attachment, &home.summary),
                    (false, _) => {}
                }
                mine
            }
        });
        if mine {
            home.wake();
        }
        mine
    }

    /// The ticket that is being acquired for, if one is: what a worker serves when it begins.
    pub fn current_ticket<T: Subscriber<P>>(sub: &Ref<T, P>) -> Option<Ticket> {
        let attachment = sub.attachment();
        // SAFETY: the lock is held.
        sub.home().with(|_| unsafe {
            (attachment.state() == State::Acquiring).then(|| Ticket(attachment.ticket()))
        })
    }

    /// The object's state at this moment.
    #[must_use]
    pub fn state<T: Subscriber<P>>(sub: &Ref<T, P>) -> State {
        // SAFETY: the lock is held.
        sub.home().with(|_| unsafe { sub.attachment().state() })
    }

    /// Waits until an attach may get on: until the object is neither being acquired nor cancelled, and no window is open over it.
    /// `false`: the timeout passed first. The caller holds no lease and no lock (rule 29).
    pub fn wait_ready<T: Subscriber<P>>(sub: &Ref<T, P>, timeout: Option<Duration>) -> bool {
        let (home, attachment) = (sub.home(), sub.attachment());
        home.wait_for(timeout, |core| {
            // SAFETY: the lock is held.
            match unsafe { attachment.state() } {
                State::Ready | State::Failed | State::Quarantined => true,
                State::Acquiring | State::Revoking => false,
                State::Idle => {
                    let range = attachment.range();
                    core.dead || !(core.spill.overlaps(range) || home.windows.overlaps(range))
                }
            }
        })
    }
}
