/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The character devices /dev/userptr0 to 3. Every request carries the same eight words, in and out. EINVAL: a word that the request
 * does not use is not zero. ENOTTY: there is no such request.
 * A file is a client: its handles are its own. An object belongs to the address space that created it.
 *
 *   userptr0  no limits but a deadline of 10 s
 *   userptr1  a deadline of 1 s; its revocations run on a workqueue
 *   userptr2  at most 8 pages, cannot be told that pages are read-only
 *   userptr3  QEMU's edu device, by DMA; a deadline of 3 s. Absent where there is no such device
 */
#ifndef USERPTR_UAPI_H
#define USERPTR_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#include "counters.h"

#define USERPTR_DEVICES 4
#define USERPTR_EDU 3

struct userptr_words {
	__u64 w[8];
};

#define USERPTR_REQUEST(n) _IOWR('U', n, struct userptr_words)

/*
 * w[0]: which test of the library, in a module that has them (feature `selftest`). Out: w[1] = the line that failed, 0 if none;
 * w[2] = allocations left behind. EINVAL: no such test.
 */
#define USERPTR_SELFTEST USERPTR_REQUEST(0)
/* w[0] = address, w[1] = size in bytes, w[2] = flags. Out: w[3] = handle. */
#define USERPTR_CREATE USERPTR_REQUEST(1)
/* w[0] = handle. */
#define USERPTR_CLOSE USERPTR_REQUEST(2)
/*
 * w[0] = handle, w[1] = how long to try, ms. Pins the pages if they are not pinned; EAGAIN when the time is up. Looks again
 * even if the range was found not to be memory, which COPY and FILL remember: the kernel does not tell of new mappings.
 */
#define USERPTR_GET USERPTR_REQUEST(3)
/* w[0] = handle, w[1] = offset in the object, w[2] = length, w[3] = address of the caller's buffer, w[4] = 1 to write. */
#define USERPTR_COPY USERPTR_REQUEST(4)
/*
 * w[0] = handle, w[1] = offset, w[2] = length, w[3] = first value, w[4] = ms, w[5] = 1: the device ignores a request to stop.
 * Begins a job that fills the range again and again with the next value; returns at once. EINVAL: longer than a minute.
 */
#define USERPTR_FILL USERPTR_REQUEST(5)
/* w[0] = ms. Waits for the job that this file began last: EINTR, ETIMEDOUT; ENOENT if it began none. */
#define USERPTR_WAIT USERPTR_REQUEST(6)
/* w[0] = number of a counter. Out: w[1] = its value. */
#define USERPTR_COUNTER USERPTR_REQUEST(7)
/* w[0] = address, w[1] = size. EFAULT if a part of the range is not mapped. */
#define USERPTR_PROBE USERPTR_REQUEST(8)
/* w[0] = handle. Makes an unsynchronised object a synchronised one, before it is shared. */
#define USERPTR_EXPORT USERPTR_REQUEST(9)
/* w[0] = handle. Gives the pages back; they will be pinned again when needed. */
#define USERPTR_PUT USERPTR_REQUEST(10)
/* Waits until no work of the driver is queued or running. */
#define USERPTR_SETTLE USERPTR_REQUEST(11)

/* The device was reset: revocations that ran out of time are tried again, in every address space. */
#define USERPTR_RESET USERPTR_REQUEST(12)

/* How many there are: a test makes every allocation of each of them fail. */
#define USERPTR_REQUESTS 13

#define USERPTR_READ_ONLY 0x1ULL
#define USERPTR_UNSYNCHRONIZED 0x80000000ULL

/* Counters of the samples; the numbers below are the library's (counters.h). */
enum {
	USERPTR_JOBS = 64, /* jobs of the devices, now */
	USERPTR_COPIED, /* bytes they ever copied */
	USERPTR_MAPPED, /* pages mapped for DMA now */
	USERPTR_TRANSFERS, /* DMA transfers from or to pages, ever begun */
	USERPTR_QUARANTINED, /* objects that were quarantined, ever */
	USERPTR_SAMPLE_END,
};

#endif
