//! Every foreign declaration of this crate, in one place. Its mirror is `shim/shim.h`.
//!
//! A kernel type lies in Rust as [`Room`]: bytes whose address is stable once initialised, and
//! which only C reads or writes.

use core::cell::UnsafeCell;
use core::ffi::{c_int, c_long, c_uint, c_void};
use core::mem::MaybeUninit;

/// Room for a kernel type of at most `N` bytes, aligned to eight. C asserts that its type fits.
#[repr(C, align(8))]
pub struct Room<const N: usize>(UnsafeCell<[MaybeUninit<u8>; N]>);

impl<const N: usize> Room<N> {
    /// Uninitialised room.
    pub const fn new() -> Self {
        Self(UnsafeCell::new([MaybeUninit::uninit(); N]))
    }

    /// Where it lies, for C.
    pub fn get(&self) -> *mut c_void {
        self.0.get().cast()
    }
}

/// Pages have `1 << PAGE_SHIFT` bytes.
pub const PAGE_SHIFT: u32 = 12;

/// Defines the rooms, and exports the symbol that C asks for: it has the same numbers in its name
/// (`UK_LAYOUT` in `shim.h`).
macro_rules! rooms {
    ($symbol:literal: $($name:ident = $bytes:literal,)*) => {
        $(
            /// The bytes of the kernel type of that name.
            pub const $name: usize = $bytes;
        )*

        #[unsafe(export_name = $symbol)]
        static LAYOUT: u8 = 0;
        const _: () = assert!(names($symbol, &[$($bytes,)* PAGE_SHIFT as usize]), "the symbol has other numbers");
    };
}
#[cfg(not(userptr_debug_locks))]
rooms!("userptr_rooms_8_40_24_40_pages_12": SPIN = 8, MUTEX = 40, WAIT = 24, WORK = 40,);
#[cfg(userptr_debug_locks)]
rooms!("userptr_rooms_72_168_96_112_pages_12": SPIN = 72, MUTEX = 168, WAIT = 96, WORK = 112,);

/// Whether the decimal numbers in a symbol are these, in this order.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler only")]
const fn names(symbol: &str, numbers: &[usize]) -> bool {
    let symbol = symbol.as_bytes();
    let (mut at, mut found) = (0, 0);
    while at < symbol.len() {
        let mut number = None;
        while at < symbol.len() && symbol[at].is_ascii_digit() {
            let digit = (symbol[at] - b'0') as usize;
            number = Some(match number {
                Some(before) => before * 10 + digit,
                None => digit,
            });
            at += 1;
        }
        if let Some(number) = number {
            if found == numbers.len() || numbers[found] != number {
                return false;
            }
            found += 1;
        }
        at += 1;
    }
    found == numbers.len()
}

/// A `struct workqueue_struct`.
#[repr(C)]
pub struct Workqueue {
    _opaque: [u8; 0],
}

/// A `struct mm_struct`.
#[repr(C)]
pub struct Mm {
    _opaque: [u8; 0],
}

/// A `struct page`.
#[repr(C)]
pub struct Page {
    _opaque: [u8; 0],
}

/// A `struct uk_registration`.
#[repr(C)]
pub struct Registration {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    pub fn uk_spin_init(lock: *mut c_void, class: c_uint);
    pub fn uk_spin_lock(lock: *mut c_void);
    pub fn uk_spin_unlock(lock: *mut c_void);
    pub fn uk_mutex_init(lock: *mut c_void, class: c_uint);
    pub fn uk_mutex_lock(lock: *mut c_void);
    pub fn uk_mutex_unlock(lock: *mut c_void);
    pub fn uk_wait_init(wq: *mut c_void);
    pub fn uk_wait_until(
        wq: *mut c_void,
        ns: u64,
        met: unsafe extern "C" fn(*mut c_void) -> bool,
        data: *mut c_void,
    ) -> bool;
    pub fn uk_wait_interruptible(
        wq: *mut c_void,
        ns: u64,
        met: unsafe extern "C" fn(*mut c_void) -> bool,
        data: *mut c_void,
    ) -> c_int;
    pub fn uk_wake_all(wq: *mut c_void);
    pub fn uk_work_init(work: *mut c_void, function: *const c_void);
    pub fn uk_queue_new(kind: c_uint) -> *mut Workqueue;
    pub fn uk_queue_free(wq: *mut Workqueue);
    pub fn uk_queue_work(wq: *mut Workqueue, work: *mut c_void) -> bool;
    pub fn uk_flush_work(work: *mut c_void);
    pub fn uk_cancel_work(work: *mut c_void) -> bool;
    pub fn uk_work_pending(work: *mut c_void) -> bool;
    pub fn uk_flush_queue(wq: *mut Workqueue);
    pub fn uk_alloc(size: usize, align: usize) -> *mut u8;
    pub fn uk_free(p: *mut u8);
    pub fn uk_allocations() -> c_long;
    pub fn uk_fence();
    pub fn uk_count_hit();
    pub fn uk_counter(which: c_uint) -> c_long;
    pub fn uk_register(mm: *mut Mm, notifier: *const c_void, err: *mut c_int) -> *mut Registration;
    pub fn uk_unregister(reg: *mut Registration);
    pub fn uk_current_mm() -> *mut Mm;
    pub fn uk_mmgrab(mm: *mut Mm);
    pub fn uk_mmdrop(mm: *mut Mm);
    pub fn uk_mmget(mm: *mut Mm) -> bool;
    pub fn uk_mmput(mm: *mut Mm);
    pub fn uk_untagged(address: usize) -> usize;
    pub fn uk_note_lease(taken: bool);
    pub fn uk_access_ok(start: usize, len: usize) -> bool;
    pub fn uk_privileged() -> bool;
    pub fn uk_pin_fast(start: usize, n: usize, write: bool, pages: *mut *mut Page) -> c_long;
    pub fn uk_pin(mm: *mut Mm, start: usize, n: usize, write: bool, pages: *mut *mut Page) -> c_long;
    pub fn uk_unpin(pages: *const *mut Page, n: usize, dirty: bool, accessed: bool);
    pub fn uk_pfn(page: *mut Page) -> usize;
    pub fn uk_pause();
    pub fn uk_now_ns() -> u64;
    pub fn uk_signal_pending() -> bool;
}

/// The error of the core for a negative errno of the kernel.
pub fn error_of(errno: c_int) -> userptr::Error {
    match errno {
        -4 | -512 => userptr::Error::Interrupted,
        -11 => userptr::Error::Again,
        -12 => userptr::Error::NoMemory,
        -16 => userptr::Error::Busy,
        -22 => userptr::Error::Invalid,
        // EFAULT, and whatever else says that this is no memory (EPERM of a special mapping,
        // EOPNOTSUPP).
        _ => userptr::Error::Fault,
    }
}
