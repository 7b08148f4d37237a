//! Processes: fork, exit, close, and what stays pinned.

use super::case;
use crate::Case;
use crate::edu::{MAX_BYTES, Way};
use crate::memory;
use crate::setting::{PAGE, Setting, lease, span};
use userptr::{Error, UserPtr};

const BYTES: usize = 16 * PAGE;

pub fn cases() -> Vec<Case> {
    vec![
        case("pins-return-to-zero", 0, pins),
        case("double-close", 0, double_close),
        case("child-is-a-stranger", 0, stranger),
        case("exit-while-mapped", 0, exit_while_mapped),
        case("killed-while-busy", 0, killed_while_busy),
    ]
}

fn pins() -> String {
    const ROUNDS: usize = 100;
    let setting = Setting::new();
    let address = 0x1000_0000_0000;
    memory::map_at(address, BYTES);
    let object = setting.object(address, BYTES);
    for _ in 0..ROUNDS {
        drop(lease(&object));
        assert_eq!(memory::locked_pages(), 1 + BYTES / PAGE);
        memory::unmap(address, BYTES);
        assert_eq!(memory::locked_pages(), 1, "pinned when the unmap has returned");
        memory::map_at(address, BYTES);
    }
    drop(object);
    setting.assert_released();
    format!("{ROUNDS} times {} pages pinned, and none left each time", BYTES / PAGE)
}

fn double_close() -> String {
    let setting = Setting::new();
    let client = setting.client();
    let address = memory::map(BYTES);
    let handle = client.create(&setting.space, address, BYTES, 0).unwrap();
    let object = client.lookup(handle).unwrap();
    drop(lease(&object));
    drop(object);
    assert_eq!(memory::locked_pages(), 1 + BYTES / PAGE);
    assert_eq!(client.close(handle), Ok(()));
    assert_eq!(client.close(handle), Err(Error::NoEntry));
    setting.assert_released();
    // And the memory is the process's: unmapping it meets nobody.
    memory::unmap(address, BYTES);
    "the second close is ENOENT; closed while mapped".into()
}

fn stranger() -> String {
    let setting = Setting::new();
    let address = memory::map(BYTES);
    memory::fill(address, BYTES, 1);
    let object = setting.object(address, BYTES);
    let at = span(&lease(&object));
    // SAFETY: the child takes no lock that another thread may hold, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = UserPtr::try_acquire(&object).err() == Some(Error::Fault);
        // Its copy of the memory is its own.
        memory::fill(address, BYTES, 2);
        memory::unmap(address, BYTES);
        drop(object);
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: a valid place for the status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child was not refused");
    let lease = lease(&object);
    assert_eq!(span(&lease), at, "the mapping was touched by the child");
    assert_eq!(setting.seen_by_device(at, 0, MAX_BYTES), memory::pattern(MAX_BYTES, 1));
    "a forked child gets EFAULT, and takes nothing away".into()
}

/// Runs `body` in a process that ends while its mappings are there, and then opens everything anew.
fn ends(body: fn(Setting)) {
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        body(Setting::new());
    }
    // SAFETY: no status is wanted.
    assert_eq!(unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) }, child);
    let setting = Setting::new();
    let entries = setting.device().entries().unwrap();
    assert_eq!(
        entries,
        setting.device().capabilities().entries.map(|n| n - 1),
        "all but the witness are free"
    );
    let address = memory::map(BYTES);
    memory::fill(address, BYTES, 5);
    let object = setting.object(address, BYTES);
    let lease = lease(&object);
    assert_eq!(setting.seen_by_device(span(&lease), 0, MAX_BYTES), memory::pattern(MAX_BYTES, 5));
}

fn exit_while_mapped() -> String {
    ends(|setting| {
        let object = setting.object(memory::map(BYTES), BYTES);
        std::mem::forget(lease(&object));
        // SAFETY: ends the process at once; nothing is cleaned up.
        unsafe { libc::_exit(0) };
    });
    "the kernel takes all away, and the next process has the device".into()
}

fn killed_while_busy() -> String {
    ends(|setting| {
        let object = setting.object(memory::map(BYTES), BYTES);
        let lease = lease(&object);
        setting.edu.start(span(&lease), 0, MAX_BYTES, Way::ToMemory);
        // SAFETY: as above.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    });
    "killed with DMA in flight: the next process has the device".into()
}
