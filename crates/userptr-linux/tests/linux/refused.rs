//! Scenarios 137 and 138: what is refused says why, and who unmaps what it has a lease for.

use crate::child::scenario;
use crate::stack::{Stack, lease};
use crate::stale::memory;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use userptr::notifier::State;
use userptr::{Error, Flags};
use userptr_linux::uring::{MAX_BYTES, Setup, Uring};
use userptr_linux::{Linux, Options, Refusal};

const PAGE: usize = 4096;

fn map(protection: i32, flags: i32, file: Option<&File>) -> usize {
    let fd = file.map_or(-1, AsRawFd::as_raw_fd);
    // SAFETY: a new mapping.
    let got = unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags, fd, 0) };
    assert_ne!(got, libc::MAP_FAILED);
    got as usize
}

scenario!(s137_what_is_mapped_is_never_called_a_hole, 20, {
    let stack = Stack::new(Options::default());
    let path = std::env::temp_dir().join(format!("userptr-refused-{}", std::process::id()));
    std::fs::write(&path, [0; PAGE]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let before = file.metadata().unwrap().modified().unwrap();
    let (anonymous, both) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, libc::PROT_READ | libc::PROT_WRITE);
    for (what, address) in [
        ("read-only", map(libc::PROT_READ, anonymous, None)),
        ("no access", map(libc::PROT_NONE, anonymous, None)),
    ] {
        let object = stack.object(address, PAGE);
        assert_eq!(object.acquire().err(), Some(Error::Unpinnable), "{what}");
        assert_eq!(stack.context.device().refusal(), Some(Refusal::Unpinnable), "{what}");
        // SAFETY: ours, without references into it.
        assert_eq!(unsafe { libc::mprotect(address as *mut _, PAGE, both) }, 0);
        assert!(object.reset(), "it sticks until somebody asks again");
        drop(lease(&object));
    }
    // A file system in memory pins it. On a disk: refused, and the file is not touched.
    let object = stack.object(map(both, libc::MAP_SHARED, Some(&file)), PAGE);
    if let Err(error) = object.acquire().map(drop) {
        assert_eq!(error, Error::Unpinnable);
        assert_eq!(stack.context.device().refusal(), Some(Refusal::Unpinnable));
        assert_eq!(file.metadata().unwrap().modified().unwrap(), before, "the file was changed");
    }
});

scenario!(s137_too_large_is_refused_at_registration, 20, {
    let stack = Stack::new(Options::default());
    let bytes = 64 << 30;
    let flags = libc::MAP_NORESERVE | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let range = memory::map_at(memory::ELSEWHERE, bytes, flags).unwrap();
    for bytes in [bytes, MAX_BYTES + PAGE] {
        assert_eq!(stack.create(range.address, bytes, Flags::NONE).err(), Some(Error::TooBig));
    }
    assert!(stack.create(range.address, MAX_BYTES, Flags::NONE).is_ok());
});

/// How long a thread waits that unmaps what it has a lease for.
fn unmap_leased(options: Options) -> Duration {
    let deadline = Some(Duration::from_millis(100));
    let space = Linux::with(options).unwrap();
    let stack = Stack::with(space, Uring::open(Setup { deadline, ..Setup::default() }).unwrap());
    let range = memory::map(PAGE).unwrap();
    let object = stack.object(range.address, range.bytes);
    let held = lease(&object);
    let began = Instant::now();
    memory::unmap(range).unwrap();
    let waited = began.elapsed();
    crate::stack::eventually("quarantined", || object.state() == State::Quarantined);
    drop(held);
    crate::stack::eventually("released by the last lease", || stack.context.device().in_use() == (0, 0));
    memory::map(PAGE).unwrap();
    object.reset();
    drop(lease(&object));
    memory::unmap(range).unwrap();
    waited
}

scenario!(s138_who_unmaps_its_own_lease_goes_on, 30, {
    let waited = unmap_leased(Options::default());
    assert!(waited < Duration::from_secs(2), "{waited:?}");
});

scenario!(
    /// Nothing else ends its lease: it is let go after the hold.
    s138_in_strict_mode_it_is_let_go_after_the_hold,
    30,
    {
        let hold = Duration::from_millis(300);
        let waited = unmap_leased(Options { strict: true, hold, ..Options::default() });
        assert!(waited < Duration::from_secs(5), "{waited:?}");
    }
);
