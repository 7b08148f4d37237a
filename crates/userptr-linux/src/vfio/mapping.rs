//! One mapping, and the books of all of them.

use super::container::{Container, Span};
use super::iova::Iovas;
use crate::populate::is_mapped;
use crate::{Owner, Refusal};
use core::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why a span is kept from being given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The unmap failed: the device still reaches it.
    Mapped,
    /// The device was cut off without having stopped: it may still use the addresses.
    InUse,
}

/// # Invariants
/// A span of the container is free, or has one [`Mapping`], or is in `kept`. It becomes free only
/// after the container has unmapped it.
#[derive(Debug)]
pub(super) struct Books {
    pub(super) iovas: Iovas,
    /// Has room for as many as there may be blocks: nothing allocates.
    pub(super) kept: Vec<(Span, Kept)>,
    /// Mappings that were cut off before the device had stopped.
    pub(super) cut_off: u64,
    /// Mappings that the container did not have any more, or not whole, when they were taken away.
    pub(super) foreign: u64,
    pub(super) refusal: Option<Refusal>,
}

/// What mappings share with their device.
pub(super) struct Shared<C: Container> {
    pub(super) container: C,
    pub(super) owner: Owner,
    /// Taken by cancels: nothing is allocated under it, and it is not held across a call on the
    /// container.
    books: Mutex<Books>,
}

impl<C: Container> Shared<C> {
    pub(super) fn new(container: C, owner: Owner, iovas: Iovas, most: usize) -> Result<Self, Refusal> {
        let mut kept = Vec::new();
        kept.try_reserve_exact(most).map_err(|_| Refusal::Memory)?;
        let books = Mutex::new(Books { iovas, kept, cut_off: 0, foreign: 0, refusal: None });
        Ok(Self { container, owner, books })
    }

    pub(super) fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes why something was refused, and hands it on.
    pub(super) fn refuse(&self, why: Refusal) -> Refusal {
        self.books().refusal = Some(why);
        why
    }

    /// Unmaps a span and, after that, gives its addresses back, unless they are to be kept.
    fn unmap(&self, span: Span, in_use: bool) -> Result<(), Refusal> {
        // SAFETY: a span of the books is ours alone (invariant of `Books`), and its mapping was
        // made by `Mapping::make`.
        let got =
            unsafe { self.container.unmap(span) }.map_err(|errno| self.refuse(Refusal::Stuck(errno)))?;
        let mut books = self.books();
        if got != span.bytes {
            // The device reaches nothing there any more. But somebody else works on these
            // addresses.
            books.foreign = books.foreign.saturating_add(1);
        }
        if in_use {
            books.cut_off = books.cut_off.saturating_add(1);
            books.kept.push((span, Kept::InUse));
        } else {
            books.iovas.give(span.iova, span.bytes);
        }
        Ok(())
    }

    /// Frees everything that was kept, now that the device was reset. The number of spans that
    /// still cannot be unmapped.
    pub(super) fn reclaim(&self) -> usize {
        let mut left = self.books().kept.len();
        while left > 0 {
            left = left.saturating_sub(1);
            let Some((span, why)) = self.books().kept.pop() else { break };
            match why {
                Kept::InUse => self.books().iovas.give(span.iova, span.bytes),
                Kept::Mapped if self.unmap(span, false).is_ok() => {}
                // To the other end, which this loop does not come to again.
                Kept::Mapped => self.books().kept.insert(0, (span, why)),
            }
        }
        self.books().kept.iter().filter(|(_, why)| *why == Kept::Mapped).count()
    }
}

/// Pages of the process that are pinned and mapped for the device.
///
/// It is unmapped exactly once. If that fails, the pages stay pinned by the container and the
/// addresses are not given again: the device is never left with addresses that mean something else.
#[must_use = "dropping it takes the mapping away"]
pub struct Mapping<C: Container> {
    shared: Arc<Shared<C>>,
    span: Span,
    address: usize,
    write: bool,
    /// Held across the unmap, and over no other lock than that of the books.
    live: Mutex<bool>,
}

impl<C: Container> Mapping<C> {
    /// Maps `bytes` at `address`, at a span that was taken for it.
    pub(super) fn make(
        shared: &Arc<Shared<C>>,
        span: Span,
        address: usize,
        write: bool,
    ) -> Result<Self, Refusal> {
        // SAFETY: the memory is that of a `Prepare`, whose maker promised what the device's use
        // asks; the span was taken for it.
        if let Err(errno) = unsafe { shared.container.map(span, address, write) } {
            let bytes = usize::try_from(span.bytes).unwrap_or(usize::MAX);
            shared.books().iovas.give(span.iova, span.bytes);
            return Err(shared.refuse(match errno {
                libc::ENOSPC => Refusal::DmaEntries,
                libc::ENOMEM => Refusal::of_pinning(),
                libc::EEXIST => Refusal::Overlap,
                libc::EFAULT | libc::EOPNOTSUPP if is_mapped(address, bytes) => Refusal::Unpinnable,
                libc::EFAULT | libc::EOPNOTSUPP => Refusal::Unmapped,
                errno => Refusal::Errno(errno),
            }));
        }
        Ok(Self { shared: Arc::clone(shared), span, address, write, live: Mutex::new(true) })
    }

    /// Where it lies for the device.
    #[must_use]
    pub fn span(&self) -> Span {
        self.span
    }

    /// Where it lies for the process: the address of its first byte.
    #[must_use]
    pub fn address(&self) -> usize {
        self.address
    }

    /// Whether the device may write to it.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.write
    }

    /// Takes the mapping away, once; `in_use`: though the device has not stopped. A forked child
    /// has nothing to take away.
    pub(super) fn unmap(&self, in_use: bool) -> Result<(), Refusal> {
        if !self.shared.owner.is_me() {
            return Ok(());
        }
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if *live {
            self.shared.unmap(self.span, in_use)?;
            *live = false;
        }
        Ok(())
    }
}

impl<C: Container> Drop for Mapping<C> {
    fn drop(&mut self) {
        if self.unmap(false).is_err() {
            self.shared.books().kept.push((self.span, Kept::Mapped));
        }
    }
}

impl<C: Container> fmt::Debug for Mapping<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Span { iova, bytes } = self.span;
        write!(f, "Mapping({bytes:#x} bytes at {:#x} as {iova:#x}, write: {})", self.address, self.write)
    }
}
