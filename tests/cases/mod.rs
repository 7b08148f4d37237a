//! What happens between threads, written once: each body is one execution of one scenario, generic
//! over the host. The models (`loom-tests`) run it on loom in every interleaving, `miri-tests` on
//! threads under Miri, with many seeds.
//!
//! A body builds its history before it spawns, and ends with a check that nothing is left.

pub mod cache;
pub mod cancel;
pub mod ext;
pub mod holders;
pub mod memory;
pub mod notifier;
pub mod object;
pub mod queue;
pub mod records;
pub mod refcount;
pub mod spread;
pub mod stage;
pub mod unwind;
pub mod waits;
pub mod windows;

use userptr::{Platform, Ref, SharedQueue, SoftWork};

/// A host with threads to play on.
pub trait Stage: Platform<Queue = Ref<SharedQueue<Self>, Self>, Work = SoftWork<Self>> {
    /// A spawned thread.
    type Join;
    fn spawn(f: impl FnOnce() + Send + 'static) -> Self::Join;
    /// Waits for its end; fails if it failed.
    fn join(join: Self::Join);
    /// Says what this execution met. A model lists every outcome that its executions must meet,
    /// each in at least one; the parts that one execution meets make its outcome.
    fn met(_: &'static str) {}
}
