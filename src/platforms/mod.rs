//! The platforms that stay with the core. Each is behind an additive feature, so that they coexist
//! in one build.
//!
//! | feature | module | what it is |
//! |---|---|---|
//! | `std` | `std` | threads, mutexes and condition variables of the standard library |
//! | `loom` | `loom` | the model checker: every access is an explored step |
//!
//! [`native`], always there, has the machine's own atomics and cells for platforms of any kind.
//! Others are packages of their own, on the public interface alone: `userptr-sim` has a platform
//! that checks lock order and allocations, and a simulated address space; `userptr-linux` has the
//! memory of a Linux process; the Linux kernel is in `kernel/` of the repository.
//!
//! # A platform of your own
//! Three traits, in this order. `src/platforms/std` is the shortest example of the first,
//! `crates/userptr-sim/src/space.rs` of the other two.
//!
//! 1. [`Platform`](crate::Platform): atomics and cells (those of [`native`], if nothing is to be
//!    tracked), locks, waits, work, allocation. Where the platform has work queues of its own,
//!    implement [`RawQueue`](crate::RawQueue) for a handle to one; otherwise take the
//!    [`SharedQueue`](crate::SharedQueue) and give it threads.
//! 2. [`AddressSpace`](crate::AddressSpace) and [`Users`](crate::Users): references, registration,
//!    pins. In the callbacks of the registration call
//!    [`invalidate_start`](crate::Notifier::invalidate_start) and
//!    [`finish`](crate::notifier::PendingInvalidation::finish) before the page tables change,
//!    [`invalidate_end`](crate::Notifier::invalidate_end) after they have, and
//!    [`exit`](crate::Notifier::exit) when the address space ends. An address space that is
//!    notified after the change also implements [`quiet`](crate::AddressSpace::quiet).
//! 3. [`Device`](crate::Device), for each driver.
//!
//! # Contexts
//! *Reclaim class*: no allocation, no fault, no lock that is ever held across either.
//!
//! | the core calls | from | may sleep | may allocate | locks of the address space held |
//! |---|---|---|---|---|
//! | `Platform::alloc` | register, acquire, pin workers | yes | | none |
//! | `Platform::dealloc` | anywhere, no spinlock held | no | no | any that a start may hold |
//! | `RawWait::wake_all`, `RawQueue::enqueue` | anywhere, no spinlock held | no | no | any that a start may hold |
//! | `AddressSpace::register` | register, export | yes | yes | none; may take the address-space lock |
//! | `AddressSpace::unregister` | the release queue | yes | yes | none; waits for callbacks |
//! | `AddressSpace::watch` | acquire, pin workers | yes | yes | none |
//! | `AddressSpace::unwatch`, `unpin` | revocations, releases: *reclaim class* | yes | no | any that a start may hold |
//! | `AddressSpace::pin_fast` | acquire, in the owner | no | no | none |
//! | `AddressSpace::users`, `Users::pin` | pin workers | yes | yes | none; may take the address-space lock |
//! | `AddressSpace::quiet` | acquire, with a lease taken | no | no | none |
//! | `Device::prepare` | acquire, pin workers | yes | yes | none |
//! | `Device::stop` | starts, evictions, releases: *reclaim class* | no | no | any that a start may hold |
//! | `Device::wait_idle`, `unmap` | revocations: *reclaim class* | yes | no | any that a start may hold |
//!
//! | the address space or driver calls | where |
//! |---|---|
//! | `Notifier::invalidate_start`, `finish`, `invalidate_end`, `exit` | in its callbacks, with its own locks held; no lock of this crate, no lock that `wait_idle` takes |
//! | `Context::register`, `UserPtr::acquire`, `export`, `put_pages` | where sleeping and allocating is allowed, without a lease |
//! | `UserPtr::try_acquire` | where allocating is allowed; it never waits |
//! | dropping a lease, the last reference | where sleeping is allowed: it may finish a revocation |

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a platform is where its own types are named"
)]

pub mod native;

#[cfg(feature = "loom")]
pub mod loom;
#[cfg(feature = "std")]
pub mod std;
