//! The control: the simulated machine with its notifications switched off.

use core::time::Duration;
use userptr::address_space::{AddressSpace, Current, ForeignMemory, NoMemory, Pages, Usage, Users};
use userptr::device::{Device, Limits, Prepare};
use userptr::platforms::std::Std;
use userptr::{AddrRange, Error, Notifier, Outcome, Ref};
use userptr_sim::{DmaDevice, DmaMap, Space, SpaceUsers, UserPage};

/// An address space that registers nobody for its changes.
pub(crate) struct Deaf(pub(crate) Space<Std>);

pub(crate) struct DeafUsers(SpaceUsers<Std>);

impl AddressSpace for Deaf {
    type Platform = Std;
    type Page = UserPage;
    type Users<'a> = DeafUsers;
    type Registration = ();
    type Memory = NoMemory;

    fn id(&self) -> usize {
        self.0.id()
    }
    fn grab(&self) -> Self {
        Self(self.0.grab())
    }
    fn users(&self) -> Option<DeafUsers> {
        self.0.users().map(DeafUsers)
    }
    fn current(&self) -> Current {
        self.0.current()
    }
    fn page_shift(&self) -> u32 {
        self.0.page_shift()
    }
    fn access_ok(&self, range: AddrRange, write: bool) -> bool {
        self.0.access_ok(range, write)
    }
    fn privileged(&self) -> bool {
        false
    }
    fn register(&self, _: Ref<Notifier<Std>, Std>) -> Result<(), Error> {
        Ok(())
    }
    unsafe fn unregister(&self, (): ()) {}
    fn pin_fast(&self, range: AddrRange, write: bool, out: &mut Pages<Self>) -> Result<(), Error> {
        self.0.pin_fast(range, write, out)
    }
    unsafe fn unpin(&self, pages: &[UserPage], usage: Usage) {
        // SAFETY: handed on.
        unsafe { self.0.unpin(pages, usage) }
    }
    fn frame(&self, page: UserPage) -> usize {
        self.0.frame(page)
    }
}

// SAFETY: the memory of the simulated machine.
unsafe impl ForeignMemory for Deaf {}

impl Users for DeafUsers {
    type Space = Deaf;
    fn pin(&self, range: AddrRange, write: bool, out: &mut Pages<Deaf>) -> Result<(), Error> {
        self.0.pin(range, write, out)
    }
}

/// The engine, for that address space.
pub(crate) struct DeafDevice(pub(crate) DmaDevice<Std>);

impl Device for DeafDevice {
    type Space = Deaf;
    type Map = DmaMap;

    fn limits(&self) -> Limits {
        self.0.limits()
    }
    fn prepare(&self, what: Prepare<'_, Deaf>) -> Result<DmaMap, Error> {
        // SAFETY: the same pages, of the same address space.
        let what = unsafe { Prepare::new(&what.space.0, what.address, what.pages, what.sg, what.write) };
        self.0.prepare(what)
    }
    fn wait_idle(&self, map: &DmaMap, timeout: Option<Duration>) -> Outcome {
        self.0.wait_idle(map, timeout)
    }
    fn unmap(&self, map: DmaMap) {
        self.0.unmap(map);
    }
}
