//! Taking registrations out: what was invalidated, and what has to make room.

use super::Shared;
use super::slots::Hold;
use super::table::{Phase, Table};
use userptr::device::PlatformOf;
use userptr::notifier::State;
use userptr::platform::Platform;
use userptr::{Device, Error, UserPtr};

/// The most registrations that one look-up releases for others.
const RELEASED: usize = 8;
/// Registrations that are taken out under the lock, and released after it: dropped by the caller.
pub(super) struct Released<D: Device>([Option<UserPtr<D>>; RELEASED]);

impl<D: Device> Released<D> {
    pub(super) fn new() -> Self {
        Self([const { None }; RELEASED])
    }

    pub(super) fn room(&self) -> usize {
        self.0.iter().filter(|object| object.is_none()).count()
    }

    pub(super) fn count(&self) -> usize {
        RELEASED.saturating_sub(self.room())
    }

    fn put(&mut self, object: Option<UserPtr<D>>) {
        if let Some(place) = self.0.iter_mut().find(|place| place.is_none()) {
            *place = object;
        }
    }
}

impl<D: Device> Shared<D> {
    /// Calls something that may meet a limit: while it does, and something can be evicted, evicts
    /// and calls again. First one registration, then twice as many each time, up to [`RELEASED`].
    /// At most as many calls as there are slots: others may fill what was emptied.
    pub(super) fn with_room<T>(&self, mut call: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        let mut each = 1_usize;
        for _ in 0..self.slots.len() {
            match call() {
                // ENOMEM, and the limits of the platform.
                Err(error) if matches!(error.errno(), 12 | 28) => {
                    let mut released = Released::new();
                    let ran_out = self.locked(|table| {
                        let ran_out = (0..each).any(|_| !self.evict(table, &mut released));
                        // Also what a merge or another look-up closed.
                        self.collect(table, &mut released);
                        ran_out
                    });
                    if ran_out && released.count() == 0 {
                        return Err(error);
                    }
                    each = each.saturating_mul(2).min(RELEASED);
                }
                done => return done,
            }
        }
        call()
    }

    /// Takes the clock's next victim out. `false`: everything is in use, which takes two turns of
    /// the hand to find out.
    pub(super) fn evict(&self, table: &mut Table, released: &mut Released<D>) -> bool {
        let idle = |slot| self.slots.is_unused(slot) && !self.slots.take_found(slot);
        let Some(slot) = table.victim(idle) else { return false };
        table.counts.evictions = table.counts.evictions.wrapping_add(1);
        self.close(table, slot);
        self.collect(table, released);
        true
    }

    /// Looks at up to `most` registrations, and takes out those that were invalidated.
    pub(super) fn sweep(&self, table: &mut Table, most: usize, released: &mut Released<D>) {
        let mut found = false;
        for _ in 0..most.min(self.slots.len()) {
            let Some(slot) = table.sweep() else { continue };
            // SAFETY: the slot is open, and the lock is held.
            if unsafe { self.slots.peek(slot) }.is_some_and(|object| object.state() != State::Ready) {
                self.mark_dead(table, slot);
                found = true;
            }
        }
        if found {
            self.publish(table);
        }
        self.collect(table, released);
    }

    /// Empties closed slots that nobody uses, as many as there is room for.
    fn collect(&self, table: &mut Table, released: &mut Released<D>) {
        let room = released.room();
        table.collect(
            room,
            |slot| self.slots.is_unused(slot),
            // SAFETY: closed, with a full fence since, and unused.
            |slot| released.put(unsafe { self.slots.take(slot) }),
        );
    }

    /// Closes a slot to new users, for good.
    pub(super) fn close(&self, table: &mut Table, slot: usize) {
        self.mark_closed(table, slot);
        self.publish(table);
    }

    /// Closes a slot. Owes, under the same lock: [`publish`](Self::publish), once for any number.
    fn mark_closed(&self, table: &mut Table, slot: usize) {
        table.close(slot);
        self.slots.close(slot);
    }

    /// Makes known what was closed.
    fn publish(&self, table: &mut Table) {
        self.index.publish(&mut table.draft);
        // ORDERING: store buffering with a look-up (C3): there the count, fence, then the version
        // or the generation; here both of these, fence, then the counts.
        // - If our fence comes first, the look-up finds another version, and backs out.
        // - If its fence comes first, we find its count, and leave the object in its place.
        PlatformOf::<D>::fence();
    }

    /// As [`mark_closed`](Self::mark_closed), for a registration that was invalidated.
    fn mark_dead(&self, table: &mut Table, slot: usize) {
        table.died(slot, self.slots.is_new(slot));
        self.mark_closed(table, slot);
    }

    /// Takes out a registration that a look-up found without pages, if it is still the same.
    pub(super) fn retire(&self, hold: Hold<'_, D>, generation: usize) {
        let slot = hold.slot();
        drop(hold);
        let mut released = Released::new();
        self.locked(|table| {
            let open = table.entry(slot).is_some_and(|entry| entry.phase == Phase::Open);
            if open && self.slots.generation(slot) == generation {
                self.mark_dead(table, slot);
                self.publish(table);
            }
            self.collect(table, &mut released);
        });
    }
}
