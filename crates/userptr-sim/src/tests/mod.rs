//! The machine itself. Each check of it is also seen to fail: what it must report, it is made to
//! report here.

mod engine;
mod memory;
mod notify;

use super::*;
use std::sync::{Arc, Mutex};
use userptr::AddrRange;

fn range(address: usize, len: usize) -> AddrRange {
    AddrRange::new(address, len).unwrap()
}

/// What a subscriber saw.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<(&'static str, usize)>>>);

struct Subscriber {
    log: Log,
    /// Refuses what may not block.
    busy: bool,
}

impl Callbacks for Subscriber {
    fn begin(&self, range: AddrRange, blockable: bool) -> Result<Finish<'_>, Refused> {
        if self.busy && !blockable {
            return Err(Refused);
        }
        self.log.0.lock().unwrap().push(("begin", range.start()));
        Ok(Box::new(move || self.log.0.lock().unwrap().push(("finish", range.start()))))
    }
    fn end(&self, range: AddrRange) {
        self.log.0.lock().unwrap().push(("end", range.start()));
    }
    fn exit(&self) {
        self.log.0.lock().unwrap().push(("exit", 0));
    }
}

impl Log {
    fn subscriber(&self, busy: bool) -> Box<Subscriber> {
        Box::new(Subscriber { log: self.clone(), busy })
    }
    fn take(&self) -> Vec<&'static str> {
        core::mem::take(&mut *self.0.lock().unwrap()).into_iter().map(|(what, _)| what).collect()
    }
}
