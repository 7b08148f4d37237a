//! The threads.

use super::buffers::{BUFFERS, Buffer, Failure, Hand, World};
use super::changes;
use super::plan::{Mode, Plan, Tally};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use userptr_linux::{Linux, Options, OwnMemory};
#[cfg(feature = "exact")]
use {
    super::bracketed,
    super::buffers::{ELSEWHERE, PAGE, PLACE, STEP},
    userptr::AddrRange,
    userptr::platforms::std::Std,
    userptr_explicit::Explicit,
    userptr_linux::exact,
};

/// Operations between two looks at the clock and the count.
const BATCH: u64 = 64;
const TICK: Duration = Duration::from_millis(100);

/// Runs a plan. `progress` is called now and then with the number of operations so far. The reason
/// if the host does not let it run at all.
pub(crate) fn run(plan: Plan, progress: &mut dyn FnMut(u64)) -> Result<Tally, Failure> {
    match plan.mode {
        #[cfg(feature = "exact")]
        Mode::Explicit | Mode::Exact => run_on(plan, bracketed_space(plan.mode)?, progress),
        mode => {
            let options = Options { strict: mode == Mode::Strict, ..Options::default() };
            let space = Linux::with(options)?;
            let mut total = run_on(plan, space.clone(), progress)?;
            total.overdue = space.stats().overdue;
            Ok(total)
        }
    }
}

/// An address space with exact starts and ends: for the process's life.
#[cfg(feature = "exact")]
fn bracketed_space(mode: Mode) -> Result<Explicit<Std>, Failure> {
    let space = Explicit::new(PAGE)?;
    if mode == Mode::Exact {
        let arena = |start| AddrRange::new(start, BUFFERS * STEP);
        // Nothing closes a listener.
        std::mem::forget(exact::open(&space, &[arena(PLACE)?, arena(ELSEWHERE)?])?);
    } else if bracketed::SPACE.set(space.clone()).is_err() {
        return Err("one run in a process".into());
    }
    Ok(space)
}

fn run_on<S: OwnMemory>(plan: Plan, space: S, progress: &mut dyn FnMut(u64)) -> Result<Tally, Failure> {
    let world = World::new(plan, space)?;
    let buffers: Result<Vec<_>, _> = (0..BUFFERS).map(|n| Buffer::new(&world, n).map(Mutex::new)).collect();
    let buffers = buffers.map_err(|why| match plan.mode {
        Mode::Control => format!("the control needs CAP_SYS_ADMIN: {why}"),
        _ => why.to_string(),
    })?;
    let (done, began) = (AtomicU64::new(0), Instant::now());
    let over = || done.load(Ordering::Relaxed) >= plan.operations || began.elapsed() >= plan.time;
    let total = Mutex::new(Tally::default());
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for thread in 0..plan.threads as u64 {
            let (world, buffers, total, failed, done, over) =
                (&world, &buffers[..], &total, &failed, &done, &over);
            scope.spawn(move || {
                let mut life = 0;
                while !over() {
                    life += 1;
                    let seed = plan.seed.wrapping_add(thread << 32).wrapping_add(life);
                    // A thread of its own for each life, so that threads come and go.
                    let lived = std::thread::scope(|scope| {
                        scope.spawn(|| live(world, buffers, seed, done, over)).join()
                    });
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    match lived {
                        Ok(Ok(tally)) => total.add(tally),
                        Ok(Err(why)) => {
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
                            break;
                        }
                        Err(_) => break,
                    }
                }
            });
        }
        while !over() && failed.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
            progress(done.load(Ordering::Relaxed));
            std::thread::sleep(TICK);
        }
    });
    progress(done.load(Ordering::Relaxed));
    if let Some(why) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(why);
    }
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.quarantined = world.context.stats().quarantined as u64;
    Ok(total)
}

/// The life of one thread.
fn live<S: OwnMemory>(
    world: &World<S>,
    buffers: &[Mutex<Buffer<S>>],
    seed: u64,
    done: &AtomicU64,
    over: &dyn Fn() -> bool,
) -> Result<Tally, Failure> {
    let mut hand = Hand::new(world, seed)?;
    hand.tally.threads += 1;
    for operation in 1..=world.plan.life {
        if operation.is_multiple_of(BATCH) {
            done.fetch_add(BATCH, Ordering::Relaxed);
            if over() {
                break;
            }
        }
        hand.tally.operations += 1;
        step(buffers, &mut hand);
    }
    Ok(hand.tally)
}

/// One operation.
fn step<S: OwnMemory>(buffers: &[Mutex<Buffer<S>>], hand: &mut Hand<'_, S>) {
    let number = hand.random.usize(..buffers.len());
    let which = hand.random.u32(..1000);
    let discards = hand.world.plan.discards;
    let done = match hand.random.u32(..4000) {
        0 => changes::fork(hand),
        // Memory of the allocator lies in no arena and has no brackets.
        1..7 if hand.world.plan.mode.is_bracketed() => return,
        1..4 => changes::allocate(hand),
        4..7 => changes::heap(hand),
        _ => {
            let mut buffer = buffers[number].lock().unwrap_or_else(PoisonError::into_inner);
            let changes = !buffer.is_quiet() || !buffer.mapped || hand.random.u32(..500) == 0;
            let done = if changes && which < discards {
                changes::discard(&mut buffer, hand)
            } else if changes && which < discards + 40 {
                changes::remap(&mut buffer, hand)
            } else if changes && which < discards + 43 {
                changes::reuse(&mut buffer, hand)
            } else if changes && which < discards + 45 {
                buffer.register_again(hand.world);
                Ok(())
            } else {
                buffer.check(hand, false);
                return;
            };
            if done.is_err() {
                buffer.clear();
            }
            if hand.random.bool() {
                buffer.check(hand, true);
            }
            done
        }
    };
    hand.tally.skipped += u64::from(done.is_err());
}
