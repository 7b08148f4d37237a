//! The VFIO device of `userptr` against QEMU's `edu` device behind an emulated IOMMU, run in the
//! guest by `kernel/vm-test vfio`.
//!
//! Each subtest runs in a process of its own, with a deadline: what goes wrong here hangs. After
//! it, the faults that the IOMMU has logged are counted: a subtest says how many it provokes, and
//! one more or less fails it. And no page may stay pinned in the whole machine.

mod cases;
mod edu;
mod memory;
mod setting;

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A subtest: its name, how many faults of the IOMMU it provokes, and what it does. What it returns
/// is printed.
pub struct Case {
    pub name: &'static str,
    pub faults: usize,
    pub run: fn() -> String,
}

const CHILD: &str = "--run";
const DEADLINE: Duration = Duration::from_secs(60);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name] = &arguments[..]
        && flag == CHILD
    {
        let case = cases::all().into_iter().find(|case| case.name == name).expect("a subtest");
        return println!("{}", (case.run)());
    }
    let mut log = KernelLog::open();
    let mut failed = 0;
    let mut pace = Pace::default();
    for case in cases::all() {
        if !arguments.is_empty() && !arguments.iter().any(|prefix| case.name.starts_with(prefix)) {
            continue;
        }
        pace.wait_for(case.faults);
        log.faults();
        let outcome = run(case.name);
        // The log is written by an interrupt of the IOMMU.
        std::thread::sleep(Duration::from_millis(50));
        let faults = log.faults();
        let pinned = memory::pinned_pages();
        match outcome {
            Ok(_) if pinned != 0 => {
                failed += 1;
                println!("not ok {}: {pinned} pages are still pinned after its end", case.name);
            }
            Ok(_) if faults != case.faults => {
                failed += 1;
                println!("not ok {}: {faults} faults of the IOMMU, {} provoked", case.name, case.faults);
            }
            Ok(text) => println!("ok {}: {text}", case.name),
            Err(text) => {
                failed += 1;
                println!("not ok {}: {text}", case.name);
            }
        }
    }
    std::process::exit(i32::from(failed != 0));
}

/// Runs one subtest; the last line of what it prints.
fn run(name: &str) -> Result<String, String> {
    let mut command = Command::new("/proc/self/exe");
    command.args([CHILD, name]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    let began = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if began.elapsed() < DEADLINE => std::thread::sleep(Duration::from_millis(5)),
            _ => break None,
        }
    };
    let _ = child.kill();
    let _ = child.wait();
    let (mut out, mut err) = (String::new(), String::new());
    let _ = child.stdout.take().map(|mut pipe| pipe.read_to_string(&mut out));
    let _ = child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut err));
    match status {
        Some(status) if status.success() => Ok(out.lines().last().unwrap_or_default().to_owned()),
        Some(status) => Err(format!("{status}: {}", err.replace('\n', " | "))),
        None => Err(format!("hangs: ended after {DEADLINE:?}: {}", err.replace('\n', " | "))),
    }
}

/// The kernel logs no more than three faults in five seconds: each costs it three messages of the
/// ten that it allows itself.
#[derive(Default)]
struct Pace(Vec<Instant>);

impl Pace {
    const MOST: usize = 3;
    const INTERVAL: Duration = Duration::from_millis(5500);

    fn wait_for(&mut self, faults: usize) {
        for _ in 0..faults {
            if let Some(third) = self.0.len().checked_sub(Self::MOST) {
                std::thread::sleep(Self::INTERVAL.saturating_sub(self.0[third].elapsed()));
            }
            self.0.push(Instant::now());
        }
    }
}

/// The kernel's log, from now on.
struct KernelLog(File);

impl KernelLog {
    fn open() -> Self {
        let mut options = OpenOptions::new();
        Self(options.read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").expect("the kernel's log"))
    }

    /// The faults of the IOMMU since the last question.
    fn faults(&mut self) -> usize {
        let mut record = [0; 8192];
        let mut faults = 0;
        loop {
            match self.0.read(&mut record) {
                Ok(bytes) => {
                    let text = String::from_utf8_lossy(&record[..bytes]);
                    faults += usize::from(text.contains("DMAR") && text.contains("fault addr"));
                }
                // Records were lost: go on with the oldest that is left.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => return faults,
            }
        }
    }
}
