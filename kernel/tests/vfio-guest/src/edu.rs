//! QEMU's `edu` device, driven from user space: one DMA engine with a buffer of its own. A transfer
//! begins 100 ms after its command.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use userptr::Outcome;
use userptr_linux::vfio::{Quiesce, Span};
use vfio_ioctls::{VfioContainer, VfioDevice};

const IDENTITY: u32 = 0x0100_00ed;
const SOURCE: usize = 0x80;
const TARGET: usize = 0x88;
const COUNT: usize = 0x90;
const COMMAND: usize = 0x98;
const START: u64 = 1;
const TO_MEMORY: u64 = 2;
/// Where its own buffer lies among the addresses that the engine knows.
const BUFFER: u64 = 0x4_0000;
/// The engine takes no more in one command.
pub const MAX_BYTES: usize = 2048;
/// The engine puts out 28 address lines.
pub const LAST_ADDRESS: u64 = (1 << 28) - 1;

const BAR: u32 = 0;
const CONFIGURATION: u32 = 7;
const BUS_MASTER: u8 = 4;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Memory into the device.
    FromMemory,
    /// The device into memory.
    ToMemory,
}

/// The card and its driver.
pub struct Edu {
    device: VfioDevice,
    container: Arc<VfioContainer>,
    bar: NonNull<u8>,
    bytes: usize,
    /// What the engine was told to work on last.
    engine: Mutex<Option<Span>>,
    /// The driver plays dead: it says that the engine does not stop.
    pub deaf: AtomicBool,
}

// SAFETY: the registers are accessed one word at a time, volatile, and the engine's under its lock.
unsafe impl Send for Edu {}
// SAFETY: as above.
unsafe impl Sync for Edu {}

impl Edu {
    /// Opens the card: it must be bound to vfio-pci.
    pub fn open() -> Arc<Self> {
        let container = Arc::new(VfioContainer::new(None).expect("the container"));
        let device = VfioDevice::new(&find(), container.clone(), false).expect("the device");
        let (offset, size) = (device.get_region_offset(BAR), device.get_region_size(BAR));
        let bytes = usize::try_from(size).expect("a size");
        let offset = libc::off_t::try_from(offset).expect("an offset");
        // SAFETY: a new mapping of the card's registers.
        let bar = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, device.as_raw_fd(), offset)
        };
        assert_ne!(bar, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        let bar = NonNull::new(bar.cast()).expect("not at zero");
        let this =
            Self { device, container, bar, bytes, engine: Mutex::default(), deaf: AtomicBool::new(false) };
        this.bus_master();
        // SAFETY: the first register.
        assert_eq!(unsafe { this.bar.cast::<u32>().read_volatile() }, IDENTITY, "another device");
        Arc::new(this)
    }

    pub fn container(&self) -> Arc<VfioContainer> {
        self.container.clone()
    }

    fn bus_master(&self) {
        let mut command = [0; 1];
        self.device.region_read(CONFIGURATION, &mut command, 4);
        self.device.region_write(CONFIGURATION, &[command[0] | BUS_MASTER], 4);
    }

    fn register(&self, at: usize) -> NonNull<u64> {
        // SAFETY: a register's offset, inside the mapping.
        unsafe { self.bar.add(at).cast() }
    }

    fn write(&self, at: usize, value: u64) {
        // SAFETY: mapped until `drop`, aligned.
        unsafe { self.register(at).write_volatile(value) }
    }

    /// Whether the engine is at work.
    pub fn runs(&self) -> bool {
        // SAFETY: as above.
        unsafe { self.register(COMMAND).read_volatile() & START != 0 }
    }

    /// Gives the engine a command; what is in its buffer comes or goes. The caller holds a lease,
    /// or has nobody to blame. `false`: it is at work.
    pub fn start(&self, span: Span, offset: usize, bytes: usize, way: Way) -> bool {
        assert!(bytes <= MAX_BYTES && (offset + bytes) as u64 <= span.bytes, "{offset}+{bytes} in {span:?}");
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        if self.runs() {
            return false;
        }
        *engine = Some(span);
        let memory = span.iova + offset as u64;
        let (source, target) = match way {
            Way::FromMemory => (memory, BUFFER),
            Way::ToMemory => (BUFFER, memory),
        };
        self.write(SOURCE, source);
        self.write(TARGET, target);
        self.write(COUNT, bytes as u64);
        self.write(COMMAND, START | if way == Way::ToMemory { TO_MEMORY } else { 0 });
        true
    }

    /// A command, from beginning to end.
    pub fn transfer(&self, span: Span, offset: usize, bytes: usize, way: Way) {
        while !self.start(span, offset, bytes, way) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.finish();
    }

    /// Waits until the engine has nothing to do.
    pub fn finish(&self) {
        while self.runs() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Quiesce for Edu {
    fn wait_idle(&self, span: Span, timeout: Option<Duration>) -> Outcome {
        let began = Instant::now();
        loop {
            let engine = *self.engine.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.deaf.load(Ordering::SeqCst) && (engine != Some(span) || !self.runs()) {
                return Outcome::Idle;
            }
            if timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
                return Outcome::TimedOut;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Edu {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used again.
        unsafe { libc::munmap(self.bar.as_ptr().cast(), self.bytes) };
    }
}

/// Its folder below /sys.
fn find() -> PathBuf {
    let is = |folder: &Path, file, value| {
        std::fs::read_to_string(folder.join(file)).is_ok_and(|content| content.trim() == value)
    };
    let devices = std::fs::read_dir("/sys/bus/pci/devices").expect("a PCI bus");
    let mut folders = devices.map(|entry| entry.expect("a device").path());
    folders.find(|at| is(at, "vendor", "0x1234") && is(at, "device", "0x11e8")).expect("an edu device")
}
