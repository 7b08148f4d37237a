//! The scatter-gather table: runs of pages that are contiguous for the device.

use super::Buffer;
use crate::error::Error;
use crate::platform::Platform;
use core::fmt;

/// A run of pages whose frames follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The first frame number.
    pub frame: usize,
    /// The index of the first page in the object, in pages.
    pub first: usize,
    /// The number of pages. Never passes through 32 bits
    /// ([rule 18](crate::docs::protocol#rule-18)).
    pub pages: usize,
}

/// What a device can take. Start from [`SgLimits::NONE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SgLimits {
    /// The most segments in one table.
    pub max_segments: usize,
    /// The most pages in one segment, at least one. One means: one segment per page (bounce
    /// buffers).
    pub max_segment_pages: usize,
}

impl SgLimits {
    /// No limit.
    pub const NONE: Self = Self { max_segments: usize::MAX, max_segment_pages: usize::MAX };

    /// Sets [`max_segments`](Self::max_segments).
    #[must_use]
    pub const fn max_segments(mut self, segments: usize) -> Self {
        self.max_segments = segments;
        self
    }

    /// Sets [`max_segment_pages`](Self::max_segment_pages).
    #[must_use]
    pub const fn max_segment_pages(mut self, pages: usize) -> Self {
        self.max_segment_pages = pages;
        self
    }
}

/// A scatter-gather table.
///
/// # Invariants
/// The segments cover the pages in order, without gap or overlap; none is longer than the limit.
///
/// Source: `st_set_pages`, `sg_alloc_table_from_pages`, whose lengths are truncated to 32 bits.
pub struct SgTable<P: Platform> {
    segments: Buffer<Segment, P>,
    pages: usize,
}

impl<P: Platform> SgTable<P> {
    /// Makes a table for the pages with these frame numbers, coalesced up to the limits.
    ///
    /// # Errors
    /// [`Error::TooBig`] if more segments would be needed than `limits.max_segments`,
    /// [`Error::NoMemory`].
    ///
    /// ```
    /// use userptr::{SgLimits, SgTable, platforms::std::Std};
    /// let table = SgTable::<Std>::build([7, 8, 9, 20].into_iter(), SgLimits::NONE)?;
    /// assert_eq!(table.segments().len(), 2);
    /// assert_eq!(table.segments()[0].pages, 3);
    /// # Ok::<(), userptr::Error>(())
    /// ```
    pub fn build(frames: impl Iterator<Item = usize> + Clone, limits: SgLimits) -> Result<Self, Error> {
        let runs =
            Runs { frames: frames.clone(), first: 0, pending: None, most: limits.max_segment_pages.max(1) };
        let count = runs.clone().count();
        if count > limits.max_segments {
            return Err(Error::TooBig);
        }
        let mut segments = Buffer::with_capacity(count)?;
        let mut pages = 0_usize;
        for run in runs {
            pages = pages.checked_add(run.pages).ok_or(Error::TooBig)?;
            segments.push(run).map_err(|_| Error::TooBig)?;
        }
        Ok(Self { segments, pages })
    }

    /// Returns the segments, in the order of the object's addresses.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns the number of pages in all segments.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }
}

/// Groups frame numbers into runs.
#[derive(Clone)]
struct Runs<I> {
    frames: I,
    /// The index of the next page.
    first: usize,
    pending: Option<usize>,
    most: usize,
}

impl<I: Iterator<Item = usize>> Iterator for Runs<I> {
    type Item = Segment;
    fn next(&mut self) -> Option<Segment> {
        let frame = self.pending.take().or_else(|| self.frames.next())?;
        let mut run = Segment { frame, first: self.first, pages: 1 };
        while run.pages < self.most {
            let Some(next) = self.frames.next() else { break };
            if frame.checked_add(run.pages) != Some(next) {
                self.pending = Some(next);
                break;
            }
            // CANNOT WRAP: below `most`.
            run.pages = run.pages.wrapping_add(1);
        }
        self.first = self.first.saturating_add(run.pages);
        Some(run)
    }
}

impl<P: Platform> fmt::Debug for SgTable<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.segments()).finish()
    }
}
