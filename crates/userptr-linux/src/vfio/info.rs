//! What a container can do: the answer of `VFIO_IOMMU_GET_INFO`, a struct with a chain of
//! capabilities behind it.

use super::iova::IovaRange;
use crate::Refusal;
use core::fmt;
use vfio_bindings::bindings::vfio;

/// The flags and the offset of the first capability, in bytes.
const FLAGS: usize = 4;
const PAGE_SIZES: usize = 8;
const CAPABILITIES: usize = 16;
/// A capability's head: identity, version, offset of the next one from the start of the answer.
const HEAD: usize = 8;

/// The limits of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The page sizes of the IOMMU: bit *n* stands for 2^*n* bytes. Sizes below the processor's
    /// page count as that one.
    pub page_sizes: u64,
    /// The addresses that can be mapped. What is missing is reserved, for interrupts for example.
    pub ranges: Vec<IovaRange>,
    /// How many more mappings the container takes (`dma_entry_limit`, 65,535 by default), at the
    /// moment of the question. `None`: a kernel before 5.10 does not say.
    pub entries: Option<u32>,
}

/// Why an answer was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// It ends before something that it announces; at this offset, in bytes.
    Short(usize),
    /// Its chain of capabilities never ends.
    Endless,
    /// A range of addresses ends before it begins, or overlaps another one.
    Range,
    /// It has no page sizes, or no ranges of addresses: a kernel before 5.4, or an IOMMU of another
    /// type.
    Missing,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(at) => write!(f, "the answer ends before byte {at}"),
            Self::Endless => f.write_str("the chain of capabilities never ends"),
            Self::Range => f.write_str("a range of addresses is impossible"),
            Self::Missing => {
                f.write_str("no page sizes or no ranges of addresses: needs Linux 5.4 and an IOMMU of type 1")
            }
        }
    }
}

impl core::error::Error for Malformed {}

impl Capabilities {
    /// Reads the kernel's answer: the struct `vfio_iommu_type1_info` with everything behind it, in
    /// the byte order of this machine. Capabilities that are not known, or of another version, are
    /// passed over.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn parse(answer: &[u8]) -> Result<Self, Malformed> {
        let flags = word(answer, FLAGS)?;
        let page_sizes =
            if flags & vfio::VFIO_IOMMU_INFO_PGSIZES == 0 { 0 } else { long(answer, PAGE_SIZES)? };
        let mut this = Self { page_sizes, ranges: Vec::new(), entries: None };
        let mut next = if flags & vfio::VFIO_IOMMU_INFO_CAPS == 0 { 0 } else { word(answer, CAPABILITIES)? };
        // Each has a head of its own: a chain that is longer goes in circles.
        let mut left = answer.len() / HEAD;
        while next != 0 {
            left = left.checked_sub(1).ok_or(Malformed::Endless)?;
            let at = usize::try_from(next).map_err(|_| Malformed::Short(usize::MAX))?;
            let head = word(answer, at)?;
            let (id, version) = (head_half(head, 0), head_half(head, 1));
            next = word(answer, place(at, 4)?)?;
            match (id, version) {
                (vfio::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1) => this.read_ranges(answer, at)?,
                (vfio::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1) => {
                    this.entries = Some(word(answer, place(at, HEAD)?)?);
                }
                _ => {}
            }
        }
        this.ranges.sort_unstable_by_key(|range| range.first);
        let apart = |pair: &[IovaRange]| matches!(pair, [a, b] if a.last < b.first);
        if !this.ranges.windows(2).all(apart) {
            return Err(Malformed::Range);
        }
        if this.page_sizes == 0 || this.ranges.is_empty() {
            return Err(Malformed::Missing);
        }
        Ok(this)
    }

    fn read_ranges(&mut self, answer: &[u8], at: usize) -> Result<(), Malformed> {
        let count = word(answer, place(at, HEAD)?)?;
        let mut at = place(at, HEAD + 8)?;
        for _ in 0..count {
            let range = IovaRange { first: long(answer, at)?, last: long(answer, place(at, 8)?)? };
            if range.last < range.first {
                return Err(Malformed::Range);
            }
            self.ranges.push(range);
            at = place(at, 16)?;
        }
        Ok(())
    }

    /// The smallest page of the IOMMU, in bytes: addresses and sizes are multiples of it.
    #[must_use]
    pub fn smallest_page(&self) -> u64 {
        self.page_sizes & self.page_sizes.wrapping_neg()
    }

    /// The largest page of the IOMMU that is not larger than `bytes`, or the smallest one.
    #[must_use]
    pub fn largest_page(&self, bytes: u64) -> u64 {
        let fitting = (0..u64::BITS).rev().filter_map(|bit| 1_u64.checked_shl(bit));
        let mut fitting = fitting.filter(|size| self.page_sizes & size != 0 && *size <= bytes);
        fitting.next().unwrap_or_else(|| self.smallest_page())
    }
}

impl From<Malformed> for Refusal {
    fn from(why: Malformed) -> Self {
        Self::Malformed(why)
    }
}

fn place(at: usize, more: usize) -> Result<usize, Malformed> {
    at.checked_add(more).ok_or(Malformed::Short(usize::MAX))
}

