//! What an object carries to be found by an invalidation.

use super::spread::Leases;
use super::state::{Slot, State};
use super::{Event, Notifier, Outcome};
use crate::error::Error;
use crate::interval::Node;
use crate::platform::{Cell, Platform, RawWork, WaitQueue};
use crate::range::AddrRange;
use crate::refcount::{Inner, RefCounted};
use core::fmt;
use core::mem::offset_of;
use core::ptr::{self, NonNull};
use core::time::Duration;

/// An object that an invalidation can reach.
///
/// # Safety
/// * [`attachment`](Self::attachment) always returns the same attachment, which lies inside the
///   object and is settled by its `init`.
/// * [`notifier`](Self::notifier) does not change while the attachment is attached, and lives as
///   long as the object.
/// * The object's [`last_put`](crate::RefCounted::last_put) calls [`Notifier::detach`] and returns
///   its result.
#[diagnostic::on_unimplemented(message = "`{Self}` cannot be attached to a `Notifier<{P}>`")]
pub unsafe trait Subscriber<P: Platform>: RefCounted<P> {
    /// Returns the attachment inside the object.
    fn attachment(&self) -> &Attachment<P>;
    /// Returns the notifier that the object attaches to. A few loads: it is also called under that
    /// notifier's lock.
    fn notifier(&self) -> &Notifier<P>;
    /// Returns how long a revocation may take, leases and device together. `None`: forever.
    fn deadline(&self) -> Option<Duration>;
    /// Asks the device to stop. Must not wait.
    ///
    /// # Safety
    /// The caller owns the revocation and the pages are still installed. No lock of this crate is
    /// held.
    unsafe fn stop(&self);
    /// Waits until the device is idle, then unmaps and unpins, and frees nothing
    /// ([rule 32](crate::docs::protocol#rule-32)): an invalidation may hold the allocator's lock
    /// until the node is out of the index. On anything but [`Outcome::Idle`] nothing was unmapped
    /// or unpinned, and it will be called again.
    ///
    /// # Safety
    /// The caller owns the revocation and every lease is gone. No lock of this crate is held.
    unsafe fn release(&self, timeout: Option<Duration>) -> Outcome;
    /// Takes over an object whose last reference was a revocation's, and queues its release: freed
    /// in the revocation, it could wait for an allocator's lock that an invalidation holds
    /// ([rule 32](crate::docs::protocol#rule-32)). Returns `false` if the caller has to release it.
    ///
    /// # Safety
    /// The count is zero, the caller owns the object, and nothing finds it any more. It is not
    /// touched after a `true`. No lock of this crate is held.
    unsafe fn free_later(&self) -> bool {
        false
    }

    /// Returns whether the calling thread is known to hold a lease on the object
    /// ([rule 29](crate::docs::protocol#rule-29)). Called under the notifier's lock: it must not
    /// wait, allocate or call out.
    fn is_held_here(&self) -> bool {
        false
    }

    /// Learns what became of the object. Called with no lock held, from the thread that ended the
    /// revocation: it must not wait, allocate, or call into the object.
    fn event(&self, event: Event) {
        let _ = event;
    }
}

/// A back-pointer to the object: no count goes with it.
pub(crate) type Weak<P> = NonNull<Inner<dyn Subscriber<P>, P>>;

/// The part of an object that a notifier works on: the index node, the state, the lease word, the
/// revocation's work item.
///
/// # Invariants
/// * While attached (any state but `Idle`) the object is alive and in place, though its count may
///   be zero: its release passes through [`Notifier::detach`] under the same lock first.
/// * `slot` is changed under the notifier's lock only, and while there is a revocation, by its
///   owner only; it is read under the lock, or by the owner. `next` and `until` are the owner's
///   alone.
pub struct Attachment<P: Platform> {
    pub(super) node: Node<P>,
    pub(super) leases: Leases<P>,
    /// The revocation waits here for the last lease.
    pub(super) drained: WaitQueue<P::Wait>,
    pub(super) work: P::Work,
    slot: P::Cell<Slot<P>>,
    /// The next object that the same invalidation has to revoke.
    next: P::Cell<*const Attachment<P>>,
    /// When the revocation gives up, on the platform's clock. `None`: never.
    until: P::Cell<Option<Duration>>,
}

// SAFETY: `slot`, `next` and `until` are touched by one thread at a time (invariants); the weak
// pointer in `slot` is followed only while the object lives.
unsafe impl<P: Platform> Send for Attachment<P> {}
// SAFETY: as for `Send`: every access through a shared reference is exclusive by the invariants.
unsafe impl<P: Platform> Sync for Attachment<P> {}

impl<P: Platform> Attachment<P> {
    /// Returns an inert attachment for `range`, in bytes.
    #[must_use]
    pub fn uninit(range: AddrRange) -> Self {
        Self {
            node: Node::new(range),
            leases: Leases::new(),
            drained: WaitQueue::uninit(),
            work: P::Work::uninit(super::revoke::run_queued::<P>),
            slot: <P::Cell<_> as Cell<_>>::new(Slot::new()),
            next: <P::Cell<_> as Cell<_>>::new(ptr::null()),
            until: <P::Cell<_> as Cell<_>>::new(None),
        }
    }

