//! Scenario 76, and the io_uring device by itself.

use crate::child::scenario;
use crate::stack::{Stack, eventually, lease};
use crate::stale::io::{Range, memfd};
use crate::stale::memory;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::time::Duration;
use userptr_linux::uring::{Direction, MAX_REQUESTS, MAX_SLOTS, Part, Setup, Uring};
use userptr_linux::{Options, Refusal};

const BYTES: usize = 16 << 10;
/// Long enough for anything that has to come, on a busy machine.
const LONG: Duration = Duration::from_secs(5);
/// Long enough to see that somebody waits.
const SHORT: Duration = Duration::from_millis(300);

fn pipe() -> (File, File) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: both are new.
    let [read, write] = ends.map(|fd| unsafe { File::from_raw_fd(fd) });
    (read, write)
}

/// Memory of a file, so that its pages can be looked at when they are not mapped any more.
fn mapped_file() -> (File, Range) {
    let file = memfd().unwrap();
    file.set_len(BYTES as u64).unwrap();
    // SAFETY: a new mapping.
    let got = unsafe {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        libc::mmap(std::ptr::null_mut(), BYTES, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(got, libc::MAP_FAILED);
    (file, Range { address: got as usize, bytes: BYTES })
}

/// A request waits for a pipe while its buffer is unmapped by the thread that started it.
fn unmap_in_flight(strict: bool) {
    let stack = Stack::new(Options { strict, ..Options::default() });
    let (file, range) = mapped_file();
    let (from, mut to) = pipe();
    let object = stack.object(range.address, range.bytes);
    let (tell, told) = mpsc::channel();
    let unmapper = {
        let object = object.clone();
        std::thread::spawn(move || {
            let part = Part { offset: 0, bytes: BYTES, at: u64::MAX };
            let op = Uring::start(&lease(&object), Direction::FromFile, part, &from).unwrap();
            tell.send(()).unwrap();
            memory::unmap(range).unwrap();
            tell.send(()).unwrap();
            op.wait()
        })
    };
    told.recv().unwrap();
    let returned = told.recv_timeout(if strict { SHORT } else { LONG }).is_ok();
    assert_eq!(returned, !strict, "the unmapper must wait in strict mode, and only there");
    // Whether it waits or not: the pages are still the device's.
    assert_eq!(stack.context.device().in_use(), (1, 1));
    assert_eq!(object.try_acquire().err(), Some(userptr::Error::Again));
    to.write_all(&[0xa5; BYTES]).unwrap();
    if strict {
        told.recv_timeout(LONG).expect("the unmapper was let go when the device was idle");
    }
    assert_eq!(unmapper.join().unwrap().unwrap(), BYTES);
    let mut content = vec![0; BYTES];
    file.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(content, vec![0xa5; BYTES], "the device wrote to other pages than those it was given");
    eventually("the buffer is given back", || stack.context.device().in_use() == (0, 0));
    assert_eq!(stack.space.stats().overdue, 0);
}

scenario!(s76_by_default_the_old_pages_stay_until_the_completion, 30, { unmap_in_flight(false) });

scenario!(s76_in_strict_mode_the_unmapper_waits_for_the_device, 30, { unmap_in_flight(true) });

scenario!(s76_strict_mode_lets_go_when_the_device_never_ends, 30, {
    let hold = Duration::from_millis(200);
    let stack = Stack::new(Options { strict: true, hold, ..Options::default() });
    let range = memory::map(BYTES).unwrap();
    let (from, mut to) = pipe();
    let object = stack.object(range.address, range.bytes);
    let part = Part { offset: 0, bytes: BYTES, at: u64::MAX };
    let op = Uring::start(&lease(&object), Direction::FromFile, part, &from).unwrap();
    memory::unmap(range).unwrap();
    assert_eq!(stack.space.stats().overdue, 1);
    to.write_all(&[1; BYTES]).unwrap();
    assert_eq!(op.wait().unwrap(), BYTES);
    eventually("the buffer is given back", || stack.context.device().in_use() == (0, 0));
});

scenario!(a_part_outside_the_buffer_is_refused, 20, {
    let stack = Stack::new(Options::default());
    let range = memory::map(BYTES).unwrap();
    let object = stack.object(range.address, range.bytes);
    let (lease, file) = (lease(&object), memfd().unwrap());
    for (offset, bytes) in [(0, BYTES + 1), (BYTES, 1), (usize::MAX, 2), (1, BYTES)] {
        let refused = Uring::write(&lease, Part { offset, bytes, at: 0 }, &file).err();
        assert_eq!(refused.and_then(|why| why.raw_os_error()), Some(libc::EINVAL), "{offset} {bytes}");
    }
    assert_eq!(Uring::write(&lease, Part { offset: BYTES - 1, bytes: 1, at: 0 }, &file).unwrap(), 1);
});

scenario!(every_slot_and_request_comes_back, 30, {
    let stack = Stack::new(Options::default());
    let range = memory::map(BYTES).unwrap();
    let file = memfd().unwrap();
    for round in 0..3000_u64 {
        let object = stack.object(range.address, range.bytes);
        let lease = lease(&object);
        let op =
            Uring::start(&lease, Direction::ToFile, Part { offset: 0, bytes: 512, at: 0 }, &file).unwrap();
        if round % 2 == 0 {
            assert_eq!(op.wait().unwrap(), 512);
        }
    }
    eventually("all is given back", || stack.context.device().in_use() == (0, 0));
});

scenario!(a_table_that_cannot_be_is_refused, 20, {
    let sizes = |slots, requests| Uring::open(Setup { slots, requests, ..Setup::default() }).map(drop);
    assert_eq!(sizes(0, 1), Err(Refusal::Size { asked: 0, max: MAX_SLOTS }));
    assert_eq!(sizes(MAX_SLOTS + 1, 1), Err(Refusal::Size { asked: MAX_SLOTS + 1, max: MAX_SLOTS }));
    assert_eq!(sizes(1, 0), Err(Refusal::Size { asked: 0, max: MAX_REQUESTS }));
    assert_eq!(sizes(1, MAX_REQUESTS + 1), Err(Refusal::Size { asked: MAX_REQUESTS + 1, max: MAX_REQUESTS }));
    assert_eq!(sizes(MAX_SLOTS, 1), Ok(()));
    assert_eq!(sizes(1, MAX_REQUESTS), Ok(()));
});
