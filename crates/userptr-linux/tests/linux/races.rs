//! Scenarios 70 and 71: look-ups while the change is under way.

use crate::child::scenario;
use crate::stack::{Stack, lease};
use crate::stale::io::{Part, Range, content, memfd};
use crate::stale::memory;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use userptr_linux::Options;
use userptr_linux::uring::{self, Uring};

const BYTES: usize = 16 << 10;
const WHOLE: Part = Part { offset: 0, bytes: BYTES };
const PART: uring::Part = uring::Part { offset: 0, bytes: BYTES, at: 0 };

/// Another thread unmaps; this one maps the address anew as soon as it can, takes a lease, and lets
/// the device read. The number of attempts in which the device saw something else than the new
/// memory's zeros.
fn reuse(options: Options, attempts: u64) -> u32 {
    let stack = Stack::new(options);
    let file = memfd().unwrap();
    let mut stale = 0;
    for attempt in 0..attempts {
        let range = memory::map(BYTES).unwrap();
        let object = stack.object(range.address, range.bytes);
        memory::fill(range, WHOLE, attempt);
        drop(lease(&object));
        let first = std::thread::spawn(move || memory::unmap(range));
        while memory::map(BYTES).is_err() {
            std::hint::spin_loop();
        }
        let lease = loop {
            match object.try_acquire() {
                Ok(lease) => break lease,
                Err(error) => assert_eq!(error, userptr::Error::Again, "{object:?}"),
            }
        };
        match Uring::write(&lease, PART, &file) {
            Ok(bytes) => {
                assert_eq!(bytes, BYTES);
                stale += u32::from(content(&file, BYTES).unwrap() != memory::look(range, WHOLE));
            }
            // The device was told to stop before it had the request: only without the probe.
            Err(why) => assert!(!options.probe && why.raw_os_error() == Some(libc::ECANCELED), "{why}"),
        }
        drop(lease);
        first.join().unwrap().unwrap();
        drop(object);
        memory::unmap(range).unwrap();
    }
    stale
}

scenario!(s70_reuse_before_the_unmap_returned_is_never_stale, 120, {
    assert_eq!(reuse(Options::default(), 1000), 0);
});

scenario!(
    /// The unmapper goes on when its message was read, and the probe is quiet then; the gate covers
    /// the rest.
    s70_a_slow_monitor_is_never_stale,
    120,
    {
        assert_eq!(reuse(Options { lag: Duration::from_micros(300), ..Options::default() }, 500), 0);
    }
);

scenario!(
    /// Without the probe the race is lost: this is what the probe is for, and what shows that the
    /// test above meets the race.
    s70_control_without_the_probe_it_is_stale,
    120,
    {
        // Until the first: how many attempts that takes depends on the machine.
        let options = Options { probe: false, ..Options::default() };
        let stale = (0..100).map(|_| reuse(options, 100)).find(|stale| *stale > 0);
        println!("without the probe: {stale:?} of 100 stale");
        assert!(stale.is_some());
    }
);

/// One thread discards again and again; this one takes leases all the time. After each discard has
/// returned, and the new content is written, a look-up must see that.
fn discard(options: Options, attempts: u64) -> u32 {
    let stack = Stack::new(options);
    let file = memfd().unwrap();
    let range = memory::map(BYTES).unwrap();
    let object = stack.object(range.address, range.bytes);
    let mut stale = 0;
    for attempt in 0..attempts {
        memory::fill(range, WHOLE, attempt);
        drop(lease(&object));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                memory::advise(range, libc::MADV_DONTNEED).unwrap();
                done.store(true, Ordering::Release);
            });
            // Look-ups during the discard: they may see the old pages or the new ones, or be told
            // to come again.
            while !done.load(Ordering::Acquire) {
                drop(object.try_acquire());
            }
        });
        memory::fill(range, WHOLE, !attempt);
        let lease = lease(&object);
        assert_eq!(Uring::write(&lease, PART, &file).unwrap(), BYTES);
        stale += u32::from(content(&file, BYTES).unwrap() != memory::look(range, WHOLE));
    }
    drop(object);
    memory::unmap(Range { ..range }).unwrap();
    stale
}

scenario!(s71_a_look_up_during_a_discard_is_provisional_then_fresh, 120, {
    assert_eq!(discard(Options::default(), 50), 0);
});

scenario!(
    /// Without the grace, pages are pinned between the message and the discard, and stay stale.
    s71_control_without_the_grace_it_is_stale,
    120,
    {
        let options = Options { grace: Duration::ZERO, marks: false, ..Options::default() };
        let stale = (0..300).map(|_| discard(options, 100)).find(|stale| *stale > 0);
        println!("without the grace: {stale:?} of 100 stale");
        assert!(stale.is_some());
    }
);

scenario!(
    /// The discarding thread waits long for a processor. Time alone lets some through here.
    s71_on_a_busy_machine,
    120,
    {
        for _ in 0..16 {
            std::thread::spawn(|| {
                loop {
                    std::hint::spin_loop();
                }
            });
        }
        assert_eq!(discard(Options::default(), 20), 0);
    }
);
