//! Scenarios 131 to 133 and 135: the ring by itself, by the trait that the core calls.

use crate::child::scenario;
use crate::stack::{Stack, eventually, lease};
use crate::stale::io::{Range, memfd};
use crate::stale::memory;
use std::time::{Duration, Instant};
use userptr::{Buffer, Device, Error, Outcome, Prepare, SgLimits, SgTable};
use userptr_linux::uring::{Direction, Part, Setup, Slot, Uring};
use userptr_linux::{Linux, Options, Refusal};

const PAGE: usize = 4096;
const SOON: Option<Duration> = Some(Duration::from_secs(5));

/// A filled slot that no object has committed.
fn prepare(device: &Uring, space: &Linux, range: Range) -> Result<Slot, Error> {
    let mut pages = Buffer::with_capacity(range.bytes / PAGE).unwrap();
    for page in 0..range.bytes / PAGE {
        pages.push(range.address / PAGE + page).unwrap();
    }
    let sg = SgTable::build(pages.iter().copied(), SgLimits::NONE).unwrap();
    // SAFETY: memory of the test's own, by system calls.
    device.prepare(unsafe { Prepare::new(space, range.address, &pages, &sg, true) })
}

/// The time that the process has spent on processors.
fn spent() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid place for the answer.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// What the process spends in a second in which it does nothing.
fn spent_idle() -> Duration {
    let before = spent();
    std::thread::sleep(Duration::from_secs(1));
    spent() - before
}

scenario!(
    /// More tags than the completion queue has room for: the kernel keeps the rest, and hands it
    /// out when it is asked.
    s131_a_completion_queue_that_overflowed_is_flushed,
    60,
    {
        let space = Linux::open().unwrap();
        let range = memory::map(PAGE).unwrap();
        for (slots, requests) in [(1, 1), (64, 16)] {
            let device = Uring::open(Setup { slots, requests, ..Setup::default() }).unwrap();
            for _ in 0..20_000 {
                device.unmap(prepare(&device, &space, range).unwrap());
            }
            for _ in 0..10 {
                let slot = prepare(&device, &space, range).unwrap();
                assert_eq!(device.wait_idle(&slot, SOON), Outcome::Idle, "{slots} slots");
                device.unmap(slot);
            }
            let spent = spent_idle();
            assert!(spent < Duration::from_millis(300), "{spent:?} for nothing");
        }
    }
);

/// Changes how many descriptors the process may have; what it was before.
fn descriptors(most: u64) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid place for the answer, and a valid limit.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
        let before = limit.rlim_cur;
        limit.rlim_cur = most;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        before
    }
}

scenario!(
    /// What a sandbox does when everything is open. The wait for the ring needs no descriptor.
    s132_a_ring_works_when_the_process_may_have_no_descriptors,
    30,
    {
        let stack = Stack::new(Options::default());
        let range = memory::map(PAGE).unwrap();
        let object = stack.object(range.address, range.bytes);
        let (lease, file) = (lease(&object), memfd().unwrap());
        let before = descriptors(0);
        for _ in 0..10 {
            let part = Part { offset: 0, bytes: PAGE, at: 0 };
            assert_eq!(Uring::write(&lease, part, &file).unwrap(), PAGE);
        }
        drop(lease);
        assert_eq!(object.put_pages(), Ok(()));
        assert_eq!(stack.context.device().refusal(), None);
        // The monitor is not what is looked at here.
        descriptors(before);
    }
);

scenario!(
    /// A program that closes what it does not know (`close_range`): an answer with the cause, at
    /// once, and nobody spins.
    s133_a_ring_whose_descriptors_were_closed_says_so,
    30,
    {
        let space = Linux::open().unwrap();
        let range = memory::map(PAGE).unwrap();
        let device = Uring::open(Setup::default()).unwrap();
        let slot = prepare(&device, &space, range).unwrap();
        // SAFETY: nothing in here uses a descriptor that is closed but the ring.
        assert_eq!(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) }, 0);
        let began = Instant::now();
        device.stop(&slot);
        assert_eq!(device.wait_idle(&slot, None), Outcome::DeviceLost);
        assert_eq!(device.refusal(), Some(Refusal::RingLost(libc::EBADF)));
        let refused = prepare(&device, &space, range).err();
        assert_eq!(refused, Some(Error::DeviceLost));
        // The space's own thread is not what is looked at here.
        std::mem::forget(space);
        drop(device);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
);

/// What becomes of two reads of a silent pipe, one of them forgotten, when their buffer is
/// unmapped. The errno of the other one.
fn silent_pipe(setup: Setup, strict: bool) -> Option<i32> {
    let space = Linux::with(Options { strict, ..Options::default() }).unwrap();
    let stack = Stack::with(space, Uring::open(setup).unwrap());
    let range = memory::map(PAGE).unwrap();
    let object = stack.object(range.address, range.bytes);
    let (from, to) = std::io::pipe().unwrap();
    let part = Part { offset: 0, bytes: PAGE, at: u64::MAX };
    let held = lease(&object);
    let op = Uring::start(&held, Direction::FromFile, part, &from).unwrap();
    drop(Uring::start(&held, Direction::FromFile, part, &from).unwrap());
    drop(held);
    memory::unmap(range).unwrap();
    memory::map(PAGE).unwrap();
    let got = op.wait_for(Duration::from_secs(if setup.cancel { 5 } else { 1 }));
    if setup.cancel {
        eventually("all is given back", || stack.context.device().in_use() == (0, 0));
        // The new memory can be used at once.
        let file = memfd().unwrap();
        let part = Part { at: 0, ..part };
        assert_eq!(Uring::write(&lease(&object), part, &file).unwrap(), PAGE);
    }
    drop(to);
    memory::unmap(range).unwrap();
    got.map(|result| result.unwrap_err().raw_os_error().unwrap())
}

scenario!(s135_requests_in_flight_are_cancelled_if_asked_for, 30, {
    let setup = Setup { cancel: true, ..Setup::default() };
    for strict in [false, true] {
        assert_eq!(silent_pipe(setup, strict), Some(libc::ECANCELED), "strict: {strict}");
    }
    assert_eq!(silent_pipe(Setup::default(), false), None, "cancelled though not asked for");
});
