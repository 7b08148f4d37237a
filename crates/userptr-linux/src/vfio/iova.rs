//! Which addresses of a container are free.

use crate::Refusal;

/// Addresses as a device sees them (IOVA), in bytes, **inclusive** at both ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IovaRange {
    /// The first address.
    pub first: u64,
    /// The last address.
    pub last: u64,
}

/// Pages that nobody has: from the first to before the end, in pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    first: u64,
    end: u64,
}

/// The free addresses.
///
/// An address is given again as late as possible: each search goes on where the last one ended. A
/// device that comes too late with an old address finds nothing there and faults, instead of
/// finding a newer buffer.
///
/// # Invariants
/// The gaps are sorted, not empty, and do not touch each other: between two of them lies a block
/// that is taken, or the border of a range. So there are at most as many as ranges in the beginning
/// plus blocks, and the vector has room for that many: nothing allocates after [`new`](Self::new),
/// and the lock around it may be taken by a cancel (rule 28).
#[derive(Debug)]
pub(super) struct Iovas {
    gaps: Vec<Gap>,
    /// The page where the next search begins.
    next: u64,
    taken: usize,
    most: usize,
    shift: u32,
}

impl Iovas {
    /// What `ranges` and `window` have in common, in whole pages of `1 << shift` bytes, for `most`
    /// blocks. The ranges do not overlap.
    ///
    /// # Errors
    /// [`Refusal::Iova`] of one page: nothing at all. [`Refusal::Memory`].
    pub(super) fn new(
        ranges: &[IovaRange],
        window: IovaRange,
        shift: u32,
        most: usize,
    ) -> Result<Self, Refusal> {
        let mut gaps = Vec::new();
        gaps.try_reserve_exact(ranges.len().saturating_add(most)).map_err(|_| Refusal::Memory)?;
        for range in ranges {
            let (first, last) = (range.first.max(window.first), range.last.min(window.last));
            // Both rounded inwards. The page after the last one has a number, because a page has
            // more than one byte.
            let rounded = u64::from(first & !shl(u64::MAX, shift) != 0);
            let first = shr(first, shift).saturating_add(rounded);
            let end = match last.checked_add(1) {
                Some(end) => shr(end, shift),
                None => shr(u64::MAX, shift).saturating_add(1),
            };
            if first < end {
                gaps.push(Gap { first, end });
            }
        }
        gaps.sort_unstable_by_key(|gap| gap.first);
        // The kernel takes no mapping across two ranges, even if they touch: a page between them is
        // never given.
        let mut end = None;
        gaps.retain_mut(|gap: &mut Gap| {
            if end == Some(gap.first) {
                gap.first = gap.first.saturating_add(1);
            }
            end = Some(gap.end);
            gap.first < gap.end
        });
        if gaps.is_empty() {
            return Err(Refusal::Iova(shl(1, shift)));
        }
        Ok(Self { gaps, next: 0, taken: 0, most, shift })
    }

    /// Takes a block of `bytes`, a multiple of the page size. Its address has the same remainder as
    /// `like` by `align`, a power of two: so large pages of the process can be large pages of the
    /// device.
    ///
    /// # Errors
    /// [`Refusal::Table`]: as many blocks as there may be. [`Refusal::Iova`]: no gap is large
    /// enough.
    pub(super) fn take(&mut self, bytes: u64, align: u64, like: u64) -> Result<u64, Refusal> {
        if self.taken >= self.most {
            return Err(Refusal::Table(self.most));
        }
        let pages = shr(bytes, self.shift).max(1);
        let align = shr(align, self.shift).max(1);
        let like = shr(like, self.shift) & align.wrapping_sub(1);
        let found = self.find(self.next, pages, align, like).or_else(|| self.find(0, pages, align, like));
        let (index, first) = found.ok_or(Refusal::Iova(bytes))?;
        let end = first.saturating_add(pages);
        let Some(gap) = self.gaps.get_mut(index) else { return Err(Refusal::Iova(bytes)) };
        let rest = Gap { first: end, end: gap.end };
        gap.end = first;
        match (gap.first < gap.end, rest.first < rest.end) {
            (true, true) => self.gaps.insert(index.saturating_add(1), rest),
            (false, true) => *gap = rest,
            (true, false) => {}
            (false, false) => {
                self.gaps.remove(index);
            }
        }
        self.taken = self.taken.saturating_add(1);
        self.next = end;
        Ok(shl(first, self.shift))
    }

