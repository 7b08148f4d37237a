//! Promises of layout, `Send` and `Sync` that users and `unsafe` code rely on, checked at compile
//! time on the standard platform.

use crate::address_space::AddressSpace;
use crate::interval::{IntervalIndex, Node, Tree};
use crate::notifier::{Attachment, Notifier, Outcome, PendingInvalidation, Subscriber, Ticket};
use crate::platform::{LockGuard, RawWork};
use crate::platforms::native::{NativeCell, NativeUsize};
use crate::platforms::std::Std;
use crate::refcount::{Dying, Ref, Refcount};
use crate::work::{SoftQueue, SoftWork, Work};
use crate::{AddrRange, Buffer, Error, Flags, Segment, SgTable};
use static_assertions::{
    assert_eq_align, assert_eq_size, assert_impl_all, assert_not_impl_any, assert_obj_safe,
};

struct Job {
    work: Work<Job, Std, 3>,
}
crate::ref_counted! {
    impl RefCounted<Std> for Job {
        work @ 3: |job: Ref<Job, Std>| drop(job),
    }
}

type Queue = SoftQueue<Std>;
type Guard = LockGuard<'static, crate::platforms::std::StdLock, Std, ()>;

// A reference is one pointer, and "none" costs nothing: it goes through C as a pointer.
assert_eq_size!(Ref<Queue, Std>, Option<Ref<Queue, Std>>, *const ());
assert_eq_size!(Refcount<Std>, usize);
// `Work` is the raw item: `raw_of` casts one to the other.
assert_eq_size!(Work<Job, Std, 3>, SoftWork<Std>);
assert_eq_align!(Work<Job, Std, 3>, SoftWork<Std>);
// The standard platform adds nothing to what it wraps.
assert_eq_size!(NativeCell<[u64; 3]>, [u64; 3]);
assert_eq_size!(NativeUsize, usize);
// Two words for a range, nine for a node of the index.
assert_eq_size!(AddrRange, [usize; 2]);
assert_eq_size!(Node<Std>, [usize; 9]);
assert_eq_size!(Flags, u32);
assert_eq_size!(Error, Option<Error>, Outcome, u8);
assert_eq_size!(Segment, [usize; 3]);

// Everything that is shared by references can be.
assert_impl_all!(Ref<Queue, Std>: Send, Sync, Unpin, Clone);
assert_impl_all!(Ref<Notifier<Std>, Std>: Send, Sync);
assert_impl_all!(Ref<dyn Subscriber<Std>, Std>: Send, Sync);
assert_impl_all!(Dying<Queue, Std>: Send);
assert_impl_all!(Notifier<Std>: Send, Sync);
assert_impl_all!(Attachment<Std>: Send, Sync);
assert_impl_all!(SoftWork<Std>: Send, Sync, RawWork);
assert_impl_all!(SgTable<Std>: Send, Sync);
assert_impl_all!(Buffer<usize, Std>: Send, Sync);
assert_impl_all!(Ticket: Send, Sync, Copy);
assert_impl_all!(Error: Send, Sync, core::error::Error);
assert_obj_safe!(Subscriber<Std>);

// The thread that took a lock must release it.
assert_not_impl_any!(Guard: Send);
// One thread queries a tree at a time: the lock around it passes it on.
assert_impl_all!(Tree<Std>: Send, IntervalIndex<Std>);
assert_not_impl_any!(Tree<Std>: Sync);
// An invalidation after pass one is finished once.
assert_impl_all!(PendingInvalidation<'static, Std>: Send);
assert_not_impl_any!(PendingInvalidation<'static, Std>: Sync, Clone);
// Each reference owns one count.
assert_not_impl_any!(Ref<Queue, Std>: Copy);

/// The owned lease of a device on any address space may be dropped by another thread than took it:
/// by the one that completes the work. A borrowed one is shared with other threads, and stays in
/// its own: see [`Local`](crate::userptr::Local).
#[expect(dead_code, reason = "compiled, not called")]
fn leases_travel<D: crate::Device>()
where
    D::Space: AddressSpace<Platform = Std>,
{
    fn travels<T: Send + Sync>() {}
    travels::<crate::OwnedLease<D>>();
    fn shared<T: Sync>() {}
    shared::<crate::Lease<'static, D>>();
    travels::<crate::UserPtr<D>>();
    travels::<crate::Context<D>>();
    travels::<crate::Client<D>>();
    travels::<crate::MmRef<D::Space>>();
    // Awaited in a task that moves from thread to thread.
    travels::<crate::platforms::std::Acquire<D>>();
}
