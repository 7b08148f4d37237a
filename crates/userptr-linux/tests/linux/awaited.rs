//! Requests that are awaited: safe code alone, and a runtime of twenty lines.
#![forbid(unsafe_code)]

use crate::child::scenario;
use crate::stack::{eventually, lease};
use crate::stale::io::memfd;
use std::future::Future;
use std::io::Write;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as Task, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use userptr::platforms::std::Running;
use userptr::{Context, Flags, UserPtr};
use userptr_linux::uring::{Direction, Op, Part, Setup, Uring};
use userptr_linux::{Linux, Memory};

const BYTES: usize = 16 << 10;
const ALL: Part = Part { offset: 0, bytes: BYTES, at: u64::MAX };

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future in this thread; it is polled again only when it was woken.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Task::from_waker(&waker)) {
            return output;
        }
        thread::park();
    }
}

fn poll(op: &mut Op, waker: &Waker) -> Poll<std::io::Result<usize>> {
    pin!(op).poll(&mut Task::from_waker(waker))
}

fn stack(byte: u8) -> (Running<Uring>, UserPtr<Uring>) {
    let space = Linux::open().unwrap();
    let setup = Setup { deadline: Some(Duration::from_secs(1)), ..Setup::default() };
    let context = Context::builder(Uring::open(setup).unwrap()).spawn().unwrap();
    let memory = Memory::new(BYTES).unwrap();
    memory.write_at(0, &[byte; BYTES]).unwrap();
    let object = context.register_memory(&space, memory, Flags::NONE).unwrap();
    (context, object)
}

fn seen(object: &UserPtr<Uring>) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    object.memory().unwrap().read_at(0, &mut bytes).unwrap();
    bytes
}

scenario!(an_awaited_request_gives_its_bytes, 20, {
    let (context, object) = stack(1);
    let (from, mut to) = std::io::pipe().unwrap();
    let op = Uring::start(&lease(&object), Direction::FromFile, ALL, &from).unwrap();
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        to.write_all(&[7; BYTES]).unwrap();
    });
    assert_eq!(block_on(op).unwrap(), BYTES);
    writer.join().unwrap();
    assert_eq!(seen(&object), vec![7; BYTES]);
    // Many, one after another: numbers are used again.
    let file = memfd().unwrap();
    block_on(async {
        let lease = lease(&object);
        for _ in 0..500 {
            let part = Part { offset: 0, bytes: 512, at: 0 };
            let (a, b) = (
                Uring::start(&lease, Direction::ToFile, part, &file).unwrap(),
                Uring::start(&lease, Direction::ToFile, part, &file).unwrap(),
            );
            assert_eq!((a.await.unwrap(), b.await.unwrap()), (512, 512));
        }
    });
    eventually("no request is left", || context.device().in_use().1 == 0);
});

scenario!(dropped_in_the_middle_of_its_io_it_touches_nothing_new, 20, {
    let (context, object) = stack(1);
    let (from, mut to) = std::io::pipe().unwrap();
    let waker = Arc::new(Unpark(thread::current()));
    let mut op = Uring::start(&lease(&object), Direction::FromFile, ALL, &from).unwrap();
    assert!(poll(&mut op, &Waker::from(Arc::clone(&waker))).is_pending());
    drop(op);
    assert_eq!(Arc::strong_count(&waker), 1, "the waker went with the request's handle");
    assert_eq!(context.device().in_use(), (1, 1), "the kernel still has the request");
    // The memory is used anew while the kernel has the old pages.
    let memory = object.memory().unwrap();
    memory.discard().unwrap();
    memory.write_at(0, &[2; BYTES]).unwrap();
    assert!(object.try_acquire().is_err(), "a lease while the device is on the old pages");
    to.write_all(&[3; BYTES]).unwrap();
    eventually("the request is done", || context.device().in_use() == (0, 0));
    assert_eq!(seen(&object), vec![2; BYTES], "the request wrote to the new pages");
    // And the next lease has the new ones.
    let (mut there, file) = (vec![0; BYTES], memfd().unwrap());
    let part = Part { at: 0, ..ALL };
    let op = Uring::start(&lease(&object), Direction::ToFile, part, &file).unwrap();
    assert_eq!(block_on(op).unwrap(), BYTES);
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut there, 0).unwrap();
    assert_eq!(there, vec![2; BYTES]);
});

scenario!(on_a_revoked_lease_it_is_cancelled, 20, {
    let (context, object) = stack(1);
    let file = memfd().unwrap();
    let lease = lease(&object);
    object.memory().unwrap().discard().unwrap();
    eventually("the lease is revoked", || lease.is_revoked());
    // Whether the device was stopped already or not, there is an answer.
    let part = Part { at: 0, ..ALL };
    eventually("a cancelled request", || {
        match block_on(Uring::start(&lease, Direction::ToFile, part, &file).unwrap()) {
            Ok(bytes) => {
                assert_eq!(bytes, BYTES);
                false
            }
            Err(why) => why.raw_os_error() == Some(libc::ECANCELED),
        }
    });
    // And from now on always, with the ring's thread asleep or awake.
    for round in 0..200 {
        if round % 2 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        let op = Uring::start(&lease, Direction::ToFile, part, &file).unwrap();
        assert_eq!(block_on(op).unwrap_err().raw_os_error(), Some(libc::ECANCELED));
    }
    drop(lease);
    eventually("all is given back", || context.device().in_use() == (0, 0));
});

scenario!(a_waker_that_panics_or_blocks_stops_no_request, 20, {
    struct Panics(AtomicBool);
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
            panic!("a waker of the test's");
        }
    }
    struct Blocks(Thread);
    impl Wake for Blocks {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
            loop {
                thread::park();
            }
        }
    }
    let (context, object) = stack(1);
    let lease = lease(&object);
    let (from, mut to) = std::io::pipe().unwrap();
    let one = Part { bytes: 1, ..ALL };
    let panics = Arc::new(Panics(AtomicBool::new(false)));
    let mut op = Uring::start(&lease, Direction::FromFile, one, &from).unwrap();
    assert!(poll(&mut op, &Waker::from(Arc::clone(&panics))).is_pending());
    to.write_all(&[1]).unwrap();
    eventually("the waker ran", || panics.0.load(Ordering::Acquire));
    assert_eq!(block_on(op).unwrap(), 1);
    let op = Uring::start(&lease, Direction::FromFile, one, &from).unwrap();
    let writer = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        to.write_all(&[1, 1]).unwrap();
        to
    });
    assert_eq!(block_on(op).unwrap(), 1, "woken after another's waker panicked");
    let _to = writer.join().unwrap();
    assert_eq!(Uring::read(&lease, one, &from).unwrap(), 1);
    // One that never returns: the ring goes on, and pages are still taken away.
    let (from, mut to) = std::io::pipe().unwrap();
    let mut op = Uring::start(&lease, Direction::FromFile, one, &from).unwrap();
    assert!(poll(&mut op, &Waker::from(Arc::new(Blocks(thread::current())))).is_pending());
    to.write_all(&[1]).unwrap();
    thread::park();
    assert_eq!(op.wait().unwrap(), 1);
    drop(lease);
    object.memory().unwrap().discard().unwrap();
    eventually("the buffer is given back", || context.device().in_use() == (0, 0));
    // It keeps its own thread: nobody who drops the ring waits for it longer than the deadline,
    // which is 1 s here.
    let began = Instant::now();
    drop((object, context));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
});
