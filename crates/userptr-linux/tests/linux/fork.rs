//! Scenario 73: fork with a live cache.

use crate::child::scenario;
use crate::stack::{Stack, eventually, lease};
use crate::stale::io::Range;
use crate::stale::memory;
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::Duration;
use userptr::{AddrRange, AddressSpace, Current, Error};
use userptr_linux::uffd::Uffd;
use userptr_linux::{Linux, Options, Refusal};

const BYTES: usize = 64 << 10;

/// A forked child that runs `body`, tells its result, and then stays, with every descriptor open.
struct Child {
    pid: i32,
    told: std::fs::File,
}

impl Child {
    fn fork(body: impl FnOnce() -> bool) -> Self {
        use std::io::Write;
        use std::os::fd::FromRawFd;
        let mut ends = [0; 2];
        // SAFETY: room for two descriptors.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        // SAFETY: both are new.
        let [told, mut tell] = ends.map(|fd| unsafe { std::fs::File::from_raw_fd(fd) });
        // SAFETY: the child does little, and ends by being killed.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            tell.write_all(&[u8::from(body())]).unwrap();
            loop {
                // SAFETY: takes no pointer.
                unsafe { libc::pause() };
            }
        }
        assert!(pid > 0);
        Self { pid, told }
    }

    fn result(&mut self) -> bool {
        use std::io::Read;
        let mut byte = [0];
        self.told.read_exact(&mut byte).unwrap();
        byte[0] == 1
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // SAFETY: our own child, not waited for yet.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

/// Whether an unmap returns, however busy the machine is.
fn unmap_returns(range: Range) -> bool {
    unmap_returns_within(range, Duration::from_secs(10))
}

fn unmap_returns_within(range: Range, time: Duration) -> bool {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        memory::unmap(range).unwrap();
        // Nobody listens any more after the time.
        let _ = tell.send(());
    });
    told.recv_timeout(time).is_ok()
}

fn fork_with(options: Options) {
    let stack = Stack::new(options);
    let [first, second] = [memory::map(BYTES).unwrap(), {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        memory::map_at(memory::ELSEWHERE, BYTES, flags).unwrap()
    }];
    let objects = [first, second].map(|range| stack.object(range.address, range.bytes));
    drop(objects.each_ref().map(lease));
    let range = AddrRange::new(second.address, second.bytes).unwrap();
    let watched = stack.space.watch_range(range).unwrap();
    let mut child = Child::fork(|| {
        stack.space.current() == Current::Other
            && stack.space.watch_range(range).err() == Some(Refusal::Forked)
            && objects[0].try_acquire().err() == Some(Error::OtherSpace)
            && objects[0].acquire().err() == Some(Error::OtherSpace)
            && stack.context.device().refusal().is_none()
            && {
                // The child's end of a watch must not touch the parent's.
                drop(watched);
                true
            }
    });
    assert!(child.result(), "the child was not refused");
    // The parent still has what it had.
    assert_eq!(stack.space.current(), Current::This);
    drop(lease(&objects[0]));
    assert!(unmap_returns(first), "an unmap waits while a child has the descriptor");
    // The unmapper goes on when its message is read, which is before it is counted.
    eventually("the unmap is told, though a child has the descriptor", || stack.space.stats().unmaps > 0);
    drop(objects);
    let Stack { .. } = stack;
    drop(stack);
    // Everything is closed here, and open in the child.
    assert!(unmap_returns(second), "an unmap waits for a descriptor that only the child has");
}

scenario!(s73_fork_with_a_live_cache, 30, { fork_with(Options::default()) });

scenario!(s73_fork_in_strict_mode, 30, { fork_with(Options { strict: true, ..Options::default() }) });

scenario!(
    /// What happens to those who close without unregistering first.
    s73_control_a_descriptor_in_a_child_blocks_the_parent,
    30,
    {
        let range = memory::map(BYTES).unwrap();
        let uffd = Uffd::open().unwrap();
        uffd.register_whole(AddrRange::new(range.address, range.bytes).unwrap()).unwrap();
        let mut child = Child::fork(|| true);
        assert!(child.result());
        drop(uffd);
        assert!(!unmap_returns_within(range, Duration::from_secs(1)));
    }
);

