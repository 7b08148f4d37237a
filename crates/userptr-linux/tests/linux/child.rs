//! Tests in child processes.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

const MARK: &str = "USERPTR_TEST_CHILD";

/// Runs `body` in a process of its own, which is killed after `deadline`. `name` is the test's full
/// path.
pub(crate) fn in_child(name: &str, deadline: Duration, body: impl FnOnce()) {
    if std::env::var_os(MARK).is_some() {
        return body();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([name, "--exact", "--nocapture", "--test-threads=1"]).env(MARK, "1");
    // A group of its own, so that what the child forks is ended with it.
    command.process_group(0);
    let mut child = command.spawn().unwrap();
    let group = -i32::try_from(child.id()).unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if began.elapsed() > deadline {
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    // SAFETY: the group was made for this child.
    unsafe { libc::kill(group, libc::SIGKILL) };
    let _ = child.wait();
    let Some(status) = status else { panic!("{name} hangs: killed after {deadline:?}") };
    assert!(status.success(), "{name}: {status}");
}

/// The scenario `$name`, with a deadline in seconds.
macro_rules! scenario {
    ($(#[$doc:meta])* $name:ident, $seconds:expr, $body:block) => {
        $(#[$doc])*
        #[test]
        fn $name() {
            let path = concat!(module_path!(), "::", stringify!($name));
            let path = path.split_once("::").unwrap().1;
            $crate::child::in_child(path, std::time::Duration::from_secs($seconds), || $body);
        }
    };
}
pub(crate) use scenario;

/// The calling process becomes nobody: no capabilities at all.
pub(crate) fn become_nobody() {
    const NOBODY: u32 = 65_534;
    // SAFETY: takes no pointer but an empty list of groups.
    let done = unsafe {
        libc::setgroups(0, std::ptr::null()) == 0 && libc::setgid(NOBODY) == 0 && libc::setuid(NOBODY) == 0
    };
    // Whoever is not root is nobody already, as far as these tests go.
    // SAFETY: takes no pointer.
    assert!(done || unsafe { libc::geteuid() } != 0);
}
