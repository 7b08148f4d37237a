//! Pinning, charged to the address space.

use super::frames::Page;
use super::inject::PinFault;
use super::machine::Violation;
use super::mm::{Mm, Record};
use super::seam::{Op, Seam};
use super::{PAGE, SHIFT};
use core::sync::atomic::Ordering;
use userptr::AddrRange;
use userptr::Error;

/// The result of a pin: the pages from the start of the range on, as many as there are.
pub type Pinned = Result<Vec<Page>, Error>;

impl Record {
    /// Pins without waiting: stops at the first page that is not present, or not writable if
    /// `write`.
    ///
    /// # Errors
    /// [`Error::Limit`] if too much is pinned, and what was injected; nothing is pinned then.
    pub fn pin_fast(&self, range: AddrRange, write: bool) -> Pinned {
        let fault = self.machine().inject().fast.take();
        self.pin_with(Op::FastPin, range, fault, |mm, at| mm.pin_present(at, write))
    }

    /// Pins, and faults pages in as needed: takes the address-space lock for reading. The users are
    /// held by the caller.
    ///
    /// # Errors
    /// [`Error::Fault`] if the first page is not there to pin; [`Error::Limit`],
    /// [`Error::NoMemory`], and what was injected. Nothing is pinned then. As in Linux, a page
    /// further on that cannot be had ends the pin early.
    pub fn pin_slow(&self, range: AddrRange, write: bool) -> Pinned {
        let fault = self.machine().inject().slow.take();
        self.pin_with(Op::SlowPin, range, fault, |mm, at| {
            let _mmap = mm.mmap.read();
            loop {
                if let Some(page) = mm.pin_present(at, write) {
                    // A pin that may wait marks what it pins for writing (`FOLL_TOUCH`); a fast one
                    // does not.
                    if write {
                        mm.machine.frames().set_modified(page, true);
                    }
                    return Some(page);
                }
                mm.fault_locked(at, write).ok()?;
            }
        })
    }

    fn pin_with(
        &self,
        op: Op,
        range: AddrRange,
        fault: Option<PinFault>,
        pin: impl Fn(&Mm, usize) -> Option<Page>,
    ) -> Pinned {
        let at_seam = |seam| self.machine().arrive(seam, op, self.id(), Some(range));
        at_seam(Seam::PinBegin);
        let most = match fault {
            None => usize::MAX,
            Some(PinFault::Part(most)) => most,
            Some(PinFault::Fail(error)) => return Err(error),
        };
        let (first, last) = (range.start() >> SHIFT, range.last() >> SHIFT);
        let mut pages = Vec::new();
        for at in (first..=last).take(most) {
            if !self.charge() {
                self.give_back(&pages, false, false);
                return Err(Error::Limit);
            }
            match pin(&self.0, at) {
                Some(page) => pages.push(page),
                None => {
                    self.uncharge();
                    break;
                }
            }
        }
        at_seam(Seam::Pinned);
        if pages.is_empty() && op == Op::SlowPin && fault.is_none() {
            return Err(Error::Fault);
        }
        Ok(pages)
    }

    /// Gives pins back, marks the pages, and uncharges this address space.
    pub fn unpin(&self, pages: &[Page], dirty: bool, accessed: bool) {
        self.machine().arrive(Seam::Unpin, Op::Other, self.id(), None);
        self.give_back(pages, dirty, accessed);
    }

    fn give_back(&self, pages: &[Page], dirty: bool, accessed: bool) {
        for page in pages {
            if self.machine().frames().unpin(*page, dirty, accessed) {
                self.uncharge();
            }
        }
    }

    fn charge(&self) -> bool {
        let limit = self.0.limit.load(Ordering::Relaxed);
        let more = |n: usize| (n < limit).then(|| n + 1);
        self.0.charged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn uncharge(&self) {
        let less = |n: usize| n.checked_sub(1);
        if self.0.charged.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            self.machine().frames().report(Violation::Uncharged);
        }
    }

    /// Whether every page of the range is mapped to something (a probe; scenario 10).
    ///
    /// # Errors
    /// [`Error::Fault`] if not.
    pub fn probe(&self, address: usize, len: usize) -> Result<(), Error> {
        let range = (address >> SHIFT)..(address + len).div_ceil(PAGE);
        if self.0.tables().all(&range) { Ok(()) } else { Err(Error::Fault) }
    }
}

impl Mm {
    /// Pins the page if it is there as it should be. The look and the pin are one step, as in
    /// `gup_fast`.
    fn pin_present(&self, at: usize, write: bool) -> Option<Page> {
        let tables = self.tables();
        let pte = tables.ptes.get(&at).filter(|pte| if write { pte.write } else { pte.read })?;
        self.machine.frames().pin(pte.page);
        Some(pte.page)
    }
}
