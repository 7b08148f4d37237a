//! The operations that change mappings, each in its real steps.

use super::frames::{Frames, Page, ZERO};
use super::mm::{Mm, Process};
use super::notify::Refused;
use super::seam::Op;
use super::vma::{Prot, Pte, Shared, Tables, Vma};
use super::{PAGE, SHIFT};
use core::ops::Range;
use std::sync::Arc;
use userptr::Error;

/// Where `mmap` without an address begins to look.
const BASE: usize = 0x1000_0000 >> SHIFT;

fn span(address: usize, len: usize) -> Range<usize> {
    assert!((address | len) & (PAGE - 1) == 0, "the machine maps whole pages");
    (address >> SHIFT)..((address + len) >> SHIFT)
}

impl Process {
    /// Maps private memory of `len` bytes anywhere; the lowest place that is free. Returns the
    /// address.
    #[must_use]
    pub fn mmap(&self, len: usize) -> usize {
        let _mmap = self.mm().mmap.write();
        let pages = len.div_ceil(PAGE);
        let mut tables = self.mm().tables();
        let at = tables.gap(BASE, pages);
        tables.vmas.insert(at, Vma { end: at + pages, prot: Prot::RW, shared: None });
        at << SHIFT
    }

    /// Maps private memory of `len` bytes at `address`, over whatever is there (`MAP_FIXED`).
    pub fn mmap_fixed(&self, address: usize, len: usize, prot: Prot) {
        self.mmap_over(address, len, Vma { end: 0, prot, shared: None });
    }

    /// Maps shared memory at `address`, over whatever is there, from page `first` of it.
    pub fn mmap_shared(&self, address: usize, len: usize, shared: &Arc<Shared>, first: usize) {
        self.mmap_over(address, len, Vma { end: 0, prot: Prot::RW, shared: Some((shared.clone(), first)) });
    }

    fn mmap_over(&self, address: usize, len: usize, vma: Vma) {
        let range = span(address, len);
        let _mmap = self.mm().mmap.write();
        self.mm().unmap(Op::Mmap, &range);
        self.mm().tables().vmas.insert(range.start, Vma { end: range.end, ..vma });
    }

    /// Unmaps `len` bytes at `address`: parts of mappings, several, or none.
    pub fn munmap(&self, address: usize, len: usize) {
        let _mmap = self.mm().mmap.write();
        self.mm().unmap(Op::Munmap, &span(address, len));
    }

    /// Moves `len` bytes of one mapping to `to`, over whatever is there (`MREMAP_FIXED`).
    ///
    /// # Errors
    /// [`Error::Fault`] if not all of it is mapped, [`Error::Invalid`] if old and new overlap.
    pub fn mremap(&self, from: usize, len: usize, to: usize) -> Result<(), Error> {
        let (old, new) = (span(from, len), span(to, len));
        if old.start < new.end && new.start < old.end {
            return Err(Error::Invalid);
        }
        let mm = self.mm();
        let _mmap = mm.mmap.write();
        if !mm.tables().all(&old) {
            return Err(Error::Fault);
        }
        mm.unmap(Op::Mremap, &new);
        let moved = |page: usize| page - old.start + new.start;
        let change = |_: &_| {
            let mut tables = mm.tables();
            for (start, mut vma) in tables.carve(&old) {
                vma.end = moved(vma.end);
                tables.vmas.insert(moved(start), vma);
            }
            let keys: Vec<_> = tables.ptes.range(old.clone()).map(|(k, _)| *k).collect();
            for key in keys {
                let pte = tables.ptes.remove(&key).unwrap();
                tables.ptes.insert(moved(key), pte);
            }
            let keys: Vec<_> = tables.swap.range(old.clone()).map(|(k, _)| *k).collect();
            for key in keys {
                let content = tables.swap.remove(&key).unwrap();
                tables.swap.insert(moved(key), content);
            }
        };
        sure(mm.invalidate(Op::Mremap, &old, true, change, |_, ()| ()));
        Ok(())
    }

    /// Throws the content of the range away (`MADV_DONTNEED`); the mappings stay.
    pub fn dontneed(&self, address: usize, len: usize) {
        let range = span(address, len);
        let mm = self.mm();
        let _mmap = mm.mmap.read();
        sure(mm.invalidate(Op::Dontneed, &range, true, |_| mm.tables().clear(&range), drop_all));
    }

    /// Lets the content of the range go when memory runs short (`MADV_FREE`). Until somebody
    /// writes, the pages stay as they are, writable and clean.
    pub fn free_lazily(&self, address: usize, len: usize) {
        let range = span(address, len);
        let mm = self.mm();
        let _mmap = mm.mmap.read();
        let change = |machine: &super::Machine| {
            let mut tables = mm.tables();
            tables.swap.retain(|at, _| !range.contains(at));
            for (_, pte) in tables.ptes.range(range.clone()).filter(|(_, pte)| pte.page != ZERO) {
                machine.frames().set_modified(pte.page, false);
            }
        };
        sure(mm.invalidate(Op::Free, &range, true, change, |_, ()| ()));
    }

    /// Changes what the process may do with the range.
    pub fn mprotect(&self, address: usize, len: usize, prot: Prot) {
        let range = span(address, len);
        let mm = self.mm();
        let _mmap = mm.mmap.write();
        let change = |_: &_| {
            let mut tables = mm.tables();
            tables.each(&range, |vma| vma.prot = prot);
            for (_, pte) in tables.ptes.range_mut(range.clone()) {
                pte.read = prot.read;
                // What becomes writable does so at the next fault, which knows of copy-on-write.
                pte.write &= prot.write;
            }
        };
        sure(mm.invalidate(Op::Mprotect, &range, true, change, |_, ()| ()));
    }

