//! Records of address spaces: found, registered, given back.

use super::Stage;
use super::ext::AddressSpaceSide;
use super::memory::{Machine, Space, touch};
use super::stage::pages;
use std::sync::Arc;
use userptr::{Blockable, Current, Flags, MmRegistry};

/// Look-ups against the last put: the old record or a new one, never a dying one.
pub fn find_against_last_put<P: Stage>() {
    let machine = Machine::<P>::new(Current::This, 1, false);
    let record = machine.record();
    let t = {
        let (registry, memory) = (machine.context.registry().clone(), machine.memory.clone());
        P::spawn(move || {
            let found = MmRegistry::find(&registry, &Space::of(&memory)).unwrap();
            assert_eq!(registry.len(), 1, "two records of one address space");
            drop(found);
        })
    };
    drop(record);
    drop(machine.record());
    P::join(t);
    machine.assert_quiet();
}

/// Two threads want the notifier: both get the same, and it is registered by then; the loser's is
/// not, in the end.
pub fn notifier_published_once<P: Stage>() {
    let machine = Machine::<P>::new(Current::This, 1, false);
    let record = machine.record();
    let t = {
        let (record, memory) = (record.clone(), machine.memory.clone());
        P::spawn(move || {
            let home = record.notifier().unwrap().clone();
            assert!(memory.is_registered(&home), "published before it was registered");
        })
    };
    let home = record.notifier().unwrap().clone();
    assert!(machine.memory.is_registered(&home), "published before it was registered");
    P::join(t);
    assert!(userptr::Ref::ptr_eq(&home, record.notifier().unwrap()));
    drop(home);
    drop(record);
    machine.assert_quiet();
}

/// The record is given back while a callback runs in its notifier: the release waits for it, then
/// unregisters.
pub fn unregister_against_callback<P: Stage>() {
    let machine = Machine::<P>::new(Current::This, 1, false);
    let record = machine.record();
    record.notifier().unwrap();
    let t = {
        let memory = Arc::clone(&machine.memory);
        P::spawn(move || memory.change(pages(0, 1)))
    };
    drop(record);
    while machine.release_queue.run_one() {}
    P::join(t);
    machine.assert_quiet();
}

/// A queued cancel drops the last reference to the object, and with it the record's; the record's
/// release waits for the cancel.
pub fn last_record_in_queued_cancel<P: Stage>() {
    let machine = Machine::<P>::new(Current::This, 1, true);
    let object = machine.object(0, Flags::NONE);
    touch(&machine, &object).unwrap();
    let home = object.record().notifier().unwrap().clone();
    home.invalidate_start(pages(0, 1), Blockable::Yes).unwrap().finish_without_waiting();
    home.end(pages(0, 1));
    let w = {
        let revokes = machine.revoke_queue.clone().unwrap();
        P::spawn(move || {
            revokes.run_one();
        })
    };
    drop(object);
    drop(home);
    while machine.release_queue.run_one() {}
    P::join(w);
    machine.assert_quiet();
}

/// A queued revocation has the last reference: the object is freed by the release queue, and not by
/// the thread that an unmapper waits for.
pub fn last_reference_in_a_revocation<P: Stage>() {
    let machine = Machine::<P>::new(Current::This, 1, true);
    let object = machine.object(0, Flags::NONE);
    touch(&machine, &object).unwrap();
    let home = object.record().notifier().unwrap().clone();
    home.invalidate_start(pages(0, 1), Blockable::Yes).unwrap().finish_without_waiting();
    home.end(pages(0, 1));
    drop(object);
    drop(home);
    let w = {
        let revokes = machine.revoke_queue.clone().unwrap();
        P::spawn(move || {
            revokes.run_one();
        })
    };
    let freed = machine.release_queue.run_one();
    P::join(w);
    P::met(if freed { "freed meanwhile" } else { "freed later" });
    if !freed {
        // The object's own handle of the context is there, so the object is.
        assert_eq!(machine.context.handles(), 2, "freed in the revocation");
        assert!(machine.release_queue.run_one());
        assert_eq!(machine.context.handles(), 1);
    }
    machine.assert_quiet();
}
