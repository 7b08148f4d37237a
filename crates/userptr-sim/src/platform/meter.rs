//! The metered allocator: counts what is live, fails the n-th call, and can call back as reclaim
//! does.

use core::alloc::Layout;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

type Hook = Arc<dyn Fn() + Send + Sync>;

/// A meter of allocations. It measures the threads that [`enter`](Meter::enter) it; what one thread
/// allocates and another frees is booked on the meter that it was allocated under.
#[derive(Default)]
pub struct Meter {
    live: AtomicUsize,
    calls: AtomicUsize,
    failed: AtomicUsize,
    /// Calls until one fails; 0: none will.
    countdown: AtomicUsize,
    hook: Mutex<Option<Hook>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Meter>>> = const { RefCell::new(None) };
    static IN_HOOK: Cell<bool> = const { Cell::new(false) };
}

impl Meter {
    /// A meter that fails nothing.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Measures this thread until the guard is dropped.
    pub fn enter(self: &Arc<Self>) -> MeterGuard {
        let before = CURRENT.replace(Some(self.clone()));
        MeterGuard { before, _not_send: core::marker::PhantomData }
    }

    /// Fails the `n`-th allocation from now, counted from 1, once. 0 fails none.
    pub fn fail_nth(&self, n: usize) {
        self.failed.store(0, Ordering::Relaxed);
        self.countdown.store(n, Ordering::Relaxed);
    }

    /// How many allocations failed since [`fail_nth`](Self::fail_nth).
    #[must_use]
    pub fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }

    /// How many allocations are live. Zero at the end, or something leaked.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// How many allocations were asked for.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Calls `hook` inside every allocation of a thread that this measures, before the memory is
    /// taken: direct reclaim. Not called inside itself. `None` ends it.
    pub fn on_alloc(&self, hook: Option<Box<dyn Fn() + Send + Sync>>) {
        *self.hook.lock().unwrap_or_else(PoisonError::into_inner) = hook.map(Arc::from);
    }

    fn fails(&self) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let next = |n: usize| n.checked_sub(1);
        let fails = self.countdown.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) == Ok(1);
        if fails {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        fails
    }

    fn reclaim(&self) {
        let hook = self.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(hook) = hook else { return };
        if !IN_HOOK.replace(true) {
            hook();
            IN_HOOK.set(false);
        }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Meter({} live of {} calls, {} failed)", self.live(), self.calls(), self.failed())
    }
}

/// This thread is measured. Dropping it goes back to the meter before.
#[must_use = "the thread is measured until this is dropped"]
#[derive(Debug)]
pub struct MeterGuard {
    before: Option<Arc<Meter>>,
    _not_send: core::marker::PhantomData<*const ()>,
}

impl Drop for MeterGuard {
    fn drop(&mut self) {
        CURRENT.replace(self.before.take());
    }
}

/// The meter's pointer lies in front of the memory. Returns the whole layout and where the memory
/// begins.
fn with_header(layout: Layout) -> Option<(Layout, usize)> {
    Layout::new::<*const Meter>().extend(layout).ok()
}

pub(super) fn alloc(layout: Layout) -> Option<NonNull<u8>> {
    let meter = CURRENT.with_borrow(Clone::clone);
    if let Some(meter) = &meter {
        meter.reclaim();
        if meter.fails() {
            return None;
        }
    }
    let (whole, offset) = with_header(layout)?;
    // SAFETY: the size is that of a pointer at least.
    let ptr = NonNull::new(unsafe { std::alloc::alloc(whole) })?;
    if let Some(meter) = &meter {
        meter.live.fetch_add(1, Ordering::Relaxed);
    }
    let raw = meter.map_or(core::ptr::null(), Arc::into_raw);
    // SAFETY: the header lies at the start of the fresh block, the memory at `offset` inside it.
    unsafe {
        ptr.cast::<*const Meter>().write(raw);
        Some(ptr.byte_add(offset))
    }
}

/// # Safety
/// `alloc` returned `ptr` for this layout, and it is not used again.
pub(super) unsafe fn dealloc(ptr: NonNull<u8>, layout: Layout) {
    // CANNOT FAIL: the same computation succeeded in `alloc`.
    let Some((whole, offset)) = with_header(layout) else { return };
    // SAFETY: `alloc` put the memory at `offset` of a block of layout `whole`, with the header at
    // its start.
    let raw = unsafe {
        let start = ptr.byte_sub(offset);
        let raw = start.cast::<*const Meter>().read();
        std::alloc::dealloc(start.as_ptr(), whole);
        raw
    };
    if !raw.is_null() {
        // SAFETY: `alloc` leaked this very reference into the header.
        let meter = unsafe { Arc::from_raw(raw) };
        meter.live.fetch_sub(1, Ordering::Relaxed);
    }
}
