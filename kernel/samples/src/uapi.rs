//! The numbers of `uapi.h`, under the same names. `kernel/check-object` compares them.

/// The number of the edu device. Those below it are software.
pub const EDU: usize = 3;

/// The requests.
pub mod request {
    #[cfg(feature = "selftest")]
    pub const SELFTEST: u32 = 0;
    pub const CREATE: u32 = 1;
    pub const CLOSE: u32 = 2;
    pub const GET: u32 = 3;
    pub const COPY: u32 = 4;
    pub const FILL: u32 = 5;
    pub const WAIT: u32 = 6;
    pub const COUNTER: u32 = 7;
    pub const PROBE: u32 = 8;
    pub const EXPORT: u32 = 9;
    pub const PUT: u32 = 10;
    pub const SETTLE: u32 = 11;
    pub const RESET: u32 = 12;
}

/// The counters of the samples that Rust counts.
pub mod counter {
    /// Jobs of the devices, now.
    pub const JOBS: u32 = 64;
    /// Bytes they ever copied.
    pub const COPIED: u32 = 65;
    /// DMA transfers from or to pages, ever begun.
    pub const TRANSFERS: u32 = 67;
    /// Objects that were quarantined, ever.
    pub const QUARANTINED: u32 = 68;
}
