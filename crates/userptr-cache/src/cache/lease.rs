//! What a look-up gives.

use super::slots::Hold;
use core::fmt;
use userptr::{AddrRange, Device, Lease, OwnedLease, UserPtr};

/// Names a registration of a cache, as long as it is kept: for programs that hand a key to others.
/// After an invalidation or an eviction it names nothing, whatever is registered in its place: see
/// [`Cache::at`](super::Cache::at).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    pub(super) slot: usize,
    /// Odd.
    pub(super) generation: usize,
}

/// A lease on the registration that serves a look-up: the device may use the memory while it lives,
/// and an invalidation waits for it. What holds for the core's [`Lease`] holds for this one.
///
/// It stays in its thread; [`into_owned`](Self::into_owned) makes one that may leave it.
#[must_use = "the pages may be released as soon as the lease is dropped"]
pub struct CacheLease<'c, D: Device> {
    pub(super) kind: Kind<'c, D>,
    pub(super) offset: usize,
}

pub(super) enum Kind<'c, D: Device> {
    /// In this order they are dropped: the lease reads the object that the hold keeps in its place.
    Kept { lease: Lease<'c, D>, hold: Hold<'c, D> },
    /// A registration that is not kept. It ends with the lease.
    Once(OwnedLease<D>),
}

impl<D: Device> CacheLease<'_, D> {
    /// Returns where the memory begins that was asked for, in bytes from the start of the
    /// registration.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Returns the registration.
    #[must_use]
    pub fn object(&self) -> &UserPtr<D> {
        match &self.kind {
            Kind::Kept { lease, .. } => lease.object(),
            Kind::Once(lease) => lease.object(),
        }
    }

    /// Returns the range of the registration: whole pages, which contain what was asked for.
    #[must_use]
    pub fn range(&self) -> AddrRange {
        self.object().range()
    }

    /// Returns the device's mapping of the whole registration.
    #[must_use]
    pub fn map(&self) -> &D::Map {
        match &self.kind {
            Kind::Kept { lease, .. } => lease.map(),
            Kind::Once(lease) => lease.map(),
        }
    }

    /// Returns the core's lease, for a device that asks for one. `None`: the registration is not
    /// kept; use [`into_owned`](Self::into_owned).
    #[must_use]
    pub fn as_lease(&self) -> Option<&Lease<'_, D>> {
        match &self.kind {
            Kind::Kept { lease, .. } => Some(lease),
            Kind::Once(_) => None,
        }
    }

    /// Returns whether an invalidation waits for this lease.
    #[must_use]
    pub fn is_revoked(&self) -> bool {
        match &self.kind {
            Kind::Kept { lease, .. } => lease.is_revoked(),
            Kind::Once(lease) => lease.is_revoked(),
        }
    }

    /// Says that the device wrote, or will: see [`Lease::mark_written`](userptr::userptr::LeaseOf).
    pub fn mark_written(&self) {
        match &self.kind {
            Kind::Kept { lease, .. } => lease.mark_written(),
            Kind::Once(lease) => lease.mark_written(),
        }
    }

    /// Returns the name of the registration. `None`: it is not kept.
    #[must_use]
    pub fn handle(&self) -> Option<Handle> {
        match &self.kind {
            // Closed meanwhile: the next generation is even.
            Kind::Kept { hold, .. } => Some(hold.handle()).filter(|handle| handle.generation & 1 == 1),
            Kind::Once(_) => None,
        }
    }

    /// Converts it into a lease with a handle of its own, which may outlive the cache and go to
    /// another thread, and the [`offset`](Self::offset). The registration is counted as unused from
    /// here on: it may be evicted, and is released then after this lease.
    pub fn into_owned(self) -> (OwnedLease<D>, usize) {
        let owned = match self.kind {
            Kind::Kept { lease, hold } => {
                let owned = lease.into_owned();
                drop(hold);
                owned
            }
            Kind::Once(lease) => lease,
        };
        (owned, self.offset)
    }
}

impl<D: Device> fmt::Debug for CacheLease<'_, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheLease({} bytes into {:?})", self.offset, self.object())
    }
}
