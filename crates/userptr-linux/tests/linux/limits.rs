//! Scenarios 74 and 75: refusals by their cause, and life without privileges.

use crate::child::{become_nobody, scenario};
use crate::stack::{Stack, eventually, lease};
use crate::stale::io::{Part, content, memfd};
use crate::stale::memory;
use userptr::{AddrRange, Error, Flags};
use userptr_linux::uring::{self, Setup, Uring};
use userptr_linux::{Facility, Linux, Options, Refusal};

const BYTES: usize = 64 << 10;

fn limit(which: libc::__rlimit_resource_t, to: u64) {
    let limit = libc::rlimit { rlim_cur: to, rlim_max: to };
    // SAFETY: a valid limit.
    assert_eq!(unsafe { libc::setrlimit(which, &raw const limit) }, 0);
}

/// From here on a system call fails with `errno`, in every thread that this one starts.
fn filter(call: libc::c_long, errno: i32) {
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: u16::try_from(code).unwrap(), jt, jf, k };
    let mut program = [
        // The number of the call is the first word.
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::try_from(call).unwrap()),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap()),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
    // SAFETY: a valid program of four instructions.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    assert!(done, "{}", std::io::Error::last_os_error());
}

scenario!(s74_a_seccomp_filter_is_named, 20, {
    become_nobody();
    filter(libc::SYS_userfaultfd, libc::EPERM);
    assert_eq!(Linux::open().err(), Some(Refusal::Seccomp(Facility::Userfaultfd)));
    filter(libc::SYS_io_uring_setup, libc::ENOSYS);
    let refused = Uring::open(Setup::default()).err();
    assert_eq!(refused, Some(Refusal::Seccomp(Facility::IoUring)));
    assert_eq!(Error::from(refused.unwrap()).errno(), libc::EPERM);
});

scenario!(
    /// What a kernel before 5.11 says, which does not know the flag.
    s74_a_kernel_without_user_mode_only_is_named,
    20,
    {
        become_nobody();
        filter(libc::SYS_userfaultfd, libc::EINVAL);
        let refused = Linux::open().err();
        assert_eq!(refused, Some(Refusal::UserModeOnly));
        assert_eq!(Error::from(refused.unwrap()), Error::NoDevice);
    }
);

scenario!(
    /// A second address space, or a userfaultfd of the program's own, watches it already.
    s74_another_userfaultfd_is_named,
    20,
    {
        let stack = Stack::new(Options::default());
        let range = memory::map(BYTES).unwrap();
        let own = userptr_linux::uffd::Uffd::open().unwrap();
        let whole = AddrRange::new(range.address, range.bytes).unwrap();
        own.register(whole).unwrap();
        let object = stack.object(range.address, range.bytes);
        assert_eq!(object.acquire().err(), Some(Error::Claimed));
        assert_eq!(stack.space.watch_range(whole).err(), Some(Refusal::Claimed));
        own.unregister(whole).unwrap();
        drop(lease(&object));
    }
);

scenario!(
    /// Where the device file may be opened, a filtered call is no obstacle.
    s74_the_device_file_stands_in_for_the_call,
    20,
    {
        if std::fs::File::open("/dev/userfaultfd").is_err() {
            println!("skipped: /dev/userfaultfd cannot be opened here");
            return;
        }
        filter(libc::SYS_userfaultfd, libc::ENOSYS);
        let stack = Stack::new(Options::default());
        let range = memory::map(BYTES).unwrap();
        drop(lease(&stack.object(range.address, range.bytes)));
    }
);

