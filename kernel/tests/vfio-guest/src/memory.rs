//! Memory of the process, handled by address.

use std::ptr;

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

fn mapped(address: *mut libc::c_void) -> usize {
    assert_ne!(address, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    address as usize
}

fn done(result: i32) {
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// New memory, wherever there is room.
pub fn map(bytes: usize) -> usize {
    // SAFETY: a new mapping.
    mapped(unsafe { libc::mmap(ptr::null_mut(), bytes, READ_WRITE, PRIVATE, -1, 0) })
}

/// New memory where there is none.
pub fn map_at(address: usize, bytes: usize) {
    let flags = PRIVATE | libc::MAP_FIXED_NOREPLACE;
    // SAFETY: replaces nothing.
    let got = mapped(unsafe { libc::mmap(address as *mut _, bytes, READ_WRITE, flags, -1, 0) });
    assert_eq!(got, address);
}

/// New memory in the place of old.
pub fn map_over(address: usize, bytes: usize) {
    let flags = PRIVATE | libc::MAP_FIXED;
    // SAFETY: what is replaced is the test's, and nobody has a reference into it.
    mapped(unsafe { libc::mmap(address as *mut _, bytes, READ_WRITE, flags, -1, 0) });
}

pub fn unmap(address: usize, bytes: usize) {
    // SAFETY: as above.
    done(unsafe { libc::munmap(address as *mut _, bytes) });
}

/// Moves a mapping over what is at another address.
pub fn remap(from: usize, to: usize, bytes: usize) {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: as above.
    mapped(unsafe { libc::mremap(from as *mut _, bytes, bytes, flags, to as *mut libc::c_void) });
}

pub fn discard(address: usize, bytes: usize) {
    // SAFETY: as above; the content is not wanted any more.
    done(unsafe { libc::madvise(address as *mut _, bytes, libc::MADV_DONTNEED) });
}

/// Fills memory with a pattern that occurs nowhere else.
pub fn fill(address: usize, bytes: usize, seed: u64) {
    let pattern = pattern(bytes, seed);
    // SAFETY: mapped, writable, and nobody has a reference into it.
    unsafe { ptr::copy_nonoverlapping(pattern.as_ptr(), address as *mut u8, bytes) };
}

/// What the memory holds now.
pub fn look(address: usize, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    // SAFETY: mapped, readable, and nobody has a reference into it.
    unsafe { ptr::copy_nonoverlapping(address as *const u8, content.as_mut_ptr(), bytes) };
    content
}

/// Bytes that depend on the seed and on their place; zero for zero.
pub fn pattern(bytes: usize, seed: u64) -> Vec<u8> {
    let mut word = seed;
    let mut next = || {
        word =
            if word == 0 { 0 } else { word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1) };
        (word >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// Pages that VFIO has pinned for this process: it charges them as locked.
pub fn locked_pages() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find(|line| line.starts_with("VmLck:")).expect("VmLck");
    line.split_whitespace().nth(1).and_then(|kilobytes| kilobytes.parse::<usize>().ok()).expect("a number")
        / 4
}

/// Pages that anybody has pinned and not given back, in the whole machine.
pub fn pinned_pages() -> u64 {
    // Each processor keeps a count of its own for a while; this adds them up. An old kernel may not
    // have it.
    let _ = std::fs::read("/proc/sys/vm/stat_refresh");
    let counts = std::fs::read_to_string("/proc/vmstat").expect("statistics");
    let count = |name: &str| {
        let line = counts.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        line.trim().parse::<u64>().expect("a number")
    };
    count("nr_foll_pin_acquired").wrapping_sub(count("nr_foll_pin_released"))
}
