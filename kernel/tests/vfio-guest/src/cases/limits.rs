//! Limits: each named, nothing lost, and work goes on when there is room again.

use super::case;
use crate::Case;
use crate::edu::MAX_BYTES;
use crate::memory;
use crate::setting::{PAGE, SETUP, Setting, lease, span, try_lease};
use userptr::{Error, UserPtr};
use userptr_linux::vfio::{IovaRange, Setup};
use userptr_linux::{Options, Refusal};

pub fn cases() -> Vec<Case> {
    vec![
        case("limits-are-told", 0, told),
        case("limit-of-mappings", 0, entries),
        case("limit-of-locked-memory", 0, locked_memory),
        case("limit-of-addresses", 0, addresses),
        case("hole-is-refused", 0, hole),
    ]
}

fn told() -> String {
    let setting = Setting::new();
    let limits = setting.device().capabilities();
    assert_eq!(limits.smallest_page(), PAGE as u64);
    // The window of message-signalled interrupts.
    let reserved = 0xfee0_0000..=0xfeef_ffff_u64;
    assert!(
        limits.ranges.iter().all(|range| range.last < *reserved.start() || range.first > *reserved.end())
    );
    assert!(
        limits
            .ranges
            .iter()
            .any(|range| range.first <= SETUP.window.first && SETUP.window.last <= range.last)
    );
    let ranges = limits.ranges.iter().map(|range| format!("{:#x}..={:#x}", range.first, range.last));
    let ranges = ranges.collect::<Vec<_>>().join(" ");
    format!("pages {:#x}, ranges {ranges}, {:?} mappings", limits.page_sizes, limits.entries.unwrap())
}

fn entries() -> String {
    const PARAMETER: &str = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
    const LIMIT: usize = 4;
    let before = std::fs::read_to_string(PARAMETER).unwrap();
    // It counts for containers that are opened from now on.
    std::fs::write(PARAMETER, LIMIT.to_string()).unwrap();
    let setting = Setting::new();
    std::fs::write(PARAMETER, before.trim()).unwrap();
    assert_eq!(setting.device().capabilities().entries, Some(LIMIT as u32));
    // One is the witness's.
    let address = memory::map(LIMIT * PAGE);
    let objects: Vec<_> = (0..LIMIT).map(|n| setting.object(address + n * PAGE, PAGE)).collect();
    let (last, first) = objects.split_last().unwrap();
    let spans: Vec<_> = first.iter().map(|object| span(&lease(object))).collect();
    assert_eq!(setting.device().entries(), Ok(Some(0)));
    assert_eq!(try_lease(last).err(), Some(Error::Limit));
    assert_eq!(setting.device().refusal(), Some(Refusal::DmaEntries));
    assert_eq!(setting.device().stats().taken, LIMIT - 1, "the refused one has left something behind");
    for (object, at) in first.iter().zip(&spans) {
        let lease = lease(object);
        assert_eq!(span(&lease), *at, "a mapping was lost");
        memory::fill(object.range().start(), MAX_BYTES, at.iova);
        assert_eq!(setting.seen_by_device(*at, 0, MAX_BYTES), memory::pattern(MAX_BYTES, at.iova));
    }
    UserPtr::put_pages(&first[0]).unwrap();
    drop(lease(last));
    drop(objects);
    setting.assert_released();
    format!("mapping {LIMIT} of {} is ENOSPC; with one less it works", LIMIT - 1)
}

fn locked_memory() -> String {
    const LIMIT: usize = 64 << 10;
    const NOBODY: u32 = 65_534;
    let setting = Setting::new();
    let limit = libc::rlimit { rlim_cur: LIMIT as u64, rlim_max: LIMIT as u64 };
    // SAFETY: a valid limit; without root there is no CAP_IPC_LOCK either.
    unsafe {
        assert_eq!(libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit), 0);
        assert_eq!(libc::setresuid(NOBODY, NOBODY, NOBODY), 0);
    }
    let address = memory::map(2 * LIMIT);
    let object = setting.object(address, 2 * LIMIT);
    assert_eq!(try_lease(&object).err(), Some(Error::Limit));
    assert_eq!(setting.device().refusal(), Some(Refusal::LockedMemory(LIMIT as u64)));
    assert_eq!((setting.device().stats().taken, memory::locked_pages()), (0, 1));
    let less = setting.object(address, LIMIT / 2);
    drop(lease(&less));
    assert_eq!(memory::locked_pages(), 1 + LIMIT / 2 / PAGE);
    drop((less, object));
    setting.assert_released();
    "over RLIMIT_MEMLOCK: ENOSPC with the limit's name; less works".into()
}

fn addresses() -> String {
    let window = IovaRange { first: 0x10_0000, last: 0x10_ffff };
    let setting = Setting::with(Options { strict: true, ..Options::default() }, Setup { window, ..SETUP });
    let address = memory::map(17 * PAGE);
    let object = setting.object(address, 17 * PAGE);
    assert_eq!(try_lease(&object).err(), Some(Error::Limit));
    assert_eq!(setting.device().refusal(), Some(Refusal::Iova(17 * PAGE as u64)));
    let whole = setting.object(address, 16 * PAGE);
    assert_eq!(span(&lease(&whole)).iova, window.first);
    drop((object, whole));
    setting.assert_released();
    "17 pages do not fit into a window of 16: ENOSPC".into()
}

fn hole() -> String {
    let setting = Setting::new();
    let address = memory::map(4 * PAGE);
    memory::unmap(address + PAGE, PAGE);
    let object = setting.object(address, 4 * PAGE);
    assert_eq!(try_lease(&object).err(), Some(Error::Fault));
    setting.assert_released();
    memory::map_at(address + PAGE, PAGE);
    assert!(UserPtr::reset(&object));
    drop(lease(&object));
    "EFAULT, nothing pinned; filled up and reset, it works".into()
}
