/* SPDX-License-Identifier: MIT OR GPL-2.0 WITH Linux-syscall-note */
/*
 * The character device /dev/userptr. Every request carries the same eight words, in and out.
 */
#ifndef USERPTR_UAPI_H
#define USERPTR_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

struct userptr_words {
	__u64 w[8];
};

#define USERPTR_REQUEST(n) _IOWR('U', n, struct userptr_words)

/* w[0]: which test. Out: w[1] = the line that failed, 0 if none; w[2] = allocations left behind. EINVAL: no such test. */
#define USERPTR_SELFTEST USERPTR_REQUEST(0)

#endif
