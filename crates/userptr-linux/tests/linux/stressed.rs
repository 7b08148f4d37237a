//! Scenario 136: a short run of the example `stress`.

use crate::child::{become_nobody, scenario};
use crate::stress::plan::{Mode, Plan, Tally};
use crate::stress::run::run;
use std::time::Duration;

fn short(mode: Mode) -> Tally {
    let plan = Plan { mode, time: Duration::from_secs(3), life: 1000, discards: 10, ..Plan::default() };
    let tally = run(plan, &mut |_| {}).unwrap();
    println!("{tally:?}");
    tally
}

/// No stale page, and not because nothing happened.
fn sound(mode: Mode) {
    let tally = short(mode);
    assert_eq!((tally.stale, tally.on_nothing), (0, 0));
    assert_eq!((tally.io_errors, tally.other, tally.timed_out), (0, 0, 0));
    assert_eq!((tally.quarantined, tally.overdue), (0, 0));
    assert!(tally.verified > 100 && tally.fault > 0, "nothing was looked at");
    let heaps = if mode.is_bracketed() { 6 } else { tally.heaps };
    for done in [tally.unmaps, tally.moves, tally.discards, heaps, tally.reuses, tally.threads] {
        assert!(done > 5, "nothing was changed");
    }
}

scenario!(s136_stress_finds_no_stale_page, 60, { sound(Mode::Default) });

scenario!(s136_nor_in_strict_mode, 60, { sound(Mode::Strict) });

#[cfg(feature = "exact")]
scenario!(s283_stress_in_brackets_finds_no_stale_page, 60, { sound(Mode::Explicit) });

#[cfg(feature = "exact")]
scenario!(s283_nor_before_a_listener, 60, { sound(Mode::Exact) });

scenario!(s136_nor_as_nobody, 60, {
    become_nobody();
    sound(Mode::Default);
});

scenario!(
    /// The same without anybody to tell: the check can fail.
    s136_control_it_finds_stale_pages,
    60,
    {
        // SAFETY: takes no pointer.
        if unsafe { libc::geteuid() } != 0 {
            println!("skipped: unsynchronised objects need CAP_SYS_ADMIN");
            return;
        }
        let tally = short(Mode::Control);
        assert!(tally.stale > 100 && tally.on_nothing > 100, "{tally:?}");
    }
);
