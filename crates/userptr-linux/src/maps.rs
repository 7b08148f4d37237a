//! The process's mappings, one after another.

use super::refusal::errno;
use core::ffi::c_ulong;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};
use userptr::AddrRange;

// `linux/fs.h`, Linux 6.11
const QUERY: c_ulong = 0xc068_6611;
const COVERING_OR_NEXT: u64 = 0x10;

#[repr(C)]
#[derive(Default)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    vma_flags: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    device: [u32; 2],
    sizes: [u32; 2],
    addresses: [u64; 2],
}

/// An open `/proc/self/maps`. Opened at the start, because at the end there may be no `/proc`
/// (`chroot`), no right to open it (`setuid`), and no free descriptor.
#[derive(Debug)]
pub(super) struct Maps(Option<Mutex<File>>);

impl Maps {
    pub(super) fn open() -> Self {
        Self(File::open("/proc/self/maps").ok().map(Mutex::new))
    }

    /// Calls `f` for the part of each mapping that lies in `range`, as [`each`](Self::each) does.
    /// Where the kernel can be asked for one mapping, the others cost nothing.
    #[must_use = "`false` says that nothing was looked at"]
    pub(super) fn each_in(&self, range: AddrRange, mut f: impl FnMut(AddrRange)) -> bool {
        let mut clipped = |mapping: AddrRange| {
            let (start, last) = (mapping.start().max(range.start()), mapping.last().min(range.last()));
            if let Some(part) = AddrRange::inclusive(start, last) {
                f(part);
            }
        };
        let mut at = range.start();
        loop {
            match self.query(at) {
                Ok(Some(mapping)) if mapping.start() <= range.last() => {
                    clipped(mapping);
                    match mapping.last().checked_add(1) {
                        Some(next) if next <= range.last() => at = next,
                        _ => return true,
                    }
                }
                Ok(_) => return true,
                Err(()) => return self.each(clipped),
            }
        }
    }

    /// The mapping that has the address, or the next one. An error: this kernel cannot say.
    fn query(&self, address: usize) -> Result<Option<AddrRange>, ()> {
        let file = self.0.as_ref().ok_or(())?.lock().unwrap_or_else(PoisonError::into_inner);
        let mut query = Query {
            size: size_of::<Query>() as u64,
            flags: COVERING_OR_NEXT,
            address: address as u64,
            ..Query::default()
        };
        // SAFETY: the argument is the struct that this ioctl reads and writes; it asks for no name.
        if unsafe { libc::ioctl(file.as_raw_fd(), QUERY as _, &raw mut query) } == 0 {
            let word = |v: u64| usize::try_from(v).map_err(|_| ());
            return Ok(AddrRange::from_bounds(word(query.start)?, word(query.end)?));
        }
        if errno() == libc::ENOENT { Ok(None) } else { Err(()) }
    }

    /// Calls `f` for each mapping in turn. What is mapped or unmapped meanwhile may be passed over.
    /// Allocates nothing. `false`: they cannot be read.
    #[must_use = "`false` says that nothing was looked at"]
    pub(super) fn each(&self, mut f: impl FnMut(AddrRange)) -> bool {
        let Some(file) = &self.0 else { return false };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if file.seek(SeekFrom::Start(0)).is_err() {
            return false;
        }
        let mut bounds = Bounds::Start(0);
        let mut chunk = [0_u8; 4096];
        loop {
            match file.read(&mut chunk) {
                Ok(0) => return true,
                Ok(got) => chunk.iter().take(got).for_each(|byte| bounds.take(*byte, &mut f)),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

/// Where in a line: `start-end rights offset device inode path`, in hexadecimal.
enum Bounds {
    Start(usize),
    End(usize, usize),
    Rest,
}

impl Bounds {
    fn take(&mut self, byte: u8, f: &mut impl FnMut(AddrRange)) {
        let digit = char::from(byte).to_digit(16).and_then(|digit| usize::try_from(digit).ok());
        *self = match (&*self, byte, digit) {
            (_, b'\n', _) => Self::Start(0),
            (Self::Start(at), _, Some(digit)) => Self::Start(at.wrapping_shl(4) | digit),
            (Self::Start(at), b'-', _) => Self::End(*at, 0),
            (Self::End(start, at), _, Some(digit)) => Self::End(*start, at.wrapping_shl(4) | digit),
            (Self::End(start, end), b' ', _) => {
                if let Some(range) = AddrRange::from_bounds(*start, *end) {
                    f(range);
                }
                Self::Rest
            }
            _ => Self::Rest,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_gives_its_bounds() {
        let text = b"1000-3000 r--p 00000000 08:02 173521 /a-b c\nffff0000-ffff1000 rw-p 0 0:0 0\n";
        let (mut bounds, mut got) = (Bounds::Start(0), std::vec::Vec::new());
        text.iter().for_each(|byte| bounds.take(*byte, &mut |range| got.push(range)));
        let range = |start, end| AddrRange::from_bounds(start, end).unwrap();
        assert_eq!(got, [range(0x1000, 0x3000), range(0xffff_0000, 0xffff_1000)]);
    }

    #[test]
    fn one_mapping_is_what_all_of_them_say() {
        let here = (one_mapping_is_what_all_of_them_say as fn()) as usize;
        let (maps, mut found) = (Maps::open(), None);
        let has = |range: AddrRange| range.start() <= here && here <= range.last();
        assert!(maps.each(|range| found = found.or(has(range).then_some(range))));
        let (found, mut parts) = (found.unwrap(), std::vec::Vec::new());
        assert!(maps.each_in(found, |part| parts.push(part)));
        assert_eq!(parts, [found]);
        let byte = AddrRange::new(here, 1).unwrap();
        assert!(maps.each_in(byte, |part| assert_eq!(part, byte)));
        // The null page.
        assert!(maps.each_in(AddrRange::new(0, 4096).unwrap(), |part| panic!("{part:?}")));
    }

    #[test]
    fn this_function_is_in_a_mapping() {
        let here = (this_function_is_in_a_mapping as fn()) as usize;
        let mut found = 0;
        assert!(
            Maps::open().each(|range| found += usize::from(range.start() <= here && here <= range.last()))
        );
        assert_eq!(found, 1);
    }
}
