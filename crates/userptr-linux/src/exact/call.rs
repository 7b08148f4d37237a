//! A notified call: which ranges it changes, and how it is made in the caller's stead.

use userptr::AddrRange;

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .text.userptr_exact_call,\"ax\",@progbits",
    ".globl userptr_exact_call",
    ".hidden userptr_exact_call",
    ".type userptr_exact_call,@function",
    "userptr_exact_call:",
    // The arguments: a number and a pointer to six words.
    "mov rax, rdi",
    "mov r11, rsi",
    "mov rdi, [r11]",
    "mov rsi, [r11 + 8]",
    "mov rdx, [r11 + 16]",
    "mov r10, [r11 + 24]",
    "mov r8, [r11 + 32]",
    "mov r9, [r11 + 40]",
    "syscall",
    ".globl userptr_exact_after",
    ".hidden userptr_exact_after",
    "userptr_exact_after:",
    "ret",
    ".size userptr_exact_call, . - userptr_exact_call",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(
    ".pushsection .text.userptr_exact_call,\"ax\",@progbits",
    ".globl userptr_exact_call",
    ".hidden userptr_exact_call",
    ".type userptr_exact_call,@function",
    "userptr_exact_call:",
    "mov x8, x0",
    "mov x9, x1",
    "ldp x0, x1, [x9]",
    "ldp x2, x3, [x9, #16]",
    "ldp x4, x5, [x9, #32]",
    "svc #0",
    ".globl userptr_exact_after",
    ".hidden userptr_exact_after",
    "userptr_exact_after:",
    "ret",
    ".size userptr_exact_call, . - userptr_exact_call",
    ".popsection",
);

unsafe extern "C" {
    fn userptr_exact_call(number: i64, arguments: *const u64) -> i64;
    fn userptr_exact_after();
}

/// The address behind the one system call that the filter exempts.
pub(super) fn exempt() -> usize {
    (userptr_exact_after as unsafe extern "C" fn()) as usize
}

/// The most ranges of one call.
pub(super) type Changed = [Option<AddrRange>; super::filter::MAX_ARENAS];

/// One call, as the kernel notifies it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) number: i64,
    pub(super) arguments: [u64; 6],
}

impl Call {
    /// The ranges whose pages it changes: at least those, and none if it changes none.
    pub(super) fn changes(&self, arenas: &[AddrRange]) -> Changed {
        let [a0, a1, a2, a3, a4, _] = self.arguments;
        let word = |v: u64| usize::try_from(v).unwrap_or(usize::MAX);
        let range = |start: u64, len: u64| AddrRange::new(word(start), word(len)).ok();
        // Flags are the low words of their registers.
        let has = |v: u64, bits: i32| v & u64::from(bits.cast_unsigned()) != 0;
        let mut changed = Changed::default();
        match self.number {
            libc::SYS_munmap | libc::SYS_mmap | libc::SYS_remap_file_pages => changed[0] = range(a0, a1),
            libc::SYS_madvise if changes_pages(a2) => changed[0] = range(a0, a1),
            // Rights that are only given take no page away.
            libc::SYS_mprotect | libc::SYS_pkey_mprotect
                if !(has(a2, libc::PROT_READ) && has(a2, libc::PROT_WRITE)) =>
            {
                changed[0] = range(a0, a1);
            }
            libc::SYS_mremap => {
                changed[0] = range(a0, a1);
                if has(a3, libc::MREMAP_FIXED) {
                    changed[1] = range(a4, a2);
                }
            }
            // How long the segment is, nobody says: all behind its start.
            libc::SYS_shmdt => changed[0] = behind(word(a0), arenas),
            libc::SYS_shmat => changed[0] = behind(word(a1), arenas),
            libc::SYS_process_madvise if changes_pages(a3) => {
                for (changed, arena) in changed.iter_mut().zip(arenas) {
                    *changed = Some(*arena);
                }
            }
            _ => {}
        }
        changed
    }

    /// Makes the call. Returns what the kernel returns: a value, or a negative errno.
    ///
    /// # Safety
    /// A thread of this process asked for this call, waits for it, and is answered with the result:
    /// what the call does is that thread's to answer for.
    pub(super) unsafe fn make(&self) -> i64 {
        // SAFETY: the function passes six words to the kernel, by the convention of the
        // architecture; the call itself is the caller's duty.
        unsafe { userptr_exact_call(self.number, self.arguments.as_ptr()) }
    }
}

fn changes_pages(advice: u64) -> bool {
    const GUARD_INSTALL: i32 = 102;
    const DONTNEED_LOCKED: i32 = 24;
    i32::try_from(advice & 0xffff_ffff).is_ok_and(|advice| {
        matches!(
            advice,
            libc::MADV_DONTNEED | libc::MADV_FREE | libc::MADV_REMOVE | DONTNEED_LOCKED | GUARD_INSTALL
        )
    })
}

/// From `start` to the end of the arena that it lies in.
fn behind(start: usize, arenas: &[AddrRange]) -> Option<AddrRange> {
    let arena = arenas.iter().find(|arena| arena.start() <= start && start <= arena.last())?;
    AddrRange::inclusive(start, arena.last())
}
