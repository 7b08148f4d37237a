//! Memory that is pinned for reading only.
//!
//! Before Linux 6.2 a pin for reading takes whatever page is there, also the one page of zeros that
//! untouched memory shares, or one shared with a forked process. The next write of the process goes
//! to a new page then, and the device reads the old one for ever. A fork between the settling and
//! the pin can still do that: the host's rule about forks stands.

use crate::Refusal;
use crate::populate::populate_write;
use core::ffi::CStr;

/// Makes every page of the range the process's own, where a pin for reading would not do that
/// itself.
pub(super) fn settle(address: usize, bytes: usize) -> Result<(), Refusal> {
    if pins_settle() {
        return Ok(());
    }
    populate_write(address, bytes).map_err(|why| match why {
        // A mapping without the right to write; or a kernel before 5.14.
        Refusal::Unpinnable => Refusal::ReadOnlyPages,
        why => why,
    })
}

/// Whether the kernel does it: from 6.2 on.
fn pins_settle() -> bool {
    // SAFETY: all fields are arrays of integers.
    let mut name: libc::utsname = unsafe { core::mem::zeroed() };
    // SAFETY: a valid place for the answer.
    if unsafe { libc::uname(&raw mut name) } != 0 {
        return false;
    }
    // SAFETY: the kernel ends it with a zero; the struct is larger than the name.
    let release = unsafe { CStr::from_ptr(name.release.as_ptr()) };
    release.to_str().is_ok_and(|release| at_least(release, (6, 2)))
}

fn at_least(release: &str, least: (u32, u32)) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    matches!((numbers.next(), numbers.next()), (Some(Some(major)), Some(Some(minor))) if (major, minor) >= least)
}

#[cfg(test)]
mod tests {
    use super::at_least;

    #[test]
    fn releases_are_compared_by_number() {
        for release in ["6.2.0", "6.10.3-amd64", "7.0-rc1", "6.2", "6.2-rc1+"] {
            assert!(at_least(release, (6, 2)), "{release}");
        }
        for release in ["6.1.0-56-cloud-amd64", "5.15.0", "4.19", "6", "", "next-7.1"] {
            assert!(!at_least(release, (6, 2)), "{release}");
        }
    }
}
