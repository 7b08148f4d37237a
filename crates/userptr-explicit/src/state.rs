//! Who is notified, and which changes are open. Every transition is a function of this file, called
//! under the lock of the address space.

use userptr::platform::Platform;
use userptr::{AddrRange, Notifier, Ref};

/// The most registrations, and so devices, on one address space.
pub const MAX_NOTIFIERS: usize = 16;
/// How many open changes are known one by one. Of more, a count and a hull are known.
const MAX_EXACT: usize = 16;
/// How many ended changes are remembered, for [`Explicit::was_bracketed`](crate::Explicit).
const HISTORY: usize = 64;

/// A registered notifier.
struct Entry<P: Platform> {
    notifier: Ref<Notifier<P>, P>,
    /// When it was registered, in registrations.
    serial: u64,
    /// Calls into the notifier in progress: `leave` waits for them.
    calls: usize,
    /// `leave` was called: no further call.
    leaving: bool,
    /// How many changes beyond the exact ones were open at the registration and still are, and
    /// their hull, in which one window of this notifier is open meanwhile.
    late: Option<(usize, AddrRange)>,
}

/// One open change, as its guard knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    pub(crate) range: AddrRange,
    /// Its place among the exact ones.
    place: Option<usize>,
    /// Whoever was registered later than this was not asked at the start.
    began: u64,
    /// The notifiers, by place, in which the start has opened a window.
    pub(crate) windows: u16,
}

/// A notifier, and the window to open or to end in it.
pub(crate) type Call<P> = (Ref<Notifier<P>, P>, AddrRange);

/// Whom to call with no lock held, by place.
pub(crate) struct Round<P: Platform> {
    pub(crate) calls: [Option<Call<P>>; MAX_NOTIFIERS],
}

/// # Invariants
/// * Each registered notifier has a window over every open change, or a call that opens or ends it
///   is in progress.
/// * `hull` covers the changes that `beyond` counts.
pub(crate) struct State<P: Platform> {
    entries: [Option<Entry<P>>; MAX_NOTIFIERS],
    serial: u64,
    exact: [Option<AddrRange>; MAX_EXACT],
    beyond: usize,
    hull: Option<AddrRange>,
    /// The changes that ended, the newest at `ended % HISTORY`.
    history: [Option<AddrRange>; HISTORY],
    ended: u64,
}

/// A place in the state, of one registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    index: usize,
}

/// Whether a change was made in a bracket: see
/// [`Explicit::was_bracketed`](crate::Explicit::was_bracketed).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bracketed {
    /// It was.
    Yes,
    /// It was not: a bracket is missing.
    No,
    /// More changes than are remembered were open, or have ended since.
    Unknown,
}

impl<P: Platform> State<P> {
    pub(crate) fn new() -> Self {
        Self {
            entries: [const { None }; MAX_NOTIFIERS],
            serial: 0,
            exact: [None; MAX_EXACT],
            beyond: 0,
            hull: None,
            history: [None; HISTORY],
            ended: 0,
        }
    }

    /// Registers a notifier. Changes that are open already have begun without it: it gets a window
    /// over each, and their ends like everybody. `None`: every place is taken.
    pub(crate) fn join(&mut self, notifier: &Ref<Notifier<P>, P>) -> Option<Place> {
        let (index, entry) = self.entries.iter_mut().enumerate().find(|(_, entry)| entry.is_none())?;
        for range in self.exact.iter().flatten() {
            notifier.open_window(*range);
        }
        let late = self.hull.map(|hull| {
            notifier.open_window(hull);
            (self.beyond, hull)
        });
        self.serial = self.serial.saturating_add(1);
        let notifier = notifier.clone();
        *entry = Some(Entry { notifier, serial: self.serial, calls: 0, leaving: false, late });
        Some(Place { index })
    }

    /// Takes a notifier out once no call into it is in progress; no call begins meanwhile.
    pub(crate) fn leave(&mut self, place: Place) -> Option<Ref<Notifier<P>, P>> {
        let slot = self.entries.get_mut(place.index)?;
        let entry = slot.as_mut()?;
        entry.leaving = true;
        if entry.calls != 0 {
            return None;
        }
        slot.take().map(|entry| entry.notifier)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.iter().all(Option::is_none)
    }

