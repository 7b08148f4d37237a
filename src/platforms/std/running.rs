//! A context with threads of its own.

use super::workers::{Threads, Workers};
use crate::address_space::AddressSpace;
use crate::context::{Context, ContextBuilder};
use crate::device::{Device, PlatformOf};
use crate::error::{Error, Rejected};
use core::ops::Deref;
use std::fmt;

extern crate std;

/// A [`Context`] with the threads that pin, revoke and release for it. Made by
/// [`ContextBuilder::spawn`]; derefs to the context.
///
/// It may be dropped at any time. Objects that are left keep the context and its threads until they
/// are dropped.
pub struct Running<D: Device<Space: AddressSpace<Platform: Threads>>> {
    // Dropped in this order: the context first, so that with the last object gone each queue can
    // end, then the queues, each of which may still feed the next.
    context: Context<D>,
    _pins: Workers<PlatformOf<D>>,
    _revokes: Option<Workers<PlatformOf<D>>>,
    _releases: Workers<PlatformOf<D>>,
}

impl<D: Device<Space: AddressSpace<Platform: Threads>>> ContextBuilder<D> {
    /// Makes the context with threads of its own: one that pins, one that releases, and as many for
    /// revocations as the address space needs.
    ///
    /// # Errors
    /// As [`build`](Self::build), and [`Error::Threads`](crate::Error::Threads).
    pub fn spawn(self) -> Result<Running<D>, Rejected<D>> {
        let revoke_threads = D::Space::REVOKE_THREADS;
        let workers = || -> Result<_, Error> {
            let pins = Workers::<PlatformOf<D>>::start("userptr-pin", 1)?;
            let revokes = match revoke_threads {
                0 => None,
                n => Some(Workers::<PlatformOf<D>>::start("userptr-revoke", n)?),
            };
            Ok((pins, revokes, Workers::<PlatformOf<D>>::start("userptr-release", 1)?))
        };
        let (pins, revokes, releases) = match workers() {
            Ok(workers) => workers,
            Err(error) => return Err(Rejected { value: self.device, error }),
        };
        let mut builder = self.pin_queue(pins.queue().clone()).release_queue(releases.queue().clone());
        if let Some(revokes) = &revokes {
            builder = builder.revoke_queue(revokes.queue().clone());
        }
        let context = builder.build()?;
        Ok(Running { context, _pins: pins, _revokes: revokes, _releases: releases })
    }
}

impl<D: Device<Space: AddressSpace<Platform: Threads>>> Deref for Running<D> {
    type Target = Context<D>;
    fn deref(&self) -> &Context<D> {
        &self.context
    }
}

impl<D: Device<Space: AddressSpace<Platform: Threads>>> fmt::Debug for Running<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.context, f)
    }
}
