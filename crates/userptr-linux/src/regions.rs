//! What the monitor polls; and in strict mode, one descriptor for each region.

use super::Watch;
use super::refusal::{Refusal, errno};
use super::uffd::{Probe, Uffd};
use core::ffi::c_int;
use core::ptr;
use core::time::Duration;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use userptr::AddrRange;

/// The most regions in strict mode.
pub const MAX_REGIONS: usize = 64;

/// A watched range with a descriptor of its own, so that a message waiting there names the region
/// before it is read.
#[derive(Debug)]
pub(super) struct Region {
    uffd: Uffd,
    range: AddrRange,
    serial: u64,
    watchers: usize,
}

impl Region {
    pub(super) fn uffd(&self) -> &Uffd {
        &self.uffd
    }

    pub(super) fn range(&self) -> AddrRange {
        self.range
    }

    pub(super) fn serial(&self) -> u64 {
        self.serial
    }
}

/// An unmapper that waits, because its message was not read.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) range: AddrRange,
    pub(super) serial: u64,
    pub(super) until: Instant,
}

#[derive(Debug)]
struct Table {
    slots: [Option<Region>; MAX_REGIONS],
    serial: u64,
}

/// The regions of strict mode. The lock is held for system calls on the descriptors, never across
/// an allocation.
#[derive(Debug)]
pub(super) struct Regions {
    table: Mutex<Table>,
}

