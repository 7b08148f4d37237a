#![doc = include_str!("../README.md")]
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "std")]
extern crate std;

mod change;
mod owner;
mod region;
mod state;

pub use change::Change;
pub use region::{OutOfRange, Region};
pub use state::{Bracketed, MAX_NOTIFIERS};

use core::fmt;
use core::time::Duration;
use owner::Owner;
use state::{Place, State};
use userptr::address_space::{Pages, Users};
use userptr::platform::{LockClass, SpinLock, WaitQueue};
use userptr::{AddrRange, AddressSpace, Current, Error, Notifier, Platform, Ref, RefCounted, Usage};

/// Before the notifiers' own lock, which a registration takes under it.
const LOCK: LockClass = LockClass { name: "userptr_explicit", rank: 25 };
/// How long a registration waits for a place: that of a record is given back by a work item.
const VACANCY: Duration = Duration::from_secs(1);

/// An address space whose owner brackets his own changes ([`change`](Self::change)).
///
/// A value is a reference to the record; [`grab`](AddressSpace::grab) and `clone` make another one.
///
/// ```
/// use userptr::{AddrRange, Outcome, platforms::std::Std};
/// use userptr_explicit::Explicit;
///
/// let space = Explicit::<Std>::new(4096)?;
/// let range = AddrRange::new(0x10_0000, 0x1000)?;
/// let change = space.change(range)?; // devices idle, pages released
/// assert_eq!(change.outcome(), Outcome::Idle);
/// // ... `madvise`, `mmap`, `munmap`, or a message to the process that does it ...
/// drop(change); // leases can be had again
/// # Ok::<(), userptr::Error>(())
/// ```
pub struct Explicit<P: Platform> {
    space: Ref<Space<P>, P>,
}

pub(crate) struct Space<P: Platform> {
    state: SpinLock<P, State<P>>,
    /// Registrations wait here for a place, and the end of one for the calls in progress.
    moved: WaitQueue<P::Wait>,
    owner: Owner,
    shift: u32,
}

// SAFETY: `init` initialises the lock and the queue. Nothing points to a space but counted
// references.
unsafe impl<P: Platform> RefCounted<P> for Space<P> {
    unsafe fn init(&self) {
        // SAFETY: called once, at the final address (caller).
        unsafe {
            self.state.init();
            self.moved.init();
        }
    }
}

impl<P: Platform> Space<P> {
    fn with<R>(&self, f: impl FnOnce(&mut State<P>) -> R) -> R {
        // SAFETY: initialised by `Ref::try_new`. No section enters another, sleeps, allocates or
        // calls a driver.
        unsafe { self.state.with(f) }
    }

    fn wake(&self) {
        // SAFETY: initialised; the caller's borrow keeps it in place.
        unsafe { self.moved.wake_all() };
    }

    fn wait_for(&self, timeout: Option<Duration>, mut condition: impl FnMut(&mut State<P>) -> bool) -> bool {
        // SAFETY: initialised, and no spinlock is held.
        unsafe { self.moved.wait_until(timeout, || self.with(&mut condition)) }
    }
}

/// What an address space has open, for reports and quiescence checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExplicitStats {
    /// Changes that have begun and not ended.
    pub open: usize,
    /// Changes that have ended.
    pub ended: u64,
    /// Whether no device is registered.
    pub unregistered: bool,
}

impl<P: Platform> Explicit<P> {
    /// Makes an address space whose pages have `page` bytes.
    ///
    /// # Errors
    /// [`Error::Invalid`] if that is not a power of two, [`Error::NoMemory`].
    pub fn new(page: usize) -> Result<Self, Error> {
        if !page.is_power_of_two() {
            return Err(Error::Invalid);
        }
        let state = SpinLock::<P, _>::uninit(LOCK, State::new());
        let owner = Owner::mark()?;
        let space = Space { state, moved: WaitQueue::uninit(), owner, shift: page.trailing_zeros() };
        Ok(Self { space: Ref::try_new(space)? })
    }

    /// Returns what is open at this moment.
    #[must_use]
    pub fn stats(&self) -> ExplicitStats {
        self.space.with(|state| ExplicitStats {
            open: state.open_changes(),
            ended: state.ended(),
            unregistered: state.is_empty(),
        })
    }

