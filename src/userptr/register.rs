//! Registration, with the reference's checks in the reference's order.

use super::object::UserPtr;
use crate::address_space::{AddressSpace, ForeignMemory, OwnedMemory};
use crate::context::Context;
use crate::device::Device;
use crate::error::{Error, Rejected};
use crate::flags::Flags;
use crate::mm::{MmRef, MmRegistry};
use crate::range::AddrRange;

impl<D: Device> Context<D> {
    /// Registers a range of `space` for the device. Pins nothing: the first
    /// [`acquire`](UserPtr::acquire) does.
    ///
    /// Safe for memory that is foreign to this program ([`ForeignMemory`]): a kernel's user memory,
    /// a simulated machine's. For memory of the program's own see
    /// [`register_unchecked`](Self::register_unchecked), and the safe owners of the package of that
    /// address space.
    ///
    /// # Errors
    /// In this order, and nothing is left behind:
    /// 1. [`Error::TooBig`]: more pages than the device takes.
    /// 2. [`Error::Unaligned`]: an address or size that is not a multiple of the page size.
    /// 3. [`Error::Fault`]: a range that cannot be user memory.
    /// 4. [`Error::NotReadOnly`]: read-only, and the device cannot be told so.
    /// 5. [`Error::NoMemory`].
    /// 6. [`Error::Permission`]: unsynchronised without the privilege.
    /// 7. [`Error::NoNotifications`]: synchronised, and the address space cannot notify; or what
    ///    the registration gives.
    ///
    /// Source: `i915_gem_userptr_ioctl`.
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
    /// use userptr::{AddrRange, Error, Flags};
    ///
    /// let object = context.register(&process.space(), buffer, Flags::NONE)?;
    /// assert_eq!(object.page_count(), 1);
    /// let odd = AddrRange::new(buffer.start() + 1, PAGE)?;
    /// let refused = context.register(&process.space(), odd, Flags::NONE);
    /// assert_eq!(refused.unwrap_err(), Error::Unaligned);
    /// # Ok::<(), userptr::Error>(())
    /// ```
    pub fn register(&self, space: &D::Space, range: AddrRange, flags: Flags) -> Result<UserPtr<D>, Error>
    where
        D::Space: ForeignMemory,
    {
        // SAFETY: no reference of this program points into foreign memory.
        unsafe { self.register_unchecked(space, range, flags) }
    }

    /// Registers memory of this program's own that the object owns from now on: it is dropped with
    /// the last handle, after the device is off its pages. Its bytes are reached through
    /// [`UserPtr::memory`].
    ///
    /// # Errors
    /// As [`register`](Self::register), with the memory.
    pub fn register_memory(
        &self,
        space: &D::Space,
        memory: <D::Space as AddressSpace>::Memory,
        flags: Flags,
    ) -> Result<UserPtr<D>, Rejected<<D::Space as AddressSpace>::Memory>> {
        let range = memory.range();
        let record = match self.checked(space, range, flags) {
            Ok(record) => record,
            Err(error) => return Err(Rejected { value: memory, error }),
        };
        UserPtr::try_new_owning(self.clone(), record, range, flags, memory)
    }

    /// As [`register`](Self::register), with the numbers as a caller of a system call gave them:
    /// also refuses, in the reference's order, an unknown flag ([`Error::UnknownFlag`]), a size of
    /// zero ([`Error::Empty`]) and a range that wraps ([`Error::Fault`]).
    ///
    /// # Errors
    /// As above.
    pub fn register_raw(
        &self,
        space: &D::Space,
        address: usize,
        size: usize,
        flags: u32,
    ) -> Result<UserPtr<D>, Error>
    where
        D::Space: ForeignMemory,
    {
        let flags = Flags::from_bits(flags)?;
        // The reference counts the pages before it looks at the alignment.
        if size.checked_shr(space.page_shift()).unwrap_or(0) > self.limits().max_pages {
            return Err(Error::TooBig);
        }
        if size != 0 && !is_aligned(address | size, space.page_shift()) {
            return Err(Error::Unaligned);
        }
        self.register(space, AddrRange::new(address, size)?, flags)
    }

    /// As [`register`](Self::register), for any address space: also one whose memory is this
    /// program's own.
    ///
    /// # Errors
    /// As [`register`](Self::register).
    ///
    /// # Safety
    /// From this call until the last handle and lease of the object is gone, the device may read
    /// the bytes of the range, and without [`Flags::READ_ONLY`] write them, whenever a lease
    /// exists. So, as long as the range is mapped:
    /// * nothing in this program may hold a reference (`&T`, `&mut T`) to those bytes while a lease
    ///   exists, unless all of it is `UnsafeCell` or atomic, or the device only reads and it is a
    ///   shared reference;
    /// * the bytes must have no owner that relies on their value: no allocator's free list, no
    ///   `Vec<String>`, no stack.
    ///
    /// When the range is unmapped, remapped or discarded the duty ends by itself: that is what this
    /// crate is for.
    pub unsafe fn register_unchecked(
        &self,
        space: &D::Space,
        range: AddrRange,
        flags: Flags,
    ) -> Result<UserPtr<D>, Error> {
        let record = self.checked(space, range, flags)?;
        UserPtr::try_new(self.clone(), record, range, flags)
    }

    /// Checks a registration, and returns the record of the address space, watched if it has to be.
    fn checked(&self, space: &D::Space, range: AddrRange, flags: Flags) -> Result<MmRef<D::Space>, Error> {
        let limits = self.limits();
        let shift = space.page_shift();
        if range.pages(shift) > limits.max_pages {
            return Err(Error::TooBig);
        }
        if !range.is_aligned(shift) {
            return Err(Error::Unaligned);
        }
        let read_only = flags.contains(Flags::READ_ONLY);
        if !space.access_ok(range, !read_only) {
            return Err(Error::Fault);
        }
        if read_only && !limits.read_only {
            return Err(Error::NotReadOnly);
        }
        let record = MmRegistry::find(self.registry(), space)?;
        if flags.contains(Flags::UNSYNCHRONIZED) {
            if !space.privileged() {
                return Err(Error::Permission);
            }
        } else {
            record.notifier()?;
        }
        Ok(record)
    }
}

fn is_aligned(number: usize, shift: u32) -> bool {
    let offset = !usize::MAX.checked_shl(shift).unwrap_or(0);
    number & offset == 0
}
