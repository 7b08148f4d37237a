//! The operations: each changes the memory under a registered buffer, then asks for I/O on the same
//! address.

use super::io::{Cache, Part, Range, Way, content, memfd};
use super::memory::{self, ELSEWHERE};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

const BUFFER: usize = 64 << 10;
const BIG: usize = 40 << 20;
const WHOLE: Part = Part { offset: 0, bytes: BUFFER };
/// In the big buffer: somewhere in the middle.
const MIDDLE: Part = Part { offset: 20 << 20, bytes: BUFFER };

/// What came of the attempts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Attempts in which I/O that reported success touched other pages than those at the address.
    pub(crate) stale: u32,
    /// Attempts in which I/O on good memory was refused.
    pub(crate) refused: u32,
    pub(crate) attempts: u32,
    /// From the change up to the end of the first request after it.
    pub(crate) time: Duration,
}

pub(crate) struct Operation {
    pub(crate) name: &'static str,
    /// The most attempts that are worth their time.
    pub(crate) most: u32,
    pub(crate) run: fn(&mut dyn Cache, u64, &mut Tally) -> io::Result<()>,
}

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation { name: "munmap, mmap at the same address", most: u32::MAX, run: munmap_mmap },
    Operation { name: "mmap(MAP_FIXED) over it", most: u32::MAX, run: mmap_over },
    Operation { name: "mremap away", most: u32::MAX, run: mremap_away },
    Operation { name: "mremap(MREMAP_DONTUNMAP)", most: u32::MAX, run: mremap_and_keep },
    Operation { name: "mremap(MREMAP_FIXED) onto it", most: u32::MAX, run: mremap_onto },
    Operation { name: "madvise(MADV_DONTNEED)", most: u32::MAX, run: dontneed },
    Operation { name: "madvise(MADV_REMOVE), shared", most: u32::MAX, run: remove },
    Operation { name: "munmap of a part", most: u32::MAX, run: partial },
    Operation { name: "brk shrinks and grows", most: u32::MAX, run: brk },
    Operation { name: "malloc, free, malloc of 40 MiB", most: 20, run: malloc },
    Operation { name: "raw munmap and mmap system calls", most: u32::MAX, run: raw },
    Operation { name: "another thread reuses it before munmap returns", most: u32::MAX, run: reuse },
];

/// One attempt: the cache, the file, and what to compare.
struct Attempt<'a> {
    cache: &'a mut dyn Cache,
    file: File,
    seed: u64,
    stale: bool,
    refused: bool,
}

impl<'a> Attempt<'a> {
    fn new(cache: &'a mut dyn Cache, number: u64) -> io::Result<Self> {
        let file = memfd()?;
        file.set_len(BUFFER as u64)?;
        Ok(Self { cache, file, seed: number << 8, stale: false, refused: false })
    }

    fn next_seed(&mut self) -> u64 {
        self.seed += 1;
        self.seed
    }

    /// Registers the buffer by using it once. Whatever goes wrong here is the host's doing.
    fn warm(&mut self, range: Range, part: Part) -> io::Result<()> {
        let seed = self.next_seed();
        memory::fill(range, part, seed);
        let got = self.cache.run(range, part, Way::ToFile, &self.file)?;
        if got != part.bytes || content(&self.file, got)? != memory::look(range, part) {
            return Err(io::Error::other("the first use of a new buffer went wrong"));
        }
        Ok(())
    }

    /// The range is mapped: whatever a request moves must be what the memory holds.
    fn check(&mut self, range: Range, part: Part) -> io::Result<()> {
        let seed = self.next_seed();
        memory::fill(range, part, seed);
        match self.cache.run(range, part, Way::ToFile, &self.file) {
            Ok(got) => {
                self.stale |= got != part.bytes || content(&self.file, got)? != memory::look(range, part)
            }
            Err(_) => self.refused = true,
        }
        let seed = self.next_seed();
        self.file.write_all_at(&memory::pattern(part.bytes, seed), 0)?;
        match self.cache.run(range, part, Way::FromFile, &self.file) {
            Ok(got) => {
                self.stale |= got != part.bytes || content(&self.file, got)? != memory::look(range, part)
            }
            Err(_) => self.refused = true,
        }
        Ok(())
    }