    /// The first place from page `from` on: the number of its gap, and the page.
    fn find(&self, from: u64, pages: u64, align: u64, like: u64) -> Option<(usize, u64)> {
        self.gaps.iter().enumerate().find_map(|(index, gap)| {
            let low = gap.first.max(from);
            // How far it is to the next page with that remainder.
            let step = like.wrapping_sub(low) & align.wrapping_sub(1);
            let first = low.checked_add(step)?;
            let end = first.checked_add(pages)?;
            (end <= gap.end).then_some((index, first))
        })
    }

    /// Gives back a block that was taken.
    pub(super) fn give(&mut self, address: u64, bytes: u64) {
        let first = shr(address, self.shift);
        let end = first.saturating_add(shr(bytes, self.shift).max(1));
        let after = self.gaps.partition_point(|gap| gap.first < end);
        let before = after.checked_sub(1).filter(|at| self.gaps.get(*at).is_some_and(|gap| gap.end == first));
        let joins_after = self.gaps.get(after).is_some_and(|gap| gap.first == end);
        match before {
            Some(before) => {
                let end = if joins_after { self.gaps.remove(after).end } else { end };
                if let Some(gap) = self.gaps.get_mut(before) {
                    gap.end = end;
                }
            }
            None if joins_after => {
                if let Some(gap) = self.gaps.get_mut(after) {
                    gap.first = first;
                }
            }
            None => self.gaps.insert(after, Gap { first, end }),
        }
        self.taken = self.taken.saturating_sub(1);
    }

    /// The number of blocks that are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }
}

fn shr(v: u64, by: u32) -> u64 {
    v.checked_shr(by).unwrap_or(0)
}

fn shl(v: u64, by: u32) -> u64 {
    v.checked_shl(by).unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "tests")]
mod tests {
    use super::*;

    const SHIFT: u32 = 12;
    const PAGE: u64 = 1 << SHIFT;
    const ALL: IovaRange = IovaRange { first: 0, last: u64::MAX };

    /// Numbers that look random.
    struct Dice(u64);

