//! Call by call: the device is off the page before the page goes, and when the call returns.

use crate::child::scenario;
use crate::world::{PAGE, World, map, munmap, world};

/// Makes a call on a page that a device has.
fn covered(world: &World, name: &str, at: usize, call: impl FnOnce()) {
    let before = world.exact.stats().bracketed;
    let object = world.object(at);
    assert_eq!(world.mapped(), 1, "{name}");
    call();
    assert_eq!(world.mapped(), 0, "{name}: the device still has the page");
    assert_eq!(world.exact.stats().bracketed, before + 1, "{name}");
    assert_eq!(world.space.stats().open, 0, "{name}");
    drop(object);
}

scenario!(s233_every_call_on_an_arena_lies_between_start_and_end, 60, {
    let Some(w) = world() else { return };
    let page = |n| (w.page(n), w.page(n) as *mut libc::c_void);
    let (at, p) = page(0);
    covered(&w, "munmap", at, || assert_eq!(munmap(at, 1), 0));
    let (at, p1) = page(1);
    covered(&w, "mmap", at, || assert_eq!(map(at, 1, libc::MAP_FIXED), at));
    assert_eq!(unsafe { p1.cast::<u8>().read() }, 0, "the call was not made");
    for advice in [libc::MADV_DONTNEED, libc::MADV_FREE, libc::MADV_DONTNEED_LOCKED] {
        let (at, p) = page(2);
        covered(&w, "madvise", at, || assert_eq!(unsafe { libc::madvise(p, PAGE, advice) }, 0));
    }
    let (at, p3) = page(3);
    covered(&w, "mprotect", at, || assert_eq!(unsafe { libc::mprotect(p3, PAGE, libc::PROT_READ) }, 0));
    let (at, p4) = page(4);
    covered(&w, "mremap, the source", at, || {
        let got = unsafe { libc::mremap(p4, PAGE, 2 * PAGE, libc::MREMAP_MAYMOVE) };
        assert_ne!(got, libc::MAP_FAILED);
        assert_ne!(got, p4, "it did not move");
    });
    let (at, p5) = page(5);
    let other = map(0, 1, 0) as *mut libc::c_void;
    covered(&w, "mremap, the target", at, || {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        assert_eq!(unsafe { libc::mremap(other, PAGE, PAGE, flags, p5) }, p5);
    });
    let (at, _) = page(6);
    covered(&w, "a raw call", at, || {
        assert_eq!(unsafe { libc::syscall(libc::SYS_munmap, at, PAGE) }, 0);
    });
    let (at, p7) = page(7);
    covered(&w, "process_madvise", at, || {
        let vector = libc::iovec { iov_base: p7, iov_len: PAGE };
        let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) };
        assert!(pidfd >= 0);
        // A kernel before 6.13 does not take this advice from anybody: bracketed all the same.
        unsafe {
            libc::syscall(libc::SYS_process_madvise, pidfd, &raw const vector, 1, libc::MADV_DONTNEED, 0)
        };
    });
    let (at, p9) = page(9);
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    assert_eq!(unsafe { libc::mmap(p9, PAGE, protection, flags, -1, 0) }, p9);
    covered(&w, "MADV_REMOVE", at, || {
        assert_eq!(unsafe { libc::madvise(p9, PAGE, libc::MADV_REMOVE) }, 0);
    });
    covered(&w, "remap_file_pages", at, || {
        assert_eq!(unsafe { libc::syscall(libc::SYS_remap_file_pages, at, PAGE, 0, 0, 0) }, 0);
    });
    let (at, p8) = page(8);
    let id = unsafe { libc::shmget(libc::IPC_PRIVATE, PAGE, 0o600 | libc::IPC_CREAT) };
    if id < 0 {
        println!("skipped: no System V shared memory");
    } else {
        covered(&w, "shmat", at, || {
            assert_eq!(unsafe { libc::shmat(id, p8, libc::SHM_REMAP) }, p8);
        });
        covered(&w, "shmdt", at, || assert_eq!(unsafe { libc::shmdt(p8) }, 0));
        unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    }
    let _ = p;
});

scenario!(s234_ranges_that_reach_into_an_arena_and_those_beside_it, 60, {
    let Some(w) = world() else { return };
    // From the page below, whose end is the third page of the arena.
    let (below, at) = (w.arena - PAGE, w.page(1));
    covered(&w, "from below", at, || assert_eq!(munmap(below, 3), 0));
    let above = w.page(crate::world::PAGES - 1);
    covered(&w, "over the end", above, || assert_eq!(munmap(above, 2), 0));
    // A length whose low word carries.
    let large = map(0, (4 << 30) / PAGE + 4, libc::MAP_NORESERVE);
    let seen = || (w.exact.stats().bracketed, w.exact.stats().passed);
    let before = seen();
    for (at, pages) in [(large, 1), (large + PAGE, (4 << 30) / PAGE + 3)] {
        assert_eq!(munmap(at, pages), 0);
    }
    let beside = map(0, 1, 0);
    assert_eq!(map(beside, 1, libc::MAP_FIXED), beside);
    assert_eq!(munmap(beside, 1), 0);
    assert_ne!(map(w.page(9), 1, 0), w.page(9), "a hint is no MAP_FIXED");
    assert_eq!(seen(), before, "calls beside the arena are not notified");
    // Notified, and no change.
    let p = w.page(9) as *mut libc::c_void;
    let object = w.object(w.page(9));
    assert_eq!(unsafe { libc::madvise(p, PAGE, libc::MADV_WILLNEED) }, 0);
    assert_eq!(unsafe { libc::mprotect(p, PAGE, libc::PROT_READ | libc::PROT_WRITE) }, 0);
    assert_eq!((seen(), w.mapped()), ((before.0, before.1 + 2), 1));
    // An error is the caller's.
    assert_eq!(unsafe { libc::munmap(w.page(9).wrapping_add(1) as *mut _, PAGE) }, -1);
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EINVAL));
    drop(object);
});

scenario!(
    /// By design: a heap is no arena, and what is registered there needs brackets of its own.
    s284_the_heap_is_not_covered,
    60,
    {
        let Some(w) = world() else { return };
        let end = unsafe { libc::sbrk(0) } as usize;
        let at = end.next_multiple_of(PAGE);
        let bytes = (at + PAGE - end).cast_signed();
        assert_eq!(unsafe { libc::sbrk(bytes) } as usize, end);
        let object = w.object(at);
        assert_eq!(unsafe { libc::sbrk(-bytes) } as usize, at + PAGE);
        assert_eq!((w.mapped(), w.exact.stats().bracketed), (1, 0));
        // Its device would look at the page.
        std::mem::forget(object);
    }
);