scenario!(
    /// `mremap` carries a watch to where nobody looks for it: it must be gone, too, when the
    /// descriptor is closed.
    s73_a_moved_watch_is_ended_before_the_descriptor_is_closed,
    30,
    {
        let stack = Stack::new(Options::default());
        let range = memory::map(BYTES).unwrap();
        let object = stack.object(range.address, range.bytes);
        drop(lease(&object));
        let moved = memory::remap(range, memory::ELSEWHERE, 0).unwrap();
        let mut child = Child::fork(|| true);
        assert!(child.result());
        drop(object);
        drop(stack);
        assert!(unmap_returns(moved));
    }
);

/// Objects and then, if `all`, everything goes while a forked child has every descriptor; after
/// that the moved memory is unmapped.
fn moved_watch(options: Options, all: bool) {
    let stack = Stack::new(options);
    let range = memory::map(BYTES).unwrap();
    let object = stack.object(range.address, range.bytes);
    drop(lease(&object));
    let moved = memory::remap(range, memory::ELSEWHERE, 0).unwrap();
    let mut child = Child::fork(|| true);
    assert!(child.result());
    drop(object);
    if all {
        drop(stack);
        assert!(unmap_returns(moved), "an unmap waits for a descriptor that only the child has");
    } else {
        assert!(unmap_returns(moved), "an unmap waits, though the monitor reads");
        drop(stack);
    }
}

const STRICT: fn() -> Options = || Options { strict: true, ..Options::default() };

scenario!(s122_a_moved_watch_ends_with_its_object, 60, { moved_watch(Options::default(), false) });

scenario!(s122_a_moved_watch_ends_with_its_object_in_strict_mode, 60, {
    moved_watch(STRICT(), false);
});

scenario!(s122_a_moved_watch_ends_with_strict_mode, 60, { moved_watch(STRICT(), true) });

/// No more descriptors, and no `/proc`.
fn nothing_left() {
    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid limit, and a path.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        // Only root may; for others the limit alone has to do.
        let _ = libc::chroot(c"/tmp".as_ptr());
    }
}

/// A watch alone: the ring's thread is another matter.
fn without_anything(options: Options) {
    let space = Linux::with(options).unwrap();
    let range = memory::map(BYTES).unwrap();
    let watched = space.watch_range(AddrRange::new(range.address, range.bytes).unwrap()).unwrap();
    let moved = memory::remap(range, memory::ELSEWHERE, 0).unwrap();
    let mut child = Child::fork(|| true);
    assert!(child.result());
    nothing_left();
    drop(watched);
    drop(space);
    assert!(unmap_returns(moved), "an unmap waits for a descriptor that only the child has");
}

scenario!(s122_without_proc_and_descriptors, 60, { without_anything(Options::default()) });

scenario!(s122_without_proc_and_descriptors_in_strict_mode, 60, { without_anything(STRICT()) });

/// A mapping that cannot be watched lies in the middle of what was: a call to end the watch of all
/// of it is refused.
fn mixed_mappings(options: Options) {
    let stack = Stack::new(options);
    let range = memory::map(BYTES).unwrap();
    let object = stack.object(range.address, range.bytes);
    drop(lease(&object));
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let middle = Range { address: range.address + BYTES / 2, bytes: 4096 };
    // SAFETY: over memory of our own, of a file that was opened for reading only.
    let got = unsafe {
        let flags = libc::MAP_SHARED | libc::MAP_FIXED;
        libc::mmap(middle.address as *mut _, middle.bytes, libc::PROT_READ, flags, file.as_raw_fd(), 0)
    };
    assert_eq!(got as usize, middle.address);
    let mut child = Child::fork(|| true);
    assert!(child.result());
    drop(object);
    // The revocation after the change may have had the last reference: it ends elsewhere (rule 32).
    eventually("nothing is watched", || stack.space.stats().watched == 0);
    // Nothing of it is ours any more: another userfaultfd may have both ends.
    let own = Uffd::open().unwrap();
    for start in [range.address, middle.address + middle.bytes] {
        let end = AddrRange::new(start, BYTES / 2 - 4096).unwrap();
        assert_eq!(own.register(end), Ok(()), "the watch of {end:?} was left");
        own.unregister(end).unwrap();
    }
    drop(stack);
    assert!(unmap_returns(range));
}

scenario!(s122_mixed_mappings, 60, { mixed_mappings(Options::default()) });

scenario!(s122_mixed_mappings_in_strict_mode, 60, { mixed_mappings(STRICT()) });
