//! Page faults, and what a process reads and writes.

use super::frames::ZERO;
use super::mm::{Mm, Process};
use super::seam::Op;
use super::vma::Pte;
use super::{PAGE, SHIFT};
use userptr::Error;

impl Process {
    /// Reads one byte, as the process does.
    ///
    /// # Errors
    /// [`Error::Fault`] if it may not, [`Error::NoMemory`].
    pub fn load(&self, address: usize) -> Result<u8, Error> {
        loop {
            let tables = self.mm().tables();
            if let Some(pte) = tables.ptes.get(&(address >> SHIFT)).filter(|pte| pte.read) {
                let offset = address % PAGE;
                return self.mm().machine.frames().load(pte.page, offset).ok_or(Error::Fault);
            }
            drop(tables);
            self.fault(address, false)?;
        }
    }

    /// Writes one byte, as the process does.
    ///
    /// # Errors
    /// [`Error::Fault`] if it may not, [`Error::NoMemory`].
    pub fn store(&self, address: usize, value: u8) -> Result<(), Error> {
        loop {
            let tables = self.mm().tables();
            if let Some(pte) = tables.ptes.get(&(address >> SHIFT)).filter(|pte| pte.write) {
                let frames = self.mm().machine.frames();
                let done = frames.store(pte.page, address % PAGE, value);
                if done {
                    frames.set_modified(pte.page, true);
                }
                return if done { Ok(()) } else { Err(Error::Fault) };
            }
            drop(tables);
            self.fault(address, true)?;
        }
    }

    /// Writes `value` to the first byte of each page of the range, so that all of them are present.
    ///
    /// # Errors
    /// As [`store`](Self::store).
    pub fn touch(&self, address: usize, len: usize, value: u8) -> Result<(), Error> {
        (address..address + len).step_by(PAGE).try_for_each(|at| self.store(at, value))
    }

    /// A page fault: takes the address-space lock for reading.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn fault(&self, address: usize, write: bool) -> Result<(), Error> {
        let _mmap = self.mm().mmap.read();
        self.mm().fault_locked(address >> SHIFT, write)
    }
}

impl Mm {
    /// The address-space lock is held for reading. Makes the page present, for writing if asked.
    pub(super) fn fault_locked(&self, at: usize, write: bool) -> Result<(), Error> {
        let frames = self.machine.frames();
        let mut tables = self.tables();
        if tables.dead {
            return Err(Error::Fault);
        }
        let (start, vma) = tables.find(at).ok_or(Error::Fault)?;
        let (prot, private) = (vma.prot, vma.shared.is_none());
        if !(if write { prot.write } else { prot.read }) {
            return Err(Error::Fault);
        }
        let Some(old) = tables.ptes.get(&at).copied() else {
            let pte = match &vma.shared {
                Some((shared, first)) => Pte::new(shared.page(first + at - start, frames)?, prot, true),
                None if tables.swap.contains_key(&at) => {
                    // Writable, clean until somebody writes, and the copy that was put away stays.
                    let page = frames.alloc()?;
                    frames.fill(page, tables.swap[&at]);
                    Pte::new(page, prot, true)
                }
                None if write => Pte::new(frames.alloc()?, prot, true),
                None => {
                    frames.map(ZERO);
                    Pte::new(ZERO, prot, false)
                }
            };
            tables.ptes.insert(at, pte);
            return Ok(());
        };
        if !write || old.write {
            tables.ptes.insert(at, Pte { read: prot.read, ..old });
            return Ok(());
        }
        let state = frames.state(old.page);
        if !private || (old.page != ZERO && state.maps == 1 && state.pins == 0) {
            // Nobody else has it: it is written in place.
            tables.ptes.insert(at, Pte { read: prot.read, write: true, ..old });
            return Ok(());
        }
        drop(tables);
        self.break_cow(at, old, prot.read)
    }

    /// Replaces a shared private page by a copy: an invalidation of that page.
    fn break_cow(&self, at: usize, old: Pte, read: bool) -> Result<(), Error> {
        let frames = self.machine.frames();
        let copy = frames.alloc()?;
        frames.fill(copy, frames.content(old.page));
        frames.set_modified(copy, true);
        let range = at..at + 1;
        let change = |_: &_| {
            let mut tables = self.tables();
            match tables.ptes.get_mut(&at) {
                Some(pte) if pte.page == old.page && !pte.write => {
                    *pte = Pte { page: copy, read, write: true };
                    old.page
                }
                // Somebody else changed it first: the caller faults again.
                _ => copy,
            }
        };
        self.invalidate(Op::Cow, &range, true, change, |m, page| m.frames().unmap(page))
            .expect("a blockable start is never refused");
        Ok(())
    }
}
