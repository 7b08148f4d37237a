//! Scenario 69: after any change has returned, no look-up yields a stale page.

use crate::child::scenario;
use crate::stale::guarded::Guarded;
use crate::stale::io::Cache;
use crate::stale::naive::Naive;
use crate::stale::operations::{OPERATIONS, Tally};
use std::time::Duration;
use userptr_linux::Options;

fn run(cache: &mut dyn Cache, most: u32, check: impl Fn(&str, Tally)) {
    for operation in OPERATIONS {
        let mut tally = Tally::default();
        for attempt in 0..most.min(operation.most) {
            (operation.run)(cache, attempt.into(), &mut tally).unwrap();
            cache.forget();
        }
        check(operation.name, tally);
    }
}

fn all_fresh(name: &str, tally: Tally) {
    assert_eq!((tally.stale, tally.refused), (0, 0), "{name}: {tally:?}");
}

scenario!(s69_no_stale_page_after_any_change, 120, {
    let mut guarded = Guarded::open(Options::default()).unwrap();
    run(&mut guarded, 50, all_fresh);
});

scenario!(
    /// The same without anybody to tell: every attempt must be found out, or the check above says
    /// nothing.
    s69_control_a_naive_cache_is_always_stale,
    120,
    {
        let mut naive = Naive::open().unwrap();
        run(&mut naive, 20, |name, tally| assert_eq!(tally.stale, tally.attempts, "{name}: {tally:?}"));
    }
);

scenario!(s76_strict_mode_has_no_stale_page_either, 120, {
    let options = Options { strict: true, grace: Duration::from_millis(50), ..Options::default() };
    let mut guarded = Guarded::open(options).unwrap();
    run(&mut guarded, 10, all_fresh);
});
