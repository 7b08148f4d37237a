//! The listener's threads: each takes a call, brackets it, makes it, and answers.
//!
//! Several threads take calls from one descriptor, so that a call that waits for a slow device
//! holds up nobody else's.

use super::Counters;
use super::call::Call;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicU64, Ordering};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::catch_unwind;
use std::sync::{Condvar, Mutex, PoisonError};
use userptr::AddrRange;
use userptr::platforms::std::Std;
use userptr_explicit::Explicit;

/// `_IOWR('!', 0, struct seccomp_notif)` and its kin.
const RECV: u64 = 0xc050_2100;
const SEND: u64 = 0xc018_2101;
const ID_VALID: u64 = 0x4008_2102;
const SET_FLAGS: u64 = 0x4008_2104;
const SYNC_WAKE_UP: u64 = 1;
const CONTINUE: u32 = 1;
const KCMP_VM: i32 = 1;

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) space: Explicit<Std>,
    pub(super) arenas: Vec<AddrRange>,
    pub(super) counters: Counters,
    /// Once it is known: the listener, or that there is none.
    pub(super) listener: Mutex<Option<Result<OwnedFd, ()>>>,
    pub(super) opened: Condvar,
}

/// `struct seccomp_notif`, with room for what a later kernel adds.
#[repr(C)]
struct Notification {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    arch: u32,
    instruction_pointer: u64,
    arguments: [u64; 6],
    more: [u64; 16],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// Asks the kernel to run the listener on the caller's processor. Returns whether it does.
pub(super) fn sync_wake_up(listener: &OwnedFd) -> bool {
    // SAFETY: the argument of this ioctl is the flags themselves.
    unsafe { libc::ioctl(listener.as_raw_fd(), SET_FLAGS as _, SYNC_WAKE_UP) == 0 }
}

impl Shared {
    /// One thread of the listener.
    pub(super) fn run(&self) {
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        while listener.is_none() {
            listener = self.opened.wait(listener).unwrap_or_else(PoisonError::into_inner);
        }
        let Some(Ok(fd)) = listener.as_ref().map(|l| l.as_ref().map(AsRawFd::as_raw_fd)) else { return };
        drop(listener);
        loop {
            // The kernel wants it zero.
            let mut asked = Notification {
                id: 0,
                pid: 0,
                flags: 0,
                number: 0,
                arch: 0,
                instruction_pointer: 0,
                arguments: [0; 6],
                more: [0; 16],
            };
            // SAFETY: the argument is the struct that this ioctl writes, and more room.
            if unsafe { libc::ioctl(fd, RECV as _, &raw mut asked) } != 0 {
                match crate::errno() {
                    // A caller that was killed meanwhile: the next one.
                    libc::ENOENT | libc::EINTR => continue,
                    // Somebody has closed the descriptor: covered calls get ENOSYS.
                    _ => return,
                }
            }
            let mut answer = Answer { id: asked.id, value: 0, error: 0, flags: 0 };
            if is_ours(asked.pid) && is_valid(fd, asked.id) {
                let result = self.serve(Call { number: asked.number.into(), arguments: asked.arguments });
                match i32::try_from(result) {
                    Ok(errno @ -4095..=-1) => answer.error = errno,
                    _ => answer.value = result,
                }
            } else {
                count(&self.counters.foreign);
                answer.flags = CONTINUE;
            }
            // SAFETY: the argument is the struct that this ioctl reads. A caller that was killed
            // needs no answer.
            unsafe { libc::ioctl(fd, SEND as _, &raw mut answer) };
        }
    }

    fn serve(&self, call: Call) -> i64 {
        let changed = call.changes(&self.arenas);
        let count_one = if changed.iter().any(Option::is_some) {
            &self.counters.bracketed
        } else {
            &self.counters.passed
        };
        count(count_one);
        // A driver that panics is quarantined by the core, and its windows are closed; the caller
        // must get an answer (rule 38).
        let brackets = changed.map(|range| {
            let range = range.and_then(|range| self.in_pages(range))?;
            match catch_unwind(AssertUnwindSafe(|| self.space.change(range))) {
                Ok(change) => change.ok(),
                Err(_) => {
                    count(&self.counters.panics);
                    None
                }
            }
        });
        // SAFETY: a thread of this process asked for it and waits (`is_ours`, `is_valid`).
        let result = unsafe { call.make() };
        drop(brackets);
        result
    }

    /// The kernel rounds a length up to whole pages.
    fn in_pages(&self, range: AddrRange) -> Option<AddrRange> {
        use userptr::AddressSpace;
        let mask = 1_usize.checked_shl(self.space.page_shift())?.checked_sub(1)?;
        AddrRange::inclusive(range.start() & !mask, range.last() | mask)
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Whether a task has our memory: a thread of the process, or a `vfork`ed child.
fn is_ours(task: u32) -> bool {
    let Ok(task) = i32::try_from(task) else { return false };
    // SAFETY: neither call takes a pointer. Signal 0 is none.
    unsafe {
        let process = libc::getpid();
        libc::syscall(libc::SYS_tgkill, process, task, 0) == 0
            || libc::syscall(libc::SYS_kcmp, process, task, KCMP_VM, 0, 0) == 0
    }
}

/// Whether the caller still waits: its number has belonged to it all the time, then.
fn is_valid(listener: RawFd, id: u64) -> bool {
    // SAFETY: the argument is the number that this ioctl reads.
    unsafe { libc::ioctl(listener, ID_VALID as _, &raw const id) == 0 }
}
