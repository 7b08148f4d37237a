//! An arena, a device on it, the listener.

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::Arc;
use userptr::platforms::std::Std;
use userptr::{AddrRange, Context, Device, Error, Flags, Limits, Outcome, Prepare, UserPtr};
use userptr_explicit::Explicit;
use userptr_linux::exact::{self, Exact, Refused};

pub(crate) const PAGE: usize = 4096;
pub(crate) const PAGES: usize = 256;
/// What a device finds in its page, until that goes.
pub(crate) const MARK: u8 = 0x5a;

#[derive(Default)]
pub(crate) struct State {
    pub(crate) mapped: AtomicUsize,
    /// The page whose device does not stop, and does.
    pub(crate) busy: AtomicUsize,
    pub(crate) panics: AtomicBool,
    /// Acquires race with changes: what was prepared, and never committed, may be unmapped late.
    pub(crate) races: AtomicBool,
}

/// A device that looks, at its last moment with a page, whether the page is still what it was.
pub(crate) struct Looking(Arc<State>);

impl Device for Looking {
    type Space = Explicit<Std>;
    type Map = usize;
    fn limits(&self) -> Limits {
        Limits::default().deadline(Some(Duration::from_secs(20)))
    }
    fn prepare(&self, what: Prepare<'_, Explicit<Std>>) -> Result<usize, Error> {
        unsafe { (what.address as *mut u8).write_volatile(MARK) };
        self.0.mapped.fetch_add(1, Ordering::SeqCst);
        Ok(what.address)
    }
    fn wait_idle(&self, at: &usize, timeout: Option<Duration>) -> Outcome {
        assert!(!self.0.panics.load(Ordering::SeqCst), "the driver panics");
        let _ = timeout;
        while self.0.busy.load(Ordering::SeqCst) == *at {
            std::thread::sleep(Duration::from_millis(1));
        }
        Outcome::Idle
    }
    fn unmap(&self, at: usize) {
        if !self.0.races.load(Ordering::SeqCst) {
            assert_eq!(unsafe { (at as *const u8).read_volatile() }, MARK, "the page went before the device");
        }
        self.0.mapped.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) struct World {
    pub(crate) exact: Exact,
    pub(crate) space: Explicit<Std>,
    pub(crate) state: Arc<State>,
    pub(crate) context: Context<Looking>,
    pub(crate) arena: usize,
}

pub(crate) fn map(at: usize, pages: usize, flags: i32) -> usize {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let got = unsafe { libc::mmap(at as *mut _, pages * PAGE, protection, flags, -1, 0) };
    assert_ne!(got, libc::MAP_FAILED);
    got as usize
}

/// A listener over an arena. `None`: this environment refuses it, which is said.
pub(crate) fn arena() -> Option<(Exact, Explicit<Std>, usize)> {
    // At a multiple of 4 GiB, so that a range from below carries into the high word; a page of our
    // own on either side.
    let around = map(0, (4 << 30) / PAGE + PAGES + 2, libc::MAP_NORESERVE);
    let arena = (around + PAGE).next_multiple_of(4 << 30);
    let space = Explicit::<Std>::new(PAGE).unwrap();
    match exact::open(&space, &[AddrRange::new(arena, PAGES * PAGE).unwrap()]) {
        Ok(exact) => Some((exact, space, arena)),
        Err(why @ (Refused::Busy | Refused::Old | Refused::Errno(_))) => {
            println!("skipped: {why}");
            None
        }
        Err(why) => panic!("{why}"),
    }
}

/// The same with a device that looks.
pub(crate) fn world() -> Option<World> {
    let (exact, space, arena) = arena()?;
    let state = Arc::new(State::default());
    let context = Context::builder(Looking(state.clone())).spawn().unwrap();
    // The running context owns its threads; the tests end with their process.
    let running = Box::leak(Box::new(context));
    Some(World { exact, space, state, context: Context::clone(running), arena })
}

impl World {
    pub(crate) fn page(&self, n: usize) -> usize {
        assert!(n < PAGES);
        self.arena + n * PAGE
    }

    /// An object of one page that the device has.
    pub(crate) fn object(&self, at: usize) -> UserPtr<Looking> {
        let range = AddrRange::new(at, PAGE).unwrap();
        // SAFETY: bytes of an anonymous mapping that only the tests' devices use.
        let object = unsafe { self.context.register_unchecked(&self.space, range, Flags::NONE) }.unwrap();
        drop(object.acquire().unwrap());
        object
    }

    pub(crate) fn mapped(&self) -> usize {
        self.state.mapped.load(Ordering::SeqCst)
    }
}

pub(crate) fn munmap(at: usize, pages: usize) -> i32 {
    unsafe { libc::munmap(at as *mut _, pages * PAGE) }
}
