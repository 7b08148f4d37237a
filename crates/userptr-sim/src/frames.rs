//! Physical memory: page frames with content, references and pins.

use super::machine::Violation;
use core::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use userptr::Error;

/// How many bytes of each page are kept. Byte `n` of a page is byte `n % CONTENT` of its content.
pub const CONTENT: usize = 64;

/// A frame and the life of it that is meant: a frame that was freed and taken again is another
/// page.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Page {
    pub(super) frame: usize,
    pub(super) generation: u64,
}

impl Page {
    /// The frame number.
    #[must_use]
    pub fn frame(self) -> usize {
        self.frame
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page({}, life {})", self.frame, self.generation)
    }
}

/// What is known of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageState {
    /// This life of the frame is over, and it may be another page already.
    pub freed: bool,
    /// How many page tables map it, plus one if a shared object holds it.
    pub maps: usize,
    /// How many pins it has.
    pub pins: usize,
    /// It was given back dirty.
    pub dirty: bool,
    /// It was given back accessed.
    pub accessed: bool,
}

#[derive(Default)]
struct Frame {
    generation: u64,
    state: PageState,
    locked: bool,
    /// The content is nowhere else: reclaim has to put it away. A page without this mark is
    /// dropped. The processor's writes set it, a device's do not.
    modified: bool,
    content: Option<Box<[u8; CONTENT]>>,
}

pub(super) struct Frames {
    memory: Mutex<Memory>,
}

struct Memory {
    frames: Vec<Frame>,
    /// The last one freed is the first to be used again: staleness shows at once.
    free: Vec<usize>,
    most: usize,
    violations: Vec<Violation>,
}

/// The page of zeros, mapped by every read of memory that nobody has written. Never freed.
pub(super) const ZERO: Page = Page { frame: 0, generation: 0 };

