//! Scenario 66: every allocation fails once.

use crate::world::{Host, World};
use userptr::{Client, Error, Flags};
use userptr_sim::PAGE;

/// Fails each allocation of a whole life in turn.
fn s66_the_nth_allocation_fails<P: Host>() {
    let mut failures = 0;
    for n in 1.. {
        let w = World::<P>::new();
        let _in = w.enter();
        w.record().set_capable(true);
        let a = w.memory(3);
        w.process.dontneed(a + 2 * PAGE, PAGE);
        w.machine.meter().fail_nth(n);
        let life = || -> Result<(), Error> {
            let client = Client::open(w.ctx.clone())?;
            for flags in [0, Flags::READ_ONLY.bits(), Flags::UNSYNCHRONIZED.bits()] {
                let handle = client.create(&w.space(), a, 3 * PAGE, flags)?;
                let object = client.lookup(handle)?;
                for _ in 0..4 {
                    match object.try_acquire() {
                        Ok(lease) => drop(lease),
                        Err(Error::Again) => w.work(),
                        Err(error) => return Err(error),
                    }
                }
                object.export()?;
                drop(object.try_acquire());
                w.work();
            }
            let mut more = Vec::new();
            for _ in 0..20 {
                more.push(client.create(&w.space(), a, PAGE, 0)?);
            }
            Ok(())
        };
        let result = life();
        let failed = w.machine.meter().failed();
        w.machine.meter().fail_nth(0);
        w.work();
        if failed == 0 {
            assert_eq!(result, Ok(()));
            assert!(n > 15, "{n} allocations in a whole life");
            w.finish();
            break;
        }
        failures += 1;
        assert!(matches!(result, Err(Error::NoMemory) | Ok(())), "allocation {n}: {result:?}");
        // Nothing leaked, and everything works again.
        let object = w.create(a, 3);
        drop(w.lease(&object));
        drop(object);
        w.finish();
    }
    assert!(failures > 15);
}

fn s66_a_context_that_cannot_be_made<P: Host>() {
    use userptr::Context;
    for n in 1..=3 {
        let w = World::<P>::new();
        let _in = w.enter();
        let live = w.machine.meter().live();
        w.machine.meter().fail_nth(n);
        let made = Context::builder(crate::world::Device::<P>::new(&w.machine))
            .pin_queue(w.pin_queue.clone())
            .release_queue(w.release_queue.clone())
            .build();
        assert_eq!(made.err().map(|rejected| rejected.error), Some(Error::NoMemory), "allocation {n}");
        assert_eq!(w.machine.meter().live(), live);
        w.finish();
    }
}

crate::on_host! {
    metered, userptr_sim::platform::Sim;
    s66_the_nth_allocation_fails,
    s66_a_context_that_cannot_be_made,
}
