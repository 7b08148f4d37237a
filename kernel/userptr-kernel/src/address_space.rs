//! The kernel's address spaces: [`Mm`], its users, its registration, and the callbacks that C
//! makes.

use crate::ffi;
use crate::platform::Kernel;
use core::ffi::{c_int, c_void};
use core::fmt;
use core::ptr::NonNull;
use userptr::address_space::{AddressSpace, Current, ForeignMemory, NoMemory, Pages, Usage, Users};
use userptr::notifier::{Blockable, Notifier, Outcome};
use userptr::{AddrRange, Error, Ref};

/// A page, pinned.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct Page(*mut ffi::Page);

impl Page {
    /// Returns the `struct page`, for the driver's own C half.
    #[must_use]
    pub fn as_ptr(self) -> *mut c_void {
        self.0.cast()
    }
}

// SAFETY: a `struct page` may be used from any thread.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

/// A hold on the record of an address space (`mm_count`).
pub struct Mm(NonNull<ffi::Mm>);

// SAFETY: an `mm_struct` may be used from any thread.
unsafe impl Send for Mm {}
// SAFETY: as above.
unsafe impl Sync for Mm {}

impl Mm {
    /// The calling process's, or `None` for a kernel thread.
    pub fn current() -> Option<Self> {
        // SAFETY: no arguments; the thread's own address space lives as long as the thread runs
        // here.
        let mm = NonNull::new(unsafe { ffi::uk_current_mm() })?;
        // SAFETY: live, as just said.
        unsafe { ffi::uk_mmgrab(mm.as_ptr()) };
        Some(Self(mm))
    }
}

impl Drop for Mm {
    fn drop(&mut self) {
        // SAFETY: it owns one count.
        unsafe { ffi::uk_mmdrop(self.0.as_ptr()) }
    }
}

impl fmt::Debug for Mm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mm")
    }
}

/// A hold on the users of an address space (`mm_users`).
#[derive(Debug)]
pub struct MmUsers<'a>(&'a Mm);

impl Drop for MmUsers<'_> {
    fn drop(&mut self) {
        // SAFETY: it owns one count. If it is the last, the address space is taken down elsewhere
        // (`mmput_async`).
        unsafe { ffi::uk_mmput(self.0.0.as_ptr()) }
    }
}

/// Adds to `out` what `pin` wrote into its spare room: the number of pages, or an errno.
fn fill(
    out: &mut Pages<Mm>,
    most: usize,
    pin: impl FnOnce(*mut *mut ffi::Page, usize) -> i64,
) -> Result<usize, Error> {
    let room = out.spare_capacity_mut();
    let most = most.min(room.len());
    let at = room.as_mut_ptr().cast::<*mut ffi::Page>();
    let got = pin(at, most);
    let got = usize::try_from(got).map_err(|_| ffi::error_of(got as c_int))?;
    let len = out.len().wrapping_add(got.min(most));
    // SAFETY: C wrote the first `got` places, at most as many as there was room for.
    unsafe { out.set_len(len) };
    Ok(got)
}

impl Users for MmUsers<'_> {
    type Space = Mm;

    fn pin(&self, range: AddrRange, write: bool, out: &mut Pages<Mm>) -> Result<(), Error> {
        let mm = self.0.0.as_ptr();
        let got = fill(out, range.pages(ffi::PAGE_SHIFT), |at, n| {
            // SAFETY: the users are held, and there is room for `n` pages.
            unsafe { ffi::uk_pin(mm, range.start(), n, write, at) }
        })?;
        if got == 0 { Err(Error::Fault) } else { Ok(()) }
    }
}

/// A registration for notifications of one address space.
pub struct Registered {
    raw: NonNull<ffi::Registration>,
    /// Keeps the notifier alive for the callbacks; dropped after the registration has ended.
    _notifier: Ref<Notifier<Kernel>, Kernel>,
}

// SAFETY: only ever used to unregister.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registered")
    }
}

// SAFETY: the memory of user processes: no reference of the kernel points there.
unsafe impl ForeignMemory for Mm {}

impl AddressSpace for Mm {
    type Platform = Kernel;
    type Page = Page;
    type Users<'a> = MmUsers<'a>;
    type Registration = Registered;
    type Memory = NoMemory;

    fn id(&self) -> usize {
        self.0.as_ptr().addr()
    }

    fn grab(&self) -> Self {
        // SAFETY: it holds a count already.
        unsafe { ffi::uk_mmgrab(self.0.as_ptr()) };
        Self(self.0)
    }