    /// Forks: the child gets every mapping; private pages are shared and write-protected in both,
    /// inside one window per mapping.
    #[must_use]
    pub fn fork(&self) -> Process {
        let child = Process::new(self.record().machine());
        let mm = self.mm();
        let _mmap = mm.mmap.write();
        let vmas: Vec<_> = mm.tables().vmas.iter().map(|(start, vma)| (*start, vma.clone())).collect();
        for (start, vma) in vmas {
            let range = start..vma.end;
            let private = vma.shared.is_none();
            let copy = |machine: &super::Machine| {
                let (mut ours, mut theirs) = (mm.tables(), child.mm().tables());
                theirs.vmas.insert(start, vma.clone());
                if !private {
                    // The child faults its shared pages in.
                    return;
                }
                for (page, pte) in ours.ptes.range_mut(range.clone()) {
                    pte.write = false;
                    machine.frames().map(pte.page);
                    theirs.ptes.insert(*page, *pte);
                }
                let swapped: Vec<_> = ours.swap.range(range.clone()).map(|(k, c)| (*k, *c)).collect();
                theirs.swap.extend(swapped);
            };
            if private && vma.prot.write {
                sure(mm.invalidate(Op::Fork, &range, true, copy, |_, ()| ()));
            } else {
                copy(self.record().machine());
            }
        }
        child
    }

    /// Reclaims the pages of the range: puts them away and unmaps them. Takes no address-space
    /// lock. Pages that are pinned after the start callbacks stay, and so do pages whose page lock
    /// somebody holds.
    ///
    /// # Errors
    /// [`Refused`] if a subscriber would have to block and may not. Nothing happened.
    pub fn reclaim(&self, address: usize, len: usize, blockable: bool) -> Result<(), Refused> {
        self.mm().reclaim(&span(address, len), blockable)
    }

    /// The OOM reaper: throws private memory of the range away, without waiting for anybody.
    ///
    /// # Errors
    /// [`Refused`] if a subscriber would have to block. Nothing happened.
    pub fn oom_reap(&self, address: usize, len: usize) -> Result<(), Refused> {
        let range = span(address, len);
        let mm = self.mm();
        mm.invalidate(Op::OomReap, &range, false, |_| mm.tables().clear(&range), drop_all)
    }

    /// New shared memory (`memfd`), with as many pages as are touched.
    #[must_use]
    pub fn shared(&self) -> Arc<Shared> {
        Arc::new(Shared::new(self.record().machine()))
    }
}

impl Mm {
    /// Takes mappings away. The address-space lock is held for writing.
    fn unmap(&self, op: Op, range: &Range<usize>) {
        if !self.tables().any(range) {
            return;
        }
        // As in Linux the mappings are gone before the start: a slow pin fails from here on, a fast
        // one does not yet.
        self.tables().carve(range);
        sure(self.invalidate(op, range, true, |_| self.tables().clear(range), drop_all));
    }

    fn reclaim(&self, range: &Range<usize>, blockable: bool) -> Result<(), Refused> {
        let frames = self.machine.frames();
        // Reclaim works on pages that it holds locked, from before the start to after the clear.
        // They are found and locked in one section of the table's lock: a page that is mapped no
        // more may have been freed.
        let locked: Vec<(usize, Page)> = {
            let tables = self.tables();
            let mapped = tables.ptes.range(range.clone()).map(|(at, pte)| (*at, pte.page));
            mapped.filter(|(_, page)| *page != ZERO && frames.try_lock(*page)).collect()
        };
        let change = |_: &_| {
            let mut tables = self.tables();
            let mut gone = Vec::new();
            for (at, page) in &locked {
                let same = tables.ptes.get(at).is_some_and(|pte| pte.page == *page);
                if same && frames.state(*page).pins == 0 {
                    put_away(&mut tables, *at, *page, frames);
                    frames.unlock(*page);
                    gone.push(*page);
                } else {
                    frames.unlock(*page);
                }
            }
            gone
        };
        let done = self.invalidate(Op::Reclaim, range, blockable, change, drop_all);
        if done.is_err() {
            for (_, page) in locked {
                frames.unlock(page);
            }
        }
        done
    }
}

/// Takes a page out of the page table. Its content is kept if it is nowhere else, and dropped if it
/// is clean.
fn put_away(tables: &mut Tables, at: usize, page: Page, frames: &Frames) {
    tables.ptes.remove(&at);
    let modified = frames.is_modified(page);
    let Some((start, vma)) = tables.find(at) else { return };
    match &vma.shared {
        // Shared memory keeps its pages itself.
        Some((shared, first)) if !modified => shared.forget(first + at - start, page, frames),
        None if modified => {
            tables.swap.insert(at, frames.content(page));
        }
        _ => {}
    }
}

fn drop_all(machine: &super::Machine, pages: Vec<Page>) {
    for page in pages {
        machine.frames().unmap(page);
    }
}

fn sure(result: Result<(), Refused>) {
    result.expect("a blockable start is never refused");
}

impl Pte {
    pub(super) fn new(page: Page, prot: Prot, write: bool) -> Self {
        Self { page, read: prot.read, write: write && prot.write }
    }
}
