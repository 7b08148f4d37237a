//! Strict mode's part of the monitor: an unmapper waits, because its message is not read, until the
//! devices are idle.

use super::Shared;
use super::channels::Channels;
use super::monitor::count;
use super::regions::Regions;
use super::uffd::Events;
use core::time::Duration;
use std::time::Instant;
use std::vec::Vec;
use userptr::AddrRange;
use userptr::notifier::Outcome;

/// How often a held unmapper's devices are looked at.
pub(super) const TICK: Duration = Duration::from_micros(100);

/// A channel whose message was not read.
#[derive(Debug)]
pub(super) struct Held {
    index: usize,
    /// The region at the time: its window is open. `None`: a channel without one, where nobody needs
    /// to wait.
    range: Option<AddrRange>,
    until: Instant,
}

impl Shared {
    /// A channel has a message: closes what is leased in its region. Nobody is let go yet.
    pub(super) fn hold(&self, regions: &Regions, index: usize, held: &mut Vec<Held>) {
        // Room for every channel, once each: this never allocates.
        if held.len() == held.capacity() || held.iter().any(|held| held.index == index) {
            return;
        }
        let range = regions.range(index);
        if let Some(range) = range {
            self.begin(&self.told(), range);
        }
        let now = Instant::now();
        held.push(Held { index, range, until: now.checked_add(self.options.hold).unwrap_or(now) });
    }

    /// Lets those go whose devices are idle, or were given up on, or have had their time.
    pub(super) fn let_go(&self, channels: &Channels, held: &mut Vec<Held>, events: &mut Events) {
        let super::Watch::Regions(regions) = &self.watch else { return };
        held.retain(|held| {
            if let Some(range) = held.range
                && regions.range(held.index) == Some(range)
            {
                match self.told().outcome(range) {
                    None if Instant::now() < held.until => return true,
                    Some(Outcome::Idle) => {}
                    // Quarantined, and reported as that: waiting longer is of no use.
                    None | Some(_) => count(&self.counters.overdue),
                }
            }
            if let Some(channel) = channels.get(held.index) {
                let end = || held.range.into_iter().for_each(|range| self.told().end(range));
                channel.read_all(events, |events| self.pass_on(events), end);
            }
            channels.arm(held.index);
            false
        });
    }
}
