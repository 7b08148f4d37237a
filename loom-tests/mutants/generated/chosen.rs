//! Which mutant runs. In the copy of the core only.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

enum Mode {
    /// The core as it is, or one mutant.
    Run(usize),
    /// The core as it is; the number of each site that is met is written into a file.
    Cover(std::string::String),
}

static MODE: OnceLock<Mode> = OnceLock::new();
static MET: [AtomicU8; 4096] = [const { AtomicU8::new(0) }; 4096];

/// Whether mutant `n` runs.
pub fn on(n: usize) -> bool {
    let mode = MODE.get_or_init(|| match std::env::var("USERPTR_MUTANT_COVER") {
        Ok(path) => Mode::Cover(path),
        Err(_) => {
            Mode::Run(std::env::var("USERPTR_MUTANT").ok().and_then(|n| n.parse().ok()).unwrap_or_default())
        }
    });
    match mode {
        Mode::Run(chosen) => *chosen == n,
        Mode::Cover(path) => {
            if MET[n].load(Ordering::Relaxed) == 0 && MET[n].swap(1, Ordering::Relaxed) == 0 {
                let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
                let _ = file.and_then(|mut file| file.write_all(std::format!("{n}\n").as_bytes()));
            }
            false
        }
    }
}

/// One step weaker than the full fence.
pub fn weak_fence() {
    #[cfg(feature = "loom")]
    loom::sync::atomic::fence(loom::sync::atomic::Ordering::AcqRel);
    #[cfg(not(feature = "loom"))]
    std::sync::atomic::fence(Ordering::AcqRel);
}

/// What owns a count. `put` drops that count, and leaves the owner in place.
pub struct Owned<'a, T>(pub &'a T);

/// For a count whose owner drops it by hand. Found before `PutPlain`: without another reference.
pub trait PutInner {
    fn put(&self);
}

impl<T> PutInner for Owned<'_, core::mem::ManuallyDrop<T>> {
    fn put(&self) {
        drop(unsafe { core::ptr::read(&raw const **self.0) });
    }
}

/// For every other one.
pub trait PutPlain {
    fn put(&self);
}

impl<T> PutPlain for &Owned<'_, T> {
    fn put(&self) {
        drop(unsafe { core::ptr::read(self.0) });
    }
}
