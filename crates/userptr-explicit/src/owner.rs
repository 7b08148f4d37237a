//! Who is asking: the process itself, or a forked child ([rule
//! 22](userptr::docs::protocol#rule-22)).

#[cfg(all(feature = "std", unix, not(miri)))]
pub(crate) use process::Owner;

/// Where there is no fork to be noticed: no process, or one that cannot fork.
#[cfg(not(all(feature = "std", unix, not(miri))))]
#[derive(Debug)]
pub(crate) struct Owner;

#[cfg(not(all(feature = "std", unix, not(miri))))]
impl Owner {
    #[allow(clippy::unnecessary_wraps, reason = "as the other one")]
    pub(crate) fn mark() -> Result<Self, userptr::Error> {
        Ok(Self)
    }

    #[inline]
    pub(crate) fn is_me(&self) -> bool {
        true
    }
}

#[cfg(all(feature = "std", target_os = "linux", not(miri)))]
mod process {
    use core::ptr::{self, NonNull};
    use core::sync::atomic::{AtomicUsize, Ordering};
    use userptr::Error;

    /// A page that the kernel empties in every child, whichever way it was forked: the question is
    /// a load. A `vfork`ed child shares the memory and keeps the mark, which is right.
    #[derive(Debug)]
    pub(crate) struct Owner {
        page: NonNull<AtomicUsize>,
    }

    // SAFETY: an atomic word in a mapping that lives as long as this value.
    unsafe impl Send for Owner {}
    // SAFETY: as for `Send`: a shared reference gives the atomic word alone.
    unsafe impl Sync for Owner {}

    /// The kernel rounds it up to a page.
    const BYTES: usize = size_of::<AtomicUsize>();

    impl Owner {
        pub(crate) fn mark() -> Result<Self, Error> {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: a new mapping at a place of the kernel's choice.
            let page = unsafe { libc::mmap(ptr::null_mut(), BYTES, protection, flags, -1, 0) };
            let page = if page == libc::MAP_FAILED { None } else { NonNull::new(page) };
            let this = Self { page: page.ok_or(Error::NoMemory)?.cast() };
            // SAFETY: the mapping that was just made.
            if unsafe { libc::madvise(this.page.as_ptr().cast(), BYTES, libc::MADV_WIPEONFORK) } != 0 {
                return Err(Error::NoMemory);
            }
            this.word().store(1, Ordering::Relaxed);
            Ok(this)
        }

        #[inline]
        pub(crate) fn is_me(&self) -> bool {
            self.word().load(Ordering::Relaxed) != 0
        }

        fn word(&self) -> &AtomicUsize {
            // SAFETY: mapped, aligned to a page, zero or one, until `drop`.
            unsafe { self.page.as_ref() }
        }
    }

    impl Drop for Owner {
        fn drop(&mut self) {
            // SAFETY: our own mapping, not used again.
            unsafe { libc::munmap(self.page.as_ptr().cast(), BYTES) };
        }
    }
}

#[cfg(all(feature = "std", unix, not(target_os = "linux"), not(miri)))]
mod process {
    use core::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::OnceLock;
    use userptr::Error;

    /// How many forks lie between this process and the one that asked first. Counted by a fork
    /// handler, so that the question is a load. A child of a raw `clone` is not noticed.
    static FORKS: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn forked() {
        FORKS.fetch_add(1, Ordering::Relaxed);
    }

    /// The process that made the value.
    #[derive(Debug)]
    pub(crate) struct Owner(usize);

    impl Owner {
        pub(crate) fn mark() -> Result<Self, Error> {
            static INSTALLED: OnceLock<bool> = OnceLock::new();
            // SAFETY: the handler is a function of this program that takes no lock.
            let install = || unsafe { libc::pthread_atfork(None, None, Some(forked)) == 0 };
            if !*INSTALLED.get_or_init(install) {
                return Err(Error::NoMemory);
            }
            Ok(Self(FORKS.load(Ordering::Relaxed)))
        }

        #[inline]
        pub(crate) fn is_me(&self) -> bool {
            FORKS.load(Ordering::Relaxed) == self.0
        }
    }
}
