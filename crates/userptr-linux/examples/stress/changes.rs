//! Every way in which a process changes its memory.

use super::buffers::{Buffer, Hand, PAGE};
use super::io::Range;
use super::{bracketed, memory};
use std::io;
use std::sync::Mutex;
use userptr_linux::OwnMemory;

const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
const SHARED: i32 = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
/// Of so many bytes, the allocator makes a mapping of its own at first. When it has learned better,
/// it trims its heap with `madvise`, under its lock.
const LARGE: usize = 256 << 10;

/// One thread at a time moves the end of the heap.
static HEAP: Mutex<()> = Mutex::new(());

/// Changes what is mapped at the buffer.
pub(crate) fn remap<S: OwnMemory>(buffer: &mut Buffer<S>, hand: &mut Hand<'_, S>) -> io::Result<()> {
    let Range { address, bytes } = buffer.range;
    buffer.touch();
    if !buffer.mapped {
        return map(buffer, hand);
    }
    match hand.random.u32(..9) {
        0 => {
            unmap(buffer, hand)?;
            buffer.check(hand, true);
        }
        1 | 2 => {
            unmap(buffer, hand)?;
            map(buffer, hand)?;
        }
        3 => {
            hand.tally.unmaps += 1;
            bracketed::map_over(buffer.range)?;
            buffer.shared = false;
        }
        4 => {
            hand.tally.moves += 1;
            let moved = bracketed::remap(buffer.range, buffer.elsewhere(), 0)?;
            buffer.mapped = false;
            buffer.check(hand, true);
            bracketed::unmap(moved)?;
            map(buffer, hand)?;
        }
        5 if !buffer.shared => {
            hand.tally.moves += 1;
            let moved = bracketed::remap(buffer.range, buffer.elsewhere(), libc::MREMAP_DONTUNMAP)?;
            bracketed::unmap(moved)?;
        }
        6 => {
            hand.tally.moves += 1;
            let other = memory::map_at(buffer.elsewhere(), bytes, PRIVATE)?;
            bracketed::remap(other, address, 0)?;
            buffer.shared = false;
        }
        7 if bytes > PAGE && !buffer.shared => {
            hand.tally.moves += 1;
            // In place: smaller, and large again.
            bracketed::resize(buffer.range, PAGE)?;
            buffer.mapped = false;
            buffer.check(hand, true);
            bracketed::resize(Range { address, bytes: PAGE }, bytes)?;
            buffer.mapped = true;
        }
        _ => {
            hand.tally.unmaps += 1;
            // A part, and then a part of another kind in its place.
            let part = Range { address, bytes: PAGE };
            bracketed::unmap(part)?;
            buffer.mapped = false;
            buffer.check(hand, true);
            memory::map_at(address, PAGE, if buffer.shared { SHARED } else { PRIVATE })?;
            buffer.mapped = true;
        }
    }
    buffer.touch();
    Ok(())
}

fn map<S: OwnMemory>(buffer: &mut Buffer<S>, hand: &mut Hand<'_, S>) -> io::Result<()> {
    buffer.shared = hand.random.u32(..3) == 0;
    if !buffer.shared && hand.random.bool() {
        memory::raw_map(buffer.range)?;
    } else {
        let kind = if buffer.shared { SHARED } else { PRIVATE };
        memory::map_at(buffer.range.address, buffer.range.bytes, kind)?;
    }
    buffer.mapped = true;
    Ok(())
}

fn unmap<S: OwnMemory>(buffer: &mut Buffer<S>, hand: &mut Hand<'_, S>) -> io::Result<()> {
    hand.tally.unmaps += 1;
    buffer.mapped = false;
    if hand.random.bool() { bracketed::raw_unmap(buffer.range) } else { bracketed::unmap(buffer.range) }
}

