//! What the ring is doing: its buffer slots and its requests, in tables of fixed size.

use super::Direction;
use crate::{Quarantine, Refusal};
use core::mem;
use core::task::Waker;
use std::os::fd::RawFd;
use userptr::AddrRange;

/// Where a slot of the buffer table stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Empty.
    Free,
    /// Filled, or being filled.
    Live,
    /// No request may be submitted any more; to be cleared by the ring's thread.
    Stopping,
    /// Cleared; requests in flight still use the pages.
    Cleared,
    /// The tag came: nobody uses the pages.
    Idle,
}

#[derive(Clone, Debug)]
struct Entry {
    phase: Phase,
    /// Counts fillings, so that the tag of an earlier one is not taken for this one's.
    serial: u64,
    /// Requests between the look at the slot and the kernel's.
    submitting: usize,
    /// A revocation gave up waiting for the tag, so the object was quarantined, or is about to be.
    late: Option<Late>,
}

/// Where the object of a slot is that was given up.
#[derive(Clone, Debug)]
pub(super) struct Late {
    pub(super) range: AddrRange,
    pub(super) quarantine: Quarantine,
}

/// What a request asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) direction: Direction,
    pub(super) fd: RawFd,
    pub(super) slot: u16,
    pub(super) serial: u64,
    pub(super) address: usize,
    pub(super) bytes: u32,
    pub(super) at: u64,
}

/// What is to be submitted next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// A request, by its number.
    Request(usize, Ask),
    /// The end of a request in flight, by its number.
    Cancel(usize),
}

/// Where a request stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    Free,
    /// Waits for the ring's thread.
    Queued(Ask),
    /// On its way into the kernel.
    Submitting(u16),
    /// The kernel has it: file and pages are held by the kernel until it completes.
    InFlight(Flight),
    /// A length, or a negative errno.
    Done(i32),
    /// In flight, and nobody waits for the result.
    Abandoned(Flight),
}

/// A request that the kernel has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    slot: u16,
    /// The kernel was asked to end it.
    cancelled: bool,
}

/// # Invariants
/// A slot leaves `Live` for `Cleared` only with no request `Submitting` to it, so a request never
/// meets another filling of its slot.
#[derive(Debug)]
pub(super) struct Table {
    slots: Vec<Entry>,
    requests: Vec<Request>,
    /// Who awaits a request, by its number.
    wakers: Vec<Option<Waker>>,
    /// How many of them there are.
    awaited: usize,
    /// The thread that wakes them has ended.
    pub(super) wakers_ended: bool,
    /// A queued request was cancelled since the last look.
    cancelled: bool,
    serial: u64,
    /// Requests in flight are cancelled when their slot is taken away.
    cancels: bool,
    /// The object of a slot whose tag came late is to be tried again.
    pub(super) retry: bool,
    stop: bool,
    /// The errno that the ring was lost for; 0: it was ended.
    lost: Option<i32>,
}

impl Table {
    pub(super) fn new(slots: u16, requests: u16, cancels: bool) -> Result<Self, Refusal> {
        let mut table = Self {
            slots: Vec::new(),
            requests: Vec::new(),
            wakers: Vec::new(),
            awaited: 0,
            wakers_ended: false,
            cancelled: false,
            serial: 0,
            cancels,
            retry: false,
            stop: false,
            lost: None,
        };
        table.slots.try_reserve_exact(slots.into()).map_err(|_| Refusal::Memory)?;
        table.requests.try_reserve_exact(requests.into()).map_err(|_| Refusal::Memory)?;
        table.wakers.try_reserve_exact(requests.into()).map_err(|_| Refusal::Memory)?;
        table.slots.resize(slots.into(), Entry { phase: Phase::Free, serial: 0, submitting: 0, late: None });
        table.requests.resize(requests.into(), Request::Free);
        table.wakers.resize(requests.into(), None);
        Ok(table)
    }

    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn in_use(&self) -> (usize, usize) {
        let slots = self.slots.iter().filter(|slot| slot.phase != Phase::Free).count();
        let busy = |request: &&Request| !matches!(request, Request::Free | Request::Done(_));
        (slots, self.requests.iter().filter(busy).count())
    }

