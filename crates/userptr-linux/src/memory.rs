//! Memory that the crate owns: the safe way to let a device work on a process's own memory.

use crate::Refusal;
use crate::refusal::errno;
use core::fmt;
use core::ptr::NonNull;
use std::sync::{Mutex, PoisonError};
use userptr::{AddrRange, OwnedMemory};

/// Whole pages of this process that nothing else uses: no allocator, no value, no reference. Its
/// bytes are copied in and out; no slice of them is ever handed out, because a device may change
/// them at any moment.
///
/// Give it to [`Context::register_memory`](userptr::Context::register_memory); the object keeps it
/// until the last handle is dropped, after the device is off its pages, and
/// [`UserPtr::memory`](userptr::UserPtr::memory) reaches it meanwhile. Forgetting the object leaks
/// the memory, nothing worse. See [what you promise](crate::docs::memory) for the other way,
/// without an owner.
///
/// ```
/// use userptr_linux::Memory;
/// let memory = Memory::new(10_000)?; // rounded up to whole pages
/// memory.write_at(4_000, b"hello")?;
/// let mut seen = [0; 5];
/// memory.read_at(4_000, &mut seen)?;
/// assert_eq!(&seen, b"hello");
/// memory.discard()?; // new pages, all zero
/// memory.read_at(4_000, &mut seen)?;
/// assert_eq!(seen, [0; 5]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Memory {
    start: NonNull<u8>,
    range: AddrRange,
    /// The mapping is ours to unmap.
    mapped: bool,
    /// One thread of the process copies at a time.
    copying: Mutex<()>,
}

// SAFETY: the bytes are reached by copies under the mutex alone, from any thread.
unsafe impl Send for Memory {}
// SAFETY: as for `Send`: a shared reference gives copies under the mutex, and nothing else.
unsafe impl Sync for Memory {}

// SAFETY: the range is a mapping of our own, or pages borrowed for ever by an exclusive reference
// that is gone; both are reached by copies alone, and stay until the value is dropped.
unsafe impl OwnedMemory for Memory {
    fn range(&self) -> AddrRange {
        self.range
    }
}

/// Bytes outside of a [`Memory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange {
    /// The first byte that was asked for, in bytes from the start of the memory.
    pub offset: usize,
    /// How many bytes were asked for.
    pub bytes: usize,
    /// How many bytes there are.
    pub size: usize,
}

impl fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, bytes, size } = self;
        write!(f, "{bytes} bytes at {offset} lie outside of the {size} bytes of the memory (EINVAL)")
    }
}

impl core::error::Error for OutOfRange {}

