//! Threads of the package's own.

use crate::Refusal;
use core::mem::MaybeUninit;
use core::ptr;
use std::thread::{Builder, JoinHandle};

/// Starts a thread that takes no signal: a program that blocks one and reads it from a `signalfd`
/// gets it, and no handler of the program's runs where an unmap waits for the thread.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Refusal> {
    let name = String::from(name);
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: both are places for a set; `sigfillset` initialises the first before it is read. A
    // new thread inherits the mask.
    let blocked = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) == 0
    };
    let thread = Builder::new().name(name).spawn(run);
    if blocked {
        // SAFETY: the first call succeeded, so it initialised `before`.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    }
    thread.map_err(|_| Refusal::Threads)
}
