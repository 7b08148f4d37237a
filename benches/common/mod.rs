//! The least that a bench needs: memory whose pages are numbers, and a device that is always idle.
//! What is measured on it is the core.

use core::time::Duration;
use std::sync::atomic::{AtomicUsize, Ordering};
use userptr::address_space::Pages;
use userptr::device::{Limits, Prepare};
use userptr::platforms::std::{Running, Std};
use userptr::{
    AddrRange, AddressSpace, Context, Current, Device, Error, Flags, ForeignMemory, NoMemory, Notifier,
    Outcome, Ref, Usage, UserPtr, Users,
};

pub const SHIFT: u32 = 12;
pub const PAGE: usize = 1 << SHIFT;

/// Memory in which every address is there, and its page is its own number.
pub struct Memory(usize);

impl Memory {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    fn fill(range: AddrRange, out: &mut Pages<Self>) {
        let first = range.start() >> SHIFT;
        for page in 0..range.pages(SHIFT) {
            out.push(first + page).unwrap();
        }
    }
}

impl AddressSpace for Memory {
    type Platform = Std;
    type Page = usize;
    type Users<'a> = &'a Memory;
    type Registration = Ref<Notifier<Std>, Std>;
    type Memory = NoMemory;

    fn id(&self) -> usize {
        self.0
    }
    fn grab(&self) -> Self {
        Self(self.0)
    }
    fn users(&self) -> Option<&Memory> {
        Some(self)
    }
    fn current(&self) -> Current {
        Current::This
    }
    fn page_shift(&self) -> u32 {
        SHIFT
    }
    fn access_ok(&self, _: AddrRange, _: bool) -> bool {
        true
    }
    fn privileged(&self) -> bool {
        true
    }
    fn register(&self, notifier: Ref<Notifier<Std>, Std>) -> Result<Ref<Notifier<Std>, Std>, Error> {
        Ok(notifier)
    }
    unsafe fn unregister(&self, _: Ref<Notifier<Std>, Std>) {}
    fn pin_fast(&self, range: AddrRange, _: bool, out: &mut Pages<Self>) -> Result<(), Error> {
        Self::fill(range, out);
        Ok(())
    }
    unsafe fn unpin(&self, _: &[usize], _: Usage) {}
    fn frame(&self, page: usize) -> usize {
        page
    }
}

// SAFETY: its pages are numbers, with no bytes behind them.
unsafe impl ForeignMemory for Memory {}

impl Users for &Memory {
    type Space = Memory;
    fn pin(&self, range: AddrRange, _: bool, out: &mut Pages<Memory>) -> Result<(), Error> {
        Memory::fill(range, out);
        Ok(())
    }
}

/// Maps nothing, and is idle.
pub struct Idle;

impl Device for Idle {
    type Space = Memory;
    type Map = ();
    fn prepare(&self, _: Prepare<'_, Memory>) -> Result<(), Error> {
        Ok(())
    }
    fn wait_idle(&self, (): &(), _: Option<Duration>) -> Outcome {
        Outcome::Idle
    }
    fn unmap(&self, (): ()) {}
}

/// One device on one address space.
pub struct Stage {
    pub context: Running<Idle>,
    pub memory: Memory,
}

impl Stage {
    pub fn new() -> Self {
        Self::with(|limits| limits)
    }

    /// With other limits.
    pub fn with(limits: impl FnOnce(Limits) -> Limits) -> Self {
        Self { context: Context::builder(Idle).limits(limits).spawn().unwrap(), memory: Memory::new() }
    }

    /// An object with its pages pinned.
    pub fn object(&self, address: usize, pages: usize) -> UserPtr<Idle> {
        let range = AddrRange::new(address, pages * PAGE).unwrap();
        let object = self.context.register(&self.memory, range, Flags::NONE).unwrap();
        drop(object.try_acquire().unwrap());
        object
    }
}
