//! The platforms that stay with the core. Each is behind an additive feature, so that they coexist in one build.
//!
//! | feature | module | what it is |
//! |---|---|---|
//! | `std` | `std` | threads, mutexes and condition variables of the standard library |
//! | `loom` | `loom` | the model checker: every access is an explored step |
//!
//! [`native`], always there, has the machine's own atomics and cells for platforms of any kind. Others are packages of their own, on
//! the public interface alone: `userptr-sim` has a platform that checks lock order and allocations, and a simulated address space;
//! `userptr-linux` has the memory of a Linux process; the Linux kernel is in `kernel/` beside this package.
//!
//! # A platform of your own
//! Three traits, in this order. `src/platforms/std` is the shortest example of the first, `crates/userptr-sim/src/space.rs` of the
//! other two.
//!
//! 1. [`Platform`](crate::Platform): atomics and cells (those of [`native`], if nothing is to be tracked), locks, waits, work, allocation. Where the host has work queues of its own, implement
//!    [`RawQueue`](crate::RawQueue) for a handle to one; else take the [`SoftQueue`](crate::SoftQueue) and give it threads.
//! 2. [`AddressSpace`](crate::AddressSpace) and [`Users`](crate::Users): holds, registration, pins. In the callbacks of the registration call
//!    [`begin`](crate::Notifier::begin) and [`finish`](crate::notifier::Stopping::finish) before the page tables change,
//!    [`invalidate_end`](crate::Notifier::invalidate_end) after they have, [`exit`](crate::Notifier::exit) when the address space ends.
//!    A host that is told afterwards also implements [`quiet`](crate::AddressSpace::quiet).
//! 3. [`Device`](crate::Device), for each driver.
//!
//! # Contexts
//! *Reclaim class*: no allocation, no fault, no lock that is ever held across either.
//!
//! | the core calls | from | may sleep | may allocate | host's locks held |
//! |---|---|---|---|---|
//! | `Platform::alloc` | create, acquire, pin workers | yes | | none |
//! | `Platform::dealloc` | anywhere, no spinlock held | no | no | any that a start may hold |
//! | `RawWait::wake_all`, `RawQueue::enqueue` | anywhere, no spinlock held | no | no | any that a start may hold |
//! | `AddressSpace::register` | create, export | yes | yes | none; may take the address-space lock |
//! | `AddressSpace::unregister` | the free queue | yes | yes | none; waits for callbacks |
//! | `AddressSpace::watch` | acquire, pin workers | yes | yes | none |
//! | `AddressSpace::unwatch`, `unpin` | cancels, releases: *reclaim class* | yes | no | any that a start may hold |
//! | `AddressSpace::pin_fast` | acquire, in the owner | no | no | none |
//! | `AddressSpace::users`, `Users::pin` | pin workers | yes | yes | none; may take the address-space lock |
//! | `AddressSpace::quiet` | acquire, with a lease taken | no | no | none |
//! | `Device::prepare` | acquire, pin workers | yes | yes | none |
//! | `Device::stop` | starts, evictions, releases: *reclaim class* | no | no | any that a start may hold |
//! | `Device::wait_idle`, `unmap` | cancels: *reclaim class* | yes | no | any that a start may hold |
//!
//! | the host or driver calls | where |
//! |---|---|
//! | `Notifier::begin`, `finish`, `invalidate_end`, `exit` | in its callbacks, with its own locks held; no lock of this crate, no lock that `wait_idle` takes |
//! | `Context::create`, `UserPtr::acquire`, `export`, `put_pages` | where sleeping and allocating is allowed, without a lease |
//! | `UserPtr::try_acquire` | where allocating is allowed; it does not wait for anybody |
//! | dropping a lease, the last reference | where sleeping is allowed: it may finish a cancel |

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
