//! Real memory: a pipe behind an io_uring, whose fixed buffers are cached.

use crate::random::Rng;
use std::io::Read;
use std::time::{Duration, Instant};
use userptr::{AddrRange, Context, Error};
use userptr_cache::{Access, Cache, Setup};
use userptr_linux::Linux;
use userptr_linux::uring::{Part, Setup as Ring, Uring};

const PAGES: usize = 16;

fn map(at: usize, bytes: usize) -> usize {
    let fixed = if at == 0 { 0 } else { libc::MAP_FIXED };
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed;
    let hint = std::ptr::with_exposed_provenance_mut(at);
    // SAFETY: over memory of the test's own, or anywhere.
    let got = unsafe { libc::mmap(hint, bytes, protection, flags, -1, 0) };
    assert_ne!(got, libc::MAP_FAILED);
    got.expose_provenance()
}

/// Unmaps, remaps, discards and writes beside look-ups: what the device sends is what is mapped.
#[test]
fn s205_random_changes_of_real_memory_and_nothing_stale() {
    let space = match Linux::open() {
        Ok(space) => space,
        Err(why) => return println!("skipped: {why}"),
    };
    let page = 4096;
    let ring = Uring::open(Ring { deadline: Some(Duration::from_secs(20)), ..Ring::default() }).unwrap();
    let context = Context::builder(ring).spawn().unwrap();
    let cache = Cache::new(&context, &space, Setup::default().entries(6).bytes(PAGES * page)).unwrap();
    let area = map(0, PAGES * page);
    let (mut from, to) = std::io::pipe().unwrap();
    let mut rng = Rng::new(3);
    let mut stamp = 0_u64;
    let mut served = 0;
    let mut stamps = [0_u64; PAGES];
    let operations = 20_000;
    let end = Instant::now() + Duration::from_secs(60);
    for _ in 0..operations {
        if Instant::now() > end {
            break;
        }
        let first = rng.below(PAGES);
        let count = 1 + rng.below((PAGES - first).min(4));
        let (start, len) = (area + first * page, count * page);
        let here = std::ptr::with_exposed_provenance_mut::<u8>(start);
        match rng.below(24) {
            0 => {
                // SAFETY: memory of the test's own, without references.
                assert_eq!(unsafe { libc::munmap(here.cast(), len) }, 0);
                map(start, len);
                stamps[first..first + count].fill(0);
            }
            1 => {
                map(start, len);
                stamps[first..first + count].fill(0);
            }
            2 => {
                // SAFETY: as above.
                assert_eq!(unsafe { libc::madvise(here.cast(), len, libc::MADV_DONTNEED) }, 0);
                stamps[first..first + count].fill(0);
            }
            3..12 => {
                stamp += 1;
                stamps[first] = stamp;
                // SAFETY: mapped, aligned, ours.
                unsafe { here.cast::<u64>().write_volatile(stamp) };
            }
            _ => {
                let range = AddrRange::new(start, len).unwrap();
                loop {
                    // SAFETY: memory of the test's own: no references, no owner.
                    let (lease, offset) = match unsafe { cache.get_unchecked(range, Access::Read) } {
                        Ok(lease) => lease.into_owned(),
                        // A discard's window may be open for a while.
                        Err(Error::Busy | Error::Again) if Instant::now() < end => {
                            std::thread::yield_now();
                            continue;
                        }
                        Err(why) => panic!("{why}"),
                    };
                    let part = Part { offset, bytes: 8, at: u64::MAX };
                    match Uring::write(&lease, part, &to) {
                        Ok(bytes) => break assert_eq!(bytes, 8),
                        // An unmap over memory of several userfaultfds is told by each, with its
                        // whole range: the last may revoke what is new there already. Nothing was
                        // sent.
                        Err(why) if why.raw_os_error() == Some(libc::ECANCELED) && Instant::now() < end => {
                            assert!(lease.is_revoked(), "cancelled without an invalidation");
                        }
                        Err(why) => panic!("{why}"),
                    }
                }
                let mut seen = [0; 8];
                from.read_exact(&mut seen).unwrap();
                assert_eq!(u64::from_ne_bytes(seen), stamps[first], "stale: page {first}");
                served += 1;
            }
        }
    }
    let stats = cache.stats();
    println!("{served} look-ups; {stats}");
    assert!(served > 100 && stats.hits > 20 && stats.invalidations > 5, "{served}: {stats}");
    drop((cache, context));
    // SAFETY: as above.
    unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(area), PAGES * page) };
}