    /// Returns whether every byte of `range` lies in a change that is open now, or that ended after
    /// `ended` of [`stats`](Self::stats) was read: for a checker that learns of changes from
    /// elsewhere and looks for forgotten brackets.
    #[must_use]
    pub fn was_bracketed(&self, range: AddrRange, ended: u64) -> Bracketed {
        self.space.with(|state| state.was_bracketed(range, ended))
    }

    /// Returns whether the calling thread belongs to the process that made the address space.
    #[inline]
    fn is_mine(&self) -> bool {
        self.space.owner.is_me()
    }

    fn list(&self, range: AddrRange, out: &mut Pages<Self>) -> Result<(), Error> {
        let page = |address: usize| address.checked_shr(self.space.shift).ok_or(Error::Invalid);
        // What is in `out` already was listed by an earlier call.
        let first = page(range.start())?.saturating_add(out.len());
        for number in first..=page(range.last())? {
            out.push(number).map_err(|_| Error::TooBig)?;
        }
        Ok(())
    }
}

impl<P: Platform> Clone for Explicit<P> {
    fn clone(&self) -> Self {
        Self { space: self.space.clone() }
    }
}

impl<P: Platform> fmt::Debug for Explicit<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Explicit({:?})", self.stats())
    }
}

/// The registration of a device's notifier.
#[derive(Debug)]
pub struct Registration(Place);

/// A reference to the users. The program that owns the memory is running, so there always are some.
#[derive(Debug)]
pub struct ExplicitUsers<'a, P: Platform>(&'a Explicit<P>);

impl<P: Platform> AddressSpace for Explicit<P> {
    type Platform = P;
    /// The number of a page of *virtual* memory. What pins is the device, which hands the addresses
    /// to the kernel.
    type Page = usize;
    type Users<'a> = ExplicitUsers<'a, P>;
    type Registration = Registration;
    type Memory = Region<P>;

    fn id(&self) -> usize {
        Ref::as_ptr(&self.space).addr()
    }

    fn grab(&self) -> Self {
        self.clone()
    }

    fn users(&self) -> Option<ExplicitUsers<'_, P>> {
        self.is_mine().then_some(ExplicitUsers(self))
    }

    fn current(&self) -> Current {
        if self.is_mine() { Current::This } else { Current::Other }
    }

    fn page_shift(&self) -> u32 {
        self.space.shift
    }

    fn access_ok(&self, range: AddrRange, _write: bool) -> bool {
        // The upper half is the kernel's.
        range.last() <= isize::MAX.unsigned_abs()
    }

    /// Nobody: an unsynchronised object gains nothing here.
    fn privileged(&self) -> bool {
        false
    }

    fn register(&self, notifier: Ref<Notifier<P>, P>) -> Result<Registration, Error> {
        if !self.is_mine() {
            return Err(Error::OtherSpace);
        }
        let mut place = None;
        self.space.wait_for(Some(VACANCY), |state| {
            place = state.join(&notifier);
            place.is_some()
        });
        place.map(Registration).ok_or(Error::Limit)
    }

    unsafe fn unregister(&self, registration: Registration) {
        if !self.is_mine() {
            // The lock may have been taken in the parent at the fork, and no change comes here.
            return;
        }
        let mut gone = None;
        self.space.wait_for(None, |state| {
            gone = state.leave(registration.0);
            gone.is_some()
        });
        self.space.wake();
        // The last reference may free: not under the lock.
        drop(gone);
    }

    fn pin_fast(&self, range: AddrRange, _write: bool, out: &mut Pages<Self>) -> Result<(), Error> {
        self.list(range, out)
    }

    unsafe fn unpin(&self, _pages: &[usize], _usage: Usage) {
        // The device's own registration was the pin, and `Device::unmap` took it away.
    }

    fn frame(&self, page: usize) -> usize {
        page
    }
}

impl<P: Platform> Users for ExplicitUsers<'_, P> {
    type Space = Explicit<P>;

    fn pin(&self, range: AddrRange, _write: bool, out: &mut Pages<Explicit<P>>) -> Result<(), Error> {
        self.0.list(range, out)
    }
}
