//! Scenarios 210 and 211: acquires that are awaited.

use crate::world::{Host, Setup, World, until};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use userptr::notifier::State;
use userptr::{Error, RawQueue};
use userptr_sim::{Op, PAGE, Seam};

/// Wakes a thread, and counts.
struct Unpark(Thread, AtomicUsize);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.unpark();
    }
}

fn waker() -> (Arc<Unpark>, Waker) {
    let unpark = Arc::new(Unpark(thread::current(), AtomicUsize::new(0)));
    (unpark.clone(), unpark.into())
}

/// Runs a future in this thread: polled again only when it was woken.
fn block_on<F: Future>(future: F) -> F::Output {
    let (_, waker) = waker();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

fn threads<P: Host>() -> World<P> {
    World::with(Setup::default().threads(1))
}

fn s210_an_acquire_is_awaited<P: Host>() {
    let w = threads::<P>();
    let _in = w.enter();
    // The pages are there: done at once, here.
    let (a, object) = w.object(2);
    let mut first = Box::pin(object.acquire_async());
    let (woken, task) = waker();
    let Poll::Ready(lease) = first.as_mut().poll(&mut Context::from_waker(&task)) else {
        panic!("nothing to wait for")
    };
    assert_eq!(w.engine().read(lease.as_ref().unwrap().map(), 0), 1);
    drop(lease);
    assert_eq!(woken.1.load(Ordering::SeqCst), 0);
    // A worker has to pin.
    let b = w.process.mmap(PAGE);
    let untouched = w.create(b, 1);
    let lease = block_on(untouched.acquire_async()).unwrap();
    assert_eq!(lease.pages().len(), 1);
    drop(lease);
    // An invalidation is under way: served after its end, with the new pages.
    let (object_in, process) = (object.clone(), w.record().users().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    w.machine.once_in(Op::Dontneed, Seam::Started, move |_| {
        let mut future = Box::pin(object_in.acquire_async());
        let (_, task) = waker();
        assert!(future.as_mut().poll(&mut Context::from_waker(&task)).is_pending());
        tell.send(future).unwrap();
    });
    process.dontneed(a, 2 * PAGE);
    process.touch(a, 2 * PAGE, 5).unwrap();
    drop(process);
    let lease = block_on(told.recv().unwrap()).unwrap();
    assert_eq!(w.engine().read(lease.map(), 0), 5);
    drop(lease);
    // What is not mapped is an error, not a wait.
    w.process.munmap(a, 2 * PAGE);
    assert_eq!(block_on(object.acquire_async()).unwrap_err(), Error::Fault);
    drop((object, untouched, first));
    w.finish();
}

/// Dropped while its worker pins, and while its lease is on the way: no lease stays, and the pages
/// can be taken away.
fn s211_an_awaited_acquire_is_dropped_in_the_middle<P: Host>() {
    for seam in [Seam::Prepare, Seam::Prepared] {
        let w = threads::<P>();
        let _in = w.enter();
        let a = w.process.mmap(PAGE);
        let object = w.create(a, 1);
        let (woken, task) = waker();
        let gate = w.hold(seam);
        let mut future = Box::pin(object.acquire_async());
        assert!(future.as_mut().poll(&mut Context::from_waker(&task)).is_pending());
        gate.reached();
        drop(future);
        drop(task);
        // The pages go, and come anew, while nobody wants the lease any more.
        let process = w.record().users().unwrap();
        let unmapper = thread::spawn(move || {
            process.dontneed(a, PAGE);
            process.touch(a, PAGE, 9).unwrap();
        });
        unmapper.join().unwrap();
        drop(gate);
        // The thread that waited lets everything go.
        until(|| object.handles() == 1);
        until(|| Arc::strong_count(&woken) == 1);
        assert_eq!(woken.1.load(Ordering::SeqCst), 0, "nobody is woken for what was dropped");
        assert_eq!((object.leases(), object.state() == State::Quarantined), (0, false));
        let lease = block_on(object.acquire_async()).unwrap();
        assert_eq!(w.engine().read(lease.map(), 0), 9, "never the old page");
        drop(lease);
        w.process.munmap(a, PAGE);
        assert_eq!(w.machine.pins(), 0);
        drop(object);
        w.ctx.drain();
        w.pin_queue.drain();
        w.finish();
    }
}

crate::on_each_host! {
    s210_an_acquire_is_awaited,
    s211_an_awaited_acquire_is_dropped_in_the_middle,
}