    fn users(&self) -> Option<MmUsers<'_>> {
        // Not `then_some`: a hold that was not taken would be made and dropped.
        // SAFETY: the record is held.
        unsafe { ffi::uk_mmget(self.0.as_ptr()) }.then(|| MmUsers(self))
    }

    fn current(&self) -> Current {
        // SAFETY: no arguments.
        let current = unsafe { ffi::uk_current_mm() };
        if current.is_null() {
            Current::None
        } else if current == self.0.as_ptr() {
            Current::This
        } else {
            Current::Other
        }
    }

    fn page_shift(&self) -> u32 {
        ffi::PAGE_SHIFT
    }

    fn access_ok(&self, range: AddrRange, _write: bool) -> bool {
        // SAFETY: plain numbers.
        range.len().is_some_and(|len| unsafe { ffi::uk_access_ok(range.start(), len) })
    }

    fn privileged(&self) -> bool {
        // SAFETY: no arguments.
        unsafe { ffi::uk_privileged() }
    }

    fn register(&self, notifier: Ref<Notifier<Kernel>, Kernel>) -> Result<Registered, Error> {
        let mut err: c_int = 0;
        // SAFETY: the record is held by `self` and, from success on, by the registration; the
        // notifier lives as long as the registration, whose owner drops it only after
        // `uk_unregister`.
        let raw = unsafe { ffi::uk_register(self.0.as_ptr(), Ref::as_ptr(&notifier).cast(), &raw mut err) };
        match NonNull::new(raw) {
            Some(raw) => Ok(Registered { raw, _notifier: notifier }),
            None => Err(ffi::error_of(err)),
        }
    }

    unsafe fn unregister(&self, registration: Registered) {
        // SAFETY: made by `register`, ended once. Waits for callbacks.
        unsafe { ffi::uk_unregister(registration.raw.as_ptr()) };
        drop(registration);
    }

    fn pin_fast(&self, range: AddrRange, write: bool, out: &mut Pages<Self>) -> Result<(), Error> {
        fill(out, range.pages(ffi::PAGE_SHIFT), |at, n| {
            // SAFETY: the caller is the owner (contract), and there is room for `n` pages.
            unsafe { ffi::uk_pin_fast(range.start(), n, write, at) }
        })
        .map(drop)
    }

    unsafe fn unpin(&self, pages: &[Page], usage: Usage) {
        // SAFETY: the pages are pinned and given back once (contract); `Page` is a transparent
        // pointer.
        unsafe { ffi::uk_unpin(pages.as_ptr().cast(), pages.len(), usage.dirty, usage.accessed) }
    }

    fn frame(&self, page: Page) -> usize {
        // SAFETY: a live page.
        unsafe { ffi::uk_pfn(page.0) }
    }
}

/// # Safety
/// `notifier` is the one that was registered, and the registration has not ended.
unsafe fn home<'a>(notifier: *const c_void) -> &'a Notifier<Kernel> {
    // SAFETY: the registration holds a reference to it (caller).
    unsafe { &*notifier.cast() }
}

fn errno(outcome: Outcome) -> c_int {
    outcome.into_result().map_or_else(|e| e.errno().wrapping_neg(), |()| 0)
}

/// # Safety
/// Called from `invalidate_range_start` of a live registration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn userptr_invalidate_start(
    n: *const c_void,
    start: usize,
    end: usize,
    blockable: bool,
) -> c_int {
    let Some(range) = AddrRange::from_bounds(start, end) else { return 0 };
    let mode = if blockable { Blockable::Yes } else { Blockable::No };
    // SAFETY: the caller's promise.
    match unsafe { home(n) }.invalidate_start(range, mode) {
        Ok(invalidation) => {
            if invalidation.revokes_any() {
                // SAFETY: no arguments.
                unsafe { ffi::uk_count_hit() };
            }
            errno(invalidation.finish())
        }
        Err(_) => Error::Again.errno().wrapping_neg(),
    }
}

/// # Safety
/// Called from `invalidate_range_end` of a live registration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn userptr_invalidate_end(n: *const c_void, start: usize, end: usize) {
    if let Some(range) = AddrRange::from_bounds(start, end) {
        // SAFETY: the kernel calls every end that belongs to a start, once (caller).
        unsafe { home(n).invalidate_end(range) };
    }
}

/// # Safety
/// Called from `invalidate_range_start` of a live registration, after it refused.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn userptr_open_window(n: *const c_void, start: usize, end: usize) {
    if let Some(range) = AddrRange::from_bounds(start, end) {
        // SAFETY: the caller's promise.
        unsafe { home(n) }.open_window(range);
    }
}

/// # Safety
/// Called from `release` of a live registration.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn userptr_exit(n: *const c_void) -> c_int {
    // SAFETY: the caller's promise.
    errno(unsafe { home(n) }.exit())
}
