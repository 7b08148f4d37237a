//! Mappings and page tables. All numbers here are page numbers; ends are exclusive.

use super::frames::{CONTENT, Frames, Page};
use super::machine::Machine;
use core::ops::Range;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use userptr::Error;

/// What a process may do with a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prot {
    /// It may read.
    pub read: bool,
    /// It may write.
    pub write: bool,
}

impl Prot {
    /// Read and write.
    pub const RW: Self = Self { read: true, write: true };
    /// Read only.
    pub const R: Self = Self { read: true, write: false };
    /// Nothing.
    pub const NONE: Self = Self { read: false, write: false };
}

/// Memory that several mappings share (`memfd`): its pages, by their index. They live as long as it
/// is mapped somewhere, or a handle to it is left.
#[derive(Debug)]
pub struct Shared {
    machine: Machine,
    pub(super) pages: Mutex<BTreeMap<usize, Page>>,
}

impl Shared {
    pub(super) fn new(machine: &Machine) -> Self {
        Self { machine: machine.clone(), pages: Mutex::default() }
    }

    /// The page at `index`, with one more map for the caller; made if need be.
    pub(super) fn page(&self, index: usize, frames: &Frames) -> Result<Page, Error> {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let page = match pages.get(&index) {
            Some(page) => *page,
            None => {
                let page = frames.alloc()?;
                pages.insert(index, page);
                page
            }
        };
        frames.map(page);
        Ok(page)
    }

    /// Drops a clean page that only the caller maps.
    pub(super) fn forget(&self, index: usize, page: Page, frames: &Frames) {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        if frames.state(page).maps == 2 && pages.get(&index) == Some(&page) {
            pages.remove(&index);
            frames.unmap(page);
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let pages = core::mem::take(self.pages.get_mut().unwrap_or_else(PoisonError::into_inner));
        for page in pages.into_values() {
            self.machine.frames().unmap(page);
        }
    }
}

#[derive(Clone)]
pub(super) struct Vma {
    pub(super) end: usize,
    pub(super) prot: Prot,
    /// The shared memory and the index of the first page; private memory has none.
    pub(super) shared: Option<(Arc<Shared>, usize)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Pte {
    pub(super) page: Page,
    pub(super) read: bool,
    pub(super) write: bool,
}

/// What the page-table lock and the address-space lock guard.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) vmas: BTreeMap<usize, Vma>,
    pub(super) ptes: BTreeMap<usize, Pte>,
    /// Pages that reclaim has put away.
    pub(super) swap: BTreeMap<usize, [u8; CONTENT]>,
    /// The ranges whose start callbacks have all returned and whose end callbacks have not begun.
    pub(super) closed: Vec<Range<usize>>,
    pub(super) dead: bool,
}

impl Tables {
    /// The mapping of a page, and where it begins.
    pub(super) fn find(&self, page: usize) -> Option<(usize, &Vma)> {
        let (start, vma) = self.vmas.range(..=page).next_back()?;
        (page < vma.end).then_some((*start, vma))
    }

    /// Whether anything is mapped in the range.
    pub(super) fn any(&self, range: &Range<usize>) -> bool {
        self.vmas.range(..range.end).next_back().is_some_and(|(_, vma)| vma.end > range.start)
    }

    /// Whether everything is mapped in the range.
    pub(super) fn all(&self, range: &Range<usize>) -> bool {
        let mut at = range.start;
        while at < range.end {
            let Some((_, vma)) = self.find(at) else { return false };
            at = vma.end;
        }
        true
    }

    /// Splits the mapping that `at` lies inside.
    fn split(&mut self, at: usize) {
        let Some((start, vma)) = self.find(at) else { return };
        if start == at {
            return;
        }
        let mut tail = vma.clone();
        if let Some((_, first)) = &mut tail.shared {
            *first += at - start;
        }
        if let Some(vma) = self.vmas.get_mut(&start) {
            vma.end = at;
        }
        self.vmas.insert(at, tail);
    }

    /// Splits at both ends, and calls `f` for each mapping inside.
    pub(super) fn each(&mut self, range: &Range<usize>, mut f: impl FnMut(&mut Vma)) {
        self.split(range.start);
        self.split(range.end);
        for (_, vma) in self.vmas.range_mut(range.clone()) {
            f(vma);
        }
    }

    /// Takes the mappings of the range out, with where they begin.
    pub(super) fn carve(&mut self, range: &Range<usize>) -> Vec<(usize, Vma)> {
        self.split(range.start);
        self.split(range.end);
        let starts: Vec<_> = self.vmas.range(range.clone()).map(|(start, _)| *start).collect();
        starts.into_iter().filter_map(|s| Some((s, self.vmas.remove(&s)?))).collect()
    }

    /// Clears the page-table entries and what reclaim put away; returns the pages.
    pub(super) fn clear(&mut self, range: &Range<usize>) -> Vec<Page> {
        let keys: Vec<_> = self.ptes.range(range.clone()).map(|(k, _)| *k).collect();
        let swapped: Vec<_> = self.swap.range(range.clone()).map(|(k, _)| *k).collect();
        for key in swapped {
            self.swap.remove(&key);
        }
        keys.into_iter().filter_map(|k| self.ptes.remove(&k)).map(|pte| pte.page).collect()
    }

    /// The lowest free place for `pages` pages at or above `from`.
    pub(super) fn gap(&self, from: usize, pages: usize) -> usize {
        let mut at = from;
        for (start, vma) in &self.vmas {
            if *start >= at + pages {
                break;
            }
            at = at.max(vma.end);
        }
        at
    }
}