    /// The range, or a part of it, is not mapped: a request that succeeds used pages that belong to
    /// nobody.
    fn check_gone(&mut self, range: Range, part: Part) {
        for way in [Way::ToFile, Way::FromFile] {
            self.stale |= self.cache.run(range, part, way, &self.file).is_ok();
        }
    }

    fn end(self, tally: &mut Tally, began: Instant) {
        tally.time += began.elapsed();
        tally.attempts += 1;
        tally.stale += u32::from(self.stale);
        tally.refused += u32::from(self.refused);
    }
}

fn munmap_mmap(cache: &mut dyn Cache, number: u64, tally: &mut Tally) -> io::Result<()> {
    let (range, mut attempt) = (memory::map(BUFFER)?, Attempt::new(cache, number)?);
    attempt.warm(range, WHOLE)?;
    let began = Instant::now();
    memory::unmap(range)?;
    memory::map(BUFFER)?;
    attempt.check(range, WHOLE)?;
    attempt.end(tally, began);
    memory::unmap(range)
}

fn mmap_over(cache: &mut dyn Cache, number: u64, tally: &mut Tally) -> io::Result<()> {
    let (range, mut attempt) = (memory::map(BUFFER)?, Attempt::new(cache, number)?);
    attempt.warm(range, WHOLE)?;
    let began = Instant::now();
    memory::map_over(range)?;
    attempt.check(range, WHOLE)?;
    attempt.end(tally, began);
    memory::unmap(range)
}

fn mremap_away(cache: &mut dyn Cache, number: u64, tally: &mut Tally) -> io::Result<()> {
    let (range, mut attempt) = (memory::map(BUFFER)?, Attempt::new(cache, number)?);
    attempt.warm(range, WHOLE)?;
    let began = Instant::now();
    let moved = memory::remap(range, ELSEWHERE, 0)?;
    attempt.check_gone(range, WHOLE);
    attempt.check(moved, WHOLE)?;
    attempt.end(tally, began);
    memory::unmap(moved)
}

/// The pages go, the mapping stays, empty.
fn mremap_and_keep(cache: &mut dyn Cache, number: u64, tally: &mut Tally) -> io::Result<()> {
    let (range, mut attempt) = (memory::map(BUFFER)?, Attempt::new(cache, number)?);
    attempt.warm(range, WHOLE)?;
    let began = Instant::now();
    let moved = memory::remap(range, ELSEWHERE, libc::MREMAP_DONTUNMAP)?;
    attempt.check(range, WHOLE)?;
    attempt.check(moved, WHOLE)?;
    attempt.end(tally, began);
    memory::unmap(moved)?;
    memory::unmap(range)
}

fn mremap_onto(cache: &mut dyn Cache, number: u64, tally: &mut Tally) -> io::Result<()> {
    let (range, mut attempt) = (memory::map(BUFFER)?, Attempt::new(cache, number)?);
    attempt.warm(range, WHOLE)?;
    let other = memory::map_at(ELSEWHERE, BUFFER, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)?;
    memory::fill(other, WHOLE, !number);
    let began = Instant::now();
    memory::remap(other, range.address, 0)?;
    attempt.check(range, WHOLE)?;
    attempt.end(tally, began);
    memory::unmap(range)
}

fn discard(range: Range, advice: i32, mut attempt: Attempt<'_>, tally: &mut Tally) -> io::Result<()> {
    attempt.warm(range, WHOLE)?;
    let began = Instant::now();
    memory::advise(range, advice)?;
    attempt.check(range, WHOLE)?;
    attempt.end(tally, began);
    memory::unmap(range)
}

