//! Memory that the crate owns: safe code alone.
#![forbid(unsafe_code)]

use crate::child::scenario;
use crate::stack::eventually;
use crate::stale::io::{content, memfd};
use std::time::Duration;
use userptr::{Context, Flags, OwnedMemory};
use userptr_linux::uring::{Direction, Part, Setup, Uring};
use userptr_linux::{Linux, Memory, OutOfRange};

const BYTES: usize = 16 << 10;
const ALL: Part = Part { offset: 0, bytes: BYTES, at: 0 };

fn filled(byte: u8) -> Memory {
    let memory = Memory::new(BYTES).unwrap();
    memory.write_at(0, &[byte; BYTES]).unwrap();
    memory
}

fn seen(memory: &Memory) -> Vec<u8> {
    let mut bytes = vec![0; memory.size()];
    memory.read_at(0, &mut bytes).unwrap();
    bytes
}

scenario!(s100_owned_memory_follows_a_discard, 20, {
    let space = Linux::open().unwrap();
    let context = Context::builder(Uring::open(Setup::default()).unwrap()).spawn().unwrap();
    let object = context.register_memory(&space, filled(1), Flags::NONE).unwrap();
    let file = memfd().unwrap();
    for byte in 1..20 {
        let memory = object.memory().unwrap();
        memory.write_at(0, &[byte; BYTES]).unwrap();
        let lease = crate::stack::lease(&object);
        assert_eq!(Uring::write(&lease, ALL, &file).unwrap(), BYTES);
        drop(lease);
        assert_eq!(content(&file, BYTES).unwrap(), vec![byte; BYTES]);
        memory.discard().unwrap();
        assert_eq!(seen(memory), vec![0; BYTES], "new pages are zero");
    }
    // And into it.
    assert_eq!(Uring::read(&crate::stack::lease(&object), ALL, &file).unwrap(), BYTES);
    assert_eq!(seen(object.memory().unwrap()), vec![19; BYTES]);
});

scenario!(s101_a_handle_that_escapes_keeps_the_memory, 20, {
    let space = Linux::open().unwrap();
    let context = Context::builder(Uring::open(Setup::default()).unwrap()).spawn().unwrap();
    let object = context.register_memory(&space, filled(3), Flags::NONE).unwrap();
    let range = object.range();
    // By every way out: a clone, a lease of its own, the handle inside a lease.
    let lease = crate::stack::lease(&object).into_owned();
    let escaped = lease.object().clone();
    drop((object, lease));
    // What is mapped now lies elsewhere: the address is still the memory's.
    let others: Vec<_> = (0..64).map(|_| Memory::new(BYTES).unwrap()).collect();
    assert!(others.iter().all(|other| !other.range().overlaps(range)));
    let file = memfd().unwrap();
    assert_eq!(Uring::write(&crate::stack::lease(&escaped), ALL, &file).unwrap(), BYTES);
    assert_eq!(content(&file, BYTES).unwrap(), vec![3; BYTES]);
});

scenario!(s102_what_is_forgotten_breaks_nothing, 30, {
    let space = Linux::open().unwrap();
    let context = Context::builder(Uring::open(Setup::default()).unwrap())
        .limits(|limits| limits.deadline(Some(Duration::from_millis(50))))
        .spawn()
        .unwrap();
    let file = memfd().unwrap();
    file.set_len(BYTES as u64).unwrap();
    let witness: Vec<String> = (0..4096).map(|n| n.to_string()).collect();
    for what in 0..4 {
        let object = context.register_memory(&space, filled(what), Flags::NONE).unwrap();
        match what {
            0 => std::mem::forget(crate::stack::lease(&object)),
            1 => std::mem::forget(crate::stack::lease(&object).into_owned()),
            2 => {
                let lease = crate::stack::lease(&object);
                std::mem::forget(Uring::start(&lease, Direction::FromFile, ALL, &file).unwrap());
            }
            _ => {}
        }
        object.memory().unwrap().discard().unwrap();
        if what == 3 {
            std::mem::forget(object);
        }
    }
    // At the deadline the objects with a forgotten lease are quarantined; nobody waits for ever.
    eventually("both are quarantined", || context.stats().quarantined == 2);
    std::mem::forget(context);
    // What is allocated now lies elsewhere, and stays what it is.
    let more: Vec<Memory> = (0..64).map(|_| filled(9)).collect();
    assert!(more.iter().all(|memory| seen(memory) == vec![9; BYTES]), "overwritten");
    assert!(witness.iter().enumerate().all(|(n, s)| *s == n.to_string()), "overwritten");
});

scenario!(s103_bytes_outside_are_refused, 20, {
    let memory = Memory::new(1).unwrap();
    let size = memory.size();
    assert!(size >= 4096 && size.is_multiple_of(4096));
    for (offset, bytes) in [(size, 1), (0, size + 1), (usize::MAX, 2)] {
        let refused = OutOfRange { offset, bytes, size };
        assert_eq!(memory.write_at(offset, &vec![1; bytes]), Err(refused));
        assert_eq!(memory.read_at(offset, &mut vec![1; bytes]), Err(refused));
    }
    assert_eq!(seen(&memory), vec![0; size], "nothing was written");
    assert!(Memory::new(0).is_err() && Memory::new(usize::MAX).is_err());
    // Borrowed for ever: whole pages only.
    let leaked = vec![5_u8; 3 * 4096].leak();
    let skip = leaked.as_ptr().align_offset(4096);
    let (_, rest) = leaked.split_at_mut(skip + 1);
    let rest = Memory::from_static(rest).unwrap_err();
    let at = rest.as_ptr().align_offset(4096);
    let memory = Memory::from_static(&mut rest[at..at + 4096]).unwrap();
    assert_eq!((memory.size(), seen(&memory)[0]), (4096, 5));
});
