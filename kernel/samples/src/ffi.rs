//! Every foreign declaration of this crate, in one place. Its mirror is `samples.h`.

use core::ffi::{c_int, c_long, c_uint, c_void};

unsafe extern "C" {
    pub fn sample_copy_page(page: *mut c_void, offset: usize, buffer: *mut u8, len: usize, to_page: bool);
    pub fn sample_fill_page(page: *mut c_void, offset: usize, value: u8, len: usize);
    pub fn sample_copy_from_user(to: *mut u8, from: usize, len: usize) -> c_int;
    pub fn sample_copy_to_user(to: usize, from: *const u8, len: usize) -> c_int;
    pub fn sample_count(which: c_uint, by: c_long);
    pub fn sample_counter(which: c_uint) -> c_long;
    pub fn sample_edu_present() -> bool;
    pub fn sample_edu_limits(pages: *mut u64, mapping_pages: *mut u64, reaches_all: *mut bool);
    pub fn sample_edu_map(frame: usize, pages: usize, write: bool, at: *mut u64) -> c_int;
    pub fn sample_edu_unmap(at: u64, pages: usize, write: bool);
    pub fn sample_edu_staging(at: *mut u64) -> *mut u8;
    pub fn sample_edu_start(memory: u64, len: usize, to_memory: bool);
    pub fn sample_edu_running() -> c_int;
}

/// Adds to a counter of [`counter`](crate::uapi::counter).
pub fn count(which: u32, by: isize) {
    // SAFETY: plain numbers.
    unsafe { sample_count(which, by as c_long) }
}
