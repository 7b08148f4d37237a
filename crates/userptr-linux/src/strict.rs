//! Strict mode's part of the monitor: an unmapper waits, because its message is not read, until the
//! devices are idle.

use super::Shared;
use super::channels::Channels;
use super::monitor::count;
use super::regions::Regions;
use super::uffd::Events;
use core::sync::atomic::Ordering;
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
    /// The region at the time: its window is open. `None`: a channel without one, where nobody
    /// needs to wait.
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
        held.push(self.held(index, regions.range(index)));
    }

    /// Opens the window of a region whose unmapper waits from now on.
    fn held(&self, index: usize, range: Option<AddrRange>) -> Held {
        if let Some(range) = range {
            let panics = self.told().hold(range);
            self.counters.panics.fetch_add(panics, Ordering::Relaxed);
        }
        let now = Instant::now();
        Held { index, range, until: now.checked_add(self.options.hold).unwrap_or(now) }
    }

    fn end_window(&self, range: Option<AddrRange>) {
        if let Some(range) = range {
            self.told().let_go(range);
        }
    }

    /// Lets those go whose devices are idle, or were given up on, or have had their time.
    pub(super) fn let_go(&self, channels: &Channels, held: &mut Vec<Held>, events: &mut Events) {
        let super::Watch::Regions(regions) = &self.watch else { return };
        held.retain_mut(|held| {
            let range = regions.range(held.index);
            if range != held.range {
                // The region ended, or the channel is another one's by now: from the beginning.
                self.end_window(held.range);
                *held = self.held(held.index, range);
            }
            if let Some(range) = held.range {
                match self.told().outcome(range) {
                    None if Instant::now() < held.until => return true,
                    Some(Outcome::Idle) => {}
                    // Quarantined, and reported as that: waiting longer is of no use.
                    None | Some(_) => count(&self.counters.overdue),
                }
            }
            // Until its end the window keeps everything out of the region: whoever comes while this
            // reads has to wait for nobody either.
            if let Some(channel) = channels.get(held.index) {
                channel.read_all(events, |events| self.pass_on(events), || self.end_window(held.range));
            }
            channels.arm(held.index);
            false
        });
    }
}
