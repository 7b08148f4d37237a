//! Scenario 230: shared memory in which another process punches holes, said by the one who is told.
//! Scenario 231: a forked child. Scenario 232: system calls, counted by a kernel that allows none.

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use userptr::platforms::std::Std;
use userptr::{AddrRange, Context, Device, Error, Flags, Outcome, Prepare};
use userptr_explicit::Explicit;

const PAGE: usize = 4096;
const ROUNDS: u32 = 300;

/// A device whose use of the page the other process can see: a count in a shared page.
struct Seen(&'static AtomicU32);

impl Device for Seen {
    type Space = Explicit<Std>;
    type Map = ();
    fn prepare(&self, _: Prepare<'_, Explicit<Std>>) -> Result<(), Error> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn wait_idle(&self, (): &(), _: Option<Duration>) -> Outcome {
        Outcome::Idle
    }
    fn unmap(&self, (): ()) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Two shared pages of a file: what the device works on, and what both processes watch.
fn shared() -> (i32, *mut u8, &'static AtomicU32) {
    unsafe {
        let fd = libc::memfd_create(c"shared".as_ptr(), libc::MFD_CLOEXEC);
        assert_eq!(libc::ftruncate(fd, 2 * PAGE as i64), 0);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let at = libc::mmap(std::ptr::null_mut(), 2 * PAGE, protection, libc::MAP_SHARED, fd, 0);
        assert_ne!(at, libc::MAP_FAILED);
        (fd, at.cast(), &*at.byte_add(PAGE).cast())
    }
}

/// The process that changes: announces, waits for the answer, punches, says so.
fn peer(fd: i32, mut socket: UnixStream, used: &AtomicU32) -> i32 {
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    for _ in 0..ROUNDS {
        let mut word = [b'?'];
        if socket.write_all(&word).and_then(|()| socket.read_exact(&mut word)).is_err() {
            return 1;
        }
        if used.load(Ordering::SeqCst) != 0 || unsafe { libc::fallocate(fd, punch, 0, PAGE as i64) } != 0 {
            return 2;
        }
        std::thread::yield_now();
        if used.load(Ordering::SeqCst) != 0 || socket.write_all(b".").is_err() {
            return 3;
        }
    }
    0
}

#[test]
fn s230_a_change_by_another_process_is_said_by_the_one_who_is_told() {
    let (fd, at, used) = shared();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    // SAFETY: the child calls nothing that another thread of the parent could hold a lock of.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        let code = peer(fd, theirs, used);
        unsafe { libc::_exit(code) };
    }
    drop(theirs);
    ours.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let space = Explicit::<Std>::new(PAGE).unwrap();
    let context = Context::builder(Seen(used)).spawn().unwrap();
    let range = AddrRange::new(at.addr(), PAGE).unwrap();
    // SAFETY: the bytes are shared with another process and nobody's values; the loop brackets.
    let object = unsafe { context.register_unchecked(&space, range, Flags::NONE) }.unwrap();
    std::thread::scope(|scope| {
        let told = scope.spawn(|| {
            let mut word = [0];
            for _ in 0..ROUNDS {
                ours.read_exact(&mut word).unwrap();
                let change = space.change(range).unwrap();
                assert_eq!(change.outcome(), Outcome::Idle);
                ours.write_all(b"!").unwrap();
                ours.read_exact(&mut word).unwrap();
                drop(change);
            }
        });
        while !told.is_finished() {
            // The device works whenever it may.
            if let Ok(lease) = object.acquire() {
                unsafe { at.write_volatile(1) };
                drop(lease);
            }
        }
        told.join().unwrap();
    });
    let mut status = 0;
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the other process saw the device in its change (2, 3), or no answer (1)");
}

#[test]
fn s231_a_forked_child_is_refused() {
    let (_, at, used) = shared();
    let space = Explicit::<Std>::new(PAGE).unwrap();
    let context = Context::builder(Seen(used)).spawn().unwrap();
    let range = AddrRange::new(at.addr(), PAGE).unwrap();
    // SAFETY: as above.
    let object = unsafe { context.register_unchecked(&space, range, Flags::NONE) }.unwrap();
    drop(object.acquire().unwrap());
    let change = space.change(AddrRange::new(at.addr() + PAGE, PAGE).unwrap()).unwrap();
    for raw in [false, true] {
        // SAFETY: the child only looks, and leaves. A raw clone runs no fork handler.
        let child = unsafe {
            if raw { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as i32 } else { libc::fork() }
        };
        assert!(child >= 0);
        if child == 0 {
            let hit = matches!(object.try_acquire(), Err(Error::OtherSpace));
            let told = matches!(space.change(range), Err(Error::OtherSpace));
            drop(change);
            unsafe { libc::_exit(i32::from(!hit) + 2 * i32::from(!told)) };
        }
        let mut status = 0;
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
    }
    assert_eq!(space.stats().open, 1, "the child ended the parent's change");
    drop(change);
    drop(object.try_acquire().unwrap());
}

/// For the calling thread: every other system call kills the process.
fn allow_nothing_but_write_and_exit() {
    let op = |code: u32, jt, jf, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut filter = [
        // The number of the call is the first word.
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(equal, 2, 0, libc::SYS_write as u32),
        op(equal, 1, 0, libc::SYS_exit as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel reads the program.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let filter = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, filter, &raw const program), 0, "no seccomp");
    }
}

/// In a thread that may write and end, and is killed with its process for every other system call.
fn hits_without_system_calls(ask: bool) {
    let (_, at, used) = shared();
    let space = Explicit::<Std>::new(PAGE).unwrap();
    let context = Context::builder(Seen(used)).spawn().unwrap();
    let range = AddrRange::new(at.addr(), PAGE).unwrap();
    // SAFETY: as above.
    let object = unsafe { context.register_unchecked(&space, range, Flags::NONE) }.unwrap();
    let (mut done, told) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // What a thread does once (its list of leases) is done by now.
            drop(object.acquire().unwrap());
            allow_nothing_but_write_and_exit();
            let all = u8::from((0..10_000).all(|_| object.try_acquire().is_ok()));
            if ask {
                // SAFETY: takes no pointer; the kernel kills for it.
                unsafe { libc::getppid() };
            }
            // SAFETY: one byte of the stack.
            unsafe { libc::write(told.as_raw_fd(), (&raw const all).cast(), 1) };
            // SAFETY: ends this thread alone: nothing of it is used afterwards.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
        let mut all = [0];
        done.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        done.read_exact(&mut all).unwrap();
        std::process::exit(i32::from(all != [1]));
    });
}

#[test]
fn s232_a_hit_makes_no_system_call() {
    const MARK: &str = "USERPTR_TEST_HITS";
    if let Ok(ask) = std::env::var(MARK) {
        return hits_without_system_calls(ask == "ask");
    }
    let name = "processes::s232_a_hit_makes_no_system_call";
    let run = |mode| {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args([name, "--exact", "--nocapture"]).env(MARK, mode).status().unwrap()
    };
    assert!(run("hits").success(), "a hit made a system call");
    assert!(!run("ask").success(), "the kernel did not notice a system call");
}
