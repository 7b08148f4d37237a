//! The process's mappings, one after another.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Mutex, PoisonError};
use userptr::AddrRange;

/// An open `/proc/self/maps`. Opened at the start, because at the end there may be no `/proc`
/// (`chroot`), no right to open it (`setuid`), and no free descriptor.
#[derive(Debug)]
pub(super) struct Maps(Option<Mutex<File>>);

impl Maps {
    pub(super) fn open() -> Self {
        Self(File::open("/proc/self/maps").ok().map(Mutex::new))
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
    fn this_function_is_in_a_mapping() {
        let here = (this_function_is_in_a_mapping as fn()) as usize;
        let mut found = 0;
        assert!(
            Maps::open().each(|range| found += usize::from(range.start() <= here && here <= range.last()))
        );
        assert_eq!(found, 1);
    }
}