impl Memory {
    /// Maps new memory, zero, of at least `bytes` bytes, rounded up to whole pages.
    ///
    /// # Errors
    /// [`Refusal::Memory`], also for a size of zero or one that does not fit.
    pub fn new(bytes: usize) -> Result<Self, Refusal> {
        let page = page_size();
        let bytes =
            bytes.checked_next_multiple_of(page).filter(|bytes| *bytes != 0).ok_or(Refusal::Memory)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, at a place of the kernel's choice.
        let got = unsafe { libc::mmap(core::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if got == libc::MAP_FAILED {
            return Err(match errno() {
                libc::EAGAIN => Refusal::of_pinning(),
                libc::ENOMEM => Refusal::Memory,
                errno => Refusal::Errno(errno),
            });
        }
        let start = NonNull::new(got.cast()).ok_or(Refusal::Memory)?;
        Self::over(start, bytes, true).ok_or(Refusal::Memory)
    }

    /// Takes memory that is borrowed for ever, in whole pages. Its values are given up: from now on
    /// they are bytes.
    ///
    /// # Errors
    /// The memory, if it does not begin and end at a page, or is empty.
    pub fn from_static(bytes: &'static mut [u8]) -> Result<Self, &'static mut [u8]> {
        let page = page_size();
        if bytes.is_empty()
            || !bytes.as_ptr().addr().is_multiple_of(page)
            || !bytes.len().is_multiple_of(page)
        {
            return Err(bytes);
        }
        let len = bytes.len();
        // The address is used as an integer by the kernel: the pages' provenance is exposed.
        let start = NonNull::from(&mut *bytes).cast::<u8>();
        let _ = start.as_ptr().expose_provenance();
        Self::over(start, len, false).ok_or(bytes)
    }

    fn over(start: NonNull<u8>, bytes: usize, mapped: bool) -> Option<Self> {
        let range = AddrRange::new(start.addr().get(), bytes).ok()?;
        Some(Self { start, range, mapped, copying: Mutex::new(()) })
    }

    /// Returns the size, in bytes: whole pages.
    #[must_use]
    pub fn size(&self) -> usize {
        self.range.len().unwrap_or(usize::MAX)
    }

    /// Copies bytes out, from `offset`. What a device writes meanwhile may be seen in part.
    ///
    /// # Errors
    /// [`OutOfRange`]; nothing was copied.
    pub fn read_at(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfRange> {
        let from = self.place(offset, into.len())?;
        let _copying = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, byte) in into.iter_mut().enumerate() {
            // SAFETY: inside the memory (`place`). Volatile: a device may change the byte at any
            // moment; no other thread of the process does, by the mutex.
            *byte = unsafe { from.add(at).as_ptr().read_volatile() };
        }
        Ok(())
    }

    /// Copies bytes in, from `offset`. A device that reads meanwhile may see them in part.
    ///
    /// # Errors
    /// [`OutOfRange`]; nothing was copied.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<(), OutOfRange> {
        let to = self.place(offset, bytes.len())?;
        let _copying = self.copying.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, byte) in bytes.iter().enumerate() {
            // SAFETY: as in `read_at`.
            unsafe { to.add(at).as_ptr().write_volatile(*byte) };
        }
        Ok(())
    }

    /// Gives the pages back to the kernel (`MADV_DONTNEED`): the next access finds new ones, all
    /// zero. A device that is registered for them is told to stop, and gets the new ones with the
    /// next lease.
    ///
    /// # Errors
    /// [`Refusal`], with nothing changed: for borrowed memory that is locked, for example.
    pub fn discard(&self) -> Result<(), Refusal> {
        // Not under the mutex: the call may wait until the address space's monitor has read of it.
        // SAFETY: the range is ours; its bytes are nobody's values.
        let done = unsafe { libc::madvise(self.start.as_ptr().cast(), self.size(), libc::MADV_DONTNEED) };
        if done == 0 { Ok(()) } else { Err(Refusal::Errno(errno())) }
    }

    fn place(&self, offset: usize, bytes: usize) -> Result<NonNull<u8>, OutOfRange> {
        let size = self.size();
        match offset.checked_add(bytes) {
            // SAFETY: `offset <= size`, so the place is inside the memory or at its end.
            Some(end) if end <= size => Ok(unsafe { self.start.add(offset) }),
            _ => Err(OutOfRange { offset, bytes, size }),
        }
    }
}

/// Registering an address of the program's own is `unsafe`:
///
/// ```compile_fail,E0277
/// # use userptr::{AddrRange, Context, Flags};
/// # use userptr_linux::{Linux, uring::{Setup, Uring}};
/// # fn f(space: Linux, context: Context<Uring>) -> Result<(), Box<dyn std::error::Error>> {
/// let strings = vec![String::from("overwritten"); 4096];
/// let range = AddrRange::new(strings.as_ptr().addr().next_multiple_of(4096), 4096)?;
/// context.register(&space, range, Flags::NONE)?; // `Linux` is not `ForeignMemory`
/// # Ok(()) }
/// ```
///
/// ```compile_fail,E0133
/// # use userptr::{AddrRange, Context, Flags};
/// # use userptr_linux::{Linux, uring::{Setup, Uring}};
/// # fn f(space: Linux, context: Context<Uring>, range: AddrRange) -> Result<(), Box<dyn std::error::Error>> {
/// context.register_unchecked(&space, range, Flags::NONE)?;
/// # Ok(()) }
/// ```
#[cfg(all(doctest, feature = "uring"))]
pub struct BareAddresses;

/// What a lease and the views of owned memory keep: each pair differs in the one line that is
/// refused.
///
/// A lease stays in its thread: acquire there.
///
/// ```no_run
/// # use userptr::UserPtr; use userptr_linux::uring::Uring;
/// # fn f(object: UserPtr<Uring>) {
/// std::thread::scope(|scope| {
///     scope.spawn(|| drop(object.acquire()));
/// });
/// # }
/// ```
/// ```compile_fail,E0277
/// # use userptr::UserPtr; use userptr_linux::uring::Uring;
/// # fn f(object: UserPtr<Uring>) {
/// std::thread::scope(|scope| {
///     let lease = object.acquire();
///     scope.spawn(move || drop(lease));
/// });
/// # }
/// ```
///
/// A lease borrows its object; [`into_owned`](userptr::userptr::LeaseOf::into_owned) takes a handle
/// instead.
///
/// ```no_run
/// # use userptr::{Error, UserPtr}; use userptr_linux::uring::Uring;
/// # fn f(object: UserPtr<Uring>) -> Result<usize, Error> {
/// let lease = object.acquire()?.into_owned();
/// drop(object);
/// # Ok(lease.map().bytes()) }
/// ```
/// ```compile_fail,E0505
/// # use userptr::{Error, UserPtr}; use userptr_linux::uring::Uring;
/// # fn f(object: UserPtr<Uring>) -> Result<usize, Error> {
/// let lease = object.acquire()?;
/// drop(object);
/// # Ok(lease.map().bytes()) }
/// ```
///
/// The memory is the object's as long as there is an object: it can be reached, and not taken.
///
/// ```no_run
/// # use userptr::UserPtr; use userptr_linux::{Memory, uring::Uring};
/// # fn f(object: &UserPtr<Uring>) -> Option<&Memory> {
/// object.memory()
/// # }
/// ```
/// ```compile_fail,E0507
/// # use userptr::UserPtr; use userptr_linux::{Memory, uring::Uring};
/// # fn f(object: &UserPtr<Uring>) -> Option<Memory> {
/// object.memory().map(|memory| *memory)
/// # }
/// ```
/// ```compile_fail,E0515
/// # use userptr::UserPtr; use userptr_linux::{Memory, uring::Uring};
/// # fn f<'a>(object: UserPtr<Uring>) -> Option<&'a Memory> {
/// object.memory()
/// # }
/// ```
///
/// What has to be balanced is a guard, or `unsafe`.
///
/// ```no_run
/// # use userptr::{AddrRange, notifier::Notifier, platforms::std::Std};
/// # fn f(notifier: &Notifier<Std>, range: AddrRange) {
/// // SAFETY: an example.
/// unsafe { notifier.invalidate_end(range) }
/// # }
/// ```
/// ```compile_fail,E0133
/// # use userptr::{AddrRange, notifier::Notifier, platforms::std::Std};
/// # fn f(notifier: &Notifier<Std>, range: AddrRange) {
/// notifier.invalidate_end(range)
/// # }
/// ```
/// ```no_run
/// # use userptr::{AddrRange, address_space::AddressSpace}; use userptr_linux::{Linux, Registration};
/// # fn f(space: Linux, registration: &Registration, range: AddrRange) {
/// // SAFETY: an example.
/// unsafe { space.unwatch(registration, range) }
/// # }
/// ```
/// ```compile_fail,E0133
/// # use userptr::{AddrRange, address_space::AddressSpace}; use userptr_linux::{Linux, Registration};
/// # fn f(space: Linux, registration: &Registration, range: AddrRange) {
/// space.unwatch(registration, range)
/// # }
/// ```
/// ```compile_fail,E0133
/// # use userptr::{AddrRange, address_space::AddressSpace}; use userptr_linux::{Linux, Registration};
/// # fn f(space: Linux, registration: Registration) {
/// space.unregister(registration)
/// # }
/// ```
/// ```compile_fail,E0624
/// # use userptr::AddrRange; use userptr_linux::Linux;
/// # fn f(space: Linux, range: AddrRange) {
/// space.stop_watching(range) // dropping the guard of `watch_range` does it
/// # }
/// ```
///
/// A device that stands before another cannot have it map something else.
///
/// ```no_run
/// # use userptr::{Error, Prepare, device::Device}; use userptr_linux::{Linux, uring::{Slot, Uring}};
/// fn prepare(inner: &Uring, what: Prepare<'_, Linux>) -> Result<Slot, Error> {
///     let _read = what.address;
///     inner.prepare(what)
/// }
/// ```
/// ```compile_fail,E0594
/// # use userptr::{Error, Prepare, device::Device}; use userptr_linux::{Linux, uring::{Slot, Uring}};
/// fn prepare(inner: &Uring, mut what: Prepare<'_, Linux>) -> Result<Slot, Error> {
///     what.address = "a string".as_ptr().addr();
///     inner.prepare(what)
/// }
/// ```
#[cfg(all(doctest, feature = "uring"))]
pub struct Refused;

/// A container's calls are for the package: bare addresses are handed to a device.
///
/// ```no_run
/// # use userptr_linux::vfio::{Container, Span};
/// # fn f(container: &impl Container, at: Span) {
/// // SAFETY: an example.
/// let _ = unsafe { container.map(at, 0x1000, true) };
/// // SAFETY: an example.
/// let _ = unsafe { container.unmap(at) };
/// # }
/// ```
/// ```compile_fail,E0133
/// # use userptr_linux::vfio::{Container, Span};
/// # fn f(container: &impl Container, at: Span) {
/// let _ = container.map(at, 0x1000, true);
/// # }
/// ```
/// ```compile_fail,E0133
/// # use userptr_linux::vfio::{Container, Span};
/// # fn f(container: &impl Container, at: Span) {
/// let _ = container.unmap(at);
/// # }
/// ```
#[cfg(all(doctest, feature = "vfio"))]
pub struct RefusedVfio;

impl Drop for Memory {
    fn drop(&mut self) {
        if self.mapped {
            // SAFETY: the mapping is ours, and nobody has a pointer into it. If a device is still
            // registered for it, which an object's order of drops excludes, it is told as of any
            // unmap.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.size()) };
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({:?})", self.range)
    }
}

/// Returns the size of a page, in bytes.
pub(crate) fn page_size() -> usize {
    // SAFETY: takes no pointer.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(4096)
}
