//! Clients: creation with the reference's checks in the reference's order, and a handle table each.

use crate::address_space::AddressSpace;
use crate::context::Context;
use crate::device::{Device, Host};
use crate::error::Error;
use crate::flags::Flags;
use crate::mm::MmRegistry;
use crate::pages::Buffer;
use crate::platform::{LockClass, Mutex};
use crate::range::AddrRange;
use crate::refcount::{Fate, Object, Ref};
use crate::userptr::{UserPtr, UserPtrRef};
use core::fmt;

impl<D: Device> Context<D> {
    /// Creates an object over `size` bytes at `address` of `space`, checked as the reference checks, in its order. Pins nothing.
    ///
    /// # Errors
    /// In this order, and nothing is left behind:
    /// 1. [`Error::NoDevice`]: the device is not coherent.
    /// 2. [`Error::Invalid`]: an unknown flag.
    /// 3. [`Error::TooBig`]: more pages than the device takes.
    /// 4. [`Error::Invalid`]: a size of zero; an address or size that is not a multiple of the page size.
    /// 5. [`Error::Fault`]: a range that wraps or cannot be user memory.
    /// 6. [`Error::NoDevice`]: read-only, and the device cannot be told so.
    /// 7. [`Error::NoMemory`].
    /// 8. [`Error::Permission`]: unsynchronised without the privilege.
    /// 9. [`Error::NoDevice`]: synchronised, and the host cannot notify; or what the registration gives.
    ///
    /// Source: `i915_gem_userptr_ioctl`.
    ///
    /// ```
    /// # use userptr::platforms::std::{Std, Workers};
    /// # use userptr_sim::{DmaDevice, Machine, PAGE, Space};
    /// # use userptr::{Context, Limits, Queues};
    /// # let machine = Machine::new();
    /// # let process = machine.process();
    /// # let (frees, pins) = (Workers::<Std>::start("frees", 1)?, Workers::<Std>::start("pins", 1)?);
    /// # let queues = Queues { pins: pins.queue().clone(), cancels: None, frees: frees.queue().clone() };
    /// # let context = Context::try_new(DmaDevice::<Std>::new(&machine, Limits::default()), queues).map_err(|(_, e)| e)?;
    /// # let _inside = machine.enter(&process);
    /// # let address = process.mmap(PAGE);
    /// # process.touch(address, PAGE, 7)?;
    /// # let space = Space::of(&process);
    /// use userptr::{Error, Flags};
    ///
    /// let object = Context::create(&context, &space, address, PAGE, Flags::READ_ONLY.bits())?;
    /// assert_eq!(object.pages(), 1);
    /// let refused = |address, size, flags| Context::create(&context, &space, address, size, flags).unwrap_err();
    /// assert_eq!(refused(address + 1, PAGE, 0), Error::Invalid);
    /// assert_eq!(refused(address, PAGE, Flags::UNSYNCHRONIZED.bits()), Error::Permission);
    /// # Ok::<(), userptr::Error>(())
    /// ```
    pub fn create(
        this: &Ref<Self, Host<D>>,
        space: &D::Space,
        address: usize,
        size: usize,
        flags: u32,
    ) -> Result<UserPtrRef<D>, Error> {
        let limits = this.limits();
        if !limits.coherent {
            return Err(Error::NoDevice);
        }
        let flags = Flags::from_bits(flags)?;
        let shift = space.page_shift();
        if size.checked_shr(shift).unwrap_or(0) > limits.pages {
            return Err(Error::TooBig);
        }
        let offset = !usize::MAX.checked_shl(shift).unwrap_or(0);
        if size == 0 || (address | size) & offset != 0 {
            return Err(Error::Invalid);
        }
        let range = AddrRange::new(address, size)?;
        let read_only = flags.contains(Flags::READ_ONLY);
        if !space.access_ok(range, !read_only) {
            return Err(Error::Fault);
        }
        if read_only && !limits.read_only {
            return Err(Error::NoDevice);
        }
        let record = MmRegistry::find(this.registry(), space)?;
        if flags.contains(Flags::UNSYNCHRONIZED) {
            if !space.privileged() {
                return Err(Error::Permission);
            }
        } else {
            record.notifier()?;
        }
        Ref::try_new(UserPtr::new(this.clone(), record, range, flags)).map_err(|(_, e)| e)
    }

