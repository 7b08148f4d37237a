//! What a device of this crate needs of an address space: pages that are virtual numbers of this
//! process, and a way back to quarantined objects.

use crate::{Linux, Space};
use std::sync::{Arc, Weak};
use userptr::AddrRange;
use userptr::address_space::AddressSpace;
use userptr::platforms::std::Std;
#[cfg(feature = "exact")]
use userptr_explicit::Explicit;

/// An address space of the calling process, whose pages are numbers of virtual pages: [`Linux`],
/// and with the feature `exact` `Explicit<Std>`, bracketed by the program or by a listener.
///
/// Sealed: a device hands the addresses to the kernel, which looks at the memory of this process.
pub trait OwnMemory: AddressSpace<Platform = Std, Page = usize> + sealed::Sealed {}

impl OwnMemory for Linux {}
#[cfg(feature = "exact")]
impl OwnMemory for Explicit<Std> {}

/// A reference to an address space for a device's own thread, which learns that pages are not used
/// any more. It keeps no mapping and no watch.
#[derive(Clone, Debug)]
pub struct Quarantine(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Linux(Weak<Space>),
    /// A counted reference: it keeps a record in memory, and no device registered.
    #[cfg(feature = "exact")]
    Explicit(Explicit<Std>),
}

impl Quarantine {
    /// Tries the quarantined objects again that overlap the range. May free memory, wait for a
    /// device, and drop the address space: call it from a thread that nobody waits for.
    pub(crate) fn retry(&self, range: AddrRange) {
        match &self.0 {
            Kind::Linux(space) => {
                let Some(space) = space.upgrade() else { return };
                for notifier in space.shared.notifiers().into_iter().flatten() {
                    // What is quarantined again is reported as an event.
                    let _ = notifier.retry_quarantined_in(range);
                }
            }
            #[cfg(feature = "exact")]
            Kind::Explicit(space) => {
                let _ = space.retry_quarantined_in(range);
            }
        }
    }
}

mod sealed {
    use super::{Arc, Kind, Linux, Quarantine};

    pub trait Sealed {
        fn quarantine(&self) -> Quarantine;
    }

    impl Sealed for Linux {
        fn quarantine(&self) -> Quarantine {
            Quarantine(Kind::Linux(Arc::downgrade(&self.space)))
        }
    }

    #[cfg(feature = "exact")]
    impl Sealed for super::Explicit<super::Std> {
        fn quarantine(&self) -> Quarantine {
            Quarantine(Kind::Explicit(self.clone()))
        }
    }
}
