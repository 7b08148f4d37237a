//! A machine with a process, a device and a cache.

use userptr::platforms::std::{Running, Std};
use userptr::{AddrRange, Context, Error, Limits};
use userptr_cache::{Access, Cache, CacheLease, Setup};
use userptr_sim::{DmaDevice, Machine, PAGE, Process};

pub(crate) type Device = DmaDevice<Std>;

pub(crate) struct World {
    pub(crate) cache: Cache<Device>,
    pub(crate) context: Running<Device>,
    pub(crate) process: Process,
    pub(crate) machine: Machine,
}

impl World {
    pub(crate) fn new(setup: Setup) -> Self {
        Self::with(setup, Limits::default().read_only(true))
    }

    pub(crate) fn with(setup: Setup, limits: Limits) -> Self {
        let machine = Machine::new();
        let process = machine.process();
        let device = Device::with_limits(&machine, limits);
        let context = Context::builder(device).spawn().unwrap();
        let cache = Cache::new(&context, &process.space(), setup).unwrap();
        Self { cache, context, process, machine }
    }

    /// New memory, written with its page number.
    pub(crate) fn memory(&self, pages: usize) -> AddrRange {
        let range = self.process.map(pages * PAGE);
        for page in 0..pages {
            self.process.store(range.start() + page * PAGE, page as u8).unwrap();
        }
        range
    }

    pub(crate) fn read(&self, range: AddrRange) -> Result<CacheLease<'_, Device>, Error> {
        self.cache.get(range, Access::Read)
    }

    pub(crate) fn write(&self, range: AddrRange) -> Result<CacheLease<'_, Device>, Error> {
        self.cache.get(range, Access::Write)
    }

    /// The first byte that was asked for, as the device reads it.
    pub(crate) fn dma(&self, lease: &CacheLease<'_, Device>) -> u8 {
        self.context.device().read(lease.map(), lease.offset())
    }

    /// Ends everything: nothing is left, and nothing happened that must not.
    pub(crate) fn finish(self) {
        let Self { cache, context, process, machine } = self;
        drop(cache);
        context.drain();
        drop(context);
        drop(process);
        machine.assert_clean();
    }
}

/// `count` pages of a range, from page `first` on.
pub(crate) fn pages(range: AddrRange, first: usize, count: usize) -> AddrRange {
    AddrRange::new(range.start() + first * PAGE, count * PAGE).unwrap()
}
