//! The userfaultfds of one address space.
//!
//! One for all of the memory would be one question for all of it: a storm of unmaps in one place
//! would keep every look-up waiting (rule 39). So there are several *channels*, each a userfaultfd
//! with a gate of its own, and a watched piece of memory belongs to one of them.
//!
//! A channel is opened when it is needed and stays open until the end, where everything has been
//! unregistered and every message read: closing one before that would block an unmapper for ever
//! while a forked child has a copy of the descriptor (scenario 73).

use super::epoll::{Epoll, Mode, Ready};
use super::eventfd::EventFd;
use super::maps::Maps;
use super::refusal::Refusal;
use super::reserve;
use super::uffd::{Event, Events, Probe, Uffd};
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use core::time::Duration;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;
use userptr::AddrRange;

/// The number of the eventfd that ends the monitor.
const STOP: u64 = u64::MAX;
/// How long a watch waits for changes that began before it.
const SETTLE: Duration = Duration::from_millis(100);
/// How long the end waits for unmappers that have begun and not been let go yet.
const LAST_READ: Duration = Duration::from_secs(10);

/// One userfaultfd, and whether its messages are being passed on.
#[derive(Debug)]
pub(super) struct Channel {
    uffd: Uffd,
    /// Up while messages are being read and passed on.
    gate: AtomicBool,
    /// `mremap` has carried a watch of this channel somewhere else.
    moved: AtomicBool,
}

impl Channel {
    /// Whether `mremap` has carried a watch of this channel somewhere else.
    pub(super) fn has_moved(&self) -> bool {
        self.moved.load(Ordering::Relaxed)
    }

    /// Whether every change that began in the channel's memory was passed on. See [the
    /// argument](super#why-a-look-up-never-finds-a-stale-page).
    pub(super) fn quiet(&self, probe: bool) -> bool {
        if probe && self.uffd.probe() != Probe::Quiet {
            return false;
        }
        // ORDERING: the probe before the gate, never the other way round: a monitor that has read
        // the last message, which is what makes the probe quiet, raised the gate before that. Pairs
        // with the fence in `read_all`.
        fence(Ordering::SeqCst);
        // ORDERING: pairs with the release that lowers the gate: what the monitor did to the leases
        // is visible to us.
        !self.gate.load(Ordering::Acquire)
    }

    /// Reads every message and passes it on, with the gate up; calls `last` before it goes down.
    pub(super) fn read_all(
        &self,
        events: &mut Events,
        mut pass_on: impl FnMut(&Events),
        last: impl FnOnce(),
    ) {
        self.gate.store(true, Ordering::Relaxed);
        // ORDERING: the gate is up before a message is read. Pairs with the fence in `quiet`:
        // whoever finds the probe quiet because we read a message finds the gate up, or finds it
        // lowered by the release below.
        fence(Ordering::SeqCst);
        while self.uffd.read(events) != 0 {
            if events.iter().any(|event| matches!(event, Event::Remap { .. })) {
                self.moved.store(true, Ordering::Relaxed);
            }
            pass_on(events);
        }
        last();
        // ORDERING: publishes what was done to the leases; pairs with the acquire in `quiet`.
        self.gate.store(false, Ordering::Release);
    }
}

/// All of them, in a table of fixed size.
#[derive(Debug)]
pub(super) struct Channels {
    slots: Box<[OnceLock<Channel>]>,
    /// How many are open; they fill the table from its start.
    open: AtomicUsize,
    opening: Mutex<()>,
    epoll: Epoll,
    mode: Mode,
    maps: Maps,
    stop: EventFd,
    stopping: AtomicBool,
    /// Parts whose watch could not be ended.
    left: AtomicU64,
}

/// What the monitor woke up for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Something to read, or the time is over.
    Look,
    /// Waiting does not work any more: everything has to be looked at, again and again.
    Blind,
    /// The end.
    Stop,
}

impl Channels {
    /// A table for `most` channels, one of them open.
    pub(super) fn new(most: usize, mode: Mode) -> Result<Self, Refusal> {
        let this = Self {
            slots: (0..most).map(|_| OnceLock::new()).collect(),
            open: AtomicUsize::new(0),
            opening: Mutex::new(()),
            epoll: Epoll::open()?,
            mode,
            maps: Maps::open(),
            stop: EventFd::open()?,
            stopping: AtomicBool::new(false),
            left: AtomicU64::new(0),
        };
        this.epoll.add(this.stop.raw(), STOP, Mode::Level)?;
        this.open_one()?;
        Ok(this)
    }

    /// Opens one more. Returns its number.
    pub(super) fn open_one(&self) -> Result<usize, Refusal> {
        if self.len() >= self.slots.len() {
            // Before one is opened: to close it again would walk all mappings of the process.
            return Err(Refusal::Table(self.slots.len()));
        }
        let uffd = Uffd::open()?;
        if self.len() != 0 {
            reserve::check_descriptor(uffd.raw())?;
        }
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let index = self.open.load(Ordering::Relaxed);
        let slot = self.slots.get(index).ok_or(Refusal::Table(self.slots.len()))?;
        self.epoll.add(uffd.raw(), index as u64, self.mode)?;
        let _ = slot.set(Channel { uffd, gate: AtomicBool::new(false), moved: AtomicBool::new(false) });
        // ORDERING: publishes the channel; pairs with the acquire in `len`.
        self.open.store(index.saturating_add(1), Ordering::Release);
        Ok(index)
    }