fn head_half(head: u32, which: usize) -> u32 {
    let [a, b, c, d] = head.to_ne_bytes();
    u32::from(u16::from_ne_bytes(if which == 0 { [a, b] } else { [c, d] }))
}

fn word(answer: &[u8], at: usize) -> Result<u32, Malformed> {
    let end = place(at, 4)?;
    let bytes = answer.get(at..end).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u32::from_ne_bytes).ok_or(Malformed::Short(end))
}

fn long(answer: &[u8], at: usize) -> Result<u64, Malformed> {
    let end = place(at, 8)?;
    let bytes = answer.get(at..end).and_then(|bytes| bytes.try_into().ok());
    bytes.map(u64::from_ne_bytes).ok_or(Malformed::Short(end))
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "tests")]
mod tests {
    use super::*;

    /// Two 16-bit fields.
    fn pair(a: u16, b: u16) -> u32 {
        let ([a, b], [c, d]) = (a.to_ne_bytes(), b.to_ne_bytes());
        u32::from_ne_bytes([a, b, c, d])
    }

    /// An answer as Linux 6.1 gives it: two capabilities of use, and one that is not known, between
    /// them.
    fn answer() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut put =
            |words: &[u32]| words.iter().for_each(|word| bytes.extend_from_slice(&word.to_ne_bytes()));
        let long = |v: u64| {
            let [a, b, c, d, e, f, g, h] = v.to_ne_bytes();
            [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
        };
        // argsz, flags, page sizes, offset, padding
        put(&[116, 3]);
        put(&long(0x4020_1000));
        put(&[24, 0]);
        // at 24: ranges
        put(&[pair(1, 1), 72, 2, 0]);
        for v in [0, 0xfedf_ffff, 0xfef0_0000, 0x7f_ffff_ffff] {
            put(&long(v));
        }
        // at 72: migration
        put(&[pair(2, 1), 104, 0, 0, 0, 0, 0, 0]); // its content is not looked at
        // at 104: entries
        put(&[pair(3, 1), 0, 65_535]);
        bytes
    }

    fn at(bytes: &mut [u8], at: usize, word: u32) {
        bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }

    #[test]
    fn limits_are_read() {
        let found = Capabilities::parse(&answer()).unwrap();
        let ranges = [(0, 0xfedf_ffff), (0xfef0_0000, 0x7f_ffff_ffff)];
        assert_eq!(found.ranges, ranges.map(|(first, last)| IovaRange { first, last }));
        assert_eq!((found.page_sizes, found.entries), (0x4020_1000, Some(65_535)));
        assert_eq!(found.smallest_page(), 4096);
        let large = [(1, 4096), (4096, 4096), ((2 << 20) - 1, 4096), (2 << 20, 2 << 20), (u64::MAX, 1 << 30)];
        for (bytes, page) in large {
            assert_eq!(found.largest_page(bytes), page, "{bytes}");
        }
    }

    #[test]
    fn every_cut_of_an_answer_is_refused() {
        let whole = answer();
        for end in 0..whole.len() {
            assert!(
                matches!(Capabilities::parse(&whole[..end]), Err(Malformed::Short(n)) if n > end),
                "{end}"
            );
        }
    }

    #[test]
    fn a_chain_that_goes_in_circles_is_refused() {
        for (place, next) in [(28, 24), (76, 24), (108, 72)] {
            let mut bytes = answer();
            at(&mut bytes, place, next);
            let refused = Capabilities::parse(&bytes).unwrap_err();
            assert!(matches!(refused, Malformed::Endless | Malformed::Range), "{place}: {refused:?}");
        }
        // One without ranges in it: nothing else can stop it.
        let mut bytes = answer();
        at(&mut bytes, 108, 104);
        assert_eq!(Capabilities::parse(&bytes), Err(Malformed::Endless));
    }

    #[test]
    fn a_chain_that_leads_away_is_refused() {
        for next in [105, 109, 116, 4096, u32::MAX] {
            let mut bytes = answer();
            at(&mut bytes, 16, next);
            assert!(matches!(Capabilities::parse(&bytes), Err(Malformed::Short(_))), "{next}");
        }
    }

    #[test]
    fn impossible_ranges_are_refused() {
        let refused = |place, word| {
            let mut bytes = answer();
            at(&mut bytes, place, word);
            Capabilities::parse(&bytes).unwrap_err()
        };
        // The first ends beyond the second's begin; the second begins beyond its end; more are
        // announced than there are.
        assert_eq!(refused(48 + 4, 1), Malformed::Range);
        assert_eq!(refused(56 + 4, 0x100), Malformed::Range);
        assert!(matches!(refused(32, u32::MAX), Malformed::Short(_) | Malformed::Range));
    }

    #[test]
    fn what_is_not_there_is_missed() {
        let without = |place, word| {
            let mut bytes = answer();
            at(&mut bytes, place, word);
            Capabilities::parse(&bytes)
        };
        // No page sizes; no capabilities; no ranges (another version); no entries (an older
        // kernel): that one is no error.
        assert_eq!(without(4, 2), Err(Malformed::Missing));
        assert_eq!(without(4, 1), Err(Malformed::Missing));
        assert_eq!(without(24, pair(1, 2)), Err(Malformed::Missing));
        assert_eq!(without(76, 0).unwrap().entries, None);
    }
}
