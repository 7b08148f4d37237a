//! Clients: a handle table each.

use crate::address_space::ForeignMemory;
use crate::context::Context;
use crate::device::{Device, PlatformOf};
use crate::error::Error;
use crate::pages::Buffer;
use crate::platform::{LockClass, Mutex};
use crate::refcount::{LastPut, Ref, RefCounted};
use crate::userptr::UserPtr;
use core::fmt;
use core::mem::ManuallyDrop;

/// A place in the table.
#[derive(Clone, Copy)]
enum Slot {
    /// An object; the pointer owns one handle of it ([`UserPtr::into_raw`]).
    Used(*const ()),
    /// Nothing; the handle of the next free place, or [`NONE`].
    Free(u32),
}

/// The end of the chain of free places.
const NONE: u32 = 0;

/// Returns the handle of a place. A table has fewer places than there are handles.
fn handle_at(place: usize) -> u32 {
    u32::try_from(place).ok().and_then(|at| at.checked_add(1)).unwrap_or(NONE)
}

/// One user of a device: a table of handles, for drivers with system calls. Counted, cheap to
/// clone.
///
/// Handles are small numbers from 1, and are reused after a close. Every call takes the same time
/// however many there are, but for the one in a doubling that moves the table.
///
/// ```
/// # use userptr::platforms::std::Std;
/// # use userptr_sim::{DmaDevice, Machine, PAGE};
/// # use userptr::Context;
/// # let machine = Machine::new();
/// # let process = machine.process();
/// # let context = Context::builder(DmaDevice::<Std>::new(&machine)).spawn()?;
/// # let _inside = machine.enter(&process);
/// # let buffer = process.map(PAGE);
/// use userptr::{Client, Error};
///
/// let client = Client::open(context.clone())?;
/// let handle = client.create(&process.space(), buffer.start(), PAGE, 0)?;
/// assert_eq!(client.lookup(handle)?.range(), buffer);
/// client.close(handle)?;
/// assert_eq!(client.close(handle), Err(Error::NoEntry));
/// # Ok::<(), userptr::Error>(())
/// ```
pub struct Client<D: Device> {
    shared: Ref<Shared<D>, PlatformOf<D>>,
}

/// # Invariants
/// A pointer in the table owns one handle of its object.
struct Shared<D: Device> {
    context: Context<D>,
    table: Mutex<PlatformOf<D>, Table<D>>,
}

/// # Invariants
/// `free` begins a chain of all free places, without a cycle, that ends with [`NONE`].
struct Table<D: Device> {
    slots: Buffer<Slot, PlatformOf<D>>,
    free: u32,
}

// SAFETY: the pointers are counted handles in another form, and those are `Send`.
unsafe impl<D: Device> Send for Table<D> {}

// SAFETY: `init` initialises the mutex.
unsafe impl<D: Device> RefCounted<PlatformOf<D>> for Shared<D> {
    unsafe fn init(&self) {
        // SAFETY: called once, at the final address (caller).
        unsafe { self.table.init() }
    }

    /// Closes every handle. Not in `Drop`, which also runs for a client that found no memory and
    /// was never initialised: its mutex may not be taken.
    unsafe fn last_put(&self) -> LastPut {
        let mut handle = 1_u32;
        while self.with(|table| table.slot(handle).is_some()) {
            let _ = self.close(handle);
            handle = handle.saturating_add(1);
        }
        LastPut::Drop
    }
}

/// The first table's size, in handles.
const FIRST: usize = 16;

