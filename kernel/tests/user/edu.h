/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The edu device, by DMA. A transfer of at most 2,048 bytes takes 100 ms, a copy is two of them, so objects are small and what
 * is in flight stays in flight for a while: a call that changes the mapping nearly always comes in the middle of one.
 *
 * What the device did is looked at from both sides: in memory and through the device. Behind an IOMMU, a transfer to a page
 * that was unmapped too early is a complaint in the kernel's log as well.
 */
#ifndef EDU_H
#define EDU_H

#include "dev.h"

static int fd;
static unsigned char *at;
static uint64_t h;

static inline long mapped(void)
{
	return counter(fd, USERPTR_MAPPED);
}

static inline long transfers(void)
{
	return counter(fd, USERPTR_TRANSFERS);
}

/* An object over stamped pages, pinned and mapped. */
static inline int begin(unsigned int n, unsigned int seed)
{
	fd = dev_open(USERPTR_EDU);
	CHECK(fd >= 0);
	at = memory(n);
	CHECK(at != NULL);
	stamp(at, n, seed);
	CHECK_EQ(dev_create(fd, at, n * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(pins(fd), n);
	CHECK_EQ(mapped(), n);
	return 0;
}
#define DO(what)                    \
	do {                        \
		int line_ = (what); \
		if (line_)          \
			return line_; \
	} while (0)

/* Begins to fill the first page, and waits until a transfer to it is in flight. */
static inline int busy(unsigned int value)
{
	long before = transfers();

	CHECK_EQ(dev_fill(fd, h, 1, value, 20000, false), 0);
	for (int i = 0; transfers() == before; i++) {
		CHECK(i < 5000);
		usleep(1000);
	}
	return 0;
}

/* What a call promises that has changed the mapping: the pages are the device's no more, and it begins nothing on them. */
static inline int let_go(void)
{
	long before;

	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(mapped(), 0);
	before = transfers();
	usleep(250000);
	CHECK_EQ(transfers(), before);
	CHECK_EQ(dev_wait(fd, 5000), 0);
	return 0;
}

/* Whether the device reads what the processor reads. */
static inline bool agree(uint64_t offset, uint64_t len)
{
	unsigned char got[2048];

	memset(got, 0xEE, sizeof(got));
	errno = -dev_read(fd, h, offset, got, len);
	return errno == 0 && !memcmp(got, at + offset, len);
}

#endif