    /// Whether every page of a range is memory that can be pinned: an early check for callers who want the error at creation.
    /// It acquires and gives the lease back, so the pages stay pinned as after any acquire, until they are invalidated or
    /// [put](UserPtr::put_pages).
    ///
    /// # Errors
    /// [`Error::Fault`] if the first, the last or any page between is not; those of the pin.
    ///
    /// Source: `I915_USERPTR_PROBE`.
    pub fn probe(object: &UserPtrRef<D>) -> Result<(), Error> {
        let lease = UserPtr::acquire(object)?;
        drop(lease);
        Ok(())
    }
}

/// A place in the table.
enum Slot<D: Device> {
    /// An object; the pointer owns one count of it.
    Used(*const UserPtr<D>),
    /// Nothing; the handle of the next free place, or [`NONE`].
    Free(u32),
}

// By hand: a derive would ask the device to be copied.
impl<D: Device> Clone for Slot<D> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<D: Device> Copy for Slot<D> {}

/// No handle.
const NONE: u32 = 0;

/// The handle of a place. A table has fewer places than there are handles.
fn handle_at(place: usize) -> u32 {
    u32::try_from(place).ok().and_then(|at| at.checked_add(1)).unwrap_or(NONE)
}

/// One user of a device: a table of handles. Handles are small numbers from 1, and are reused after a close. Every call takes the
/// same time however many there are, but for the one in a doubling that moves the table.
///
/// # Invariants
/// A pointer in the table owns one count of its object.
///
/// ```
/// # use userptr::platforms::std::{Std, Workers};
/// # use userptr_sim::{DmaDevice, Machine, PAGE, Space};
/// # use userptr::{Context, Limits, Queues};
/// # let machine = Machine::new();
/// # let process = machine.process();
/// # let (frees, pins) = (Workers::<Std>::start("frees", 1)?, Workers::<Std>::start("pins", 1)?);
/// # let queues = Queues { pins: pins.queue().clone(), cancels: None, frees: frees.queue().clone() };
/// # let context = Context::try_new(DmaDevice::<Std>::new(&machine, Limits::default()), queues).map_err(|(_, e)| e)?;
/// # let _inside = machine.enter(&process);
/// # let address = process.mmap(PAGE);
/// # process.touch(address, PAGE, 7)?;
/// # let space = Space::of(&process);
/// use userptr::{Client, Error};
///
/// let client = Client::open(context.clone())?;
/// let handle = client.create(&space, address, PAGE, 0)?;
/// assert_eq!(client.lookup(handle)?.range().start(), address);
/// client.close(handle)?;
/// assert_eq!(client.close(handle), Err(Error::NoEntry));
/// # Ok::<(), userptr::Error>(())
/// ```
pub struct Client<D: Device> {
    context: Ref<Context<D>, Host<D>>,
    table: Mutex<Host<D>, Table<D>>,
}

/// # Invariants
/// `free` begins a chain of all free places, without a cycle, that ends with [`NONE`].
struct Table<D: Device> {
    slots: Buffer<Slot<D>, Host<D>>,
    free: u32,
}

// SAFETY: the pointers are counted references in another form.
unsafe impl<D: Device> Send for Table<D> {}

// SAFETY: `settle` settles the mutex.
unsafe impl<D: Device> Object<Host<D>> for Client<D> {
    unsafe fn settle(&self) {
        // SAFETY: the caller's promise, handed on.
        unsafe { self.table.settle() }
    }

    /// Gives every handle back. Not in `Drop`, which also runs for a client that found no memory and was never settled: its
    /// mutex may not be taken.
    fn last_put(&self) -> Fate {
        let mut handle = 1_u32;
        while self.with(|table| table.slot(handle).is_some()) {
            let _ = self.close(handle);
            handle = handle.saturating_add(1);
        }
        Fate::Free
    }
}

/// The first table's size, in handles.
const FIRST: usize = 16;

