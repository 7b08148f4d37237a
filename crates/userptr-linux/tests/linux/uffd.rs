//! What the backend rests on, asked of this kernel.

use crate::child::scenario;
use crate::stack::eventually;
use crate::stale::memory;
use userptr::AddrRange;
use userptr_linux::uffd::{Event, Events, Probe, Uffd};

const BYTES: usize = 64 << 10;

scenario!(
    /// The fact behind scenario 70: the probe is not quiet from the moment the pages are gone until
    /// the message was read.
    s70_the_probe_sees_a_change_until_its_message_is_read,
    20,
    {
        let uffd = Uffd::open().unwrap();
        let range = memory::map(BYTES).unwrap();
        let whole = AddrRange::new(range.address, range.bytes).unwrap();
        uffd.register_whole(whole).unwrap();
        assert_eq!(uffd.probe(), Probe::Quiet);
        let unmapper = std::thread::spawn(move || memory::unmap(range));
        // The address is free again: the pages are gone, and nobody has read the message.
        eventually("the address is free", || memory::map(BYTES).is_ok());
        assert_eq!(uffd.probe(), Probe::Changing);
        assert!(!unmapper.is_finished());
        let mut events = Events::new();
        eventually("the message", || uffd.read(&mut events) == 1);
        assert_eq!(events.iter().next(), Some(Event::Unmap(whole)));
        unmapper.join().unwrap().unwrap();
        assert_eq!(uffd.probe(), Probe::Quiet);
        // What is mapped there now was never watched.
        assert!(uffd.watches_files() || uffd.unregister(whole).is_ok());
        memory::unmap(range).unwrap();
    }
);

scenario!(
    /// Holes are found, though registering passes over them.
    s74_a_range_with_a_hole_is_refused,
    20,
    {
        let uffd = Uffd::open().unwrap();
        let range = memory::map(BYTES).unwrap();
        let whole = AddrRange::new(range.address, range.bytes).unwrap();
        memory::unmap(crate::stale::io::Range { address: range.address + BYTES / 2, bytes: 4096 }).unwrap();
        assert_eq!(uffd.register_whole(whole), Err(userptr_linux::Refusal::Unmapped));
        // The rest is registered: unregister it, or the unmap waits for a reader.
        uffd.unregister(whole).unwrap();
        memory::unmap(range).unwrap();
        assert_eq!(uffd.register_whole(whole), Err(userptr_linux::Refusal::Unmapped));
    }
);
