//! The filter: which calls are notified, as a program of classic BPF.
//!
//! Its numbers are 32 bits wide, so a range is compared in halves: `addr < end` of an arena, and
//! `addr + len`, added with a carry, above its start. That is exact: a range that begins below an
//! arena and reaches into it is notified, its neighbours are not.

use core::mem::offset_of;
use libc::{seccomp_data, sock_filter};
use userptr::AddrRange;

/// The most arenas: jumps of the program reach 255 instructions.
pub(super) const MAX_ARENAS: usize = 4;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

/// The calls of the x32 interface have this bit, and the same registers.
const X32: u32 = 0x4000_0000;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const RECALL: u32 = libc::BPF_LD | libc::BPF_MEM;
const KEEP: u32 = libc::BPF_ST;
const TO_X: u32 = libc::BPF_MISC | libc::BPF_TAX;
const ADD_X: u32 = libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X;
const ADD: u32 = libc::BPF_ALU | libc::BPF_ADD | libc::BPF_K;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const GO: u32 = libc::BPF_JMP | libc::BPF_JA;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const ABOVE: u32 = libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K;
const AT_LEAST_X: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_X;
const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const ANSWER: u32 = libc::BPF_RET | libc::BPF_K;

/// Scratch words: a range's first byte, and the first byte behind it.
const ADDR: [u32; 2] = [0, 1];
const END: [u32; 2] = [2, 3];
const CARRIED: u32 = 4;

fn op(code: u32, k: u32) -> sock_filter {
    jump(code, k, 0, 0)
}

fn jump(code: u32, k: u32, yes: u8, no: u8) -> sock_filter {
    // The codes are 16 bits wide.
    sock_filter { code: (code & 0xffff) as u16, jt: yes, jf: no, k }
}

/// The low and the high word of a 64-bit field, little-endian.
fn field(offset: usize) -> [sock_filter; 2] {
    let low = u32::try_from(offset).unwrap_or(u32::MAX);
    [op(LOAD, low), op(LOAD, low.saturating_add(4))]
}

fn argument(n: usize) -> [sock_filter; 2] {
    field(offset_of!(seccomp_data, args).saturating_add(n.saturating_mul(8)))
}

fn halves(address: usize) -> [u32; 2] {
    let address = address as u64;
    [(address & 0xffff_ffff) as u32, (address >> 32) as u32]
}

/// How long a range is.
#[derive(Clone, Copy)]
enum Length {
    Argument(usize),
    /// Not known: its first byte decides.
    One,
}

/// Notifies if the range overlaps an arena; else falls through.
fn range_test(arenas: &[AddrRange], start: usize, length: Length, out: &mut Vec<sock_filter>) {
    let [addr_low, addr_high] = argument(start);
    out.extend([addr_low, op(KEEP, ADDR[0]), op(TO_X, 0)]);
    let [length_low, length_high] = match length {
        Length::Argument(n) => argument(n),
        Length::One => [op(libc::BPF_LD | libc::BPF_IMM, 1), op(libc::BPF_LD | libc::BPF_IMM, 0)],
    };
    out.extend([length_low, op(ADD_X, 0), op(KEEP, END[0])]);
    // The sum of the low words is below either of them exactly if it carried.
    out.extend([jump(AT_LEAST_X, 0, 3, 0), length_high, op(ADD, 1), op(GO, 1), length_high]);
    out.extend([op(KEEP, CARRIED), addr_high, op(KEEP, ADDR[1]), op(TO_X, 0)]);
    out.extend([op(RECALL, CARRIED), op(ADD_X, 0), op(KEEP, END[1])]);
    for arena in arenas {
        let [first_low, first_high] = halves(arena.start());
        let [last_low, last_high] = halves(arena.last());
        out.extend([
            // Not if it begins behind the last byte...
            op(RECALL, ADDR[1]),
            jump(ABOVE, last_high, 9, 0),
            jump(EQUAL, last_high, 0, 2),
            op(RECALL, ADDR[0]),
            jump(ABOVE, last_low, 6, 0),
            // ... and if it ends behind the first.
            op(RECALL, END[1]),
            jump(ABOVE, first_high, 3, 0),
            jump(EQUAL, first_high, 0, 3),
            op(RECALL, END[0]),
            jump(ABOVE, first_low, 0, 1),
            op(ANSWER, libc::SECCOMP_RET_USER_NOTIF),
        ]);
    }
    out.push(op(ANSWER, libc::SECCOMP_RET_ALLOW));
}

