//! The object's side: attach, commit, abandon, wait.

use super::attachment::{State, Subscriber};
use super::{Core, Edge, Notifier};
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
        let attachment = sub.attachment();
        let range = attachment.range();
        let inner = Ref::inner(sub);
        let edge: Edge<P> = inner;
        Self::at_home(&**sub, |home, core| {
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
            // Asked under the lock: a moment later somebody else's acquire may have been cancelled.
            debug_assert!(!home.has_pending(attachment), "attached with a cancel pending (rule 9)");
            // SAFETY: the lock is held; the edge is the object around the attachment.
            Ok(Ticket(unsafe { attachment.begin_acquire(edge) }))
        })
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
        let attachment = sub.attachment();
        let mut install = Some(install);
        Self::at_home(&**sub, |_, _| {
            // SAFETY: the lock is held.
            unsafe {
                if attachment.state() != State::Acquiring || attachment.ticket() != ticket.0 {
                    return;
                }
                if let Some(install) = install.take() {
                    install();
                }
                attachment.leases.open(usize::from(lease));
                attachment.set_state(State::Ready);
            }
        });
        if let Some(install) = install {
            return Err(install);
        }
        sub.home().wake();
        Ok(())
    }

    /// Gives an acquire up, if the ticket is still the newest: `Idle`, or `Failed` if the failure is to stick. `false`: it had been
    /// superseded, and the object is somebody else's business.
    pub fn abandon<T: Subscriber<P>>(sub: &Ref<T, P>, ticket: Ticket, sticky: bool) -> bool {
        Self::abandon_with(sub, ticket, sticky, || ())
    }

    /// As [`abandon`](Self::abandon); `say` runs under the lock, if the ticket is still the newest: whoever attaches next finds what
    /// it left. It may store a word, and nothing more.
    pub(crate) fn abandon_with<T: Subscriber<P>>(
        sub: &Ref<T, P>,
        ticket: Ticket,
        sticky: bool,
        say: impl Fn(),
    ) -> bool {
        let attachment = sub.attachment();
        let mine = Self::at_home(&**sub, |home, core| {
            // SAFETY: the lock is held; `Acquiring`, so the node is in the index.
            unsafe {
                let mine = attachment.state() == State::Acquiring && attachment.ticket() == ticket.0;
                match (mine, sticky) {
                    (true, true) => attachment.set_state(State::Failed),
                    (true, false) => core.take_out(attachment, &home.summary),
                    (false, _) => {}
                }
                if mine {
                    say();
                }
                mine
            }
        });
        if mine {
            sub.home().wake();
        }
        mine
    }

    /// The ticket that is being acquired for, if one is: what a worker serves when it begins.
    pub fn current_ticket<T: Subscriber<P>>(sub: &Ref<T, P>) -> Option<Ticket> {
        let attachment = sub.attachment();
        // SAFETY: the lock is held.
        Self::at_home(&**sub, |_, _| unsafe {
            (attachment.state() == State::Acquiring).then(|| Ticket(attachment.ticket()))
        })
    }

    /// The object's state at this moment.
    #[must_use]
    pub fn state<T: Subscriber<P>>(sub: &Ref<T, P>) -> State {
        // SAFETY: the lock is held.
        Self::at_home(&**sub, |_, _| unsafe { sub.attachment().state() })
    }

    /// Waits until an attach may get on: until the object is neither being acquired nor cancelled, and no window is open over it.
    /// `false`: the timeout passed first. The caller holds no lease and no lock (rule 29).
    pub fn wait_ready<T: Subscriber<P>>(sub: &Ref<T, P>, timeout: Option<Duration>) -> bool {
        let attachment = sub.attachment();
        let home = sub.home();
        home.wait_for(timeout, |core| {
            if !core::ptr::eq(home, sub.home()) {
                // Moved by an export: look again.
                return true;
            }
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

    /// Moves an object without pages away from `from`: in one section of its lock supersedes an acquire in flight, forgets a failure,
    /// and runs `switch`, after which [`Subscriber::home`] answers the new one. `false`: it has pages, or a cancel is not done
    /// with it. An object that is not at `from` any more has been moved already: nothing to do.
    ///
    /// It takes no ticket: two moves at once would supersede each other's for ever.
    pub(crate) fn move_home<T: Subscriber<P>>(sub: &Ref<T, P>, from: &Self, switch: impl FnOnce()) -> bool {
        let attachment = sub.attachment();
        let moved = from.with(|core| {
            if !core::ptr::eq(from, sub.home()) {
                return true;
            }
            // SAFETY: the lock of the object's home is held.
            unsafe {
                match attachment.state() {
                    State::Idle => {}
                    State::Acquiring | State::Failed => core.take_out(attachment, &from.summary),
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

    /// Runs `f` under the lock of the object's home. An export can move the object between the look and the lock, so
    /// the home is looked at again under the lock, where it cannot change.
    pub(super) fn at_home<R>(
        sub: &(impl Subscriber<P> + ?Sized),
        mut f: impl FnMut(&Self, &mut Core<P>) -> R,
    ) -> R {
        loop {
            let home = sub.home();
            // At most one more turn: an object moves once.
            let done = home.with(|core| core::ptr::eq(home, sub.home()).then(|| f(home, core)));
            if let Some(done) = done {
                return done;
            }
        }
    }
}
