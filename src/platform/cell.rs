//! The tracked cell: plain data that the core shares under a protocol.

/// Shared plain data. The core declares when an access is exclusive; a checking platform verifies
/// it.
///
/// # Safety
/// `with` and `with_mut` must pass a pointer to the same place, valid for the life of the cell. The
/// implementation must not add synchronisation that the core could come to rely on.
pub unsafe trait Cell<T> {
    /// Makes a cell that holds `value`. Movable until its address is shared.
    fn new(value: T) -> Self;
    /// Reads: no write may be in progress in another thread. The pointer must not be used after `f`
    /// returns, unless the caller knows that no write can come for as long: what is written once
    /// and then published is read like that. A checking platform sees such a read begin, and not
    /// how long it lasts.
    fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R;
    /// Writes: no other access may be in progress in another thread. The pointer must not be used
    /// after `f` returns.
    fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R;
}