impl Frames {
    pub(super) fn new(most: usize) -> Self {
        let zero = Frame { state: PageState { maps: 1, ..PageState::default() }, ..Frame::default() };
        let memory =
            Memory { frames: Vec::from_iter([zero]), free: Vec::new(), most, violations: Vec::new() };
        Self { memory: Mutex::new(memory) }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fresh page of zeros with one map.
    pub(super) fn alloc(&self) -> Result<Page, Error> {
        let mut m = self.memory();
        let frame = match m.free.pop() {
            Some(frame) => frame,
            None if m.frames.len() < m.most => {
                m.frames.push(Frame::default());
                m.frames.len() - 1
            }
            None => return Err(Error::NoMemory),
        };
        let f = &mut m.frames[frame];
        f.generation += 1;
        f.state = PageState { maps: 1, ..PageState::default() };
        f.modified = false;
        f.content = None;
        Ok(Page { frame, generation: f.generation })
    }

    /// One more page table maps it.
    pub(super) fn map(&self, page: Page) {
        if let Some(f) = self.memory().live(page) {
            f.state.maps += 1;
        }
    }

    /// One page table less maps it.
    pub(super) fn unmap(&self, page: Page) {
        let mut m = self.memory();
        let Some(f) = m.live(page) else { return };
        match f.state.maps.checked_sub(1) {
            Some(maps) => f.state.maps = maps,
            None => return m.violations.push(Violation::UnmapTwice(page)),
        }
        m.free_if_unused(page);
    }

    pub(super) fn pin(&self, page: Page) {
        if let Some(f) = self.memory().live(page) {
            f.state.pins += 1;
        }
    }

    /// Whether there was a pin to give back.
    pub(super) fn unpin(&self, page: Page, dirty: bool, accessed: bool) -> bool {
        let mut m = self.memory();
        let Some(f) = m.live(page) else { return false };
        // The page lock, which the thread that invalidates may hold, is not waited for. Nor does a
        // lock that is taken excuse from marking (rule 35): who holds it may be about to drop the
        // page.
        f.state.dirty |= dirty;
        f.modified |= dirty;
        f.state.accessed |= accessed;
        match f.state.pins.checked_sub(1) {
            Some(pins) => f.state.pins = pins,
            None => {
                m.violations.push(Violation::UnpinTwice(page));
                return false;
            }
        }
        m.free_if_unused(page);
        true
    }

    /// Says whether the content is nowhere else.
    pub(super) fn set_modified(&self, page: Page, modified: bool) {
        if let Some(f) = self.memory().live(page) {
            f.modified = modified;
        }
    }

    pub(super) fn is_modified(&self, page: Page) -> bool {
        self.memory().peek(page).is_some_and(|f| f.modified)
    }

    pub(super) fn state(&self, page: Page) -> PageState {
        match self.memory().peek(page) {
            Some(f) => f.state,
            None => PageState { freed: true, ..PageState::default() },
        }
    }

    /// Takes the page lock, or says that it is held. It excludes nobody but those who ask for it.
    pub(super) fn try_lock(&self, page: Page) -> bool {
        self.memory().live(page).is_some_and(|f| !core::mem::replace(&mut f.locked, true))
    }

    /// Gives the page lock back. A page that was freed meanwhile has none.
    pub(super) fn unlock(&self, page: Page) {
        if let Some(f) = self.memory().peek(page) {
            f.locked = false;
        }
    }

    /// Reads a byte. `None`, and a violation, if the page was freed.
    pub(super) fn load(&self, page: Page, offset: usize) -> Option<u8> {
        let mut m = self.memory();
        let f = m.live(page)?;
        Some(f.content.as_ref().map_or(0, |c| c[offset % CONTENT]))
    }

    /// Writes a byte. `false`, and a violation, if the page was freed or is the page of zeros.
    pub(super) fn store(&self, page: Page, offset: usize, value: u8) -> bool {
        let mut m = self.memory();
        if page == ZERO {
            m.violations.push(Violation::ZeroPageWritten);
            return false;
        }
        let Some(f) = m.live(page) else { return false };
        f.content.get_or_insert_with(|| Box::new([0; CONTENT]))[offset % CONTENT] = value;
        true
    }

    pub(super) fn content(&self, page: Page) -> [u8; CONTENT] {
        self.memory().live(page).and_then(|f| f.content.as_deref().copied()).unwrap_or([0; CONTENT])
    }

    pub(super) fn fill(&self, page: Page, content: [u8; CONTENT]) {
        if let Some(f) = self.memory().live(page) {
            f.content = Some(Box::new(content));
        }
    }

    pub(super) fn report(&self, violation: Violation) {
        self.memory().violations.push(violation);
    }

    pub(super) fn take_violations(&self) -> Vec<Violation> {
        core::mem::take(&mut self.memory().violations)
    }

    /// Pins that are not given back, over all frames.
    pub(super) fn pins(&self) -> usize {
        self.memory().frames.iter().map(|f| f.state.pins).sum()
    }

    /// Frames in use, the page of zeros not counted.
    pub(super) fn used(&self) -> usize {
        let m = self.memory();
        m.frames.len() - m.free.len() - 1
    }
}

impl Memory {
    fn peek(&mut self, page: Page) -> Option<&mut Frame> {
        let f = self.frames.get_mut(page.frame)?;
        (f.generation == page.generation && !f.state.freed).then_some(f)
    }

    fn live(&mut self, page: Page) -> Option<&mut Frame> {
        if self.peek(page).is_none() {
            self.violations.push(Violation::UseAfterFree(page));
        }
        self.peek(page)
    }

    /// A frame that is unmapped while it is pinned lives until the last unpin.
    fn free_if_unused(&mut self, page: Page) {
        let f = &mut self.frames[page.frame];
        if f.state.maps == 0 && f.state.pins == 0 {
            f.state.freed = true;
            f.locked = false;
            f.content = None;
            self.free.push(page.frame);
        }
    }
}
