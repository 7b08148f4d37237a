//! Drivers that call back into the crate.

use crate::{Dma, World};
use core::time::Duration;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use userptr::platforms::std::Std;
use userptr::{Device, Error, Event, Outcome, Prepare, UserPtr};
use userptr_sim::{DmaMap, Space};

/// A driver that calls into the crate from inside its own callbacks, and panics when it is told to.
struct Rude {
    object: OnceLock<UserPtr<Rude>>,
    panics: AtomicUsize,
    events: AtomicUsize,
    inner: Dma,
}

impl Rude {
    fn meddle(&self) {
        let Some(object) = self.object.get() else { return };
        let _ = (object.state(), object.leases(), object.handles(), object.is_revoke_pending());
        let _ = object.reset();
        object.advise_wanted(false);
        drop(object.clone());
        drop(object.try_acquire());
        let _ = object.record().existing_notifier().map(|notifier| notifier.stats());
        let _ = (object.context().stats(), object.context().registry().len());
    }

    fn panic_if_told(&self, place: usize) {
        assert!(self.panics.load(Ordering::Relaxed) != place, "told to");
    }
}

impl Device for Rude {
    type Space = Space<Std>;
    type Map = DmaMap;

    fn prepare(&self, what: Prepare<'_, Space<Std>>) -> Result<DmaMap, Error> {
        self.meddle();
        self.panic_if_told(1);
        self.inner.prepare(what)
    }
    fn stop(&self, map: &DmaMap) {
        self.meddle();
        self.panic_if_told(2);
        self.inner.stop(map);
    }
    fn wait_idle(&self, map: &DmaMap, timeout: Option<Duration>) -> Outcome {
        self.meddle();
        self.panic_if_told(3);
        self.inner.wait_idle(map, timeout)
    }
    fn unmap(&self, map: DmaMap) {
        self.meddle();
        self.inner.unmap(map);
        self.panic_if_told(4);
    }
    fn event(&self, _: Event) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.meddle();
        self.panic_if_told(5);
    }
}

#[test]
fn a_driver_that_meddles_and_panics() {
    for place in 0..=5 {
        let world = World::new();
        let inside = world.machine.enter(&world.process);
        let inner = Dma::new(&world.machine);
        let rude =
            Rude { object: OnceLock::new(), panics: AtomicUsize::new(0), events: AtomicUsize::new(0), inner };
        let running = world.spawn(rude);
        let object = world.object(&running);
        assert!(running.device().object.set(object.clone()).is_ok());
        drop(object.acquire().unwrap());
        running.device().panics.store(place, Ordering::Relaxed);
        let tried = std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| {
            let revoked = object.put_pages();
            (revoked, object.acquire().map(drop))
        }));
        assert_eq!(tried.is_err(), place != 0, "place {place}");
        running.device().panics.store(0, Ordering::Relaxed);
        // Nobody is left waiting, whatever became of the object.
        let _ = running.retry_quarantined();
        let _ = object.put_pages();
        let _ = object.acquire().map(drop);
        assert!(running.device().events.load(Ordering::Relaxed) > 0);
        drop(inside);
        world.unmap();
        drop((object, running));
    }
}