    /// An empty slot, for a new filling. Gives back what is to be dropped outside of the lock.
    pub(super) fn take_slot(&mut self) -> Option<(u16, u64, Option<Late>)> {
        let (index, slot) = self.slots.iter_mut().enumerate().find(|(_, slot)| slot.phase == Phase::Free)?;
        self.serial = self.serial.wrapping_add(1) & super::ring::SERIAL;
        let entry = Entry { phase: Phase::Live, serial: self.serial, submitting: 0, late: None };
        let before = mem::replace(slot, entry);
        Some((u16::try_from(index).ok()?, self.serial, before.late))
    }

    fn slot(&mut self, index: u16, serial: u64) -> Option<&mut Entry> {
        self.slots.get_mut(usize::from(index)).filter(|slot| slot.serial == serial)
    }

    pub(super) fn free_slot(&mut self, index: u16, serial: u64) {
        if let Some(slot) = self.slot(index, serial) {
            slot.phase = Phase::Free;
        }
    }

    pub(super) fn phase(&mut self, index: u16, serial: u64) -> Phase {
        self.slot(index, serial).map_or(Phase::Free, |slot| slot.phase)
    }

    /// No more requests. `true`: the ring's thread has to clear the slot.
    pub(super) fn stop(&mut self, index: u16, serial: u64) -> bool {
        match self.slot(index, serial) {
            Some(slot) if matches!(slot.phase, Phase::Live | Phase::Stopping) => {
                slot.phase = Phase::Stopping;
                true
            }
            _ => false,
        }
    }

    /// A slot that is to be cleared now.
    pub(super) fn next_to_clear(&mut self) -> Option<u16> {
        let ready = |slot: &Entry| slot.phase == Phase::Stopping && slot.submitting == 0;
        let (index, slot) = self.slots.iter_mut().enumerate().find(|(_, slot)| ready(slot))?;
        slot.phase = Phase::Cleared;
        u16::try_from(index).ok()
    }

    /// A slot that could not be cleared is to be cleared again.
    pub(super) fn clear_again(&mut self, index: u16) {
        if let Some(slot) = self.slots.get_mut(usize::from(index)) {
            slot.phase = Phase::Stopping;
        }
    }

    /// The tag of a filling came.
    pub(super) fn tagged(&mut self, index: u16, serial: u64) {
        if let Some(slot) = self.slots.get_mut(usize::from(index))
            && slot.serial == serial
            && slot.phase == Phase::Cleared
        {
            slot.phase = Phase::Idle;
            self.retry |= slot.late.is_some();
        }
    }

    /// Nobody waits for the tag any more. Gives back what is to be dropped outside of the lock.
    pub(super) fn give_up(&mut self, index: u16, serial: u64, late: Late) -> Option<Late> {
        match self.slot(index, serial) {
            Some(slot) => slot.late.replace(late),
            None => Some(late),
        }
    }

    /// Whether objects are to be tried again, since the last call.
    pub(super) fn take_retry(&mut self) -> bool {
        mem::take(&mut self.retry)
    }

    /// The first slot from `index` on whose tag came after its revocation had given up.
    pub(super) fn next_late(&self, index: usize) -> Option<(usize, Late)> {
        let mut slots = self.slots.iter().enumerate().skip(index);
        slots.find_map(|(index, slot)| {
            let late = slot.late.as_ref().filter(|_| slot.phase == Phase::Idle)?;
            Some((index, late.clone()))
        })
    }

    /// Queues a request; its number, or `None`: all are taken.
    pub(super) fn queue(&mut self, ask: Ask) -> Option<usize> {
        let (number, request) =
            self.requests.iter_mut().enumerate().find(|(_, r)| matches!(r, Request::Free))?;
        *request = Request::Queued(ask);
        Some(number)
    }

    /// A queued request that may be submitted now, or the end of one in flight. A queued one whose
    /// slot is not live any more is done: cancelled.
    pub(super) fn next_to_submit(&mut self) -> Option<Next> {
        self.next_request().or_else(|| self.next_cancel().map(Next::Cancel))
    }