    /// Opens a change, and says whose start it is.
    pub(crate) fn open(&mut self, range: AddrRange, round: &mut Round<P>) -> Open {
        let place = self.exact.iter().position(Option::is_none);
        match place.and_then(|place| self.exact.get_mut(place)) {
            Some(exact) => *exact = Some(range),
            None => {
                self.beyond = self.beyond.saturating_add(1);
                self.hull = Some(self.hull.map_or(range, |hull| hull.hull(range)));
            }
        }
        self.each(range, round);
        Open { range, place, began: self.serial, windows: 0 }
    }

    /// Names every notifier that is not leaving, with a range.
    pub(crate) fn each(&mut self, range: AddrRange, round: &mut Round<P>) {
        for (entry, call) in self.entries.iter_mut().zip(&mut round.calls) {
            if let Some(entry) = entry.as_mut().filter(|entry| !entry.leaving) {
                entry.calls = entry.calls.saturating_add(1);
                *call = Some((entry.notifier.clone(), range));
            }
        }
    }

    /// Closes a change, and says in which notifiers a window ends.
    pub(crate) fn close(&mut self, open: &Open, round: &mut Round<P>) {
        match open.place.and_then(|place| self.exact.get_mut(place)) {
            Some(exact) => *exact = None,
            None => {
                self.beyond = self.beyond.saturating_sub(1);
                if self.beyond == 0 {
                    self.hull = None;
                }
            }
        }
        let bits = (0..).map(|bit| open.windows.checked_shr(bit).is_some_and(|word| word & 1 != 0));
        for ((entry, call), asked) in self.entries.iter_mut().zip(&mut round.calls).zip(bits) {
            let Some(entry) = entry.as_mut().filter(|entry| !entry.leaving) else { continue };
            let window = if entry.serial <= open.began {
                // Registered before the start, which may have unwound or been refused before it
                // came to this one.
                asked.then_some(open.range)
            } else if open.place.is_some() {
                Some(open.range)
            } else {
                entry.late.as_mut().and_then(|(left, hull)| {
                    *left = left.saturating_sub(1);
                    (*left == 0).then_some(*hull)
                })
            };
            if let Some(window) = window {
                entry.calls = entry.calls.saturating_add(1);
                *call = Some((entry.notifier.clone(), window));
            }
        }
        self.ended = self.ended.wrapping_add(1);
        if let Some(newest) = self.history.get_mut(place_of(self.ended)) {
            *newest = Some(open.range);
        }
    }

    /// The calls of a round are done. Returns whether somebody may wait for that.
    pub(crate) fn done(&mut self, called: u16) -> bool {
        let mut waited = false;
        let bits = (0..).map(|bit| called.checked_shr(bit).is_some_and(|word| word & 1 != 0));
        for (entry, _) in self.entries.iter_mut().zip(bits).filter(|(_, called)| *called) {
            if let Some(entry) = entry {
                entry.calls = entry.calls.saturating_sub(1);
                waited |= entry.leaving && entry.calls == 0;
            }
        }
        waited
    }

    pub(crate) fn ended(&self) -> u64 {
        self.ended
    }

    pub(crate) fn open_changes(&self) -> usize {
        self.exact.iter().flatten().count().saturating_add(self.beyond)
    }

    /// Whether every byte of `range` lies in a change that is open, or has ended since `ended` was
    /// read.
    pub(crate) fn was_bracketed(&self, range: AddrRange, ended: u64) -> Bracketed {
        let since = self.ended.wrapping_sub(ended);
        let known = usize::try_from(since).unwrap_or(usize::MAX).min(HISTORY);
        let lately = (0..known as u64)
            .filter_map(|back| self.history.get(place_of(self.ended.wrapping_sub(back))).copied().flatten());
        let brackets = || self.exact.iter().copied().flatten().chain(lately.clone());
        let mut at = range.start();
        while let Some(reached) =
            brackets().filter(|r| r.start() <= at && at <= r.last()).map(AddrRange::last).max()
        {
            match reached.checked_add(1) {
                Some(next) if next <= range.last() => at = next,
                _ => return Bracketed::Yes,
            }
        }
        if self.beyond != 0 || since > HISTORY as u64 { Bracketed::Unknown } else { Bracketed::No }
    }
}

/// Where the history keeps the change that ended as the `n`th.
fn place_of(n: u64) -> usize {
    n.checked_rem(HISTORY as u64).and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

impl<P: Platform> Round<P> {
    pub(crate) fn new() -> Self {
        Self { calls: [const { None }; MAX_NOTIFIERS] }
    }
}
