//! A program without `unsafe` that uses every safe function in ways that nobody should: in every
//! order of drops, with everything forgotten, from inside callbacks. Nothing of it may be undefined
//! behaviour, hang or panic. Runs under Miri, too, which is told that leaks are meant:
//! `MIRIFLAGS=-Zmiri-ignore-leaks`.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    reason = "a test: it stops where something is wrong"
)]

mod drivers;
mod forgotten;
mod queues;

use core::time::Duration;
use std::boxed::Box;
use std::thread;
use std::time::Instant;
use userptr::platforms::std::{Running, Std, Workers};
use userptr::{
    AddrRange, Blockable, Client, Context, Device, Error, Flags, Limits, Notifier, Outcome, OwnedLease,
    Platform, Refcount, UserPtr,
};
use userptr_sim::{DmaDevice, Machine, PAGE, Process, Space};

type Dma = DmaDevice<Std>;

/// A machine, and a process with a buffer.
struct World {
    machine: Machine,
    process: Process,
    buffer: AddrRange,
}

impl World {
    fn new() -> Self {
        let machine = Machine::new();
        let process = machine.process();
        let address = {
            let _inside = machine.enter(&process);
            process.mmap(2 * PAGE)
        };
        Self { machine, process, buffer: AddrRange::new(address, 2 * PAGE).unwrap() }
    }

    fn space(&self) -> Space<Std> {
        Space::of(&self.process)
    }

    fn spawn<D: Device<Space = Space<Std>>>(&self, device: D) -> Running<D> {
        Context::builder(device).spawn().unwrap()
    }

    /// As `dma`, for tests that wait for the deadline.
    fn impatient(&self) -> Running<Dma> {
        let short = |limits: Limits| limits.deadline(Some(Duration::from_millis(300)));
        Context::builder(Dma::new(&self.machine)).limits(short).spawn().unwrap()
    }

    fn dma(&self) -> Running<Dma> {
        self.spawn(Dma::new(&self.machine))
    }

    fn object<D: Device<Space = Space<Std>>>(&self, context: &Context<D>) -> UserPtr<D> {
        context.register(&self.space(), self.buffer, Flags::NONE).unwrap()
    }

    /// Waits until no page is pinned: a pin worker that is just ending may have the last reference.
    fn wait_unpinned(&self, case: &str) {
        let began = Instant::now();
        while self.machine.pins() != 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "still pinned: {case}");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Unmaps the buffer, which revokes what is left on it.
    fn unmap(&self) {
        let _inside = self.machine.enter(&self.process);
        self.process.munmap(self.buffer.start(), 2 * PAGE);
    }
}

/// What a test drops in every order.
enum Part {
    Running(#[allow(dead_code, reason = "dropped")] Running<Dma>),
    Context(#[allow(dead_code, reason = "dropped")] Context<Dma>),
    Client(#[allow(dead_code, reason = "dropped")] Client<Dma>),
    Object(#[allow(dead_code, reason = "dropped")] UserPtr<Dma>),
    Lease(#[allow(dead_code, reason = "dropped")] OwnedLease<Dma>),
}

/// Every order of `0..n`.
fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![vec![]];
    }
    let mut all = Vec::new();
    for order in orders(n - 1) {
        for place in 0..n {
            let mut order = order.clone();
            order.insert(place, n - 1);
            all.push(order);
        }
    }
    all
}

#[test]
fn every_order_of_drops() {
    let orders = orders(5);
    assert_eq!(orders.len(), 120);
    // Miri takes every tenth.
    for order in orders.iter().step_by(if cfg!(miri) { 10 } else { 1 }) {
        let world = World::new();
        let inside = world.machine.enter(&world.process);
        let running = world.dma();
        let client = Client::open(running.clone()).unwrap();
        client.create(&world.space(), world.buffer.start(), PAGE, 0).unwrap();
        let object = world.object(&running);
        let lease = object.acquire_owned().unwrap();
        assert_eq!(world.machine.pins(), 2);
        let mut parts = [
            Some(Part::Context(running.clone())),
            Some(Part::Running(running)),
            Some(Part::Client(client)),
            Some(Part::Object(object)),
            Some(Part::Lease(lease)),
        ];
        for &place in order {
            drop(parts[place].take());
        }
        world.wait_unpinned(&format!("the order {order:?}"));
        drop(inside);
        world.machine.assert_clean();
    }
}

#[test]
fn what_the_builder_refuses() {
    let world = World::new();
    let queues: Vec<Workers<Std>> = (0..3).map(|_| Workers::start("queue", 1).unwrap()).collect();
    let queue = |n: usize| queues[n].queue().clone();
    let builder = || Context::builder(Dma::new(&world.machine));
    let error = |builder: userptr::ContextBuilder<Dma>| builder.build().unwrap_err().error;

    assert_eq!(error(builder()), Error::QueueMissing);
    assert_eq!(error(builder().pin_queue(queue(0))), Error::QueueMissing);
    assert_eq!(error(builder().release_queue(queue(0))), Error::QueueMissing);
    for [pins, revokes, releases] in [[0, 1, 0], [0, 0, 1], [0, 1, 1], [0, 0, 0]] {
        let same =
            builder().pin_queue(queue(pins)).revoke_queue(queue(revokes)).release_queue(queue(releases));
        assert_eq!(error(same), Error::SameQueue);
    }
    assert_eq!(error(builder().pin_queue(queue(0)).release_queue(queue(0))), Error::SameQueue);
    let full = || builder().pin_queue(queue(0)).revoke_queue(queue(1)).release_queue(queue(2));
    assert_eq!(error(full().limits(|limits| limits.coherent(false))), Error::NotCoherent);
    assert_eq!(error(full().limits(|limits| limits.max_workers(0))), Error::Invalid);
    assert!(full().build().is_ok());
    for shut in (0..3).rev() {
        queues[shut].queue().shut_down();
        assert_eq!(error(full()), Error::ShutDown, "queue {shut}");
    }
}

#[test]
fn leases_in_threads_that_end() {
    let world = World::new();
    let inside = world.machine.enter(&world.process);
    let running = world.dma();
    let object = world.object(&running);
    drop(object.acquire().unwrap());
    let owned = object.acquire_owned().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let lease = object.try_acquire().unwrap_or_else(|_| object.acquire().unwrap());
            assert_eq!(lease.pages().len(), 2);
        });
        scope.spawn(move || drop(owned));
        // Shared with another thread, it is still dropped in this one.
        let lease = object.acquire().unwrap();
        scope.spawn(|| ()).join().unwrap();
        thread::scope(|inner| {
            inner.spawn(|| assert!(!lease.is_revoked()));
        });
        drop(lease.into_owned());
    });
    assert_eq!(object.leases(), 0);
    drop(inside);
    world.unmap();
    world.machine.assert_clean();
}

