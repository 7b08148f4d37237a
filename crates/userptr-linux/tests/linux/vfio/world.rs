//! A container that is not the kernel's, and hardware that is busy when it is told to.

use super::{LARGE, PAGE};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use userptr::Outcome;
use userptr_linux::vfio::{Container, Quiesce, Span};

/// What the hardware is doing, and what its container has.
pub(super) struct World {
    pub(super) mapped: Mutex<BTreeMap<u64, (u64, usize, bool)>>,
    pub(super) maps: AtomicUsize,
    pub(super) unmaps: AtomicUsize,
    /// Unmaps that came while the hardware was busy.
    pub(super) too_early: AtomicUsize,
    pub(super) busy: AtomicBool,
    pub(super) stops: AtomicUsize,
    pub(super) most: AtomicUsize,
    pub(super) page_sizes: AtomicU64,
    /// The errno of the next unmaps, and the one of the next maps; 0: none.
    pub(super) unmap_fails: AtomicI32,
    pub(super) map_fails: AtomicI32,
    /// The next unmap finds less than was mapped.
    pub(super) robbed: AtomicBool,
}

impl World {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            mapped: Mutex::default(),
            maps: AtomicUsize::new(0),
            unmaps: AtomicUsize::new(0),
            too_early: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            stops: AtomicUsize::new(0),
            most: AtomicUsize::new(100),
            page_sizes: AtomicU64::new(LARGE | PAGE as u64),
            unmap_fails: AtomicI32::new(0),
            map_fails: AtomicI32::new(0),
            robbed: AtomicBool::new(false),
        })
    }

    pub(super) fn mapped(&self) -> usize {
        self.mapped.lock().unwrap().len()
    }

    pub(super) fn counts(&self) -> (usize, usize) {
        (self.maps.load(Ordering::SeqCst), self.unmaps.load(Ordering::SeqCst))
    }

    pub(super) fn set_busy(&self, busy: bool) {
        self.busy.store(busy, Ordering::SeqCst);
    }
}

/// As strict as the kernel: no two mappings overlap, and only whole ones are taken away.
pub(super) struct Fake(pub(super) Arc<World>);

// SAFETY: there is no device.
unsafe impl Container for Fake {
    fn info(&self, into: &mut [u8]) -> Result<usize, i32> {
        let mut answer = Vec::new();
        let entries = self.0.most.load(Ordering::SeqCst).saturating_sub(self.0.mapped());
        for word in [0, 3_u32] {
            answer.extend_from_slice(&word.to_ne_bytes());
        }
        answer.extend_from_slice(&self.0.page_sizes.load(Ordering::SeqCst).to_ne_bytes());
        for word in [24_u32, 0] {
            answer.extend_from_slice(&word.to_ne_bytes());
        }
        let head = |answer: &mut Vec<u8>, id: u16, next: u32| {
            answer.extend_from_slice(&id.to_ne_bytes());
            answer.extend_from_slice(&1_u16.to_ne_bytes());
            answer.extend_from_slice(&next.to_ne_bytes());
        };
        head(&mut answer, 3, 36);
        answer.extend_from_slice(&u32::try_from(entries).unwrap().to_ne_bytes());
        head(&mut answer, 1, 0);
        answer.extend_from_slice(&[1_u32, 0].map(u32::to_ne_bytes).concat());
        answer.extend_from_slice(&[0_u64, (1 << 39) - 1].map(u64::to_ne_bytes).concat());
        let fits = into.len() >= answer.len();
        let there = if fits { answer.len() } else { 24 };
        into[..there].copy_from_slice(&answer[..there]);
        if !fits {
            // Like the kernel: the capabilities are left out, and the size says what they need.
            into[16..20].fill(0);
        }
        Ok(answer.len())
    }

    unsafe fn map(&self, at: Span, address: usize, write: bool) -> Result<(), i32> {
        let errno = self.0.map_fails.swap(0, Ordering::SeqCst);
        if errno != 0 {
            return Err(errno);
        }
        let mut mapped = self.0.mapped.lock().unwrap();
        if mapped.len() >= self.0.most.load(Ordering::SeqCst) {
            return Err(libc::ENOSPC);
        }
        let overlaps = |(iova, (bytes, ..)): (&u64, &(u64, usize, bool))| {
            *iova < at.iova + at.bytes && at.iova < iova + bytes
        };
        if mapped.iter().any(overlaps) {
            return Err(libc::EEXIST);
        }
        mapped.insert(at.iova, (at.bytes, address, write));
        self.0.maps.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    unsafe fn unmap(&self, at: Span) -> Result<u64, i32> {
        let errno = self.0.unmap_fails.load(Ordering::SeqCst);
        if errno != 0 {
            return Err(errno);
        }
        if self.0.busy.load(Ordering::SeqCst) {
            self.0.too_early.fetch_add(1, Ordering::SeqCst);
        }
        // A caller who has given the addresses back before this is found out: somebody else takes
        // them meanwhile.
        std::thread::yield_now();
        let gone = self.0.mapped.lock().unwrap().remove(&at.iova);
        self.0.unmaps.fetch_add(1, Ordering::SeqCst);
        let got = gone.map_or(0, |(bytes, ..)| bytes);
        Ok(if self.0.robbed.swap(false, Ordering::SeqCst) { got - PAGE as u64 } else { got })
    }
}

impl Quiesce for World {
    fn stop(&self, _: Span) {
        self.stops.fetch_add(1, Ordering::SeqCst);
    }

    fn wait_idle(&self, _: Span, timeout: Option<Duration>) -> Outcome {
        let began = Instant::now();
        while self.busy.load(Ordering::SeqCst) {
            if timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                return Outcome::TimedOut;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Outcome::Idle
    }
}
