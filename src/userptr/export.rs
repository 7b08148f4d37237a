//! Export: an unsynchronised object that somebody else is going to see becomes a synchronised one.

use super::RETRIES;
use super::lease::is_held_here;
use super::object::{UserPtr, UserPtrRef};
use crate::device::Device;
use crate::error::Error;
use crate::notifier::Notifier;

impl<D: Device> UserPtr<D> {
    /// Makes sure that invalidations reach the object before it is shared. Once is enough, twice is the same (rule 21).
    ///
    /// Pages that it has are revoked: they predate the watch and may be stale already. The next acquire pins again. The caller
    /// holds no lease.
    ///
    /// # Errors
    /// [`Error::NoDevice`] if the host cannot notify, those of the registration, [`Error::TimedOut`] or [`Error::DeviceLost`] if the
    /// pages cannot be revoked, [`Error::Busy`] if the object kept being acquired, [`Error::Deadlock`] if this thread is known to hold a
    /// lease on it.
    ///
    /// Source: `i915_gem_userptr_dmabuf_export`.
    pub fn export(this: &UserPtrRef<D>) -> Result<(), Error> {
        if this.is_watched() {
            return Ok(());
        }
        if is_held_here(this) {
            return Err(Error::Deadlock);
        }
        this.record.notifier()?;
        for _ in 0..RETRIES {
            Notifier::revoke(this).into_result()?;
            if Notifier::move_home(this, this.context.unwatched(), || this.set_watched()) {
                return Ok(());
            }
            // Somebody has acquired it meanwhile.
        }
        Err(Error::Busy)
    }
}