impl Regions {
    pub(super) fn new() -> Self {
        Self { table: Mutex::new(Table { slots: [const { None }; MAX_REGIONS], serial: 0 }) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a range, alone or as part of a region that contains it.
    pub(super) fn watch(&self, range: AddrRange) -> Result<(), Refusal> {
        // Opened before the lock is taken, and closed after it, if it turns out to be needless.
        let mut uffd = Some(Uffd::open()?);
        let mut table = self.table();
        let table = &mut *table;
        if let Some(region) = oldest(&mut table.slots, range).and_then(Option::as_mut) {
            region.uffd.register_whole(range)?;
            region.watchers = region.watchers.saturating_add(1);
            return Ok(());
        }
        if let Some(uffd) = uffd.take() {
            if uffd.register_whole(range) == Err(Refusal::Claimed) {
                // `mremap` has carried the watch of another region here, where nobody counts on it.
                for region in table.slots.iter().flatten().filter(|region| !region.range.overlaps(range)) {
                    let _ = region.uffd.unregister(range);
                }
            }
            uffd.register_whole(range)?;
            let slot =
                table.slots.iter_mut().find(|slot| slot.is_none()).ok_or(Refusal::Table(MAX_REGIONS))?;
            table.serial = table.serial.wrapping_add(1);
            *slot = Some(Region { uffd, range, serial: table.serial, watchers: 1 });
        }
        Ok(())
    }

    /// One watcher less of a region. The region that goes is closed after the lock was given back.
    pub(super) fn unwatch(&self, range: AddrRange) {
        let gone = {
            let mut table = self.table();
            let Some(slot) = oldest(&mut table.slots, range) else { return };
            let Some(region) = slot else { return };
            region.watchers = region.watchers.saturating_sub(1);
            if region.watchers == 0 { slot.take() } else { None }
        };
        if let Some(region) = gone {
            // What is mapped there by now may never have been watched: nothing to do then.
            let _ = region.uffd.unregister(region.range);
        }
    }

    /// Calls `f` for each region that has a message waiting or an unmapper held.
    pub(super) fn each(
        &self,
        set: &PollSet,
        held: &mut [Option<Held>; MAX_REGIONS],
        mut f: impl FnMut(&Region, &mut Option<Held>),
    ) {
        let table = self.table();
        for ((index, slot), held) in table.slots.iter().enumerate().zip(held) {
            let Some(region) = slot else { continue };
            let waiting = held.as_ref().is_some_and(|held| held.serial == region.serial);
            if waiting || set.is_ready(index, region.serial) {
                f(region, held);
            }
        }
    }

    fn fill(&self, set: &mut PollSet, held: &[Option<Held>]) {
        let table = self.table();
        for ((index, slot), held) in table.slots.iter().enumerate().zip(held) {
            if let Some(region) = slot
                && held.is_none()
            {
                set.add(region.uffd.raw(), index, region.serial);
            }
        }
    }

    fn probe(&self) -> Probe {
        let table = self.table();
        table
            .slots
            .iter()
            .flatten()
            .map(|region| region.uffd.probe())
            .find(|p| *p != Probe::Quiet)
            .unwrap_or(Probe::Quiet)
    }

    pub(super) fn is_live(&self, held: &Held) -> bool {
        self.table().slots.iter().flatten().any(|region| region.serial == held.serial)
    }

    pub(super) fn len(&self) -> usize {
        self.table().slots.iter().flatten().count()
    }

    /// Ends the watch of everything.
    pub(super) fn clear(&self) {
        loop {
            let gone = self.table().slots.iter_mut().find_map(Option::take);
            let Some(region) = gone else { return };
            super::unregister_everywhere(&region.uffd);
        }
    }
}

/// The oldest region that contains the range. A watcher is counted off where it was counted on: a
/// region stays as long as it has a watcher, and none that comes later is older.
fn oldest(slots: &mut [Option<Region>], range: AddrRange) -> Option<&mut Option<Region>> {
    let fits = |slot: &&mut Option<Region>| slot.as_ref().is_some_and(|region| region.range.contains(range));
    slots.iter_mut().filter(fits).min_by_key(|slot| slot.as_ref().map(|region| region.serial))
}

impl Watch {
    pub(super) fn fill(&self, set: &mut PollSet, held: &[Option<Held>]) {
        set.clear();
        match self {
            Self::Whole { uffd, .. } => set.add(uffd.raw(), 0, 0),
            Self::Regions(regions) => regions.fill(set, held),
            Self::Nothing(_) => {}
        }
    }

    pub(super) fn probe(&self) -> Probe {
        match self {
            Self::Whole { uffd, .. } => uffd.probe(),
            Self::Regions(regions) => regions.probe(),
            Self::Nothing(_) => Probe::Quiet,
        }
    }
}

/// The descriptors that the monitor waits for.
pub(super) struct PollSet {
    fds: [libc::pollfd; MAX_REGIONS + 1],
    keys: [(usize, u64); MAX_REGIONS + 1],
    len: usize,
}

impl PollSet {
    /// Waits for `stop` in any case.
    pub(super) fn new(stop: RawFd) -> Self {
        let blank = libc::pollfd { fd: stop, events: libc::POLLIN, revents: 0 };
        Self { fds: [blank; MAX_REGIONS + 1], keys: [(0, 0); MAX_REGIONS + 1], len: 1 }
    }

    fn clear(&mut self) {
        self.len = 1;
    }

    fn add(&mut self, fd: RawFd, index: usize, serial: u64) {
        if let (Some(slot), Some(key)) = (self.fds.get_mut(self.len), self.keys.get_mut(self.len)) {
            *slot = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            *key = (index, serial);
            self.len = self.len.saturating_add(1);
        }
    }

    /// Waits. `true`: the monitor has to stop.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> bool {
        let spec = timeout.map(|t| libc::timespec {
            tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        let spec = spec.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: `len` entries are initialised, and never more than the array has.
        let got = unsafe { libc::ppoll(self.fds.as_mut_ptr(), self.len as libc::nfds_t, spec, ptr::null()) };
        if got <= 0 {
            // A timeout, or a signal: nothing is ready.
            self.fds.iter_mut().for_each(|fd| fd.revents = 0);
        }
        match self.fds.first_mut() {
            Some(stop) if stop.revents != 0 => EventFd::take(stop.fd) == STOP,
            _ => false,
        }
    }

    pub(super) fn any_ready(&self) -> bool {
        self.fds.iter().take(self.len).skip(1).any(|fd| fd.revents != 0)
    }

    /// Whether a descriptor does not work any more: somebody closed it.
    pub(super) fn any_broken(&self) -> bool {
        self.fds.iter().take(self.len).skip(1).any(|fd| fd.revents & (libc::POLLERR | libc::POLLNVAL) != 0)
    }

    fn is_ready(&self, index: usize, serial: u64) -> bool {
        let mut entries = self.fds.iter().zip(&self.keys).take(self.len).skip(1);
        entries.any(|(fd, key)| fd.revents != 0 && *key == (index, serial))
    }
}

/// A counter that can be polled, to wake the monitor.
#[derive(Debug)]
pub(crate) struct EventFd(OwnedFd);

/// Stop for good. Nobody adds so much by waking.
pub(super) const STOP: u64 = 1 << 62;

impl EventFd {
    pub(crate) fn open() -> Result<Self, Refusal> {
        // SAFETY: takes no pointer.
        let fd: c_int = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(match errno() {
                libc::EMFILE | libc::ENFILE => Refusal::Descriptors,
                errno => Refusal::Errno(errno),
            });
        }
        // SAFETY: new, and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Adds to the counter.
    pub(crate) fn add(&self, n: u64) {
        // SAFETY: eight bytes from a word.
        let _ = unsafe { libc::write(self.raw(), (&raw const n).cast(), size_of::<u64>()) };
    }

    /// Takes what is there, only the flag [`STOP`] of it.
    pub(crate) fn take(fd: RawFd) -> u64 {
        let mut n = 0_u64;
        // SAFETY: eight bytes into a word.
        let _ = unsafe { libc::read(fd, (&raw mut n).cast(), size_of::<u64>()) };
        n & STOP
    }
}
