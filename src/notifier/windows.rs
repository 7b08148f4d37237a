//! The open invalidation windows: a few lock-free slots, and behind them a count and a hull.
//!
//! A slot holds one window's range, so an attach is refused only by windows that really overlap it,
//! an end without a start finds nothing to close, and a start that overlaps nothing needs no lock.
//! When all slots are taken, further windows are kept the way KVM does: as a count and the hull of
//! their ranges until the count is zero.
//!
//! ```text
//!   slot word:  generation << 2 | FREE, WRITING or OPEN
//!
//!   FREE ──claim (CAS)──▶ WRITING ──start, last, then store──▶ OPEN ──close (CAS)──▶ FREE, next generation
//! ```

use crate::platform::{AtomicUsize, Load, MAX_WINDOWS, Platform, Rmw, Store};
use crate::range::AddrRange;
use core::array;
use crossbeam_utils::CachePadded;

const FREE: usize = 0;
const WRITING: usize = 1;
const OPEN: usize = 2;
const STATE: usize = 3;
const GENERATION: usize = 4;

/// # Invariants
/// * `start` and `last` are written only by the one who brought `word` to `WRITING`.
/// * Whoever reads a word of a later generation than the one it looked at is ordered after the
///   close of the one it looked at: the writer acquired that close with its claim, and hands it on
///   with the word. So a torn read of a slot may be wrong about the range, and never about what
///   came before.
struct Slot<P: Platform> {
    word: P::Usize,
    start: P::Usize,
    last: P::Usize,
}

pub(super) struct Windows<P: Platform> {
    slots: CachePadded<[Slot<P>; MAX_WINDOWS]>,
}

impl<P: Platform> Windows<P> {
    pub(super) fn new() -> Self {
        let slot = |_| Slot { word: P::Usize::new(FREE), start: P::Usize::new(0), last: P::Usize::new(0) };
        Self { slots: CachePadded::new(array::from_fn(slot)) }
    }

    fn slots(&self) -> impl Iterator<Item = &Slot<P>> {
        self.slots.iter().take(P::WINDOWS)
    }

    /// Records a window. `false`: no slot is free. The caller passes a full fence before it looks
    /// at the summary.
    pub(super) fn open(&self, range: AddrRange) -> bool {
        for slot in self.slots() {
            let word = slot.word.load(Load::Relaxed);
            if word & STATE != FREE {
                continue;
            }
            // ORDERING: acquires from the `close` that freed the slot (E12). Who reads our range in
            // place of the old one (`Slot::range`) or finds our window gone is thereby ordered
            // after that close, too.
            if slot.word.compare_exchange(word, word | WRITING, Rmw::Acquire, Load::Relaxed).is_ok() {
                // ORDERING: release what the claim acquired to a thread that reads them behind the
                // word of an older generation; pair with the loads in `Slot::range` (E13).
                slot.start.store(range.start(), Store::Release);
                slot.last.store(range.last(), Store::Release);
                // ORDERING: publishes the range; pairs with the acquire in `close` and `overlaps`
                // (E11).
                slot.word.store(word | OPEN, Store::Release);
                return true;
            }
        }
        false
    }

    /// Closes one window with exactly this range. `false`: no slot holds one.
    pub(super) fn close(&self, range: AddrRange) -> bool {
        for slot in self.slots() {
            // ORDERING: pairs with the release in `open` (E11): the range below is that of this
            // generation or a later one.
            let word = slot.word.load(Load::Acquire);
            if word & STATE != OPEN || slot.range() != (range.start(), range.last()) {
                continue;
            }
            // The generation in the word makes sure that it is still the window whose range was
            // read: another end of an equal range may have closed it, and another start may have
            // taken the slot.
            let freed = (word & !STATE).wrapping_add(GENERATION) | FREE;
            // ORDERING: everything the invalidation did happens before an attach that sees the slot
            // free (acquire in `overlaps`), or that reads the range of its next owner
            // (`Slot::range`, through the claim: E13). On failure another thread closed this window
            // with an equal range, so ours is in a later slot: acquire, so that the rest of this
            // scan sees it (E12). It never fails for another reason: each slot is looked at once.
            if slot.word.compare_exchange(word, freed, Rmw::Release, Load::Acquire).is_ok() {
                return true;
            }
        }
        false
    }

    /// Whether an open window overlaps. Called under the notifier's lock; after an insert, with a
    /// full fence in between.
    ///
    /// A slot that is being written is passed over: its owner has not passed its fence, so it will
    /// see what was inserted before ours ([rule 30](crate::docs::protocol#rule-30)).
    pub(super) fn overlaps(&self, range: AddrRange) -> bool {
        // ORDERING: pairs with the release in `open` (E11: the range) and in `close` (E13: what the
        // invalidation did).
        self.slots().any(|slot| slot.word.load(Load::Acquire) & STATE == OPEN && slot.overlaps(range))
    }

    pub(super) fn count(&self) -> usize {
        self.slots().filter(|slot| slot.word.load(Load::Relaxed) & STATE == OPEN).count()
    }
}

impl<P: Platform> Slot<P> {
    /// The range of the generation whose word was read, or of a later one, or a mixture. Whoever
    /// passes the slot over because of it has acquired what ended the window whose word was read:
    /// without that an attach does not see what the invalidation did, and an end does not see where
    /// the other end of its range left a window for it.
    fn range(&self) -> (usize, usize) {
        // ORDERING: pair with the stores in `open` (E13).
        (self.start.load(Load::Acquire), self.last.load(Load::Acquire))
    }

    fn overlaps(&self, range: AddrRange) -> bool {
        let (start, last) = self.range();
        start <= range.last() && range.start() <= last
    }
}

/// The windows beyond the slots: a count and a hull. Under the notifier's lock.
pub(super) struct Overflow {
    count: usize,
    hull: Option<AddrRange>,
}

impl Overflow {
    pub(super) fn new() -> Self {
        Self { count: 0, hull: None }
    }

    pub(super) fn open(&mut self, range: AddrRange) {
        // Saturates after 2^64 open windows: then they never close, which refuses attaches and
        // nothing worse.
        self.count = self.count.saturating_add(1);
        self.hull = Some(self.hull.map_or(range, |h| h.hull(range)));
    }

    /// `false`: no such window can be open here, so this was an end without a start.
    pub(super) fn close(&mut self, range: AddrRange) -> bool {
        if !self.hull.is_some_and(|h| h.contains(range)) {
            return false;
        }
        let Some(left) = self.count.checked_sub(1) else { return false };
        self.count = left;
        if left == 0 {
            self.hull = None;
        }
        true
    }

    pub(super) fn overlaps(&self, range: AddrRange) -> bool {
        self.hull.is_some_and(|h| h.overlaps(range))
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::*;
    use crate::platforms::std::Std;

    /// The generation of a slot passes the end of its word: an end still closes its own window and
    /// no other.
    #[test]
    fn s24_a_slot_whose_generation_wraps() {
        let windows = Windows::<Std>::new();
        let last = !STATE;
        windows.slots[0].word.store(last, Store::Relaxed);
        let (a, b) = (AddrRange::new(0, 8).unwrap(), AddrRange::new(8, 8).unwrap());
        for _ in 0..3 {
            assert!(windows.open(a) && windows.overlaps(a) && !windows.overlaps(b));
            assert!(!windows.close(b) && windows.overlaps(a));
            assert!(windows.close(a) && !windows.close(a) && !windows.overlaps(a));
            assert_eq!(windows.count(), 0);
        }
        assert_eq!(windows.slots[0].word.load(Load::Relaxed), 2 * GENERATION, "it went round");
    }
}