impl<D: Device> Client<D> {
    /// A client of a device.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn open(context: Ref<Context<D>, Host<D>>) -> Result<Ref<Self, Host<D>>, Error> {
        let table = Mutex::<Host<D>, _>::blank(
            LockClass::HANDLES,
            Table { slots: Buffer::with_capacity(0)?, free: NONE },
        );
        Ref::try_new(Self { context, table }).map_err(|(_, e)| e)
    }

    /// The device's context.
    pub fn context(&self) -> &Ref<Context<D>, Host<D>> {
        &self.context
    }

    /// Creates an object and gives it a handle. See [`Context::create`] for the checks.
    ///
    /// # Errors
    /// Those of [`Context::create`], then [`Error::NoMemory`] or [`Error::Limit`] for the handle; nothing is left behind.
    pub fn create(&self, space: &D::Space, address: usize, size: usize, flags: u32) -> Result<u32, Error> {
        self.insert(Context::create(&self.context, space, address, size, flags)?)
    }

    /// Gives an object a handle of this client.
    ///
    /// # Errors
    /// [`Error::NoMemory`], [`Error::Limit`]; the reference is dropped.
    pub fn insert(&self, object: UserPtrRef<D>) -> Result<u32, Error> {
        let mut object = Some(object);
        loop {
            let size = match self.with(|table| table.place(&mut object)) {
                Ok(handle) => return Ok(handle),
                Err(size) => size,
            };
            // Full. The larger table is allocated with no lock held, then swapped in if nobody else was faster.
            let size = size.checked_mul(2).ok_or(Error::Limit)?.max(FIRST);
            if u32::try_from(size).is_err() {
                return Err(Error::Limit);
            }
            let mut larger = Buffer::with_capacity(size)?;
            self.with(|table| table.grow(&mut larger));
            drop(larger);
        }
    }

    /// The object of a handle.
    ///
    /// # Errors
    /// [`Error::NoEntry`].
    pub fn lookup(&self, handle: u32) -> Result<UserPtrRef<D>, Error> {
        self.with(|table| {
            let Slot::Used(slot) = *table.slot(handle)? else { return None };
            // SAFETY: the table owns a count, so the object lives; the borrowed reference is not dropped.
            let borrowed = core::mem::ManuallyDrop::new(unsafe { Ref::from_raw(slot) });
            Some(UserPtrRef::<D>::clone(&borrowed))
        })
        .ok_or(Error::NoEntry)
    }

    /// Gives a handle back. If it was the last reference, the pages are released in here.
    ///
    /// # Errors
    /// [`Error::NoEntry`].
    pub fn close(&self, handle: u32) -> Result<(), Error> {
        let slot = self.with(|table| table.take(handle)).ok_or(Error::NoEntry)?;
        // SAFETY: the table's count is ours now. Dropped with no lock held.
        drop(unsafe { UserPtrRef::<D>::from_raw(slot) });
        Ok(())
    }

    /// The number of handles in use. A snapshot.
    pub fn len(&self) -> usize {
        self.with(|table| table.slots.iter().filter(|slot| matches!(slot, Slot::Used(_))).count())
    }

    /// Whether no handle is in use. A snapshot.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with<R>(&self, f: impl FnOnce(&mut Table<D>) -> R) -> R {
        // SAFETY: settled by `Ref::try_new`. No section allocates, drops an object or enters another.
        unsafe { self.table.with(f) }
    }
}

impl<D: Device> Table<D> {
    fn slot(&mut self, handle: u32) -> Option<&mut Slot<D>> {
        let at = usize::try_from(handle).ok()?.checked_sub(1)?;
        self.slots.get_mut(at)
    }

    /// Puts the object into a free place, the one that was left last, or says how large the table is.
    fn place(&mut self, object: &mut Option<UserPtrRef<D>>) -> Result<u32, usize> {
        let (size, handle) = (self.slots.len(), self.free);
        let slot = self.slot(handle).ok_or(size)?;
        let Slot::Free(next) = *slot else { return Err(size) };
        *slot = Slot::Used(Ref::into_raw(object.take().ok_or(size)?));
        self.free = next;
        Ok(handle)
    }

    /// Takes the object out of its place.
    fn take(&mut self, handle: u32) -> Option<*const UserPtr<D>> {
        let next = self.free;
        let slot = self.slot(handle)?;
        let Slot::Used(object) = *slot else { return None };
        *slot = Slot::Free(next);
        self.free = handle;
        Some(object)
    }

    /// Moves into the larger table, filled up with free places, unless it is none. Called for a table that is full, or was a
    /// moment ago.
    fn grow(&mut self, larger: &mut Buffer<Slot<D>, Host<D>>) {
        if larger.capacity() <= self.slots.len() {
            return;
        }
        for slot in self.slots.iter() {
            let _ = larger.push(*slot);
        }
        // The new places, lowest first, in front of those that others left meanwhile.
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