impl<D: Device> Client<D> {
    /// Opens a client of a device.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn open(context: Context<D>) -> Result<Self, Error> {
        let table = Mutex::<PlatformOf<D>, _>::uninit(
            LockClass::HANDLES,
            Table { slots: Buffer::with_capacity(0)?, free: NONE },
        );
        match Ref::try_new(Shared { context, table }) {
            Ok(shared) => Ok(Self { shared }),
            Err(rejected) => Err(rejected.error),
        }
    }

    /// Returns the device's context.
    #[must_use]
    pub fn context(&self) -> &Context<D> {
        &self.shared.context
    }

    /// Registers a range and gives it a handle. See [`Context::register_raw`] for the checks.
    ///
    /// # Errors
    /// Those of [`Context::register_raw`], then [`Error::NoMemory`] or [`Error::Slots`] for the
    /// handle; nothing is left behind.
    pub fn create(&self, space: &D::Space, address: usize, size: usize, flags: u32) -> Result<u32, Error>
    where
        D::Space: ForeignMemory,
    {
        self.insert(self.shared.context.register_raw(space, address, size, flags)?)
    }

    /// Gives an object a handle of this client.
    ///
    /// # Errors
    /// [`Error::NoMemory`], [`Error::Slots`]; the object's handle is dropped.
    pub fn insert(&self, object: UserPtr<D>) -> Result<u32, Error> {
        let mut object = Some(object);
        loop {
            let size = match self.shared.with(|table| table.place(&mut object)) {
                Ok(handle) => return Ok(handle),
                Err(size) => size,
            };
            // Full. The larger table is allocated with no lock held, then swapped in if nobody else
            // was faster.
            let size = size.checked_mul(2).ok_or(Error::Slots)?.max(FIRST);
            if u32::try_from(size).is_err() {
                return Err(Error::Slots);
            }
            let mut larger = Buffer::with_capacity(size)?;
            self.shared.with(|table| table.grow(&mut larger));
            drop(larger);
        }
    }

    /// Returns the object of a handle.
    ///
    /// # Errors
    /// [`Error::NoEntry`].
    pub fn lookup(&self, handle: u32) -> Result<UserPtr<D>, Error> {
        self.shared
            .with(|table| {
                let Slot::Used(raw) = *table.slot(handle)? else { return None };
                // SAFETY: the table owns a handle, so the object lives; the borrowed handle is not
                // dropped.
                let borrowed = ManuallyDrop::new(unsafe { UserPtr::<D>::from_raw(raw) });
                Some(UserPtr::clone(&borrowed))
            })
            .ok_or(Error::NoEntry)
    }

    /// Closes a handle. If it was the last one of its object, the pages are released in here.
    ///
    /// # Errors
    /// [`Error::NoEntry`].
    pub fn close(&self, handle: u32) -> Result<(), Error> {
        self.shared.close(handle)
    }

    /// Returns the number of handles in use. A snapshot.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.with(|table| table.slots.iter().filter(|slot| matches!(slot, Slot::Used(_))).count())
    }

    /// Returns whether no handle is in use. A snapshot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns a pointer that owns this client, for a foreign structure (`file->private_data`).
    /// Pair with [`from_raw`](Self::from_raw).
    #[must_use = "the client goes with the pointer"]
    pub fn into_raw(self) -> *const () {
        Ref::into_raw(self.shared).cast()
    }

    /// Returns the client again.
    ///
    /// # Safety
    /// `raw` came from [`into_raw`](Self::into_raw) of the same type, once for each call.
    #[must_use]
    pub unsafe fn from_raw(raw: *const ()) -> Self {
        // SAFETY: it came from `Ref::into_raw` and owns a count (caller).
        Self { shared: unsafe { Ref::from_raw(raw.cast()) } }
    }
}

impl<D: Device> Shared<D> {
    fn with<R>(&self, f: impl FnOnce(&mut Table<D>) -> R) -> R {
        // SAFETY: initialised by `Ref::try_new`. No section allocates, drops an object or enters
        // another.
        unsafe { self.table.with(f) }
    }

    fn close(&self, handle: u32) -> Result<(), Error> {
        let raw = self.with(|table| table.take(handle)).ok_or(Error::NoEntry)?;
        // SAFETY: the table's handle is ours now. Dropped with no lock held.
        drop(unsafe { UserPtr::<D>::from_raw(raw) });
        Ok(())
    }
}

impl<D: Device> Clone for Client<D> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<D: Device> Table<D> {
    fn slot(&mut self, handle: u32) -> Option<&mut Slot> {
        let at = usize::try_from(handle).ok()?.checked_sub(1)?;
        self.slots.get_mut(at)
    }

    /// Puts the object into the free place that was left last. Returns the size of the table if
    /// there is none.
    fn place(&mut self, object: &mut Option<UserPtr<D>>) -> Result<u32, usize> {
        let (size, handle) = (self.slots.len(), self.free);
        let slot = self.slot(handle).ok_or(size)?;
        let Slot::Free(next) = *slot else { return Err(size) };
        *slot = Slot::Used(object.take().ok_or(size)?.into_raw());
        self.free = next;
        Ok(handle)
    }

    /// Takes the object out of its place.
    fn take(&mut self, handle: u32) -> Option<*const ()> {
        let next = self.free;
        let slot = self.slot(handle)?;
        let Slot::Used(object) = *slot else { return None };
        *slot = Slot::Free(next);
        self.free = handle;
        Some(object)
    }

    /// Moves into `larger`, filled up with free places, unless it is not larger. Called for a table
    /// that is full, or was a moment ago.
    fn grow(&mut self, larger: &mut Buffer<Slot, PlatformOf<D>>) {
        if larger.capacity() <= self.slots.len() {
            return;
        }
        for slot in self.slots.iter() {
            let _ = larger.push(*slot);
        }
        // The new places, lowest first, in front of those that were freed meanwhile.
        let first = handle_at(larger.len());
        while larger.len() < larger.capacity() {
            let after = larger.len().saturating_add(1);
            let next = if after < larger.capacity() { handle_at(after) } else { self.free };
            let _ = larger.push(Slot::Free(next));
        }
        self.free = first;
        core::mem::swap(&mut self.slots, larger);
    }
}

impl<D: Device> fmt::Debug for Client<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({} handles)", self.len())
    }
}
