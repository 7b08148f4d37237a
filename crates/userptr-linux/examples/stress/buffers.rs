//! The buffers, and the one look-up that everything is about.

use super::io::{Part, Range, content, memfd};
use super::plan::{Mode, Plan, Tally};
use super::{bracketed, memory};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use userptr::platforms::std::Running;
use userptr::{AddrRange, Context, Error, Flags, UserPtr};
use userptr_linux::OwnMemory;
use userptr_linux::uring::{self, Setup, Uring};

pub(crate) const PAGE: usize = 4096;
/// The number of buffers: fewer than strict mode watches.
pub(crate) const BUFFERS: usize = 48;
/// Every fourth buffer is seldom changed: there a look-up should hit.
const QUIET: usize = 4;
/// How long memory is left alone before it counts as untouched.
const UNTOUCHED: Duration = Duration::from_millis(100);
/// Where the buffers lie, and where they are moved to, each with a gap behind it.
pub(crate) const PLACE: usize = 0x1200_0000_0000;
pub(crate) const ELSEWHERE: usize = 0x1300_0000_0000;
pub(crate) const STEP: usize = 1 << 20;

/// Why a run cannot begin.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What all threads share.
pub(crate) struct World<S: OwnMemory> {
    pub(crate) plan: Plan,
    pub(crate) space: S,
    pub(crate) context: Running<Uring<S>>,
}

impl<S: OwnMemory> World<S> {
    pub(crate) fn new(plan: Plan, space: S) -> Result<Self, Failure> {
        let ring = Uring::open_for(Setup::default())?;
        let context = Context::builder(ring).spawn()?;
        Ok(Self { plan, space, context })
    }

    pub(crate) fn register(&self, range: Range) -> Result<UserPtr<Uring<S>>, Error> {
        let flags = if self.plan.mode == Mode::Control { Flags::UNSYNCHRONIZED } else { Flags::NONE };
        let range = AddrRange::new(range.address, range.bytes)?;
        // SAFETY: the memory is made by system calls of this program, and looked at by copies alone.
        unsafe { self.context.register_unchecked(&self.space, range, flags) }
    }
}

/// A range that is registered all the time, whatever becomes of the memory under it.
pub(crate) struct Buffer<S: OwnMemory> {
    number: usize,
    pub(crate) range: Range,
    pub(crate) shared: bool,
    pub(crate) mapped: bool,
    object: UserPtr<Uring<S>>,
    changed: Instant,
}

impl<S: OwnMemory> Buffer<S> {
    pub(crate) fn new(world: &World<S>, number: usize) -> Result<Self, Error> {
        let range = Range { address: PLACE + number * STEP, bytes: (1 + number % 8) * PAGE };
        let object = world.register(range)?;
        Ok(Self { number, range, shared: false, mapped: false, object, changed: Instant::now() })
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.number.is_multiple_of(QUIET)
    }

    /// Where it is moved to.
    pub(crate) fn elsewhere(&self) -> usize {
        ELSEWHERE + self.number * STEP
    }

    /// Drops the registration and makes a new one.
    pub(crate) fn register_again(&mut self, world: &World<S>) {
        if let Ok(object) = world.register(self.range) {
            self.object = object;
        }
    }

    /// Unmaps whatever a change has left that failed half-way.
    pub(crate) fn clear(&mut self) {
        self.mapped = false;
        for address in [self.range.address, self.elsewhere()] {
            // Nothing there is no error.
            let _ = bracketed::unmap(Range { address, ..self.range });
        }
        self.touch();
    }

    /// Notes a change, before it begins.
    pub(crate) fn touch(&mut self) {
        self.changed = Instant::now();
    }

    /// Looks the buffer up, and verifies a hit if it is its turn, or if `always`.
    pub(crate) fn check(&self, hand: &mut Hand<'_, S>, always: bool) {
        let untouched = self.mapped && self.changed.elapsed() >= UNTOUCHED;
        let hit = hand.look_up(&self.object, self.range, self.mapped, always);
        hand.tally.untouched += u64::from(untouched);
        hand.tally.untouched_hits += u64::from(untouched && hit);
    }
}

impl<S: OwnMemory> Drop for Buffer<S> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What a thread works with.
pub(crate) struct Hand<'a, S: OwnMemory> {
    pub(crate) world: &'a World<S>,
    pub(crate) random: fastrand::Rng,
    pub(crate) tally: Tally,
    file: File,
}

impl<'a, S: OwnMemory> Hand<'a, S> {
    pub(crate) fn new(world: &'a World<S>, seed: u64) -> io::Result<Self> {
        let file = memfd()?;
        Ok(Self { world, random: fastrand::Rng::with_seed(seed), tally: Tally::default(), file })
    }

    /// One look-up. The memory does not change meanwhile: the caller has locked the buffer, or knows
    /// that nobody else has it. Whether there was a lease.
    pub(crate) fn look_up(
        &mut self,
        object: &UserPtr<Uring<S>>,
        range: Range,
        mapped: bool,
        always: bool,
    ) -> bool {
        self.tally.lookups += 1;
        let waits = self.random.u32(..16) == 0;
        let lease = match if waits { object.acquire() } else { object.try_acquire() } {
            Ok(lease) => lease,
            Err(error) => {
                self.tally.refuse(error);
                // Nothing tells of memory that comes where there was none.
                object.reset();
                return false;
            }
        };
        self.tally.hits += 1;
        if !always && mapped && !self.tally.hits.is_multiple_of(self.world.plan.verify) {
            return true;
        }
        let part = uring::Part { offset: 0, bytes: range.bytes, at: 0 };
        let whole = Part { offset: 0, bytes: range.bytes };
        let seed = self.random.u64(..);
        let to_file = self.random.bool();
        if to_file && mapped {
            memory::fill(range, whole, seed);
        } else if !to_file && self.file.write_all_at(&memory::pattern(range.bytes, seed), 0).is_err() {
            self.tally.io_errors += 1;
            return true;
        }
        let done = if to_file {
            Uring::write(&lease, part, &self.file)
        } else {
            Uring::read(&lease, part, &self.file)
        };
        match done {
            Ok(_) if !mapped => self.tally.on_nothing += 1,
            Ok(bytes) if bytes == range.bytes => {
                self.tally.verified += 1;
                let in_file = content(&self.file, bytes).ok();
                self.tally.stale += u64::from(in_file != Some(memory::look(range, whole)));
            }
            Err(why) if why.raw_os_error() == Some(libc::ECANCELED) => self.tally.cancelled += 1,
            Ok(_) | Err(_) => self.tally.io_errors += 1,
        }
        true
    }
}
