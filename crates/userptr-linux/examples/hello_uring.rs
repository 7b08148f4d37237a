//! An io_uring works on memory of this process; the memory is discarded under it, and it sees the
//! new pages.
//!
//! ```text
//! cargo run --example hello_uring
//! ```

use std::error::Error;
use std::io::Read;
use userptr::{Context, Flags};
use userptr_linux::uring::{Part, Setup, Uring};
use userptr_linux::{Linux, Memory};

fn main() -> Result<(), Box<dyn Error>> {
    let space = Linux::open()?;
    let context = Context::builder(Uring::open(Setup::default())?).spawn()?;
    let memory = Memory::new(4096)?;
    memory.write_at(0, b"hello")?;
    let object = context.register_memory(&space, memory, Flags::NONE)?;
    let lease = object.acquire()?; // pinned, and it stays so while the lease lives

    let (mut from, to) = std::io::pipe()?;
    let (mut seen, part) = ([0; 5], Part { offset: 0, bytes: 5, at: u64::MAX });
    Uring::write(&lease, part, &to)?;
    from.read_exact(&mut seen)?;
    println!("the device wrote {:?}", str::from_utf8(&seen)?);
    drop(lease);

    // The kernel takes the pages back. A buffer that was registered once for all would go on with
    // the old ones, and report success: this object is revoked, and pins the new ones for the next
    // lease.
    let memory = object.memory().ok_or("the object owns its memory")?;
    memory.discard()?;
    memory.write_at(0, b"world")?;
    Uring::write(&object.acquire()?, part, &to)?;
    from.read_exact(&mut seen)?;
    println!("and then {:?}", str::from_utf8(&seen)?);
    assert_eq!(&seen, b"world");
    Ok(())
}