    fn next_request(&mut self) -> Option<Next> {
        for (number, request) in self.requests.iter_mut().enumerate() {
            let Request::Queued(ask) = *request else { continue };
            let slot = self.slots.get_mut(usize::from(ask.slot));
            match slot.filter(|slot| slot.serial == ask.serial && slot.phase == Phase::Live) {
                Some(slot) => {
                    slot.submitting = slot.submitting.saturating_add(1);
                    *request = Request::Submitting(ask.slot);
                    return Some(Next::Request(number, ask));
                }
                None => {
                    *request = Request::Done(-libc::ECANCELED);
                    self.cancelled = true;
                }
            }
        }
        None
    }

    /// Whether the kernel is to be asked to end a request.
    pub(super) fn has_cancels(&self) -> bool {
        self.cancels && self.requests.iter().any(|request| self.is_to_cancel(request))
    }

    fn is_to_cancel(&self, request: &Request) -> bool {
        let (Request::InFlight(flight) | Request::Abandoned(flight)) = request else { return false };
        let slot = self.slots.get(usize::from(flight.slot));
        !flight.cancelled && slot.is_some_and(|slot| matches!(slot.phase, Phase::Stopping | Phase::Cleared))
    }

    fn next_cancel(&mut self) -> Option<usize> {
        if !self.cancels {
            return None;
        }
        let number = self.requests.iter().position(|request| self.is_to_cancel(request))?;
        if let Some(Request::InFlight(flight) | Request::Abandoned(flight)) = self.requests.get_mut(number) {
            flight.cancelled = true;
        }
        Some(number)
    }

    /// Whether a queued request was cancelled since the last call.
    pub(super) fn take_cancelled(&mut self) -> bool {
        mem::take(&mut self.cancelled)
    }

    /// The kernel has taken everything that was being submitted.
    pub(super) fn submitted(&mut self) {
        for request in &mut self.requests {
            if let Request::Submitting(slot) = *request {
                *request = Request::InFlight(Flight { slot, cancelled: false });
                if let Some(slot) = self.slots.get_mut(usize::from(slot)) {
                    slot.submitting = slot.submitting.saturating_sub(1);
                }
            }
        }
    }

    /// A request completed.
    pub(super) fn complete(&mut self, number: usize, result: i32) {
        match self.requests.get_mut(number) {
            Some(request @ Request::Abandoned(_)) => *request = Request::Free,
            Some(request) => {
                let result = match *request {
                    // One that a thread of the kernel was at is interrupted.
                    Request::InFlight(Flight { cancelled: true, .. }) if result == -libc::EINTR => {
                        -libc::ECANCELED
                    }
                    _ => result,
                };
                let before = mem::replace(request, Request::Done(result));
                // Completed before `submitted` came round: the kernel has let go of the slot by
                // itself.
                if let Request::Submitting(slot) = before
                    && let Some(slot) = self.slots.get_mut(usize::from(slot))
                {
                    slot.submitting = slot.submitting.saturating_sub(1);
                }
            }
            None => {}
        }
    }

    /// Whether the kernel has the request, or is done with it: neither its file nor its lease is
    /// needed any more.
    pub(super) fn is_submitted(&self, number: usize) -> bool {
        !matches!(self.requests.get(number), Some(Request::Queued(_) | Request::Submitting(_)))
    }

    /// The result, if there is one.
    pub(super) fn result(&self, number: usize) -> Option<i32> {
        match self.requests.get(number) {
            Some(Request::Done(result)) => Some(*result),
            _ => None,
        }
    }

    /// The result, or who is to be woken when it comes. Gives back a waker to drop outside of the
    /// lock.
    pub(super) fn poll(&mut self, number: usize, waker: Waker) -> (Option<i32>, Option<Waker>) {
        let result = self.result(number);
        if result.is_some() {
            return (result, Some(waker));
        }
        (None, self.set_waker(number, Some(waker)))
    }