/// The program for these arenas, which exempts the call whose next instruction is at `exempt`.
///
/// Calls of another architecture (a 32-bit program) are allowed: their arguments do not reach an
/// arena, which lies above 4 GiB.
pub(super) fn program(arenas: &[AddrRange], exempt: usize) -> Vec<sock_filter> {
    let mut out = vec![
        op(LOAD, offset_of!(seccomp_data, arch) as u32),
        jump(EQUAL, ARCH, 1, 0),
        op(ANSWER, libc::SECCOMP_RET_ALLOW),
    ];
    let [low, high] = field(offset_of!(seccomp_data, instruction_pointer));
    let [exempt_low, exempt_high] = halves(exempt);
    out.extend([low, jump(EQUAL, exempt_low, 0, 3), high, jump(EQUAL, exempt_high, 0, 1)]);
    out.push(op(ANSWER, libc::SECCOMP_RET_ALLOW));
    out.extend([op(LOAD, offset_of!(seccomp_data, nr) as u32), op(AND, !X32)]);

    let number = |call: i64| u32::try_from(call).unwrap_or(u32::MAX);
    // Each block is passed over by those whose number is not in it.
    let mut block = |calls: &[i64], body: Vec<sock_filter>| {
        for (left, call) in (0..calls.len()).rev().zip(calls) {
            let over_the_others = u8::try_from(left).unwrap_or(u8::MAX).saturating_add(1);
            out.push(jump(EQUAL, number(*call), over_the_others, 0));
        }
        // A long jump, over the body.
        out.push(op(GO, u32::try_from(body.len()).unwrap_or(u32::MAX)));
        out.extend(body);
    };
    let ranges = |start, length| {
        let mut body = Vec::new();
        range_test(arenas, start, length, &mut body);
        body
    };
    let flag = |n: usize, bits: i32, mut then: Vec<sock_filter>| {
        let [low, _] = argument(n);
        // Without the flag the call changes nothing that is mapped.
        let mut body =
            vec![low, jump(ANY_BIT, bits.cast_unsigned(), 1, 0), op(ANSWER, libc::SECCOMP_RET_ALLOW)];
        body.append(&mut then);
        body
    };
    block(
        &[
            libc::SYS_munmap,
            libc::SYS_madvise,
            libc::SYS_mprotect,
            libc::SYS_pkey_mprotect,
            libc::SYS_remap_file_pages,
        ],
        ranges(0, Length::Argument(1)),
    );
    block(&[libc::SYS_mmap], flag(3, libc::MAP_FIXED, ranges(0, Length::Argument(1))));
    // The source, then the target.
    let mut mremap = ranges(0, Length::Argument(1));
    mremap.pop();
    mremap.extend(flag(3, libc::MREMAP_FIXED, ranges(4, Length::Argument(2))));
    block(&[libc::SYS_mremap], mremap);
    block(&[libc::SYS_shmdt], ranges(0, Length::One));
    block(&[libc::SYS_shmat], flag(2, libc::SHM_REMAP, ranges(1, Length::One)));
    // A vector: what it names cannot be seen from here.
    block(&[libc::SYS_process_madvise], vec![op(ANSWER, libc::SECCOMP_RET_USER_NOTIF)]);
    out.push(op(ANSWER, libc::SECCOMP_RET_ALLOW));
    out
}