#[test]
fn handles_of_clients() {
    let world = World::new();
    let _inside = world.machine.enter(&world.process);
    let running = world.dma();
    let (a, b) = (Client::open(running.clone()).unwrap(), Client::open(running.clone()).unwrap());
    let (space, at) = (world.space(), world.buffer.start());
    let handles: Vec<u32> = (0..40).map(|_| a.create(&space, at, PAGE, 0).unwrap()).collect();
    let object = a.lookup(handles[7]).unwrap();
    assert!(b.lookup(handles[7]).is_err());
    let lease = object.acquire().unwrap();
    assert_eq!(a.close(handles[7]), Ok(()));
    assert_eq!(a.close(handles[7]), Err(Error::NoEntry));
    for wrong in [0, 41, u32::MAX] {
        assert_eq!(a.lookup(wrong).unwrap_err(), Error::NoEntry);
    }
    assert_eq!(lease.pages().len(), 1);
    // An object of one client in the table of another, and of itself.
    b.insert(object.clone()).unwrap();
    drop((a, b));
    assert_eq!(lease.pages().len(), 1);
    for (address, size, flags, error) in [
        (at, PAGE, 2, Error::UnknownFlag),
        (at + 1, PAGE, 0, Error::Unaligned),
        (at, 0, 0, Error::Empty),
        (usize::MAX - PAGE + 1, 2 * PAGE, 0, Error::Fault),
        (at, usize::MAX - PAGE + 1, 0, Error::TooBig),
    ] {
        assert_eq!(running.register_raw(&space, address, size, flags).unwrap_err(), error);
    }
}

#[test]
fn numbers_by_hand() {
    // A count at its ends.
    for n in [0, 1, usize::MAX / 2, usize::MAX] {
        let count = Refcount::<Std>::with_count(n);
        count.get();
        let _ = (count.put(), count.put(), count.get_unless_zero(), count.is_saturated());
    }
    // A lease that nobody took, and one that nobody dropped.
    Std::note_lease(0, false);
    Std::note_lease(usize::MAX, true);
    assert!(Std::holds_lease(usize::MAX));
    Std::note_lease(usize::MAX, false);
    // Ends of the address range.
    let notifier = Notifier::<Std>::try_new(None).unwrap();
    for range in [AddrRange::ALL, AddrRange::new(usize::MAX, 1).unwrap(), AddrRange::new(0, 1).unwrap()] {
        assert_eq!(notifier.invalidate(range, Blockable::Yes).unwrap().outcome(), Outcome::Idle);
    }
    assert!(AddrRange::new(usize::MAX, 2).is_err() && AddrRange::new(1, 0).is_err());
    let boxed: Box<dyn core::error::Error> = Box::new(Error::Again);
    assert!(!boxed.to_string().is_empty());
}
