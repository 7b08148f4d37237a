//! Every foreign declaration of this crate, in one place. Its mirror is `kernel/module/shim.h`.
//!
//! A kernel type lies in Rust as [`Room`]: bytes whose address is stable once settled, and which only C reads or writes.

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

macro_rules! rooms {
    ($($name:ident: $plain:literal, $debug:literal;)*) => {
        $(
            /// The bytes of the kernel type of that name: without and with lock debugging.
            pub const $name: usize = if cfg!(feature = "debug-locks") { $debug } else { $plain };
        )*
    };
}
rooms! {
    SPIN: 8, 72;
    MUTEX: 40, 168;
    WAIT: 24, 96;
    WORK: 40, 112;
}

/// A `struct workqueue_struct`.
#[repr(C)]
pub struct Workqueue {
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
}

/// What a self-test returns: 0 or the line that failed.
pub type TestResult = c_int;
