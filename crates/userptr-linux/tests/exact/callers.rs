//! Who calls: older threads, signals, children with and without exec, two threads, a second
//! listener, a driver that panics.

use crate::child::scenario;
use crate::world::{MARK, PAGE, map, munmap, world};
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::mpsc;
use userptr::AddrRange;
use userptr_linux::exact::{self, Refused};

scenario!(s235_a_thread_older_than_the_filter_is_covered, 60, {
    let (ask, asked) = mpsc::channel::<usize>();
    let older = std::thread::spawn(move || munmap(asked.recv().unwrap(), 1));
    let Some(w) = world() else { return };
    let object = w.object(w.page(0));
    ask.send(w.page(0)).unwrap();
    assert_eq!((older.join().unwrap(), w.mapped(), w.exact.stats().bracketed), (0, 0, 1));
    drop(object);
});

static SIGNALS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_signal(_: i32) {
    SIGNALS.fetch_add(1, Ordering::SeqCst);
}

scenario!(s236_a_signal_waits_for_the_answer, 60, {
    let Some(w) = world() else { return };
    unsafe { libc::signal(libc::SIGUSR1, on_signal as *const () as libc::sighandler_t) };
    let object = w.object(w.page(0));
    w.state.busy.store(w.page(0), Ordering::SeqCst);
    let me = unsafe { libc::pthread_self() } as usize;
    let state = w.state.clone();
    let other = std::thread::spawn(move || {
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(5));
            unsafe { libc::pthread_kill(me as libc::pthread_t, libc::SIGUSR1) };
        }
        assert_eq!(SIGNALS.load(Ordering::SeqCst), 0, "the call was interrupted");
        state.busy.store(0, Ordering::SeqCst);
    });
    assert_eq!(unsafe { libc::madvise(w.page(0) as *mut _, PAGE, libc::MADV_DONTNEED) }, 0);
    other.join().unwrap();
    assert_eq!((w.mapped(), w.exact.stats().bracketed), (0, 1), "made twice, or not at all");
    assert!(SIGNALS.load(Ordering::SeqCst) > 0);
    drop(object);
});

scenario!(s237_a_slow_device_holds_up_nobody_else, 60, {
    let Some(w) = world() else { return };
    let objects = [0, 1].map(|n| w.object(w.page(n)));
    w.state.busy.store(w.page(0), Ordering::SeqCst);
    let slow = w.page(0);
    let slow = std::thread::spawn(move || munmap(slow, 1));
    while w.space.stats().open == 0 {
        std::thread::yield_now();
    }
    assert_eq!(munmap(w.page(2), 1), 0);
    assert!(!slow.is_finished(), "it did not wait for its device");
    assert_eq!(objects[0].try_acquire().err(), Some(userptr::Error::Again));
    w.state.busy.store(0, Ordering::SeqCst);
    assert_eq!((slow.join().unwrap(), w.mapped()), (0, 1));
    drop(objects);
});

scenario!(s238_programs_start_and_a_second_listener_is_refused, 60, {
    let Some(w) = world() else { return };
    assert_eq!(unsafe { libc::system(c"true; ls / > /dev/null".as_ptr()) }, 0);
    assert!(std::process::Command::new("true").status().unwrap().success());
    let other = AddrRange::new(map(0, 1, 0), PAGE).unwrap();
    assert_eq!(exact::open(&w.space, &[other]).err(), Some(Refused::Busy));
    assert_eq!(exact::open(&w.space, &[]).err(), Some(Refused::Arenas));
    assert_eq!(exact::open(&w.space, &[other; 5]).err(), Some(Refused::Arenas));
    assert_eq!(
        exact::open(&w.space, &[AddrRange::new(0x1000, 0x1000).unwrap()]).err(),
        Some(Refused::Arenas)
    );
    // The first one serves as before.
    let object = w.object(w.page(0));
    assert_eq!((munmap(w.page(0), 1), w.mapped()), (0, 0));
    drop(object);
});

scenario!(s239_a_forked_child_changes_its_own_memory, 60, {
    let Some(w) = world() else { return };
    let object = w.object(w.page(0));
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        // The listener's process lives: the call continues, in the child's memory.
        let code = i32::from(munmap(w.page(0), 1) != 0);
        unsafe { libc::_exit(code) };
    }
    let mut status = -1;
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "a child's call failed");
    assert_eq!((w.mapped(), w.exact.stats().bracketed, w.exact.stats().foreign), (1, 0, 1));
    drop(object);
});

scenario!(s241_a_child_that_outlives_its_parent_gets_an_error_and_does_not_hang, 60, {
    let mut ends = [0; 2];
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    let say = |word: u8| unsafe { libc::write(ends[1], (&raw const word).cast(), 1) };
    let listener = unsafe { libc::fork() };
    assert!(listener >= 0);
    if listener == 0 {
        let listener = unsafe { libc::getpid() };
        let Some(w) = world() else {
            say(b's');
            unsafe { libc::_exit(0) };
        };
        if unsafe { libc::fork() } == 0 {
            while unsafe { libc::getppid() } == listener {
                std::thread::sleep(Duration::from_millis(1));
            }
            let got = munmap(w.page(0), 1);
            let errno = std::io::Error::last_os_error().raw_os_error();
            let outside = munmap(map(0, 1, 0), 1);
            say(if (got, errno, outside) == (-1, Some(libc::ENOSYS), 0) { b'y' } else { b'n' });
        }
        unsafe { libc::_exit(0) };
    }
    let mut said = 0_u8;
    assert_eq!(unsafe { libc::read(ends[0], (&raw mut said).cast(), 1) }, 1);
    assert!(matches!(said, b'y' | b's'), "{said}");
});

scenario!(s240_a_driver_that_panics_leaves_nobody_waiting, 60, {
    let Some(w) = world() else { return };
    let object = w.object(w.page(0));
    w.state.panics.store(true, Ordering::SeqCst);
    assert_eq!(munmap(w.page(0), 1), 0);
    w.state.panics.store(false, Ordering::SeqCst);
    // The listener serves as before.
    assert_eq!(munmap(w.page(1), 1), 0);
    assert_eq!(w.exact.stats().bracketed, 2);
    std::mem::forget(object);
});

scenario!(s242_a_lease_never_sees_a_page_go, 60, {
    let Some(w) = world() else { return };
    w.state.races.store(true, Ordering::SeqCst);
    let object = w.object(w.page(0));
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            for round in 0..10_000 {
                if round % 2 == 0 {
                    let p = w.page(0) as *mut libc::c_void;
                    assert_eq!(unsafe { libc::madvise(p, PAGE, libc::MADV_DONTNEED) }, 0);
                } else {
                    assert_eq!(map(w.page(0), 1, libc::MAP_FIXED), w.page(0));
                }
            }
        });
        let mut leases = 0_u32;
        while !changes.is_finished() {
            if let Ok(lease) = object.try_acquire() {
                for _ in 0..10 {
                    let seen = unsafe { (*lease.map() as *const u8).read_volatile() };
                    assert_eq!(seen, MARK, "stale: the page went under a lease");
                }
                leases += 1;
            }
        }
        changes.join().unwrap();
        assert!(leases > 100, "{leases} leases: no race");
    });
    assert_eq!((w.exact.stats().bracketed, w.exact.stats().panics), (10_000, 0));
});
