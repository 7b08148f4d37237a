//! Address ranges with an inclusive last byte, so that a range can end at the top of the address
//! space.

use crate::error::Error;
use core::fmt;

/// A non-empty range of addresses, in bytes, **inclusive** at both ends.
///
/// # Invariants
/// `start <= last`. A range is never empty: "nothing" is an `Option<AddrRange>`.
///
/// ```
/// use userptr::AddrRange;
/// let top = AddrRange::new(usize::MAX - 4095, 4096).unwrap();
/// assert_eq!(top.last(), usize::MAX);
/// assert!(AddrRange::new(usize::MAX - 4095, 8192).is_err());
/// assert!(AddrRange::from_bounds(4096, 4096).is_none());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AddrRange {
    start: usize,
    last: usize,
}

impl AddrRange {
    /// Every address there is.
    pub const ALL: Self = Self { start: 0, last: usize::MAX };

    /// Makes the range of `len` bytes from `start`.
    ///
    /// # Errors
    /// [`Error::Empty`] if `len` is 0, [`Error::Fault`] if the range wraps past the top of the
    /// address space.
    pub const fn new(start: usize, len: usize) -> Result<Self, Error> {
        let Some(more) = len.checked_sub(1) else { return Err(Error::Empty) };
        match start.checked_add(more) {
            Some(last) => Ok(Self { start, last }),
            None => Err(Error::Fault),
        }
    }

    /// Makes the range from `start` to `last`, both inclusive. Returns `None` if `last < start`.
    #[must_use]
    pub const fn inclusive(start: usize, last: usize) -> Option<Self> {
        if start <= last { Some(Self { start, last }) } else { None }
    }

    /// Makes a range of the bounds that a kernel passes to a callback: `end` is **exclusive**.
    /// Returns `None` if nothing is between them, in particular for `end == 0` and `start == end`:
    /// such a call invalidates nothing ([scenario 9](crate::docs::scenarios#scenario-9)).
    #[must_use]
    pub const fn from_bounds(start: usize, end: usize) -> Option<Self> {
        match end.checked_sub(1) {
            Some(last) => Self::inclusive(start, last),
            None => None,
        }
    }

    /// Returns the first byte.
    #[must_use]
    pub const fn start(self) -> usize {
        self.start
    }

    /// Returns the last byte, **inclusive**.
    #[must_use]
    pub const fn last(self) -> usize {
        self.last
    }

    /// Returns the length in bytes, or `None` for [`AddrRange::ALL`], whose length does not fit.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub const fn len(self) -> Option<usize> {
        // CANNOT WRAP: `start <= last` by the type's invariant.
        self.last.wrapping_sub(self.start).checked_add(1)
    }

    /// Returns the number of pages of `1 << shift` bytes that the range touches. Never passes
    /// through 32 bits ([rule 18](crate::docs::protocol#rule-18)).
    #[must_use]
    pub const fn pages(self, shift: u32) -> usize {
        let (first, last) = (shr(self.start, shift), shr(self.last, shift));
        // CANNOT WRAP: `first <= last`, and the result is 2^64 only for a shift of 0 over `ALL`.
        last.wrapping_sub(first).saturating_add(1)
    }

    /// Returns whether both ends are page boundaries for pages of `1 << shift` bytes.
    #[must_use]
    pub const fn is_aligned(self, shift: u32) -> bool {
        let mask = !shl(usize::MAX, shift);
        self.start & mask == 0 && self.last & mask == mask
    }

    /// Returns whether the two ranges share a byte.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.start <= other.last && other.start <= self.last
    }

    /// Returns whether `other` is wholly inside this range.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.last <= self.last
    }

    /// Returns the smallest range that covers both.
    #[must_use]
    pub const fn hull(self, other: Self) -> Self {
        Self {
            start: if self.start < other.start { self.start } else { other.start },
            last: if self.last > other.last { self.last } else { other.last },
        }
    }
}

const fn shr(v: usize, by: u32) -> usize {
    match v.checked_shr(by) {
        Some(v) => v,
        None => 0,
    }
}

const fn shl(v: usize, by: u32) -> usize {
    match v.checked_shl(by) {
        Some(v) => v,
        None => 0,
    }
}

impl fmt::Debug for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}..={:#x}]", self.start, self.last)
    }
}
