//! Every way to change memory that there is a row for.

use super::ground::{Ground, HUGE, Kind, attach, map_file};
use super::{LookUp, PAGE, Row, Told};
use crate::stale::io::Range;
use crate::stale::memory::{self, ELSEWHERE};
use std::io;
use std::os::fd::AsRawFd;

const fn row(
    name: &'static str,
    kind: Kind,
    told: Told,
    look_up: LookUp,
    change: fn(&Ground) -> io::Result<()>,
) -> Row {
    Row { name, kind, told, look_up, lacks: &[], change }
}

/// `linux/mman.h`, Linux 6.13
const MADV_GUARD_INSTALL: i32 = 102;

pub(super) const ROWS: &[Row] = &[
    row("`munmap`", Kind::Private, Told::After, LookUp::Refused, |ground| memory::unmap(ground.range)),
    row("`mmap(MAP_FIXED)` over it", Kind::Private, Told::After, LookUp::Fresh, |ground| {
        memory::map_over(ground.range)
    }),
    row("`mremap` to another place", Kind::Private, Told::After, LookUp::Refused, |ground| {
        memory::remap(ground.range, ELSEWHERE, 0).map(drop)
    }),
    row("`mremap` onto it", Kind::Private, Told::After, LookUp::Fresh, |ground| {
        let other = memory::map_at(ELSEWHERE, ground.range.bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)?;
        memory::remap(other, ground.range.address, 0).map(drop)
    }),
    row("`mremap(MREMAP_DONTUNMAP)`", Kind::Private, Told::After, LookUp::Fresh, |ground| {
        memory::remap(ground.range, ELSEWHERE, libc::MREMAP_DONTUNMAP).map(drop)
    }),
    row("`mremap` to a smaller size", Kind::Private, Told::After, LookUp::Refused, |ground| {
        resize(ground, ground.range.bytes, PAGE)
    }),
    row("`mremap` to a larger size in place", Kind::Private, Told::No, LookUp::Fresh, |ground| {
        resize(ground, ground.range.bytes, 2 * ground.range.bytes)
    }),
    row("`brk` to a lower end", Kind::Heap, Told::After, LookUp::Refused, |ground| {
        memory::grow_heap(-ground.range.bytes.cast_signed()).map(drop)
    }),
    row("`madvise(MADV_DONTNEED)`", Kind::Private, Told::Before, LookUp::Fresh, |ground| {
        memory::advise(ground.range, libc::MADV_DONTNEED)
    }),
    row("`madvise(MADV_FREE)`", Kind::Private, Told::Before, LookUp::Fresh, |ground| {
        memory::advise(ground.range, libc::MADV_FREE)
    }),
    row("`madvise(MADV_REMOVE)`", Kind::Shared, Told::Before, LookUp::Fresh, |ground| {
        memory::advise(ground.range, libc::MADV_REMOVE)
    }),
    Row {
        lacks: &[libc::ENOSYS, libc::EINVAL, libc::EPERM],
        ..row("`process_madvise(MADV_DONTNEED)`", Kind::Private, Told::Before, LookUp::Fresh, |ground| {
            process_advise(ground, libc::MADV_DONTNEED)
        })
    },
    row("`MADV_REMOVE` through another mapping", Kind::Shared, Told::No, LookUp::Stale, |ground| {
        let other = memory::map_at(ELSEWHERE, ground.range.bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)?;
        map_file(other.address, &ground.file)?;
        memory::advise(other, libc::MADV_REMOVE)
    }),
    row("`fallocate(PUNCH_HOLE)` on the file", Kind::Shared, Told::No, LookUp::Stale, |ground| {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let bytes = ground.range.bytes.cast_signed() as libc::off_t;
        // SAFETY: takes no pointer.
        check(unsafe { libc::fallocate(ground.file.as_raw_fd(), mode, 0, bytes) })
    }),
    row("`ftruncate` of the file", Kind::Shared, Told::No, LookUp::Stale, |ground| {
        let bytes = ground.file.metadata()?.len();
        ground.file.set_len(0)?;
        ground.file.set_len(bytes)
    }),
    row("`shmat(SHM_REMAP)` over it", Kind::Private, Told::No, LookUp::Stale, |ground| {
        attach(ground.range.address).map(drop)
    }),
    row("`shmdt`", Kind::Segment, Told::No, LookUp::Stale, |ground| {
        // SAFETY: ours, and nobody has a reference into it.
        check(unsafe { libc::shmdt(ground.at(0)) })
    }),
    Row {
        lacks: &[libc::ENOSYS],
        ..row("`remap_file_pages`", Kind::Shared, Told::No, LookUp::Stale, |ground| {
            let bytes = ground.range.bytes;
            // SAFETY: ours, and nobody has a reference into it.
            let got =
                unsafe { libc::syscall(libc::SYS_remap_file_pages, ground.at(0), bytes, 0, bytes / PAGE, 0) };
            check(if got == 0 { 0 } else { -1 })
        })
    },
    Row {
        lacks: &[libc::EINVAL],
        ..row("`madvise(MADV_GUARD_INSTALL)`", Kind::Private, Told::No, LookUp::Stale, |ground| {
            memory::advise(ground.range, MADV_GUARD_INSTALL)
        })
    },
    row("`mprotect`", Kind::Private, Told::No, LookUp::Fresh, |ground| {
        // SAFETY: ours, and nobody has a reference into it.
        check(unsafe { libc::mprotect(ground.at(0), ground.range.bytes, libc::PROT_READ) })
    }),
    row("a write after `fork`", Kind::Private, Told::No, LookUp::Fresh, |ground| {
        in_child(
            |parent_waits| {
                parent_waits();
                true
            },
            || ground.write(&memory::pattern(ground.range.bytes, 5)),
        )
    }),
    row("a write by another process", Kind::Private, Told::No, LookUp::Fresh, |ground| {
        let bytes = memory::pattern(ground.range.bytes, 6);
        // SAFETY: takes no pointer.
        let parent = unsafe { libc::getpid() };
        in_child(|_| ground.write_to(parent, &bytes), || {})
    }),
    Row {
        lacks: &[libc::EINVAL],
        ..row("`madvise(MADV_PAGEOUT)`", Kind::Private, Told::No, LookUp::Fresh, |ground| {
            memory::advise(ground.range, libc::MADV_PAGEOUT)
        })
    },
    Row {
        lacks: &[libc::EINVAL],
        ..row("`madvise(MADV_COLLAPSE)`", Kind::Large, Told::No, LookUp::Fresh, |ground| {
            match memory::advise(Range { bytes: HUGE, ..ground.range }, libc::MADV_COLLAPSE) {
                // The kernel leaves pinned pages where they are.
                Err(why) if matches!(why.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => Ok(()),
                done => done,
            }
        })
    },
];

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the mapping smaller, or larger, in its place.
fn resize(ground: &Ground, from: usize, to: usize) -> io::Result<()> {
    // SAFETY: ours, and nobody has a reference into it.
    let got = unsafe { libc::mremap(ground.at(0), from, to, 0) };
    if got == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn process_advise(ground: &Ground, advice: i32) -> io::Result<()> {
    let range = libc::iovec { iov_base: ground.at(0), iov_len: ground.range.bytes };
    // SAFETY: ours, and nobody has a reference into it; the descriptor is closed here.
    unsafe {
        let me = libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0);
        let got = libc::syscall(libc::SYS_process_madvise, me, &raw const range, 1, advice, 0);
        let why = io::Error::last_os_error();
        libc::close(i32::try_from(me).unwrap_or(-1));
        if usize::try_from(got) == Ok(ground.range.bytes) { Ok(()) } else { Err(why) }
    }
}

/// Runs `child` in a forked process and `parent` here, while the child is there; `child` can wait
/// for `parent`.
fn in_child(child: impl FnOnce(&dyn Fn()) -> bool, parent: impl FnOnce()) -> io::Result<()> {
    let (reader, writer) = io::pipe()?;
    let (from, to) = (reader.as_raw_fd(), writer.as_raw_fd());
    // SAFETY: the child makes system calls alone, and ends by `_exit`.
    let process = unsafe { libc::fork() };
    if process == 0 {
        let wait = || {
            let mut byte = 0_u8;
            // SAFETY: our own copies of the descriptors; room for one byte.
            unsafe {
                libc::close(to);
                libc::read(from, (&raw mut byte).cast(), 1);
            }
        };
        let well = child(&wait);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(i32::from(!well)) };
    }
    parent();
    drop(writer);
    let mut status = 0;
    // SAFETY: our own child, and room for its status.
    unsafe { libc::waitpid(process, &raw mut status, 0) };
    if status == 0 { Ok(()) } else { Err(io::Error::other("the child failed")) }
}
