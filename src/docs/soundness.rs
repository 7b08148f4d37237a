//! What safe code must not be able to write. Each block was once a way to undefined behaviour, or
//! is next to one, and must be refused by the compiler with the error that it names. Only a nightly
//! compiler compares that number, so `.ci/run` runs these on one, too.
//!
//! # Only the core commits and revokes
//!
//! A `UserPtr` is no subscriber: nobody attaches, commits or revokes it by hand.
//! ```compile_fail,E0308
//! # use userptr::{Notifier, UserPtr};
//! # use userptr::platforms::std::Std;
//! # use userptr_sim::DmaDevice;
//! fn attach(object: &UserPtr<DmaDevice<Std>>) {
//!     let _ = Notifier::attach(object);
//! }
//! ```
//! ```compile_fail,E0277
//! # use userptr::UserPtr;
//! # use userptr::notifier::Subscriber;
//! # use userptr::platforms::std::Std;
//! # use userptr_sim::DmaDevice;
//! fn subscriber<T: Subscriber<Std>>(_: &T) {}
//! fn release(object: &UserPtr<DmaDevice<Std>>) {
//!     subscriber(object);
//! }
//! ```
//! For a subscriber of one's own, what the core calls is unsafe: the commit, whose closure runs
//! under a spinlock, and the two steps of a revocation.
//! ```compile_fail,E0133
//! # use userptr::{Notifier, Ref, notifier::{Subscriber, Ticket}, platforms::std::Std};
//! fn commit<T: Subscriber<Std>>(object: &Ref<T, Std>, ticket: Ticket) {
//!     let _ = Notifier::commit(object, ticket, true, || ());
//! }
//! ```
//! ```compile_fail,E0133
//! # use userptr::{Ref, notifier::Subscriber, platforms::std::Std};
//! fn stop<T: Subscriber<Std>>(object: &Ref<T, Std>) {
//!     object.stop();
//! }
//! ```
//! ```compile_fail,E0133
//! # use userptr::{Ref, notifier::Subscriber, platforms::std::Std};
//! fn release<T: Subscriber<Std>>(object: &Ref<T, Std>) {
//!     let _ = object.release(None);
//! }
//! ```
//! ```compile_fail,E0133
//! # use userptr::{Notifier, notifier::Subscriber, platforms::std::Std};
//! fn detach(object: &dyn Subscriber<Std>) {
//!     Notifier::detach(object);
//! }
//! ```
//! A lease comes from the word or from a commit, and from nowhere else.
//! ```compile_fail,E0133
//! # use userptr::{Ref, notifier::{LeaseGuard, Subscriber}, platforms::std::Std};
//! fn lease<T: Subscriber<Std>>(object: &Ref<T, Std>) {
//!     let _ = LeaseGuard::adopt(object);
//! }
//! ```
//! A ticket is given out, not made.
//! ```compile_fail,E0451
//! # use userptr::notifier::Ticket;
//! fn ticket(of: usize) -> Ticket {
//!     Ticket { number: 1, of }
//! }
//! ```
//! The reference that a lease holds answers the same each time: nobody else implements the trait.
//! ```compile_fail,E0277
//! # use userptr::{Ref, notifier::{Holder, Subscriber}, platforms::std::Std};
//! struct Two<T: Subscriber<Std>>(Ref<T, Std>, Ref<T, Std>);
//! impl<T: Subscriber<Std>> Holder<T, Std> for Two<T> {
//!     fn held(&self) -> &Ref<T, Std> {
//!         &self.1
//!     }
//! }
//! ```
//!
//! # Counts
//! ```compile_fail,E0133
//! # use userptr::{Ref, RefCounted, platforms::std::Std};
//! fn last_put<T: RefCounted<Std>>(object: &Ref<T, Std>) {
//!     object.last_put();
//! }
//! ```
//! ```compile_fail,E0133
//! # use userptr::{Ref, RefCounted, platforms::std::Std};
//! fn init<T: RefCounted<Std>>(object: &Ref<T, Std>) {
//!     object.init();
//! }
//! ```
//! ```compile_fail,E0133
//! # use userptr::{Ref, RefCounted, platforms::std::Std};
//! fn twice<T: RefCounted<Std>>(object: &Ref<T, Std>) -> Ref<T, Std> {
//!     Ref::from_raw(Ref::as_ptr(object))
//! }
//! ```
//! ```compile_fail,E0133
//! # use userptr::{UserPtr, Device};
//! fn twice<D: Device>(object: UserPtr<D>) -> UserPtr<D> {
//!     UserPtr::from_raw(object.into_raw())
//! }
//! ```
//! A counted object is shared by threads and outlives every scope.
//! ```compile_fail,E0277
//! # use userptr::platforms::std::Std;
//! # use std::rc::Rc;
//! struct Job(Rc<u8>);
//! userptr::ref_counted! { impl RefCounted<Std> for Job {} }
//! ```
//! ```compile_fail,E0478
//! # use userptr::platforms::std::Std;
//! struct Job<'a>(&'a u8);
//! unsafe impl<'a> userptr::RefCounted<Std> for Job<'a> {}
//! ```
//!
//! # Work items
//! An item is taken off, or waited for, on the queue that it is on.
//! ```compile_fail,E0133
//! # use userptr::{HasWork, Platform, Ref, platforms::std::Std};
//! fn cancel<T: HasWork<Std>>(queue: &<Std as Platform>::Queue, job: &Ref<T, Std>) {
//!     let _ = userptr::work::cancel(queue, job);
//! }
//! ```
//! ```compile_fail,E0133
//! # use userptr::{HasWork, Platform, Ref, platforms::std::Std};
//! fn flush<T: HasWork<Std>>(queue: &<Std as Platform>::Queue, job: &Ref<T, Std>) {
//!     userptr::work::flush_item(queue, job);
//! }
//! ```
//! A field that is a box of the item is no item, for either macro.
//! ```compile_fail,E0308
//! # use userptr::{Ref, Work, platforms::std::Std};
//! struct Job { work: Box<Work<Job, Std>> }
//! userptr::ref_counted! { impl RefCounted<Std> for Job { work: |job: Ref<Job, Std>| drop(job) } }
//! ```
//! Nor is an item with another number.
//! ```compile_fail,E0308
//! # use userptr::{Ref, Work, platforms::std::Std};
//! struct Job { work: Work<Job, Std, 1> }
//! userptr::ref_counted! { impl RefCounted<Std> for Job { work: |job: Ref<Job, Std>| drop(job) } }
//! ```
//! Nothing but generics goes between the brackets: these would implement `Send`.
//! ```compile_fail
//! # use userptr::platforms::std::Std;
//! # use std::rc::Rc;
//! struct Shared(Rc<u8>);
//! struct Job;
//! userptr::ref_counted! { impl[> Send for Shared {} unsafe impl<] RefCounted<Std> for Job {} }
//! ```
//! The macro's own steps, which connect an item without initialising it, need the word that the
//! lint sees.
//! ```compile_fail
//! #![forbid(unsafe_code)]
//! # use userptr::{Ref, Work, platforms::std::Std};
//! struct Job { work: Work<Job, Std> }
//! userptr::ref_counted! { impl RefCounted<Std> for Job {} }
//! userptr::ref_counted! {
//!     @items (unsafe { userptr::work::Settled::promise() }) [] [Std] [Job] work: |job: Ref<Job, Std>| drop(job),
//! }
//! ```
//! The release of a record is run by the core: nobody has the reference that it takes.
//! ```compile_fail,E0308
//! # use userptr::{AddressSpace, HasWork, MmRecord, MmRef};
//! fn run<S: AddressSpace>(record: MmRef<S>) {
//!     <MmRecord<S> as HasWork<S::Platform>>::run(record);
//! }
//! ```
//! An item with no place in an object has nothing to run on.
//! ```compile_fail,E0599
//! # use userptr::{Work, platforms::std::Std};
//! let item = Work::<u8, Std>::uninit();
//! ```
//!
//! # Uninitialised values
//! What has locks inside is had by `try_new`, initialised; a bare lock or wait is unsafe to use.
//! ```compile_fail,E0599
//! # use userptr::{SoftQueue, platforms::std::Std};
//! let queue = SoftQueue::<Std>::uninit();
//! ```
//! ```compile_fail,E0599
//! # use userptr::{Notifier, platforms::std::Std};
//! let notifier = Notifier::<Std>::uninit(None);
//! ```
//! ```compile_fail,E0133
//! # use userptr::{platform::{LockClass, SpinLock}, platforms::std::Std};
//! let lock = SpinLock::<Std, _>::uninit(LockClass::NOTIFIER, 0);
//! lock.with(|n| *n += 1);
//! ```
//! ```compile_fail,E0133
//! # use userptr::{Platform, platform::WaitQueue, platforms::std::Std};
//! let queue = WaitQueue::<<Std as Platform>::Wait>::uninit();
//! queue.wake_all();
//! ```
//! ```compile_fail,E0133
//! # use userptr::{Buffer, platforms::std::Std};
//! fn grow(buffer: &mut Buffer<usize, Std>) {
//!     buffer.set_len(buffer.capacity());
//! }
//! ```
//!
//! # What must be balanced
//! The end of a window, an unwatch, an unregister, an unpin.
//! ```compile_fail,E0133
//! # use userptr::{AddrRange, Notifier, platforms::std::Std};
//! fn end(notifier: &Notifier<Std>, range: AddrRange) {
//!     notifier.invalidate_end(range);
//! }
//! ```
//! ```compile_fail,E0133
//! # use userptr::{AddrRange, AddressSpace};
//! fn unwatch<S: AddressSpace>(space: &S, registration: &S::Registration, range: AddrRange) {
//!     space.unwatch(registration, range);
//! }
//! ```
//! ```compile_fail,E0133
//! # use userptr::AddressSpace;
//! fn unregister<S: AddressSpace>(space: &S, registration: S::Registration) {
//!     space.unregister(registration);
//! }
//! ```
//! ```compile_fail,E0133
//! # use userptr::{AddressSpace, Usage};
//! fn unpin<S: AddressSpace>(space: &S, pages: &[S::Page], usage: Usage) {
//!     space.unpin(pages, usage);
//! }
//! ```
//!
//! # Memory of one's own
//! It is registered with a promise; the safe way is for foreign memory, and who says that it is
//! promises.
//! ```compile_fail,E0277
//! # use userptr::{AddrRange, Context, Device, Flags};
//! fn register<D: Device>(context: &Context<D>, space: &D::Space, range: AddrRange) {
//!     let _ = context.register(space, range, Flags::NONE);
//! }
//! ```
//! ```compile_fail,E0277
//! # use userptr::{Client, Device};
//! fn create<D: Device>(client: &Client<D>, space: &D::Space, address: usize) {
//!     let _ = client.create(space, address, 4096, 0);
//! }
//! ```
//! ```compile_fail,E0133
//! # use userptr::{AddrRange, Context, Device, Flags};
//! fn register<D: Device>(context: &Context<D>, space: &D::Space, range: AddrRange) {
//!     let _ = context.register_unchecked(space, range, Flags::NONE);
//! }
//! ```
//!
//! # Lifetimes and threads
//! A lease borrows its object, what it gives borrows the lease, and it stays in its thread.
//! ```compile_fail,E0505
//! # use userptr::{Device, Error, UserPtr};
//! fn outlives<D: Device>(object: UserPtr<D>) -> Result<(), Error> {
//!     let lease = object.acquire()?;
//!     drop(object);
//!     drop(lease);
//!     Ok(())
//! }
//! ```
//! ```compile_fail,E0505
//! # use userptr::{Device, Error, UserPtr};
//! fn outlives<D: Device>(object: &UserPtr<D>) -> Result<usize, Error> {
//!     let lease = object.acquire()?;
//!     let pages = lease.pages();
//!     drop(lease);
//!     Ok(pages.len())
//! }
//! ```
//! ```compile_fail,E0277
//! # use userptr::{Device, Lease};
//! fn send<D: Device>(lease: Lease<'static, D>) {
//!     std::thread::spawn(move || drop(lease));
//! }
//! ```
//! An owned lease goes anywhere, but what it gives borrows it all the same.
//! ```compile_fail,E0505
//! # use userptr::{Device, OwnedLease};
//! fn outlives<D: Device>(lease: OwnedLease<D>) -> usize {
//!     let pages = lease.pages();
//!     drop(lease);
//!     pages.len()
//! }
//! ```
//! An invalidation does not outlive its notifier.
//! ```compile_fail,E0505
//! # use userptr::{AddrRange, Blockable, Notifier, Ref, WouldBlock, platforms::std::Std};
//! fn outlives(notifier: Ref<Notifier<Std>, Std>, range: AddrRange) -> Result<(), WouldBlock> {
//!     let change = notifier.invalidate(range, Blockable::Yes)?;
//!     drop(notifier);
//!     drop(change);
//!     Ok(())
//! }
//! ```
