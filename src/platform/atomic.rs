//! The atomic word that the core asks of its platform.
//!
//! The orderings are three small enums rather than one, so that an invalid pair (a load that
//! releases) cannot be written and no platform needs a panicking arm. There is no sequentially
//! consistent access: where the protocol needs one it uses
//! [`Platform::fence`](super::Platform::fence), on which every platform and every checker agrees.

/// The ordering of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// No ordering.
    Relaxed,
    /// Later accesses stay after it; pairs with a releasing store or read-modify-write.
    Acquire,
}

/// The ordering of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// No ordering.
    Relaxed,
    /// Earlier accesses stay before it; pairs with an acquiring load or read-modify-write.
    Release,
}

/// The ordering of a read-modify-write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rmw {
    /// No ordering.
    Relaxed,
    /// The read acquires.
    Acquire,
    /// The write releases.
    Release,
    /// Both.
    AcqRel,
}

/// An atomic word. All arithmetic wraps.
///
/// # Safety
/// The operations are atomic and provide the orderings asked for, as in the C11 memory model or
/// stronger, and [`compare_exchange`](Self::compare_exchange) fails only if the word holds
/// something else.
pub unsafe trait AtomicUsize: Send + Sync {
    /// Makes a word that holds `v`.
    fn new(v: usize) -> Self;
    /// Reads the word.
    fn load(&self, o: Load) -> usize;
    /// Writes the word.
    fn store(&self, v: usize, o: Store);
    /// Writes the word and returns what it held.
    fn swap(&self, v: usize, o: Rmw) -> usize;
    /// Adds, wrapping, and returns what it held.
    fn fetch_add(&self, v: usize, o: Rmw) -> usize;
    /// Subtracts, wrapping, and returns what it held.
    fn fetch_sub(&self, v: usize, o: Rmw) -> usize;
    /// Writes `new` if the word holds `old`. Must not fail for any other reason (the *strong*
    /// form): a platform whose instructions may fail spuriously must try again here, because its
    /// callers do not.
    ///
    /// # Errors
    /// Returns what the word held, which was not `old`.
    fn compare_exchange(&self, old: usize, new: usize, ok: Rmw, no: Load) -> Result<usize, usize>;
}
