//! A real device on an arena: an io_uring over the address space that the listener brackets.

use crate::child::scenario;
use crate::world::{MARK, PAGE, arena, map, munmap};
use std::fs::File;
use std::io::Write;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use userptr::platforms::std::{Running, Std};
use userptr::{AddrRange, Context, Error, Flags, UserPtr};
use userptr_explicit::Explicit;
use userptr_linux::uring::{Direction, Part, Setup, Uring};

type Ring = Uring<Explicit<Std>>;

const PART: Part = Part { offset: 0, bytes: PAGE, at: 0 };
/// A pipe has no place.
const STREAM: Part = Part { at: u64::MAX, ..PART };

fn context(cancel: bool) -> Running<Ring> {
    let setup = Setup { cancel, deadline: Some(Duration::from_secs(20)), ..Setup::default() };
    Context::builder(Ring::open_for(setup).unwrap()).spawn().unwrap()
}

fn object(context: &Running<Ring>, space: &Explicit<Std>, at: usize) -> UserPtr<Ring> {
    let range = AddrRange::new(at, PAGE).unwrap();
    // SAFETY: bytes of an anonymous mapping that only the tests' devices use.
    unsafe { context.register_unchecked(space, range, Flags::NONE) }.unwrap()
}

fn pipe() -> (OwnedFd, File) {
    let mut ends = [0; 2];
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    // SAFETY: both are new.
    unsafe { (OwnedFd::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) }
}

fn is_all(at: usize, byte: u8) -> bool {
    (at..at + PAGE).all(|at| unsafe { (at as *const u8).read_volatile() } == byte)
}

scenario!(s280_an_unmap_waits_for_a_request_in_flight, 60, {
    let Some((exact, space, arena)) = arena() else { return };
    let context = context(false);
    let object = object(&context, &space, arena);
    let (from, mut to) = pipe();
    let op = Uring::start(&object.acquire().unwrap(), Direction::FromFile, STREAM, &from).unwrap();
    let unmapper = std::thread::spawn(move || munmap(arena, 1));
    while space.stats().open == 0 {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(50));
    assert!(!unmapper.is_finished(), "unmapped under a request");
    // The page is there: nothing was done yet.
    assert!(is_all(arena, 0));
    to.write_all(&[MARK; PAGE]).unwrap();
    assert_eq!(unmapper.join().unwrap(), 0);
    assert_eq!(op.wait_for(Duration::ZERO).expect("idle, without a result").unwrap(), PAGE);
    assert_eq!((context.device().in_use().0, exact.stats().bracketed), (0, 1));
});

scenario!(s281_or_cancels_it_and_nothing_comes_later, 60, {
    let Some((_exact, space, arena)) = arena() else { return };
    let context = context(true);
    let object = object(&context, &space, arena);
    let (from, mut to) = pipe();
    for _ in 0..100 {
        let op = Uring::start(&object.acquire().unwrap(), Direction::FromFile, STREAM, &from).unwrap();
        assert_eq!(map(arena, 1, libc::MAP_FIXED), arena);
        let result = op.wait_for(Duration::ZERO).expect("the device was not idle when the call returned");
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
        assert_eq!(context.device().in_use().0, 0);
    }
    to.write_all(&[MARK; PAGE]).unwrap();
    assert!(is_all(arena, 0), "a cancelled request has written");
});

/// A page that readers and changers share.
struct Shared {
    at: usize,
    object: UserPtr<Ring>,
    /// Held by a reader until its request has begun, and by a changer over its call: no new request
    /// begins while a changer looks at what its call has left.
    begin: Mutex<()>,
}

scenario!(s282_reads_into_pages_that_go, 120, {
    const CHANGES: usize = 3_000;
    let Some((exact, space, arena)) = arena() else { return };
    let context = context(true);
    let pages = [0, 1, 2].map(|n| {
        let at = arena + n * PAGE;
        Shared { at, object: object(&context, &space, at), begin: Mutex::new(()) }
    });
    let file = crate::io::memfd().unwrap();
    file.write_all_at(&[MARK; PAGE], 0).unwrap();
    let [left, reads] = [AtomicUsize::new(pages.len()), AtomicUsize::new(0)];
    std::thread::scope(|scope| {
        for page in &pages {
            let left = &left;
            scope.spawn(move || {
                for change in 0..CHANGES {
                    let locked = page.begin.lock().unwrap();
                    let p = page.at as *mut libc::c_void;
                    match change % 3 {
                        0 => assert_eq!(unsafe { libc::madvise(p, PAGE, libc::MADV_DONTNEED) }, 0),
                        1 => assert_eq!(map(page.at, 1, libc::MAP_FIXED), page.at),
                        _ => {
                            assert_eq!(munmap(page.at, 1), 0);
                            assert_eq!(map(page.at, 1, libc::MAP_FIXED_NOREPLACE), page.at);
                        }
                    }
                    // What a device writes later would be seen here, or in a read below.
                    assert!(is_all(page.at, 0), "the device was not idle when the call returned");
                    drop(locked);
                    std::thread::yield_now();
                }
                left.fetch_sub(1, Ordering::SeqCst);
            });
        }
        let mut number = 0;
        while left.load(Ordering::SeqCst) != 0 {
            number += 1;
            let page = &pages[number % pages.len()];
            let locked = page.begin.lock().unwrap();
            let lease = match page.object.try_acquire() {
                Ok(lease) => lease,
                Err(Error::Again | Error::Busy) => {
                    drop(locked);
                    // Attaches, which may sleep.
                    drop(page.object.acquire());
                    continue;
                }
                Err(why) => panic!("{why}"),
            };
            let op = Uring::start(&lease, Direction::FromFile, PART, &file).unwrap();
            drop(locked);
            match op.wait() {
                Ok(bytes) => {
                    assert_eq!(bytes, PAGE);
                    // The page stays while there is a lease: it must be the one that was written.
                    assert!(is_all(page.at, MARK), "stale: the device wrote elsewhere");
                    reads.fetch_add(1, Ordering::SeqCst);
                }
                Err(why) => assert_eq!(why.raw_os_error(), Some(libc::ECANCELED)),
            }
        }
    });
    let reads = reads.into_inner();
    println!("{reads} reads, {:?}", exact.stats());
    assert!(reads > 100, "{reads} reads: no race");
    assert_eq!((exact.stats().bracketed, exact.stats().panics), (3 * CHANGES as u64, 0));
    assert_eq!(exact.stats().passed, 0, "a device's own advice was notified");
});
