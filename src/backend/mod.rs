//! The hosts. Each is behind an additive feature, so that they coexist in one build.
//!
//! | feature | module | what it is |
//! |---|---|---|
//! | `std` | `std` | threads, mutexes and condition variables of the standard library |
//! | `loom` | `loom` | the model checker: every access is an explored step |
//! | `sim` | `sim` | the checking host: lock order, allocation under locks, failing allocations |
//! | `linux` | `linux` | the memory of a Linux process, watched by userfaultfd |

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a backend is where the host's own types are named"
)]

#[cfg(all(feature = "linux", target_os = "linux"))]
pub mod linux;
#[cfg(feature = "loom")]
pub mod loom;
#[cfg(feature = "sim")]
pub mod sim;
#[cfg(feature = "std")]
pub mod std;