/// Gives pages back: all, or the last one.
pub(crate) fn discard<S: OwnMemory>(buffer: &mut Buffer<S>, hand: &mut Hand<'_, S>) -> io::Result<()> {
    if !buffer.mapped {
        return remap(buffer, hand);
    }
    hand.tally.discards += 1;
    buffer.touch();
    let Range { address, bytes } = buffer.range;
    let part = match hand.random.bool() {
        true => buffer.range,
        false => Range { address: address + bytes - PAGE, bytes: PAGE },
    };
    let advice = match (hand.random.bool(), buffer.shared) {
        (true, _) => libc::MADV_DONTNEED,
        (false, true) => libc::MADV_REMOVE,
        (false, false) => libc::MADV_FREE,
    };
    let done = bracketed::advise(part, advice);
    buffer.touch();
    done
}

/// Another thread unmaps, and this one maps the address anew before that has returned.
pub(crate) fn reuse<S: OwnMemory>(buffer: &mut Buffer<S>, hand: &mut Hand<'_, S>) -> io::Result<()> {
    if !buffer.mapped {
        return remap(buffer, hand);
    }
    hand.tally.reuses += 1;
    buffer.touch();
    let range = buffer.range;
    std::thread::scope(|scope| {
        let first = scope.spawn(move || bracketed::unmap(range));
        hand.tally.threads += 1;
        while let Err(why) = memory::map_at(range.address, range.bytes, PRIVATE) {
            if why.raw_os_error() != Some(libc::EEXIST) {
                return Err(why);
            }
        }
        buffer.shared = false;
        buffer.check(hand, true);
        first.join().unwrap_or_else(|_| Err(io::Error::other("the other thread panicked")))
    })?;
    buffer.touch();
    Ok(())
}

/// A forked child, which ends at once.
pub(crate) fn fork<S: OwnMemory>(hand: &mut Hand<'_, S>) -> io::Result<()> {
    hand.tally.forks += 1;
    // SAFETY: the child calls nothing but `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    if child < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: our own child; its status is not looked at.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    Ok(())
}

/// Memory of the allocator, freed and asked for again.
pub(crate) fn allocate<S: OwnMemory>(hand: &mut Hand<'_, S>) -> io::Result<()> {
    hand.tally.heaps += 1;
    let (first, range) = memory::allocate(LARGE)?;
    let object = hand.world.register(range).ok();
    let check = |hand: &mut Hand<'_, S>, again: Range| {
        if let Some(object) = object.as_ref().filter(|_| again == range) {
            hand.look_up(object, range, true, true);
        }
    };
    check(hand, range);
    memory::free(first);
    let (second, again) = memory::allocate(LARGE)?;
    check(hand, again);
    // The memory goes first, and the object after it.
    memory::free(second);
    Ok(())
}

/// The heap shrinks and grows.
pub(crate) fn heap<S: OwnMemory>(hand: &mut Hand<'_, S>) -> io::Result<()> {
    const BYTES: usize = 4 * PAGE;
    let by = isize::try_from(BYTES).map_err(io::Error::other)?;
    let Ok(_heap) = HEAP.try_lock() else { return Ok(()) };
    hand.tally.heaps += 1;
    let unaligned = memory::grow_heap(0)? % PAGE;
    if unaligned != 0 {
        memory::grow_heap(isize::try_from(PAGE - unaligned).map_err(io::Error::other)?)?;
    }
    let range = Range { address: memory::grow_heap(by)?, bytes: BYTES };
    let mine = || memory::grow_heap(0).is_ok_and(|end| end == range.address + BYTES);
    let object = hand.world.register(range).map_err(io::Error::other)?;
    hand.look_up(&object, range, true, true);
    // Whoever has moved the end meanwhile has memory above ours: it stays where it is then.
    if mine() {
        memory::grow_heap(-by)?;
        if memory::grow_heap(by)? == range.address {
            hand.look_up(&object, range, true, true);
        }
    }
    drop(object);
    if mine() { memory::grow_heap(-by).map(drop) } else { Ok(()) }
}