    /// How many are open.
    pub(super) fn len(&self) -> usize {
        // ORDERING: pairs with the release in `open_one`.
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn get(&self, index: usize) -> Option<&Channel> {
        self.slots.get(index)?.get()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Channel> {
        self.slots.iter().map_while(OnceLock::get)
    }

    pub(super) fn watches_files(&self) -> bool {
        self.get(0).is_some_and(|channel| channel.uffd.watches_files())
    }

    pub(super) fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Parts whose watch could not be ended.
    pub(super) fn left(&self) -> u64 {
        self.left.load(Ordering::Relaxed)
    }

    /// Watches a part on a channel. What another channel has carried there by `mremap`, where
    /// nobody counts on it, is taken from it: `true` then.
    pub(super) fn register(&self, index: usize, part: AddrRange) -> Result<bool, Refusal> {
        let channel = self.get(index).ok_or(Refusal::Table(self.slots.len()))?;
        match channel.uffd.register(part) {
            Err(Refusal::Claimed) if self.has_moved_soon() => {
                self.unregister(part);
                channel.uffd.register(part).map(|()| true)
            }
            done => done.map(|()| false),
        }
    }

    /// Waits until each channel that `could` know of it has passed on what began before this call.
    /// Called without a lock that the monitor takes. `false`: not in time.
    ///
    /// Memory that is new to its channel may have belonged to another one a moment ago. A discard
    /// that began then is told there, and a look-up asks only where the memory belongs now: before
    /// it is pinned, the other one must have been quiet once.
    pub(super) fn settle(&self, could: impl Fn(usize, &Channel) -> bool) -> bool {
        let until = Instant::now().checked_add(SETTLE);
        self.iter().enumerate().filter(|(index, channel)| could(*index, channel)).all(|(_, channel)| {
            while !channel.quiet(true) {
                if until.is_some_and(|until| Instant::now() >= until) {
                    return false;
                }
                std::thread::sleep(Duration::from_micros(20));
            }
            true
        })
    }

    /// Whether `mremap` has carried a watch somewhere. Its caller goes on when the message is read,
    /// which is a moment before we know of it.
    fn has_moved_soon(&self) -> bool {
        (0..50).any(|_| {
            self.has_moved() || {
                std::thread::sleep(Duration::from_micros(20));
                false
            }
        })
    }

    fn has_moved(&self) -> bool {
        self.iter().any(Channel::has_moved)
    }

    /// Ends the watch of a part, whichever channel it belongs to.
    pub(super) fn unregister(&self, part: AddrRange) {
        if self.unregister_at_once(part) {
            return;
        }
        // One call fails as a whole for one mapping that cannot be watched, or that belongs to
        // another channel, and where nothing is mapped: mapping by mapping, then.
        if !self.maps.each_in(part, |part| self.unregister_mapping(part)) {
            self.left.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether one channel could end the watch of all of it.
    fn unregister_at_once(&self, part: AddrRange) -> bool {
        self.iter().any(|channel| channel.uffd.unregister(part).is_ok())
    }

    fn unregister_mapping(&self, part: AddrRange) {
        // A mapping that no channel may end the watch of was never watched by us: it cannot be
        // watched, or belongs to a userfaultfd of the program's own.
        let _ = self.unregister_at_once(part);
    }

    /// Ends the watch of `parts`, and of what `mremap` has carried elsewhere, while the monitor
    /// still reads; then waits until everybody who waits for a message has been let go, and ends
    /// the monitor.
    pub(super) fn end(&self, parts: impl Iterator<Item = AddrRange>) {
        parts.for_each(|part| self.unregister(part));
        self.wait_until_quiet();
        // Only now is every move known.
        if (self.has_moved() || self.left() != 0)
            && !self.maps.each(|mapping| self.unregister_mapping(mapping))
        {
            self.left.fetch_add(1, Ordering::Relaxed);
        }
        self.wait_until_quiet();
        // ORDERING: pairs with the acquire in `wait`; the write below wakes the monitor.
        self.stopping.store(true, Ordering::Release);
        self.stop.add(1);
    }

    /// Whether every change that has begun was read, and its thread has run again since.
    pub(super) fn are_quiet(&self) -> bool {
        self.iter().all(|channel| channel.uffd.probe() == Probe::Quiet)
    }

    /// A change that has begun is counted until its thread runs again: not quiet before that.
    fn wait_until_quiet(&self) {
        let until = Instant::now().checked_add(LAST_READ);
        while self.iter().any(|channel| channel.uffd.probe() == Probe::Changing)
            && until.is_none_or(|until| Instant::now() < until)
        {
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Waits for something to read. For the monitor alone.
    pub(super) fn wait(&self, ready: &mut Ready, timeout: Option<Duration>) -> Wait {
        let works = self.epoll.wait(ready, timeout);
        // ORDERING: pairs with the release in `end`.
        if self.stopping.load(Ordering::Acquire) {
            return Wait::Stop;
        }
        if works {
            return Wait::Look;
        }
        // Somebody closed our descriptors. Those of the userfaultfds may be left, and unmappers
        // wait for their messages.
        std::thread::sleep(Duration::from_millis(1));
        Wait::Blind
    }

    /// Has a channel reported again ([`Mode::Once`]).
    pub(super) fn arm(&self, index: usize) {
        if let Some(channel) = self.get(index) {
            self.epoll.arm(channel.uffd.raw(), index as u64);
        }
    }
}
