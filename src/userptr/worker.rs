//! The slow path: a work item that pins, waiting as needed.
//!
//! The item belongs to the object, so there is at most one run at a time. It serves the ticket that
//! is current when it begins: an acquire that finds the item pending already is served by that run,
//! which has not begun.

use super::acquire::{Acquiring, install};
use super::body::{Body, PIN, Pinned};
use super::object::UserPtr;
use crate::address_space::{AddressSpace, Users};
use crate::context::Context;
use crate::device::{Device, PlatformOf};
use crate::error::Error;
use crate::has_work;
use crate::notifier::{Notifier, Ticket};
use crate::platform::RawQueue;
use crate::range::AddrRange;
use crate::refcount::Ref;
use crate::trace;
use crate::work::{HasWork, Work, enqueue, is_pending};

/// Pages to pin before checking again that the ticket is current.
const STRIDE: usize = 512;

/// A worker slot, returned when this is dropped, also by a driver that unwinds.
struct Place<'a, D: Device>(&'a Context<D>);

impl<D: Device> Drop for Place<'_, D> {
    fn drop(&mut self) {
        self.0.give_worker();
    }
}

// SAFETY: the item is settled by `Body`'s `init`.
unsafe impl<D: Device> HasWork<PlatformOf<D>, PIN> for Body<D> {
    has_work!(pin: Work<Body<D>, PlatformOf<D>, PIN>);

    fn run(this: Ref<Self, PlatformOf<D>>) {
        // `schedule` took the place for this run.
        let place = Place(&this.context);
        // `None`: superseded before it began. Nothing is asked any more.
        if let Some(ticket) = Notifier::current_ticket(&this) {
            let acquiring = Acquiring::new(&this, ticket);
            let pinned = pin(&this, ticket);
            trace::acquire(this.range(), true, pinned);
            match pinned {
                Ok(()) => acquiring.served(),
                Err(error) => {
                    // Only the newest ticket reports; a superseded worker has nothing to say
                    // (scenario 28). In one step with giving the ticket up: stored later, it could
                    // come after the next worker's success, and be reported for that.
                    acquiring.abandon_with(error.is_sticky(), || this.leave(error, true));
                }
            }
        }
        drop(place);
        // The users were dropped in `pin`, outside every lock; this may be the object's last
        // reference.
        drop(this);
    }
}

/// Queues the worker for an attached object. Returns what the acquire answers: `Again`, or why not.
///
/// Source: `__i915_gem_userptr_get_pages_schedule`.
pub(super) fn schedule<D: Device>(object: &UserPtr<D>, ticket: Ticket) -> Error {
    let body = object.body();
    let acquiring = Acquiring::new(body, ticket);
    if !body.context.take_worker() {
        // Nothing stays attached (rule 17, scenario 33).
        return Error::Again;
    }
    let queue = body.context.pin_queue();
    match enqueue::<_, _, PIN>(queue, body.clone()) {
        Ok(()) => acquiring.served(),
        Err(refused) => {
            body.context.give_worker();
            if is_pending::<_, _, PIN>(queue, &refused) {
                // The run that is pending has not begun, and serves this ticket.
                acquiring.served();
            } else if queue.is_shut_down() {
                return Error::ShutDown;
            }
            // Else it has run since: this ticket may have no worker, and is given up.
            drop(refused);
        }
    }
    Error::Again
}

/// Pins everything, or nothing.
///
/// Source: `__i915_gem_userptr_get_pages_worker`.
fn pin<D: Device>(body: &Ref<Body<D>, PlatformOf<D>>, ticket: Ticket) -> Result<(), Error> {
    let mut pinned = Pinned::new(body)?;
    let key = body.watch()?;
    pin_all(&mut pinned, ticket)?;
    install(pinned, key, ticket, false)
}

/// Pins all pages; on an error some may be pinned.
fn pin_all<D: Device>(pinned: &mut Pinned<'_, D>, ticket: Ticket) -> Result<(), Error> {
    let body = pinned.owner();
    let space = body.record.space();
    let shift = space.page_shift();
    // The address space may have ended (scenario 49). The reference to its users lasts for this
    // function, which holds no lock (rule 3).
    let users = space.users().ok_or(Error::Gone)?;
    let total = body.page_count();
    while pinned.len() < total {
        if Notifier::current_ticket(body) != Some(ticket) {
            // Superseded: stop early (rule 17).
            return Err(Error::Again);
        }
        if Ref::count(body) == 1 {
            // Closed, perhaps with its process: this run's reference is the last, so no handle can
            // come back, and nobody wants the pages. Not an older count: the queue orders the
            // reference that this run was given before this.
            return Err(Error::Again);
        }
        let done = pinned.len();
        let part = stride(body.range(), shift, done, total).ok_or(Error::Fault)?;
        if let Some(pages) = pinned.pages_mut() {
            users.pin(part, body.writable(), pages)?;
        }
        if pinned.len() <= done {
            // Nothing pinned and no error: an error all the same, never a loop (rule 16).
            return Err(Error::Fault);
        }
    }
    Ok(())
}

/// Returns the range of the next pages after `done`.
fn stride(range: AddrRange, shift: u32, done: usize, total: usize) -> Option<AddrRange> {
    let count = total.checked_sub(done)?.min(STRIDE);
    let start = range.start().checked_add(done.checked_shl(shift)?)?;
    AddrRange::new(start, count.checked_shl(shift)?).ok()
}
