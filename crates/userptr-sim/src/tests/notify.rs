//! Callbacks, windows, registrations, steps.

use super::*;
use std::sync::mpsc;
use std::thread;
use userptr::Error;

#[test]
fn a_fork_copies_on_write_and_the_copy_is_an_invalidation() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(PAGE);
    p.store(a, 1).unwrap();
    let page = p.record().page_at(a).unwrap();
    let child = p.fork();
    assert_eq!(m.page(page).maps, 2);
    let log = Log::default();
    let sub = p.record().register(log.subscriber(false)).unwrap();
    p.store(a, 2).unwrap();
    assert_eq!(log.take(), ["begin", "finish", "end"]);
    assert_eq!((p.load(a), child.load(a)), (Ok(2), Ok(1)));
    // The child has it alone by now, and writes in place.
    child.store(a, 3).unwrap();
    assert_eq!((child.record().page_at(a), p.load(a)), (Some(page), Ok(2)));
    // The page of zeros is replaced by an invalidation, too.
    let z = p.mmap(PAGE);
    p.load(z).unwrap();
    p.store(z, 1).unwrap();
    assert_eq!(log.take(), ["begin", "finish", "end"]);
    p.record().unregister(&sub);
    drop((p, child));
    drop(sub);
    m.assert_empty();
}

#[test]
#[should_panic(expected = "code at a seam never ran")]
fn a_seam_that_nobody_reached_is_reported() {
    let m = Machine::new();
    m.once(Seam::Unmap, |_| ());
    m.assert_clean();
}

#[test]
fn the_steps_come_in_order_and_code_runs_between_them() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(PAGE);
    p.store(a, 1).unwrap();
    let log = Log::default();
    let sub = p.record().register(log.subscriber(false)).unwrap();
    let (record, seen) = (p.record().clone(), Arc::new(Mutex::new(Vec::new())));
    for seam in [Seam::Before, Seam::Started, Seam::Cleared, Seam::Freed, Seam::Ended] {
        let (record, seen, log) = (record.clone(), seen.clone(), log.clone());
        m.once_in(Op::Munmap, seam, move |_| {
            let mapped = record.page_at(a).is_some();
            seen.lock().unwrap().push((seam, mapped, log.take().len()));
        });
    }
    p.munmap(a, PAGE);
    let expected = [
        (Seam::Before, true, 0),
        (Seam::Started, true, 2),
        (Seam::Cleared, false, 0),
        (Seam::Freed, false, 0),
        (Seam::Ended, false, 1),
    ];
    assert_eq!(*seen.lock().unwrap(), expected);
    record.unregister(&sub);
    drop((p, record, sub));
    // The closures at the seams are gone, and what they held.
    m.assert_empty();
}

#[test]
fn one_refusal_ends_what_the_others_began() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(PAGE);
    p.store(a, 1).unwrap();
    let (one, two) = (Log::default(), Log::default());
    let first = p.record().register(one.subscriber(false)).unwrap();
    let second = p.record().register(two.subscriber(true)).unwrap();
    assert_eq!(p.reclaim(a, PAGE, false), Err(Refused));
    assert_eq!(one.take(), ["begin", "finish", "end"]);
    assert!(two.take().is_empty());
    assert_eq!(p.load(a), Ok(1));
    assert!(m.try_lock_page(p.record().page_at(a).unwrap()), "the page lock is given back");
    p.reclaim(a, PAGE, true).unwrap();
    assert_eq!(two.take(), ["begin", "finish", "end"]);
    p.record().unregister(&first);
    p.record().unregister(&second);
}

#[test]
fn a_refused_reclaim_leaves_alone_what_was_freed_meanwhile() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(PAGE);
    p.store(a, 1).unwrap();
    let log = Log::default();
    let sub = p.record().register(log.subscriber(true)).unwrap();
    let users = Mutex::new(p.record().users());
    // Reclaim has found the page and holds its page lock.
    m.once_in(Op::Reclaim, Seam::Before, move |_| {
        users.lock().unwrap().take().unwrap().munmap(a, PAGE);
    });
    assert_eq!(p.reclaim(a, PAGE, false), Err(Refused));
    m.assert_clean();
    assert_eq!(m.used(), 0);
    p.record().unregister(&sub);
}

#[test]
fn all_begin_before_one_finishes() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(PAGE);
    let log = Log::default();
    let subs = [(); 2].map(|()| p.record().register(log.subscriber(false)).unwrap());
    p.munmap(a, PAGE);
    assert_eq!(log.take(), ["begin", "begin", "finish", "finish", "end", "end"]);
    for sub in &subs {
        p.record().unregister(sub);
    }
}

#[test]
fn registration_waits_for_open_windows_fails_on_order_and_after_exit() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(PAGE);
    p.store(a, 1).unwrap();
    let log = Log::default();
    m.inject().register(Error::Interrupted);
    assert_eq!(p.record().register(log.subscriber(false)).unwrap_err(), Error::Interrupted);
    let (record, inner) = (p.record().clone(), log.clone());
    let (tx, rx) = mpsc::channel();
    let (begun_tx, begun_rx) = mpsc::channel();
    m.once(Seam::Register, move |_| begun_tx.send(()).unwrap());
    m.once(Seam::Started, move |_| {
        let thread = thread::spawn(move || record.register(inner.subscriber(false)).unwrap());
        tx.send(thread).unwrap();
        begun_rx.recv().unwrap();
    });
    p.reclaim(a, PAGE, true).unwrap();
    let sub = rx.recv().unwrap().join().unwrap();
    assert!(log.take().is_empty(), "it neither saw a start nor the end of a window that was open");
    p.dontneed(a, PAGE);
    assert_eq!(log.take(), ["begin", "finish", "end"]);
    let record = p.record().clone();
    p.exit();
    assert_eq!(log.take(), ["exit"]);
    record.unregister(&sub);
    assert_eq!(record.register(log.subscriber(false)).unwrap_err(), Error::Fault);
    assert!(record.users().is_none());
    assert_eq!(record.registered(), 0);
    drop((record, sub));
    m.assert_empty();
}

#[test]
#[should_panic(expected = "waits for ever")]
fn a_registration_inside_ones_own_window_is_caught() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(PAGE);
    p.store(a, 1).unwrap();
    let record = p.record().clone();
    m.once(Seam::Started, move |_| {
        let _ = record.register(Log::default().subscriber(false));
    });
    let _ = p.reclaim(a, PAGE, true);
}

#[test]
#[should_panic(expected = "mmput while mmap_lock")]
fn users_dropped_under_a_lock_are_caught() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(PAGE);
    let mut users = p.record().users();
    m.once(Seam::Started, move |_| drop(users.take()));
    p.munmap(a, PAGE);
}

#[test]
#[should_panic(expected = "out of order")]
fn the_address_space_lock_is_taken_once() {
    let m = Machine::new();
    let p = m.process();
    let a = p.mmap(PAGE);
    let users = p.record().users().unwrap();
    m.once(Seam::Started, move |_| {
        // The process is leaked: its end would be a second violation on the way out of the first.
        let users = core::mem::ManuallyDrop::new(users);
        let _ = users.fault(a, false);
    });
    p.munmap(a, PAGE);
}
