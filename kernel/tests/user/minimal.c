// SPDX-License-Identifier: MIT OR GPL-2.0
/* The smallest driver on the library (samples/minimal), a module of its own. */
#include "dev.h"

struct minimal_range {
	uint64_t address, size;
};
#define MINIMAL_COUNT_PAGES _IOW('M', 0, struct minimal_range)

/* It pins what it is given, and the pages come back; a hole is refused. Beside it, the other module is loaded. */
static int minimal(void)
{
	int fd = open("/dev/userptr-minimal", O_RDWR | O_CLOEXEC);
	unsigned char *at = memory(5);
	struct minimal_range range = { (uint64_t)(uintptr_t)at, 5 * PAGE };
	long before, after, left;

	CHECK(fd >= 0);
	left = machine_pins(&before);
	CHECK_EQ(ioctl(fd, MINIMAL_COUNT_PAGES, &range), 5);
	CHECK_EQ(munmap(at + 2 * PAGE, PAGE), 0);
	CHECK(ioctl(fd, MINIMAL_COUNT_PAGES, &range) < 0 && errno == EFAULT);
	/* A worker may have the last reference for a moment. */
	for (int i = 0; i < 100 && machine_pins(&after) != left; i++)
		usleep(10000);
	CHECK_EQ(machine_pins(&after), left);
	CHECK(after - before >= 5);
	close(fd);
	return 0;
}

const struct test minimal_tests[] = {
	{ "minimal-driver", minimal },
	{ NULL, NULL },
};
