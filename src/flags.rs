//! The flags of a registration.

use crate::error::Error;

/// How an object may be used. The bits are the reference's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Flags(u32);

impl Flags {
    /// Synchronised, read and write.
    pub const NONE: Self = Self(0);
    /// The device only reads; the pages are never dirtied.
    pub const READ_ONLY: Self = Self(1);
    /// No notifications: the caller must ensure that the mapping does not change. Needs privilege.
    pub const UNSYNCHRONIZED: Self = Self(1 << 31);

    const KNOWN: u32 = Self::READ_ONLY.0 | Self::UNSYNCHRONIZED.0;

    /// Makes flags of the bits that a caller gave.
    ///
    /// # Errors
    /// [`Error::UnknownFlag`] for an unknown bit.
    pub const fn from_bits(bits: u32) -> Result<Self, Error> {
        if bits & !Self::KNOWN == 0 { Ok(Self(bits)) } else { Err(Error::UnknownFlag) }
    }

    /// Returns the bits.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Returns the flags of both; the same as `self | more`, also in constants.
    #[must_use]
    pub const fn with(self, more: Self) -> Self {
        Self(self.0 | more.0)
    }

    /// Returns whether all bits of `other` are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl core::ops::BitOr for Flags {
    type Output = Self;
    fn bitor(self, more: Self) -> Self {
        self.with(more)
    }
}

impl core::ops::BitOrAssign for Flags {
    fn bitor_assign(&mut self, more: Self) {
        *self = self.with(more);
    }
}
