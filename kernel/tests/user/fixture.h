/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What the subtests of mapping.c and process.c begin with: an object over N stamped pages, pinned. */
#ifndef FIXTURE_H
#define FIXTURE_H

#include "dev.h"

#define N 16

static int fd;
static unsigned char *at;
static uint64_t h;

static int begin(unsigned int seed)
{
	fd = dev_open(0);
	at = memory(N);
	CHECK(fd >= 0 && at);
	stamp(at, N, seed);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(pins(fd), N);
	return 0;
}
#define BEGIN(seed)                       \
	do {                              \
		int line_ = begin(seed);  \
		if (line_)                \
			return line_;     \
	} while (0)

#endif
