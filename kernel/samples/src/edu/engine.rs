//! The one engine of the device: whose turn it is, and what is in flight.

use super::DmaTable;
use crate::ffi::{self, count};
use crate::job::Table;
use crate::uapi::counter;
use core::fmt;
use core::ptr;
use core::time::Duration;
use userptr::platform::{LockClass, RawWait, SpinLock};
use userptr::{Error, RefCounted};
use userptr_kernel::{KWait, Kernel, now_ns, pause};

/// How long a job waits for its turn, or for one transfer. Far more than either takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// The one engine.
pub(super) struct Hardware {
    state: SpinLock<Kernel, State>,
    /// Somebody waits for a turn.
    turn: KWait,
}

/// # Invariants
/// Only who has the turn begins a transfer or touches the staging page. `flying` is the table whose
/// pages a transfer in flight may touch, or null; it is compared, never followed. It is set where
/// the transfer is begun, in the same critical section, and cleared by whoever sees that the device
/// has ended it.
struct State {
    taken: bool,
    flying: *const DmaTable,
}

// SAFETY: the pointer is only compared.
unsafe impl Send for State {}

// SAFETY: initialises lock and wait; nothing points here but references.
unsafe impl RefCounted<Kernel> for Hardware {
    unsafe fn init(&self) {
        // SAFETY: once, at the final address (caller).
        unsafe {
            self.state.init();
            self.turn.init();
        }
    }
}

impl fmt::Debug for Hardware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hardware")
    }
}

/// Whether a point in time has come.
fn clock(timeout: Option<Duration>) -> impl Fn() -> bool {
    let ns = timeout.and_then(|t| u64::try_from(t.as_nanos()).ok());
    let until = ns.map(|ns| now_ns().saturating_add(ns));
    move || until.is_some_and(|until| now_ns() >= until)
}

impl Hardware {
    /// Not initialised.
    pub(super) fn uninit() -> Self {
        let class = LockClass { name: "userptr_edu", rank: 60 };
        let state = State { taken: false, flying: ptr::null() };
        Self { state: SpinLock::<Kernel, _>::uninit(class, state), turn: KWait::uninit() }
    }

    /// Does something that jobs look at between transfers; those that wait for their turn look at
    /// once.
    pub(super) fn tell(&self, what: impl FnOnce()) {
        self.with(|_| what());
        // SAFETY: initialised, alive by the caller's reference.
        unsafe { self.turn.wake_all() };
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        // SAFETY: initialised; nothing in this file calls it from inside itself, and the closures
        // only touch registers and words.
        unsafe { self.state.with(f) }
    }

    /// Takes the engine for one piece, unless the table is stopped first.
    pub(super) fn turn(&self, table: &DmaTable, deaf: bool) -> Result<Turn<'_>, Error> {
        let mut got = Err(Error::TimedOut);
        let mut mine = || {
            self.with(|state| {
                if table.is_stopped() && !deaf {
                    got = Err(Error::Again);
                } else if !state.taken {
                    state.taken = true;
                    got = Ok(());
                }
            });
            got != Err(Error::TimedOut)
        };
        // SAFETY: initialised; a worker may sleep.
        unsafe { self.turn.wait_until(Some(PATIENCE), &mut mine) };
        got.map(|()| Turn(self))
    }

    /// Waits until no transfer touches the table's pages, looking at the device itself.
    pub(super) fn wait_landed(&self, table: &DmaTable, timeout: Option<Duration>) -> Result<(), Error> {
        let late = clock(timeout);
        loop {
            // In this order: when no deaf job is left, nobody begins another transfer.
            if !table.has_deaf() && self.landed(table)? {
                return Ok(());
            }
            if late() {
                return Err(Error::TimedOut);
            }
            pause();
        }
    }

    /// Whether no transfer touches the table's pages at this moment.
    fn landed(&self, table: *const DmaTable) -> Result<bool, Error> {
        self.with(|state| {
            if state.flying != table {
                return Ok(true);
            }
            // SAFETY: the device is there as long as the driver is.
            match unsafe { ffi::sample_edu_running() } {
                0 => {
                    state.flying = ptr::null();
                    Ok(true)
                }
                1 => Ok(false),
                _ => Err(Error::DeviceLost),
            }
        })
    }
}

/// The engine, for one piece.
pub(super) struct Turn<'a>(&'a Hardware);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.with(|state| state.taken = false);
        // SAFETY: initialised, alive by the table's reference.
        unsafe { self.0.turn.wake_all() };
    }
}

impl Turn<'_> {
    /// The kernel's page that goes with the turn, and where the device finds it.
    pub(super) fn staging(&self) -> (*mut u8, u64) {
        let mut address = 0;
        // SAFETY: one place to write to; the device is there.
        let at = unsafe { ffi::sample_edu_staging(&raw mut address) };
        (at, address)
    }

    /// Moves bytes between the device's buffer and the pages; not if the table was stopped before
    /// the transfer begins.
    pub(super) fn move_pages(
        &self,
        table: &DmaTable,
        at: usize,
        len: usize,
        to_pages: bool,
        deaf: bool,
    ) -> Result<(), Error> {
        let address = table.address(at).ok_or(Error::Fault)?;
        let go = || if table.is_stopped() && !deaf { Err(Error::Again) } else { Ok(()) };
        self.transfer(table, go, address, len, to_pages)?;
        count(counter::TRANSFERS, 1);
        self.wait()
    }

    /// Moves bytes between the device's buffer and the staging page.
    pub(super) fn move_staged(&self, len: usize, to_memory: bool) -> Result<(), Error> {
        let (_, address) = self.staging();
        self.transfer(ptr::null(), || Ok(()), address, len, to_memory)?;
        self.wait()
    }

    /// Begins a transfer, if `go` agrees. What it says holds when the transfer begins.
    fn transfer(
        &self,
        table: *const DmaTable,
        go: impl FnOnce() -> Result<(), Error>,
        address: u64,
        len: usize,
        to_memory: bool,
    ) -> Result<(), Error> {
        self.0.with(|state| {
            go()?;
            // SAFETY: the device is there. Only after somebody ran out of patience does it still
            // run here.
            match unsafe { ffi::sample_edu_running() } {
                0 => {}
                1 => return Err(Error::Busy),
                _ => return Err(Error::DeviceLost),
            }
            state.flying = table;
            // SAFETY: it is our turn; the address is mapped, and stays so while `flying` says that
            // it is used.
            unsafe { ffi::sample_edu_start(address, len, to_memory) };
            Ok(())
        })
    }

    /// Waits until the transfer in flight has ended.
    fn wait(&self) -> Result<(), Error> {
        let late = clock(Some(PATIENCE));
        loop {
            // SAFETY: the device is there.
            match unsafe { ffi::sample_edu_running() } {
                0 => return Ok(()),
                1 if late() => return Err(Error::TimedOut),
                1 => pause(),
                _ => return Err(Error::DeviceLost),
            }
        }
    }
}
