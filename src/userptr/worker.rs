//! The slow path: a work item that pins, waiting as needed.
//!
//! The item belongs to the object, so there is at most one run at a time. It serves the ticket that is current when it begins: an
//! acquire that finds the item pending already is served by that run, which has not begun.

use super::object::{PIN, UserPtr, UserPtrRef};
use crate::address_space::{AddressSpace, Pages, Users};
use crate::device::Device;
use crate::device::Host;
use crate::error::Error;
use crate::has_work;
use crate::notifier::{Notifier, Ticket};
use crate::pages::Buffer;
use crate::platform::{AtomicUsize, Store};
use crate::range::AddrRange;
use crate::refcount::Ref;
use crate::work::{HasWork, Work, enqueue, is_pending};

/// Pages between two looks whether the pin is still wanted.
const STRIDE: usize = 512;

// SAFETY: the item is settled by `UserPtr`'s `settle`.
unsafe impl<D: Device> HasWork<Host<D>, PIN> for UserPtr<D> {
    has_work!(pin: Work<UserPtr<D>, Host<D>, PIN>);

    fn run(this: Ref<Self, Host<D>>) {
        // Superseded before it began: nothing is asked any more.
        if let Some(ticket) = Notifier::current_ticket(&this)
            && let Err(error) = pin(&this, ticket)
        {
            let sticky = error == Error::Fault;
            // Only the newest ticket reports; a superseded worker has nothing to say (scenario 28). In one step with giving the
            // ticket up: said later, it could come after the next worker's success, and be told for that.
            Notifier::abandon_with(&this, ticket, sticky, || {
                if !sticky {
                    this.report.store(encode(error), Store::Relaxed);
                }
            });
        }
        this.context.give_worker();
        // The users were dropped in `pin`, outside every lock; this may be the object's last reference.
        drop(this);
    }
}

/// Queues the worker for an attached object. Returns what the acquire answers: `Again`, or why not.
///
/// Source: `__i915_gem_userptr_get_pages_schedule`.
pub(super) fn schedule<D: Device>(this: &UserPtrRef<D>, ticket: Ticket) -> Error {
    if !this.context.take_worker() {
        // Nothing stays attached (rule 17, scenario 33).
        Notifier::abandon(this, ticket, false);
        return Error::Again;
    }
    match enqueue::<_, _, PIN>(this.context.pins(), this.clone()) {
        Ok(()) => {}
        Err(refused) => {
            this.context.give_worker();
            if !is_pending::<_, _, PIN>(this.context.pins(), &refused) {
                // It has run since, or the queue is shut down: either way this ticket may have no worker.
                Notifier::abandon(this, ticket, false);
            }
            drop(refused);
        }
    }
    Error::Again
}

/// Pins everything, or nothing.
///
/// Source: `__i915_gem_userptr_get_pages_worker`.
fn pin<D: Device>(this: &UserPtrRef<D>, ticket: Ticket) -> Result<(), Error> {
    let mut pages = Buffer::with_capacity(this.pages())?;
    if let Err(error) = this.watch().and_then(|()| pin_all(this, ticket, &mut pages)) {
        this.unpin_unused(&pages);
        return Err(error);
    }
    UserPtr::install(this, ticket, pages, false)
}

/// Fills `pages`; on an error it may be partly filled.
fn pin_all<D: Device>(
    this: &UserPtrRef<D>,
    ticket: Ticket,
    pages: &mut Pages<D::Space>,
) -> Result<(), Error> {
    let space = this.record.space();
    let shift = space.page_shift();
    // The address space is gone: `EFAULT` (scenario 49). The hold lasts for this function, which holds no lock (rule 3).
    let users = space.users().ok_or(Error::Fault)?;
    let total = this.pages();
    while pages.len() < total {
        if Notifier::current_ticket(this) != Some(ticket) {
            // Superseded: stop early (rule 17).
            return Err(Error::Again);
        }
        let done = pages.len();
        users.pin(stride(this.range(), shift, done, total).ok_or(Error::Fault)?, this.writable(), pages)?;
        if pages.len() <= done {
            // Nothing pinned and no error: an error all the same, never a loop (rule 16).
            return Err(Error::Fault);
        }
    }
    Ok(())
}

/// The range of the next pages after `done`.
fn stride(range: AddrRange, shift: u32, done: usize, total: usize) -> Option<AddrRange> {
    let count = total.checked_sub(done)?.min(STRIDE);
    let start = range.start().checked_add(done.checked_shl(shift)?)?;
    AddrRange::new(start, count.checked_shl(shift)?).ok()
}

const REPORTED: [Error; 6] =
    [Error::NoMemory, Error::TooBig, Error::NoDevice, Error::Interrupted, Error::Limit, Error::DeviceLost];

/// A worker's error as a word; 0 is none.
fn encode(error: Error) -> usize {
    REPORTED.iter().position(|e| *e == error).map_or(REPORTED.len(), |at| at).saturating_add(1)
}

/// The error of a word.
pub(super) fn decode(code: usize) -> Error {
    code.checked_sub(1).and_then(|at| REPORTED.get(at)).copied().unwrap_or(Error::Again)
}
