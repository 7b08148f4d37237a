//! Is any thread of the process still under way?
//!
//! A thread whose message was read is runnable from that moment until it has finished its change,
//! or waits uninterruptibly in it. So once every other thread was seen asleep after the reading,
//! the change is over: for certain. A busy process proves nothing.

use core::ffi::c_int;
use core::mem::MaybeUninit;

/// More threads than that are not looked at.
const MOST_THREADS: usize = 64;
/// The fixed part of a directory entry: number, offset, length of the record, type.
const NAME: usize = 19;
const LENGTH: usize = 16;

/// Whether every other thread of the process is asleep. Allocates nothing. `false` if that cannot
/// be found out.
pub(super) fn all_others_sleep() -> bool {
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: a C string.
    let dir = unsafe { libc::open(c"/proc/self/task".as_ptr(), flags) };
    dir >= 0 && {
        let asleep = look(dir);
        // SAFETY: opened above.
        unsafe { libc::close(dir) };
        asleep
    }
}

fn look(dir: c_int) -> bool {
    // SAFETY: takes no pointer.
    let me = unsafe { libc::gettid() };
    let mut entries = [0_u8; 4096];
    let mut threads = 0_usize;
    loop {
        // SAFETY: the buffer is ours for its whole length.
        let got = unsafe { libc::syscall(libc::SYS_getdents64, dir, entries.as_mut_ptr(), entries.len()) };
        let Ok(got) = usize::try_from(got) else { return false };
        if got == 0 {
            // At least this thread must have been there.
            return threads > 0;
        }
        let Some(mut rest) = entries.get(..got) else { return false };
        while let Some((name, after)) = entry(rest) {
            rest = after;
            let Some(id) = number(name) else { continue };
            threads = threads.saturating_add(1);
            if threads > MOST_THREADS || (id != me && !is_asleep(dir, name)) {
                return false;
            }
        }
    }
}

/// The name of the first entry, with its final zero, and the entries after it.
fn entry(entries: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = match entries.get(LENGTH..)? {
        [low, high, ..] => usize::from(u16::from_ne_bytes([*low, *high])),
        _ => return None,
    };
    Some((entries.get(NAME..length)?, entries.get(length..)?))
}

fn number(name: &[u8]) -> Option<i32> {
    let digits = name.split(|byte| *byte == 0).next()?;
    core::str::from_utf8(digits).ok()?.parse().ok()
}

/// `/proc/self/task/N/stat`: number, name in parentheses, state.
fn is_asleep(dir: c_int, name: &[u8]) -> bool {
    let mut path = [0_u8; 32];
    let digits = name.split(|byte| *byte == 0).next().unwrap_or_default();
    for (to, from) in path.iter_mut().zip(digits.iter().chain(b"/stat")) {
        *to = *from;
    }
    // SAFETY: a C string: the number of a thread and "/stat" are shorter than the array of zeros.
    let file = unsafe { libc::openat(dir, path.as_ptr().cast(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        // Ended since: then it has ended its change, too. Anything else (no descriptors left)
        // proves nothing.
        return super::errno() == libc::ENOENT;
    }
    let mut text = MaybeUninit::<[u8; 64]>::zeroed();
    // SAFETY: the buffer is ours for its whole length; the descriptor was opened above.
    let got = unsafe {
        let got = libc::read(file, text.as_mut_ptr().cast(), 64);
        libc::close(file);
        got
    };
    // SAFETY: zeroed bytes, some of them overwritten.
    let text = unsafe { text.assume_init() };
    let text = text.get(..usize::try_from(got).unwrap_or(0)).unwrap_or_default();
    // The name may hold anything, but it is short: the last parenthesis ends it.
    let after = text.iter().rposition(|byte| *byte == b')').and_then(|at| text.get(at..));
    match after {
        // Nothing read: it ended in between (`ESRCH`).
        None => got < 0,
        Some([_, _, state, ..]) => matches!(state, b'S' | b'Z' | b'X'),
        Some(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn a_busy_thread_is_seen() {
        // Other tests run in this process: only this direction is certain.
        let (busy, stop) = (AtomicBool::new(false), AtomicBool::new(false));
        let missed = std::thread::scope(|scope| {
            scope.spawn(|| {
                busy.store(true, Ordering::Relaxed);
                while !stop.load(Ordering::Relaxed) {
                    core::hint::spin_loop();
                }
            });
            while !busy.load(Ordering::Relaxed) {
                core::hint::spin_loop();
            }
            let missed = (0..1000).filter(|_| all_others_sleep()).count();
            stop.store(true, Ordering::Relaxed);
            missed
        });
        assert_eq!(missed, 0);
    }
}