fn dontneed(cache: &mut dyn Cache, number: u64, tally: &mut Tally) -> io::Result<()> {
    discard(memory::map(BUFFER)?, libc::MADV_DONTNEED, Attempt::new(cache, number)?, tally)
}

fn remove(cache: &mut dyn Cache, number: u64, tally: &mut Tally) -> io::Result<()> {
    discard(memory::map_shared(BUFFER)?, libc::MADV_REMOVE, Attempt::new(cache, number)?, tally)
}

fn partial(cache: &mut dyn Cache, number: u64, tally: &mut Tally) -> io::Result<()> {
    let (range, mut attempt) = (memory::map(BUFFER)?, Attempt::new(cache, number)?);
    attempt.warm(range, WHOLE)?;
    let half = Range { address: range.address + BUFFER / 2, bytes: BUFFER / 4 };
    let began = Instant::now();
    memory::unmap(half)?;
    attempt.check_gone(range, WHOLE);
    memory::map_at(half.address, half.bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)?;
    attempt.check(range, WHOLE)?;
    attempt.end(tally, began);
    memory::unmap(range)
}

fn brk(cache: &mut dyn Cache, number: u64, tally: &mut Tally) -> io::Result<()> {
    let mut attempt = Attempt::new(cache, number)?;
    let unaligned = memory::grow_heap(0)? % 4096;
    if unaligned != 0 {
        memory::grow_heap(4096 - unaligned as isize)?;
    }
    let by = BUFFER as isize;
    let range = Range { address: memory::grow_heap(by)?, bytes: BUFFER };
    attempt.warm(range, WHOLE)?;
    if memory::grow_heap(0)? != range.address + BUFFER {
        return Err(io::Error::other("somebody else moves the heap"));
    }
    let began = Instant::now();
    memory::grow_heap(-by)?;
    attempt.check_gone(range, WHOLE);
    if memory::grow_heap(by)? != range.address {
        return Err(io::Error::other("somebody else moves the heap"));
    }
    attempt.check(range, WHOLE)?;
    attempt.end(tally, began);
    memory::grow_heap(-by).map(drop)
}

fn malloc(cache: &mut dyn Cache, number: u64, tally: &mut Tally) -> io::Result<()> {
    let mut attempt = Attempt::new(cache, number)?;
    let (first, range) = memory::allocate(BIG)?;
    attempt.warm(range, MIDDLE)?;
    let began = Instant::now();
    memory::free(first);
    let (second, again) = memory::allocate(BIG)?;
    attempt.check(again, MIDDLE)?;
    attempt.end(tally, began);
    memory::free(second);
    if range != again {
        return Err(io::Error::other("the allocator gave another address"));
    }
    Ok(())
}

fn raw(cache: &mut dyn Cache, number: u64, tally: &mut Tally) -> io::Result<()> {
    let (range, mut attempt) = (memory::map(BUFFER)?, Attempt::new(cache, number)?);
    attempt.warm(range, WHOLE)?;
    let began = Instant::now();
    memory::raw_unmap(range)?;
    memory::raw_map(range)?;
    attempt.check(range, WHOLE)?;
    attempt.end(tally, began);
    memory::unmap(range)
}

fn reuse(cache: &mut dyn Cache, number: u64, tally: &mut Tally) -> io::Result<()> {
    let (range, mut attempt) = (memory::map(BUFFER)?, Attempt::new(cache, number)?);
    attempt.warm(range, WHOLE)?;
    let began = Instant::now();
    let first = std::thread::spawn(move || memory::unmap(range));
    // The address is free as soon as the first thread's pages are gone, long before its call
    // returns.
    while let Err(why) = memory::map(BUFFER) {
        if why.raw_os_error() != Some(libc::EEXIST) {
            return Err(why);
        }
    }
    attempt.check(range, WHOLE)?;
    attempt.end(tally, began);
    first.join().map_err(|_| io::Error::other("the other thread panicked"))??;
    memory::unmap(range)
}
