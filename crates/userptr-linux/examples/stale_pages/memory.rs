//! Memory of the process, handled as the operations want it: by address.

use super::io::{Part, Range};
use std::io;
use std::ptr;

/// Where nobody else maps anything: far below the area that the kernel fills from the top.
const PLACE: usize = 0x1000_0000_0000;
/// A second such place, to move things to and from.
pub(crate) const ELSEWHERE: usize = 0x1100_0000_0000;

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn checked(address: *mut libc::c_void) -> io::Result<usize> {
    if address == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(address as usize) }
}

/// New memory at an address where there is none.
pub(crate) fn map_at(address: usize, bytes: usize, kind: i32) -> io::Result<Range> {
    let flags = kind | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: replaces nothing.
    checked(unsafe { libc::mmap(address as *mut _, bytes, READ_WRITE, flags, -1, 0) })?;
    Ok(Range { address, bytes })
}

/// New private memory at the usual place.
pub(crate) fn map(bytes: usize) -> io::Result<Range> {
    map_at(PLACE, bytes, PRIVATE)
}

/// New shared memory at the usual place.
pub(crate) fn map_shared(bytes: usize) -> io::Result<Range> {
    map_at(PLACE, bytes, libc::MAP_SHARED | libc::MAP_ANONYMOUS)
}

/// New private memory in the place of old.
pub(crate) fn map_over(range: Range) -> io::Result<()> {
    let flags = PRIVATE | libc::MAP_FIXED;
    // SAFETY: what is replaced is ours, and nobody has a reference into it.
    checked(unsafe { libc::mmap(range.address as *mut _, range.bytes, READ_WRITE, flags, -1, 0) })?;
    Ok(())
}

pub(crate) fn unmap(range: Range) -> io::Result<()> {
    // SAFETY: ours, and nobody has a reference into it.
    check(unsafe { libc::munmap(range.address as *mut _, range.bytes) })
}

/// The same two without the C library's wrappers.
pub(crate) fn raw_unmap(range: Range) -> io::Result<()> {
    // SAFETY: as `unmap`.
    let done = unsafe { libc::syscall(libc::SYS_munmap, range.address, range.bytes) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(crate) fn raw_map(range: Range) -> io::Result<()> {
    let flags = PRIVATE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: replaces nothing.
    let got = unsafe { libc::syscall(libc::SYS_mmap, range.address, range.bytes, READ_WRITE, flags, -1, 0) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Moves a mapping to another address, over what is there.
pub(crate) fn remap(from: Range, to: usize, more: i32) -> io::Result<Range> {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | more;
    // SAFETY: both are ours, and nobody has a reference into either.
    let address = checked(unsafe {
        libc::mremap(from.address as *mut _, from.bytes, from.bytes, flags, to as *mut libc::c_void)
    })?;
    Ok(Range { address, bytes: from.bytes })
}

pub(crate) fn advise(range: Range, advice: i32) -> io::Result<()> {
    // SAFETY: ours; its content is not wanted any more.
    check(unsafe { libc::madvise(range.address as *mut _, range.bytes, advice) })
}

/// Moves the end of the heap.
pub(crate) fn grow_heap(by: isize) -> io::Result<usize> {
    // SAFETY: what is given back is ours: nobody else in this process uses `brk` (see `main`).
    let old = unsafe { libc::sbrk(by) };
    checked(old)
}

/// Memory of the C library's allocator, page-aligned inside. The pointer to free it with, and the
/// aligned part.
pub(crate) fn allocate(bytes: usize) -> io::Result<(*mut libc::c_void, Range)> {
    const PAGE: usize = 4096;
    // SAFETY: any size may be asked for.
    let pointer = unsafe { libc::malloc(bytes + PAGE) };
    if pointer.is_null() {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Ok((pointer, Range { address: (pointer as usize).next_multiple_of(PAGE), bytes }))
}

pub(crate) fn free(pointer: *mut libc::c_void) {
    // SAFETY: from `allocate`, once.
    unsafe { libc::free(pointer) };
}

/// Unmaps whatever a failed operation has left at the two places.
pub(crate) fn clear() {
    for address in [PLACE, ELSEWHERE] {
        // Nothing there is no error.
        let _ = unmap(Range { address, bytes: 1 << 20 });
    }
}

/// Fills a part with a pattern that occurs nowhere else.
pub(crate) fn fill(range: Range, part: Part, seed: u64) {
    assert!(part.offset + part.bytes <= range.bytes);
    let pattern = pattern(part.bytes, seed);
    let to = (range.address + part.offset) as *mut u8;
    // SAFETY: mapped, writable, and nobody has a reference into it.
    unsafe { ptr::copy_nonoverlapping(pattern.as_ptr(), to, pattern.len()) };
}

/// What the memory holds now.
pub(crate) fn look(range: Range, part: Part) -> Vec<u8> {
    let mut bytes = vec![0; part.bytes];
    let from = (range.address + part.offset) as *const u8;
    // SAFETY: mapped, readable, and nobody has a reference into it.
    unsafe { ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), part.bytes) };
    bytes
}

/// Bytes that depend on the seed and on their place.
pub(crate) fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut pattern = Vec::with_capacity(bytes + 8);
    while pattern.len() < bytes {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        pattern.extend_from_slice(&word.to_le_bytes());
    }
    pattern.truncate(bytes);
    pattern
}