scenario!(
    /// The fallback is chosen, never silent: without a watch, only who promises to look after the
    /// memory himself gets an object.
    s74_without_a_watch_only_unsynchronised_objects,
    20,
    {
        let range = memory::map(BYTES).unwrap();
        let cause = Refusal::Seccomp(Facility::Userfaultfd);
        let stack = Stack::over(Linux::unwatched(cause).unwrap());
        assert_eq!(stack.space.refusal(), Some(cause));
        let create = |flags: Flags| {
            stack.create(range.address, range.bytes, flags)
        };
        assert_eq!(create(Flags::NONE).err(), Some(Error::NoNotifications));
        // SAFETY: takes no pointer.
        if unsafe { libc::geteuid() } == 0 {
            let object = create(Flags::UNSYNCHRONIZED).unwrap();
            let file = memfd().unwrap();
            memory::fill(range, Part { offset: 0, bytes: BYTES }, 7);
            let part = uring::Part { offset: 0, bytes: BYTES, at: 0 };
            assert_eq!(Uring::write(&lease(&object), part, &file).unwrap(), BYTES);
            assert_eq!(content(&file, BYTES).unwrap(), memory::pattern(BYTES, 7));
        }
        become_nobody();
        assert_eq!(create(Flags::UNSYNCHRONIZED).err(), Some(Error::Permission));
    }
);

scenario!(s74_the_limit_of_descriptors_is_named, 20, {
    limit(libc::RLIMIT_NOFILE, 3);
    assert_eq!(Linux::open().err(), Some(Refusal::Descriptors));
    assert_eq!(Uring::open(Setup::default()).err(), Some(Refusal::Descriptors));
    assert_eq!(Error::from(Refusal::Descriptors), Error::Descriptors);
});

scenario!(s74_the_limit_of_locked_memory_is_named, 20, {
    const LIMIT: u64 = 256 << 10;
    become_nobody();
    limit(libc::RLIMIT_MEMLOCK, LIMIT);
    let stack = Stack::new(Options::default());
    let big = memory::map(1 << 20).unwrap();
    let object = stack.object(big.address, big.bytes);
    assert_eq!(object.acquire().err(), Some(Error::LockedMemory));
    assert_eq!(stack.context.device().refusal(), Some(Refusal::LockedMemory(LIMIT)));
    // Nothing sticks and nothing is left behind: less works, and so does the same with more.
    assert_eq!(stack.context.device().in_use(), (0, 0));
    drop(lease(&stack.object(big.address, 64 << 10)));
});

scenario!(s74_the_limit_of_mappings_is_named, 60, {
    let most: usize = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
    if most > 1 << 20 {
        println!("skipped: vm.max_map_count is {most}");
        return;
    }
    let stack = Stack::new(Options::default());
    let range = memory::map(BYTES).unwrap();
    // Mappings are not counted at each watch: this one found few.
    let middle = AddrRange::new(range.address + 4096, 4096).unwrap();
    drop(stack.space.watch_range(middle).unwrap());
    // Neighbours of different protection are mappings of their own.
    let far = memory::ELSEWHERE;
    for page in 0..most {
        let protection = if page % 2 == 0 { libc::PROT_READ } else { libc::PROT_NONE };
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: replaces nothing.
        let got = unsafe { libc::mmap((far + page * 4096) as *mut _, 4096, protection, flags, -1, 0) };
        if got == libc::MAP_FAILED {
            break;
        }
    }
    let refused = stack.space.watch_range(middle).err();
    assert_eq!(refused, Some(Refusal::Mappings));
    // SAFETY: ours, without references into it.
    unsafe { libc::munmap(far as *mut _, most * 4096) };
    drop(lease(&stack.object(range.address, range.bytes)));
});

