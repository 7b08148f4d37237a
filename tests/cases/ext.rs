//! The address space's side of a notifier, in one call each: what a kernel does around a change.

use userptr::{AddrRange, Blockable, Notifier, Outcome, Platform, WouldBlock};

pub(crate) trait AddressSpaceSide {
    /// Both passes of an invalidation. Every `Ok` is followed by one [`end`](Self::end).
    fn invalidate_and_wait(&self, range: AddrRange, mode: Blockable) -> Result<Outcome, WouldBlock>;
    /// The end, after the page tables have changed.
    fn end(&self, range: AddrRange);
}

impl<P: Platform> AddressSpaceSide for Notifier<P> {
    fn invalidate_and_wait(&self, range: AddrRange, mode: Blockable) -> Result<Outcome, WouldBlock> {
        Ok(self.invalidate_start(range, mode)?.finish())
    }
    fn end(&self, range: AddrRange) {
        // SAFETY: the tests pair each end with a start of their own, but for those that look at
        // what a stray end does: there no page table exists that could be stale.
        unsafe { self.invalidate_end(range) }
    }
}