    impl Dice {
        fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % n
        }
    }

    fn pages(first: u64, end: u64) -> IovaRange {
        IovaRange { first: first * PAGE, last: end * PAGE - 1 }
    }

    #[test]
    fn ranges_are_cut_to_the_window_and_rounded_inwards() {
        let ranges = [
            IovaRange { first: 1, last: 3 * PAGE },
            pages(10, 20),
            IovaRange { first: 0x5000_0fff, last: u64::MAX },
        ];
        let free = |window| Iovas::new(&ranges, window, SHIFT, 4).unwrap().gaps;
        let gap = |first, end| Gap { first, end };
        assert_eq!(free(ALL), [gap(1, 3), gap(10, 20), gap(0x50001, 1 << 52)]);
        assert_eq!(free(IovaRange { first: 2 * PAGE, last: 12 * PAGE - 2 }), [gap(2, 3), gap(10, 11)]);
        let nothing = Iovas::new(&ranges, IovaRange { first: 21 * PAGE, last: 22 * PAGE }, SHIFT, 4);
        assert_eq!(nothing.err(), Some(Refusal::Iova(PAGE)));
    }

    #[test]
    fn the_end_of_the_address_space_can_be_had() {
        let top = IovaRange { first: u64::MAX - 2 * PAGE + 1, last: u64::MAX };
        let mut iovas = Iovas::new(&[top], ALL, SHIFT, 4).unwrap();
        let block = iovas.take(2 * PAGE, PAGE, 0).unwrap();
        assert_eq!(block, top.first);
        assert_eq!(iovas.take(PAGE, PAGE, 0), Err(Refusal::Iova(PAGE)));
        iovas.give(block, 2 * PAGE);
        assert_eq!(iovas.take(PAGE, PAGE, 0), Ok(top.first));
    }

    #[test]
    fn no_block_crosses_from_one_range_to_the_next() {
        let mut iovas = Iovas::new(&[pages(4, 8), pages(0, 4)], ALL, SHIFT, 8).unwrap();
        let blocks = [iovas.take(4 * PAGE, PAGE, 0).unwrap(), iovas.take(3 * PAGE, PAGE, 0).unwrap()];
        assert_eq!(blocks, [0, 5 * PAGE]);
        iovas.give(0, 4 * PAGE);
        iovas.give(5 * PAGE, 3 * PAGE);
        assert_eq!(iovas.take(5 * PAGE, PAGE, 0), Err(Refusal::Iova(5 * PAGE)));
    }

    #[test]
    fn an_address_comes_back_as_late_as_possible() {
        let mut iovas = Iovas::new(&[pages(1, 9)], ALL, SHIFT, 8).unwrap();
        let taken: Vec<_> = (0..16)
            .map(|_| {
                let block = iovas.take(PAGE, PAGE, 0).unwrap();
                iovas.give(block, PAGE);
                block / PAGE
            })
            .collect();
        assert_eq!(taken, [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn the_number_of_blocks_is_limited() {
        let mut iovas = Iovas::new(&[pages(0, 100)], ALL, SHIFT, 2).unwrap();
        let first = iovas.take(PAGE, PAGE, 0).unwrap();
        iovas.take(PAGE, PAGE, 0).unwrap();
        assert_eq!(iovas.take(PAGE, PAGE, 0), Err(Refusal::Table(2)));
        iovas.give(first, PAGE);
        assert!(iovas.take(PAGE, PAGE, 0).is_ok());
    }

    /// Against a page map, over 40 address spaces of 3 ranges each: no two blocks share a page, all
    /// lie in the ranges and are congruent to what was asked, a refusal is one, nothing allocates,
    /// and in the end everything is there again.
    #[test]
    fn random_blocks_agree_with_a_page_map() {
        const SPACE: u64 = 128;
        for seed in 1..=40 {
            let mut dice = Dice(seed * 0x9e37_79b9);
            let cuts = [0, 1, 2].map(|n| n * 44 + dice.below(8));
            let ranges = cuts.map(|first| pages(first, first + 20 + dice.below(16)));
            let most = 24;
            let mut iovas = Iovas::new(&ranges, pages(0, SPACE), SHIFT, most).unwrap();
            let (whole, room) = (iovas.gaps.clone(), iovas.gaps.capacity());
            let usable = |page: u64| {
                page < SPACE && ranges.iter().any(|r| r.first <= page * PAGE && page * PAGE < r.last)
            };
            let mut owner = [0_u64; SPACE as usize];
            let mut blocks: Vec<(u64, u64)> = Vec::new();
            for step in 1..3000 {
                if dice.below(5) < 3 {
                    let (size, align) = (1 + dice.below(9), 1 << dice.below(4));
                    let like = dice.below(1 << 20);
                    let fits = |first: u64| {
                        first % align == like % align
                            && (first..first + size).all(|page| usable(page) && owner[page as usize] == 0)
                    };
                    match iovas.take(size * PAGE, align * PAGE, like * PAGE) {
                        Ok(address) => {
                            let first = address / PAGE;
                            assert!(
                                address % PAGE == 0 && fits(first),
                                "seed {seed}, step {step}: {first}+{size}"
                            );
                            owner[first as usize..(first + size) as usize].fill(step);
                            blocks.push((first, size));
                        }
                        Err(Refusal::Table(n)) => assert_eq!((n, blocks.len()), (most, most)),
                        Err(why) => {
                            assert_eq!(why, Refusal::Iova(size * PAGE));
                            // A range ends where the next one may begin: blocks do not cross.
                            let one = |first| {
                                fits(first) && whole.iter().any(|g| g.first <= first && first + size <= g.end)
                            };
                            assert!(!(0..SPACE).any(one), "seed {seed}, step {step}: {size} pages fit");
                        }
                    }
                } else if !blocks.is_empty() {
                    let (first, size) = blocks.swap_remove(dice.below(blocks.len() as u64) as usize);
                    owner[first as usize..(first + size) as usize].fill(0);
                    iovas.give(first * PAGE, size * PAGE);
                }
                assert_eq!(iovas.taken(), blocks.len());
                assert!(iovas.gaps.windows(2).all(|pair| pair[0].end < pair[1].first));
                assert_eq!(iovas.gaps.capacity(), room, "it has allocated");
            }
            for (first, size) in blocks {
                iovas.give(first * PAGE, size * PAGE);
            }
            assert_eq!(iovas.gaps, whole, "seed {seed}");
        }
    }
}