    fn set_waker(&mut self, number: usize, waker: Option<Waker>) -> Option<Waker> {
        let added = usize::from(waker.is_some());
        let Some(place) = self.wakers.get_mut(number) else { return waker };
        let before = mem::replace(place, waker);
        let removed = usize::from(before.is_some());
        self.awaited = self.awaited.saturating_add(added).saturating_sub(removed);
        before
    }

    /// Whether anybody awaits a request.
    pub(super) fn is_awaited(&self) -> bool {
        self.awaited != 0
    }

    /// The waker of a request that is done: to be woken outside of the lock.
    pub(super) fn next_to_wake(&mut self) -> Option<Waker> {
        if self.awaited == 0 {
            return None;
        }
        let done = |(request, waker): (&Request, &Option<Waker>)| {
            waker.is_some() && matches!(request, Request::Done(_))
        };
        let number = self.requests.iter().zip(&self.wakers).position(done)?;
        self.set_waker(number, None)
    }

    /// Nobody asks for the result any more. Gives back a waker to drop outside of the lock.
    pub(super) fn abandon(&mut self, number: usize) -> Option<Waker> {
        match self.requests.get_mut(number) {
            Some(request @ Request::Done(_)) => *request = Request::Free,
            Some(request) => {
                if let Request::InFlight(flight) = *request {
                    *request = Request::Abandoned(flight);
                }
            }
            None => {}
        }
        self.set_waker(number, None)
    }

    pub(super) fn shut_down(&mut self) {
        self.stop = true;
    }

    pub(super) fn is_shut_down(&self) -> bool {
        self.stop
    }

    /// The ring does not answer any more: nothing new, and nothing waits. The first errno counts.
    pub(super) fn lose(&mut self, errno: i32) {
        self.lost.get_or_insert(errno);
        for request in &mut self.requests {
            if matches!(request, Request::Queued(_) | Request::Submitting(_) | Request::InFlight(_)) {
                *request = Request::Done(-libc::EIO);
            }
        }
    }

    /// The errno that the ring was lost for, if it is.
    pub(super) fn lost(&self) -> Option<i32> {
        self.lost
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn ask(slot: u16, serial: u64) -> Ask {
        Ask { direction: Direction::ToFile, fd: 0, slot, serial, address: 0, bytes: 0, at: 0 }
    }

    /// A part of a submission was taken and completed before the whole was: its slot can still be
    /// cleared.
    #[test]
    fn a_request_that_completes_while_it_is_submitted_lets_go_of_its_slot() {
        let mut table = Table::new(1, 2, false).unwrap();
        let (slot, serial, _) = table.take_slot().unwrap();
        let number = table.queue(ask(slot, serial)).unwrap();
        assert!(matches!(table.next_to_submit(), Some(Next::Request(n, _)) if n == number));
        assert!(table.stop(slot, serial));
        assert_eq!(table.next_to_clear(), None, "a request is on its way to the slot");
        table.complete(number, 0);
        table.submitted();
        assert_eq!(table.next_to_clear(), Some(slot));
    }

    #[test]
    fn who_awaits_is_counted_whatever_becomes_of_the_request() {
        let mut table = Table::new(1, 2, false).unwrap();
        let (slot, serial, _) = table.take_slot().unwrap();
        let [done, dropped] = [(); 2].map(|()| table.queue(ask(slot, serial)).unwrap());
        for number in [done, done, dropped] {
            assert_eq!(table.poll(number, Waker::noop().clone()).0, None);
        }
        while table.next_to_submit().is_some() {}
        table.submitted();
        assert!(table.abandon(dropped).is_some() && table.is_awaited());
        assert!(table.next_to_wake().is_none(), "nothing is done");
        table.complete(done, 5);
        table.complete(dropped, 6);
        assert!(table.next_to_wake().is_some() && !table.is_awaited());
        assert_eq!(table.poll(done, Waker::noop().clone()).0, Some(5));
        assert!(!table.is_awaited() && table.abandon(done).is_none());
        assert_eq!(table.in_use().1, 0);
    }
}