    /// As [`uninit`](Self::uninit), with [`Platform::SHARDS`] lease words, so that threads that
    /// take leases at once do not write the same cache line.
    ///
    /// # Errors
    /// [`Error::NoMemory`].
    pub fn spread(range: AddrRange) -> Result<Self, Error> {
        Ok(Self { leases: Leases::spread()?, ..Self::uninit(range) })
    }

    /// Makes it usable.
    ///
    /// # Safety
    /// Called once, from the [`RefCounted::init`] of the object that contains it.
    pub unsafe fn init(&self) {
        // SAFETY: called once, at the final address (caller).
        unsafe {
            self.drained.init();
            self.work.init();
        }
    }

    /// Returns the range that it watches.
    #[must_use]
    pub fn range(&self) -> AddrRange {
        self.node.range()
    }

    /// Returns the number of leases at this moment, without the pages' own.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.leases.held()
    }

    /// Returns the attachment around an index node.
    ///
    /// # Safety
    /// The node is the `node` of an attachment, with provenance over all of it.
    pub(super) unsafe fn of(node: NonNull<Node<P>>) -> NonNull<Self> {
        // SAFETY: the node lies `offset_of!(node)` bytes into an attachment (caller).
        unsafe { node.byte_sub(offset_of!(Self, node)).cast() }
    }

    /// Returns the node, with provenance over the attachment.
    pub(super) fn node_ptr(&self) -> NonNull<Node<P>> {
        // SAFETY: inside the attachment.
        unsafe { NonNull::from(self).byte_add(offset_of!(Self, node)).cast() }
    }

    /// Returns the work item, with provenance over the attachment.
    pub(super) fn work_ptr(&self) -> *const P::Work {
        ptr::from_ref(self).wrapping_byte_add(offset_of!(Self, work)).cast()
    }

    /// Returns the attachment around a work item.
    ///
    /// # Safety
    /// `work` is the `work` of an attachment, with provenance over all of it.
    pub(super) unsafe fn of_work(work: *const P::Work) -> *const Self {
        work.wrapping_byte_sub(offset_of!(Self, work)).cast()
    }

    /// Changes the state.
    ///
    /// # Safety
    /// The notifier's lock is held, and nobody else owns the revocation: its owner reads the slot
    /// without the lock.
    pub(super) unsafe fn slot<R>(&self, f: impl FnOnce(&mut Slot<P>) -> R) -> R {
        // SAFETY: the lock is held and no owner reads, so nobody else reaches the slot (invariant).
        self.slot.with_mut(|s| f(unsafe { &mut *s }))
    }

    /// Reads the state.
    ///
    /// # Safety
    /// The notifier's lock is held.
    pub(super) unsafe fn read<R>(&self, f: impl FnOnce(&Slot<P>) -> R) -> R {
        // SAFETY: the lock is held: nobody writes.
        self.slot.with(|s| f(unsafe { &*s }))
    }

    /// # Safety
    /// The notifier's lock is held.
    pub(super) unsafe fn state(&self) -> State {
        // SAFETY: the lock is held (caller).
        unsafe { self.read(|slot| slot.state()) }
    }

    /// Returns the back-pointer to the object.
    ///
    /// # Safety
    /// The notifier's lock is held, or the caller owns the revocation: only attaches write it.
    pub(crate) unsafe fn object(&self) -> Option<Weak<P>> {
        // SAFETY: nobody writes (caller).
        self.slot.with(|s| unsafe { (*s).object() })
    }

    /// Chains the attachment in front of `rest`.
    ///
    /// # Safety
    /// The caller owns the revocation.
    pub(super) unsafe fn chain(&self, rest: *const Self) {
        // SAFETY: nobody else touches it (invariant).
        self.next.with_mut(|n| unsafe { *n = rest });
    }

    /// Returns what is chained behind it.
    ///
    /// # Safety
    /// The caller owns the revocation.
    pub(super) unsafe fn chained(&self) -> *const Self {
        // SAFETY: nobody else touches it (invariant).
        self.next.with(|n| unsafe { *n })
    }

    /// Sets when the revocation gives up.
    ///
    /// # Safety
    /// The caller owns the revocation.
    pub(super) unsafe fn set_until(&self, until: Option<Duration>) {
        // SAFETY: nobody else touches it (invariant).
        self.until.with_mut(|u| unsafe { *u = until });
    }

    /// Returns how much time the revocation has left. `None`: forever. Zero: ask once, without
    /// waiting.
    ///
    /// # Safety
    /// The caller owns the revocation.
    pub(super) unsafe fn time_left(&self) -> Option<Duration> {
        // SAFETY: nobody else touches it (invariant).
        let until = self.until.with(|u| unsafe { *u });
        until.map(|until| Duration::from_nanos(nanos(until).saturating_sub(nanos(P::now()))))
    }
}

impl<P: Platform> fmt::Debug for Attachment<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attachment({:?}, {:?})", self.range(), self.leases)
    }
}

/// Returns a time in nanoseconds, at most `u64::MAX`, which is 584 years. Deadlines are counted in
/// these: sums and differences of `Duration` keep a panic in the machine code, though no value
/// reaches it, and a kernel module must have none.
pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
