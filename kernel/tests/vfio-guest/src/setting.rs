//! An address space, the card and the threads behind them, and what the tests do with them.

use crate::edu::{Edu, LAST_ADDRESS, MAX_BYTES, Way};
use crate::memory;
use std::sync::Arc;
use std::time::{Duration, Instant};
use userptr::platforms::std::Running;
use userptr::{AddrRange, Context, Error, Flags, Lease, UserPtr};
use userptr_linux::vfio::{IovaRange, Setup, Span, Type1, Vfio};
use userptr_linux::{Linux, Options};
use vfio_ioctls::VfioContainer;

pub type Card = Vfio<Arc<Edu>, Type1<Arc<VfioContainer>>>;

pub const PAGE: usize = 4096;

/// Addresses that the naive way uses; the device's window ends before them.
const NAIVE: Span = Span { iova: 0xf00_0000, bytes: PAGE as u64 };
/// A buffer of the test's own, to look at what the engine has read.
const WITNESS: Span = Span { iova: 0xf80_0000, bytes: PAGE as u64 };

pub const SETUP: Setup = Setup {
    window: IovaRange { first: 0x10_0000, last: 0xeff_ffff },
    mappings: 256,
    deadline: Some(Duration::from_secs(10)),
    cut_off: false,
};

pub struct Setting {
    pub context: Running<Card>,
    pub space: Linux,
    pub edu: Arc<Edu>,
    witness: usize,
}

impl Setting {
    /// Strict: an unmap returns when the mapping is gone.
    pub fn new() -> Self {
        Self::with(Options { strict: true, ..Options::default() }, SETUP)
    }

    pub fn with(options: Options, setup: Setup) -> Self {
        let edu = Edu::open();
        // SAFETY: `vfio-ioctls` has given it a group and an IOMMU of type 1, version 2; nothing
        // else is mapped in the window.
        let container = unsafe { Type1::new(edu.container()) };
        let device = Vfio::open(container, edu.clone(), setup).expect("the container's limits");
        let space = Linux::with(options).expect("userfaultfd");
        let context = Context::builder(device).spawn().expect("threads");
        let witness = memory::map(PAGE);
        let this = Self { context, space, edu, witness };
        assert!(this.setup_fits());
        this.naive_map(WITNESS, witness);
        this
    }

    fn setup_fits(&self) -> bool {
        SETUP.window.last < NAIVE.iova && WITNESS.iova + WITNESS.bytes - 1 <= LAST_ADDRESS
    }

    pub fn device(&self) -> &Card {
        self.context.device()
    }

    pub fn object(&self, address: usize, bytes: usize) -> UserPtr<Card> {
        self.create(address, bytes, Flags::NONE)
    }

    pub fn create(&self, address: usize, bytes: usize, flags: Flags) -> UserPtr<Card> {
        let range = AddrRange::new(address, bytes).expect("a range");
        // SAFETY: the tests map their memory by system calls, and look at it by address only.
        unsafe { self.context.register_unchecked(&self.space, range, flags) }.expect("an object")
    }

    /// The plain way: maps and forgets.
    pub fn naive(&self, address: usize) -> Span {
        self.naive_map(NAIVE, address);
        NAIVE
    }

    fn naive_map(&self, at: Span, address: usize) {
        // SAFETY: the memory is accessed by address only.
        let done = unsafe { self.edu.container().vfio_dma_map(at.iova, PAGE, address as *mut u8) };
        done.expect("a naive mapping");
    }

    pub fn naive_end(&self) {
        self.edu.container().vfio_dma_unmap(NAIVE.iova, PAGE).expect("a naive unmap");
    }

    /// What the device sees at a place: it reads there, and writes what it has read to the witness.
    pub fn seen_by_device(&self, span: Span, offset: usize, bytes: usize) -> Vec<u8> {
        memory::fill(self.witness, bytes, 0);
        self.edu.transfer(span, offset, bytes, Way::FromMemory);
        self.edu.transfer(WITNESS, 0, bytes, Way::ToMemory);
        memory::look(self.witness, bytes)
    }

    /// Fills the engine's buffer.
    pub fn load(&self, seed: u64) {
        memory::fill(self.witness, MAX_BYTES, seed);
        self.edu.transfer(WITNESS, 0, MAX_BYTES, Way::FromMemory);
    }

    /// Waits until nothing is mapped but the test's own witness.
    pub fn assert_released(&self) {
        eventually("all mappings are released", || self.device().stats().taken == 0);
        assert_eq!(memory::locked_pages(), 1, "pages are pinned besides the witness");
    }
}

/// A lease, however long windows stay open.
pub fn lease(object: &UserPtr<Card>) -> Lease<'_, Card> {
    try_lease(object).unwrap_or_else(|error| panic!("{error}, {:?}", object.context().device().refusal()))
}

pub fn try_lease(object: &UserPtr<Card>) -> Result<Lease<'_, Card>, Error> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match object.acquire() {
            Err(Error::Again | Error::Busy) if Instant::now() < deadline => {}
            done => return done,
        }
    }
}

/// Where the object lies for the device, for whoever holds the lease.
pub fn span(lease: &Lease<'_, Card>) -> Span {
    lease.map().span()
}

/// Waits for something that has to come.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
