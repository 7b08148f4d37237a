//! An address space whose answers change from call to call: a safe trait's implementation may be
//! wrong in every way that is not its unsafe duty, and nothing may come of it but errors. Runs
//! under Miri, too.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    reason = "a test: it stops where something is wrong"
)]

use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use userptr::address_space::{Current, Pages};
use userptr::platforms::std::Std;
use userptr::{
    AddrRange, AddressSpace, Context, Device, Error, Flags, ForeignMemory, Notifier, Outcome, Prepare, Ref,
    Usage, Users,
};

const PAGE: usize = 4096;

/// Its answers, each of which a test can let change.
#[derive(Default)]
struct Answers {
    /// Adds this to the identity at each question.
    id_step: usize,
    id: AtomicUsize,
    /// The page size's shift is this much larger at every second question.
    shift_step: u32,
    shift: AtomicUsize,
    /// Pages that a pin gives too many or too few.
    more: usize,
    fewer: usize,
    pinned: AtomicUsize,
    unpinned: AtomicUsize,
}

struct Liar(Arc<Answers>);

impl Liar {
    fn fill(&self, range: AddrRange, out: &mut Pages<Self>) {
        let first = range.start() / PAGE;
        let count = (range.pages(12) + self.0.more).saturating_sub(self.0.fewer);
        for page in first..first + count {
            if out.push(page).is_ok() {
                self.0.pinned.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl AddressSpace for Liar {
    type Platform = Std;
    type Page = usize;
    type Users<'a> = &'a Liar;
    type Registration = Ref<Notifier<Std>, Std>;
    type Memory = userptr::NoMemory;

    fn id(&self) -> usize {
        self.0.id.fetch_add(self.0.id_step, Ordering::Relaxed)
    }
    fn grab(&self) -> Self {
        Self(self.0.clone())
    }
    fn users(&self) -> Option<&Liar> {
        Some(self)
    }
    fn current(&self) -> Current {
        Current::This
    }
    fn page_shift(&self) -> u32 {
        let odd = self.0.shift.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        if odd { 12 + self.0.shift_step } else { 12 }
    }
    fn access_ok(&self, _: AddrRange, _: bool) -> bool {
        true
    }
    fn privileged(&self) -> bool {
        true
    }
    fn register(&self, notifier: Ref<Notifier<Std>, Std>) -> Result<Ref<Notifier<Std>, Std>, Error> {
        Ok(notifier)
    }
    unsafe fn unregister(&self, _: Ref<Notifier<Std>, Std>) {}
    fn pin_fast(&self, range: AddrRange, _: bool, out: &mut Pages<Self>) -> Result<(), Error> {
        self.fill(range, out);
        Ok(())
    }
    unsafe fn unpin(&self, pages: &[usize], _: Usage) {
        self.0.unpinned.fetch_add(pages.len(), Ordering::Relaxed);
    }
    fn frame(&self, page: usize) -> usize {
        page
    }
}

// SAFETY: its pages are numbers.
unsafe impl ForeignMemory for Liar {}

impl Users for &Liar {
    type Space = Liar;
    fn pin(&self, range: AddrRange, _: bool, out: &mut Pages<Liar>) -> Result<(), Error> {
        self.fill(range, out);
        Ok(())
    }
}

struct Nothing;

impl Device for Nothing {
    type Space = Liar;
    type Map = usize;
    fn prepare(&self, what: Prepare<'_, Liar>) -> Result<usize, Error> {
        Ok(what.pages.len())
    }
    fn wait_idle(&self, _: &usize, _: Option<Duration>) -> Outcome {
        Outcome::Idle
    }
    fn unmap(&self, _: usize) {}
}

/// Registers, acquires and drops objects of it, in an order that links and unlinks several records.
fn use_it(answers: Answers) -> Result<usize, Error> {
    let answers = Arc::new(answers);
    let mut acquired = 0;
    {
        let context = Context::builder(Nothing).spawn()?;
        let mut objects = Vec::new();
        for n in 1..=8 {
            let range = AddrRange::new(n * 64 * PAGE, 4 * PAGE)?;
            if let Ok(object) = context.register(&Liar(answers.clone()), range, Flags::NONE) {
                objects.push(object);
            }
            if n % 3 == 0 {
                drop(objects.remove(0));
            }
        }
        for object in &objects {
            acquired += usize::from(object.acquire().is_ok());
            let _ = object.put_pages();
        }
        context.registry().each(|record| drop(record.clone()));
        while !objects.is_empty() {
            drop(objects.swap_remove(objects.len() / 2));
        }
        context.drain();
        assert!(context.registry().is_empty(), "a freed record is in a list");
    }
    assert_eq!(answers.pinned.load(Ordering::Relaxed), answers.unpinned.load(Ordering::Relaxed));
    Ok(acquired)
}

#[test]
fn an_honest_one() {
    assert_eq!(use_it(Answers::default()), Ok(6));
}

/// The record used to be unlinked by what the address space said at that moment.
#[test]
fn an_identity_that_changes() {
    assert_eq!(use_it(Answers { id_step: 1, ..Answers::default() }), Ok(6));
}

#[test]
fn a_page_size_that_changes() {
    for shift_step in [1, 2, 40, 60, 200] {
        use_it(Answers { shift_step, ..Answers::default() }).unwrap();
    }
}

#[test]
fn pins_that_give_too_much_or_too_little() {
    for (more, fewer, acquired) in [(3, 0, 6), (0, 1, 0), (0, 4, 0)] {
        assert_eq!(use_it(Answers { more, fewer, ..Answers::default() }), Ok(acquired));
    }
}
