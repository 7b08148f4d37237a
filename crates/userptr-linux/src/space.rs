//! [`Linux`] as the core sees it.

use super::owner::capable;
use super::{Linux, Memory, Watch};
use std::sync::Arc;
use userptr::AddrRange;
use userptr::Error;
use userptr::address_space::{AddressSpace, Current, Pages, Usage, Users, WatchKey};
use userptr::notifier::Notifier;
use userptr::platforms::std::Std;
use userptr::refcount::Ref;

const CAP_SYS_ADMIN: u32 = 21;

/// A notifier's place with the monitor.
#[derive(Debug)]
#[must_use = "give it back with `AddressSpace::unregister`"]
pub struct Registration(usize);

/// The mappings of a process stay as long as the process: nothing to hold.
#[derive(Debug)]
pub struct LinuxUsers<'a>(&'a Linux);

impl AddressSpace for Linux {
    type Platform = Std;
    /// The number of a page of *virtual* memory: a process has no business with page frames. What
    /// pins is the device, which hands the addresses to the kernel.
    type Page = usize;
    type Users<'a> = LinuxUsers<'a>;
    type Registration = Registration;
    type Memory = Memory;

    /// One for the revocation that waits for a device, and one for the others meanwhile.
    const REVOKE_THREADS: usize = 2;

    fn id(&self) -> usize {
        Arc::as_ptr(&self.space).addr()
    }

    fn grab(&self) -> Self {
        self.clone()
    }

    fn users(&self) -> Option<LinuxUsers<'_>> {
        self.space.shared.owner.is_me().then_some(LinuxUsers(self))
    }

    fn current(&self) -> Current {
        if self.space.shared.owner.is_me() { Current::This } else { Current::Other }
    }

    fn page_shift(&self) -> u32 {
        self.space.shift
    }

    fn access_ok(&self, range: AddrRange, _write: bool) -> bool {
        // The upper half is the kernel's.
        range.last() <= isize::MAX.unsigned_abs()
    }

    fn privileged(&self) -> bool {
        capable(CAP_SYS_ADMIN)
    }

    fn notifies(&self) -> bool {
        !matches!(self.space.shared.watch, Watch::Nothing(_))
    }

    fn register(&self, notifier: Ref<Notifier<Std>, Std>) -> Result<Registration, Error> {
        if !self.space.shared.owner.is_me() {
            return Err(Error::OtherSpace);
        }
        if !notifier.has_queue() {
            // Its revocations would free memory and wait for devices in the monitor's thread.
            return Err(Error::QueueMissing);
        }
        // Nothing is watched for it yet, so no window can be missed.
        self.space.shared.add(notifier).map(Registration)
    }

    unsafe fn unregister(&self, registration: Registration) {
        self.space.shared.remove(registration.0);
    }

    fn watch(&self, _registration: &Registration, range: AddrRange) -> Result<WatchKey, Error> {
        Ok(self.start_watching(range)?)
    }

    unsafe fn unwatch(&self, _registration: &Registration, range: AddrRange) {
        self.stop_watching(range);
    }

    fn quiet(&self, _registration: &Registration, range: AddrRange, key: WatchKey) -> bool {
        self.space.shared.quiet(range, Some(key))
    }

    fn wait_quiet(&self, _registration: &Registration, range: AddrRange) {
        // The monitor needs a few microseconds once it runs. On a full machine it may have to wait
        // for a processor.
        for _ in 0..50 {
            if self.space.shared.quiet(range, None) || !self.space.shared.owner.is_me() {
                return;
            }
            std::thread::sleep(core::time::Duration::from_micros(20));
        }
    }

    fn pin_fast(&self, range: AddrRange, _write: bool, out: &mut Pages<Self>) -> Result<(), Error> {
        list(range, self.space.shift, out)
    }

    unsafe fn unpin(&self, _pages: &[usize], _usage: Usage) {
        // The device's registration is the pin, and it was taken away by `Device::unmap`. What the
        // device may write was marked dirty when it was pinned (see `populate`).
    }

    fn frame(&self, page: usize) -> usize {
        page
    }
}

impl Users for LinuxUsers<'_> {
    type Space = Linux;

    fn pin(&self, range: AddrRange, _write: bool, out: &mut Pages<Linux>) -> Result<(), Error> {
        list(range, self.0.space.shift, out)
    }
}

fn list(range: AddrRange, shift: u32, out: &mut Pages<Linux>) -> Result<(), Error> {
    let page = |address: usize| address.checked_shr(shift).ok_or(Error::Invalid);
    // What is in `out` already was listed by an earlier call.
    let first = page(range.start())?.saturating_add(out.len());
    for number in first..=page(range.last())? {
        out.push(number).map_err(|_| Error::TooBig)?;
    }
    Ok(())
}