scenario!(
    /// The program goes on at the last watch: it maps, and spawns a thread.
    s151_the_last_mappings_are_the_programs,
    60,
    {
        const NEAR: usize = 1000;
        let most: usize =
            std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
        if most > 1 << 20 {
            println!("skipped: vm.max_map_count is {most}");
            return;
        }
        let range = memory::map_at(memory::ELSEWHERE, most * 4096, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let range = range.unwrap();
        // Neighbours of different protection are mappings of their own.
        let far = most - most / 16 - NEAR;
        for page in (0..far).step_by(2) {
            let at = std::ptr::without_provenance_mut(range.address + page * 4096);
            // SAFETY: ours, and nobody has a reference into it.
            assert_eq!(unsafe { libc::mprotect(at, 4096, libc::PROT_READ) }, 0);
        }
        let space = Linux::open().unwrap();
        let page = |n: usize| AddrRange::new(range.address + (far + 2 * n + 1) * 4096, 4096).unwrap();
        let mut watched = Vec::new();
        let refused = loop {
            match space.watch_range(page(watched.len())) {
                Ok(one) => watched.push(one),
                Err(why) => break why,
            }
        };
        println!("{} ranges, then: {refused}", watched.len());
        assert!((NEAR / 4..NEAR).contains(&watched.len()));
        let Refusal::MappingReserve { mapped, most: said } = refused else { panic!("{refused:?}") };
        assert_eq!((said, Error::from(refused)), (most, Error::Mappings));
        let left = most - mapped;
        assert!((most / 20..=most / 16).contains(&left), "{left} of {most} are left");
        std::thread::spawn(|| memory::map(BYTES).unwrap()).join().unwrap();
        // What is watched already can be watched again, and what is given up is there for another.
        drop(space.watch_range(page(0)).unwrap());
        watched.truncate(watched.len() - 200);
        drop(space.watch_range(page(watched.len())).unwrap());
    }
);

scenario!(s151_the_last_descriptors_are_the_programs, 30, {
    limit(libc::RLIMIT_NOFILE, 64);
    let space = Linux::with(Options { strict: true, ..Options::default() }).unwrap();
    let range = memory::map(1 << 20).unwrap();
    let mut watched = Vec::new();
    let refused = loop {
        let page = AddrRange::new(range.address + 2 * watched.len() * 4096, 4096).unwrap();
        match space.watch_range(page) {
            Ok(one) => watched.push(one),
            Err(why) => break why,
        }
    };
    assert_eq!(refused, Refusal::DescriptorReserve { number: 60, most: 64 });
    assert_eq!(Error::from(refused), Error::Descriptors);
    let own: Vec<_> = (60..64).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
    drop(own);
});

scenario!(s74_what_cannot_be_watched_or_pinned_is_named, 20, {
    let stack = Stack::new(Options::default());
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    // SAFETY: a new mapping of a file that was opened for reading only.
    let got = unsafe {
        use std::os::fd::AsRawFd;
        libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(got, libc::MAP_FAILED);
    let range = AddrRange::new(got as usize, 4096).unwrap();
    assert_eq!(stack.space.watch_range(range).err(), Some(Refusal::Unwatchable));
    let object = stack.object(got as usize, 4096);
    assert_eq!(object.acquire().err(), Some(Error::Unwatchable));
    // Nothing there at all.
    let hole = memory::map(BYTES).unwrap();
    memory::unmap(hole).unwrap();
    let object = stack.object(hole.address, hole.bytes);
    assert_eq!(object.acquire().err(), Some(Error::Fault));
    // Nothing tells that memory came: it sticks until somebody asks again.
    memory::map(BYTES).unwrap();
    assert_eq!(object.acquire().err(), Some(Error::Fault));
    assert!(object.reset());
    drop(lease(&object));
});

scenario!(s75_works_for_an_unprivileged_user, 30, {
    let allowed = std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").unwrap();
    println!("vm.unprivileged_userfaultfd = {}", allowed.trim());
    become_nobody();
    // SAFETY: takes no pointer.
    assert_ne!(unsafe { libc::geteuid() }, 0);
    let stack = Stack::new(Options::default());
    let file = memfd().unwrap();
    let whole = Part { offset: 0, bytes: BYTES };
    let range = memory::map(BYTES).unwrap();
    let object = stack.object(range.address, range.bytes);
    for round in 0..50 {
        memory::fill(range, whole, round);
        let part = uring::Part { offset: 0, bytes: BYTES, at: 0 };
        assert_eq!(Uring::write(&lease(&object), part, &file).unwrap(), BYTES);
        assert_eq!(content(&file, BYTES).unwrap(), memory::look(range, whole), "round {round}");
        memory::unmap(range).unwrap();
        memory::map(BYTES).unwrap();
    }
    eventually("every unmap is counted", || stack.space.stats().unmaps >= 50);
});
