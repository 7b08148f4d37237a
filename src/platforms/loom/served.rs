//! A context whose queues the model serves.

use super::{Loom, Thread, spawn};
use crate::address_space::AddressSpace;
use crate::context::Context;
use crate::device::Device;
use crate::error::{Error, Rejected};
use crate::refcount::Ref;
use crate::work::SharedQueue;
use core::fmt;
use core::ops::Deref;

/// A [`Context`] without threads of its own: what is queued runs where the model says, and at the
/// latest when this is dropped. Made by [`context`]; derefs to the context.
pub struct Served<D: Device<Space: AddressSpace<Platform = Loom>>> {
    context: Context<D>,
    pins: Ref<SharedQueue<Loom>, Loom>,
    releases: Ref<SharedQueue<Loom>, Loom>,
}

/// Makes a context for a device in a model. Revocations run in the invalidating thread.
///
/// # Errors
/// As [`ContextBuilder::build`](crate::ContextBuilder::build).
pub fn context<D>(device: D) -> Result<Served<D>, Rejected<D>>
where
    D: Device<Space: AddressSpace<Platform = Loom>>,
{
    let queues = || Ok::<_, Error>((SharedQueue::try_new()?, SharedQueue::try_new()?));
    let (pins, releases) = match queues() {
        Ok(queues) => queues,
        Err(error) => return Err(Rejected { value: device, error }),
    };
    let builder = Context::builder(device).pin_queue(pins.clone()).release_queue(releases.clone());
    Ok(Served { context: builder.build()?, pins, releases })
}

impl<D: Device<Space: AddressSpace<Platform = Loom>>> Served<D> {
    /// Runs everything that is queued now, in this thread.
    pub fn run_queued(&self) {
        while self.pins.run_one() {}
        while self.releases.run_one() {}
    }

    /// Starts a thread that runs at most one item of the pin queue: for acquires that a worker has
    /// to serve.
    pub fn spawn_pin_worker(&self) -> Thread<bool> {
        let pins = self.pins.clone();
        spawn(move || pins.run_one())
    }

    /// Ends the model: runs what is queued, and checks that no object, no worker and no address
    /// space is left. Call it when every object is gone.
    ///
    /// # Panics
    /// If something is left.
    #[track_caller]
    pub fn assert_quiet(self) {
        self.run_queued();
        let stats = self.context.stats();
        assert_eq!((stats.spaces, stats.workers), (0, 0), "objects are left: {stats:?}");
        assert_eq!(self.context.handles(), 1, "references to the context are left");
    }
}

impl<D: Device<Space: AddressSpace<Platform = Loom>>> Drop for Served<D> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.run_queued();
        }
    }
}

extern crate std;

impl<D: Device<Space: AddressSpace<Platform = Loom>>> Deref for Served<D> {
    type Target = Context<D>;
    fn deref(&self) -> &Context<D> {
        &self.context
    }
}

impl<D: Device<Space: AddressSpace<Platform = Loom>>> fmt::Debug for Served<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.context, f)
    }
}
