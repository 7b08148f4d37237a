//! The changes of `memory`, each in a bracket if the run is the program's own to bracket.

use super::io::Range;
use super::memory;
use std::io;
#[cfg(feature = "exact")]
use {
    std::sync::OnceLock, userptr::AddrRange, userptr::platforms::std::Std, userptr_explicit::Change,
    userptr_explicit::Explicit,
};

/// Set in the mode `explicit` alone.
#[cfg(feature = "exact")]
pub(crate) static SPACE: OnceLock<Explicit<Std>> = OnceLock::new();

/// Holds the bracket open.
#[cfg(feature = "exact")]
fn bracket(range: Range) -> io::Result<Option<Change<Std>>> {
    let Some(space) = SPACE.get() else { return Ok(None) };
    let range = AddrRange::new(range.address, range.bytes).map_err(io::Error::other)?;
    let change = space.change(range).map_err(io::Error::other)?;
    change.outcome().into_result().map_err(io::Error::other)?;
    Ok(Some(change))
}

#[cfg(not(feature = "exact"))]
fn bracket(_: Range) -> io::Result<Option<std::convert::Infallible>> {
    Ok(None)
}

pub(crate) fn unmap(range: Range) -> io::Result<()> {
    let _bracket = bracket(range)?;
    memory::unmap(range)
}

pub(crate) fn raw_unmap(range: Range) -> io::Result<()> {
    let _bracket = bracket(range)?;
    memory::raw_unmap(range)
}

pub(crate) fn map_over(range: Range) -> io::Result<()> {
    let _bracket = bracket(range)?;
    memory::map_over(range)
}

pub(crate) fn advise(range: Range, advice: i32) -> io::Result<()> {
    let _bracket = bracket(range)?;
    memory::advise(range, advice)
}

/// The source goes, and what is at the target.
pub(crate) fn remap(from: Range, to: usize, more: i32) -> io::Result<Range> {
    let _source = bracket(from)?;
    let _target = bracket(Range { address: to, ..from })?;
    memory::remap(from, to, more)
}

/// Makes a mapping smaller, or larger where there is room, in its place.
pub(crate) fn resize(range: Range, bytes: usize) -> io::Result<()> {
    let _bracket = bracket(range)?;
    let start = std::ptr::without_provenance_mut(range.address);
    // SAFETY: ours, and nobody has a reference into it.
    let got = unsafe { libc::mremap(start, range.bytes, bytes, 0) };
    if got == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}
