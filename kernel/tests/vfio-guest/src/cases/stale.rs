//! The main question: after a change of the mappings, does the device work on what the address
//! means now? Once by plain VFIO, which must fail, or the test sees nothing; and once through
//! `userptr`, which may not.

use super::case;
use crate::Case;
use crate::edu::{MAX_BYTES, Way};
use crate::memory;
use crate::setting::{PAGE, Setting, lease, span};

const ATTEMPTS: u64 = 3;
const BYTES: usize = MAX_BYTES;
const PLACE: usize = 0x1000_0000_0000;
const ELSEWHERE: usize = 0x1100_0000_0000;

/// A change that leaves other memory at the place.
type Change = fn();

pub fn cases() -> Vec<Case> {
    vec![
        case("stale-munmap", 0, || compare(munmap, true)),
        case("stale-map-fixed", 0, || compare(|| memory::map_over(PLACE, PAGE), true)),
        case("stale-mremap-away", 0, || compare(mremap_away, true)),
        case("stale-mremap-onto", 0, || compare(mremap_onto, true)),
        case("stale-dontneed", 0, || compare(|| memory::discard(PLACE, PAGE), true)),
        // The kernel gives the child a copy of a pinned page at once, so the parent's stays where
        // it is.
        case("stale-fork", 0, || compare(fork, false)),
        case("stale-by-other-thread", 0, || compare(|| std::thread::spawn(munmap).join().unwrap(), true)),
    ]
}

fn munmap() {
    memory::unmap(PLACE, PAGE);
    memory::map_at(PLACE, PAGE);
}

fn mremap_away() {
    memory::map_at(ELSEWHERE, PAGE);
    memory::remap(PLACE, ELSEWHERE, PAGE);
    memory::map_at(PLACE, PAGE);
    memory::unmap(ELSEWHERE, PAGE);
}

fn mremap_onto() {
    memory::map_at(ELSEWHERE, PAGE);
    memory::remap(ELSEWHERE, PLACE, PAGE);
}

fn fork() {
    // SAFETY: the child only waits a moment and ends.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: takes no pointer.
            unsafe {
                libc::usleep(20_000);
                libc::_exit(0);
            }
        }
        child => {
            memory::fill(PLACE, PAGE, 99);
            // SAFETY: no status is wanted.
            assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
        }
    }
}

/// `stale`: whether the naive way must be.
fn compare(change: Change, stale: bool) -> String {
    let setting = Setting::new();
    let (mut naive, mut ours) = (0, 0);
    for attempt in 0..ATTEMPTS {
        naive += u64::from(naively(&setting, change, attempt));
        ours += u64::from(with_userptr(&setting, change, attempt));
    }
    setting.assert_released();
    assert_eq!(
        naive,
        if stale { ATTEMPTS } else { 0 },
        "the naive way, which shows that the test sees something"
    );
    assert_eq!(ours, 0, "through userptr");
    format!("naive {naive} of {ATTEMPTS} stale, userptr {ours} of {ATTEMPTS}")
}

/// Whether the device sees other memory than the process, or writes to other memory.
fn is_stale(setting: &Setting, at: userptr_linux::vfio::Span, seed: u64) -> bool {
    let reads = setting.seen_by_device(at, 0, BYTES) != memory::look(PLACE, BYTES);
    setting.load(seed);
    setting.edu.transfer(at, 0, BYTES, Way::ToMemory);
    let writes = memory::look(PLACE, BYTES) != memory::pattern(BYTES, seed);
    assert_eq!(reads, writes, "half stale");
    reads
}

fn naively(setting: &Setting, change: Change, attempt: u64) -> bool {
    memory::map_at(PLACE, PAGE);
    memory::fill(PLACE, PAGE, 1000 + attempt);
    let at = setting.naive(PLACE);
    assert!(!is_stale(setting, at, 2000 + attempt), "before the change");
    change();
    memory::fill(PLACE, PAGE, 3000 + attempt);
    let stale = is_stale(setting, at, 4000 + attempt);
    setting.naive_end();
    memory::unmap(PLACE, PAGE);
    stale
}

fn with_userptr(setting: &Setting, change: Change, attempt: u64) -> bool {
    memory::map_at(PLACE, PAGE);
    memory::fill(PLACE, PAGE, 5000 + attempt);
    let object = setting.object(PLACE, PAGE);
    {
        let lease = lease(&object);
        assert!(!is_stale(setting, span(&lease), 6000 + attempt), "before the change");
    }
    change();
    memory::fill(PLACE, PAGE, 7000 + attempt);
    let lease = lease(&object);
    let stale = is_stale(setting, span(&lease), 8000 + attempt);
    drop(lease);
    drop(object);
    memory::unmap(PLACE, PAGE);
    stale
}
