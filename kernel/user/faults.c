// SPDX-License-Identifier: MIT OR GPL-2.0
/* Every allocation of a request fails once: the request says so, nothing is left behind, and the next try works. */
#include "dev.h"

#define N 16

static int knob;

/* The n-th allocation of this thread from now on fails; 0: none. */
static void fail_nth(int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d", n);

	if (pwrite(knob, text, len, 0) != len)
		_exit(9);
}

/* Whether the failure has happened. */
static bool has_failed(void)
{
	char text[16] = "";

	if (pread(knob, text, sizeof(text) - 1, 0) < 0)
		_exit(9);
	return atoi(text) == 0;
}

enum { OPEN, CREATE, GET, READ, WRITE, FILL, EXPORT, PUT, CLOSE, STEPS };

/* Runs the steps with a failure at the n-th allocation of step `which`. Sets *failed if there were so many. */
static int round_of(int which, int n, bool *failed)
{
	unsigned char *at = memory(N), buffer[PAGE];
	int fd = -1, ret = 0;
	uint64_t h = 0;

	stamp(at, N, 1);
	memset(buffer, 2, PAGE);
	for (int step = OPEN; step < STEPS; step++) {
		for (int try = 0;; try++) {
			if (step == which && try == 0)
				fail_nth(n);
			switch (step) {
			case OPEN:
				fd = dev_open(0);
				ret = fd < 0 ? -errno : 0;
				break;
			case CREATE:
				ret = dev_create(fd, at, N * PAGE, n % 2 ? 0 : USERPTR_UNSYNCHRONIZED, &h);
				break;
			case GET:
				ret = dev_get(fd, h);
				break;
			case READ:
				ret = dev_read(fd, h, 0, buffer, PAGE);
				break;
			case WRITE:
				ret = dev_write(fd, h, 0, buffer, PAGE);
				break;
			case FILL:
				ret = dev_fill(fd, h, N, 1, 1, false);
				break;
			case EXPORT:
				ret = dev_export(fd, h);
				break;
			case PUT:
				ret = dev_put(fd, h);
				break;
			case CLOSE:
				ret = dev_close(fd, h);
				break;
			}
			if (step == which && try == 0) {
				*failed = has_failed();
				fail_nth(0);
			}
			if (ret == 0)
				break;
			/* Only the step whose allocation failed may fail, and a second try works. */
			CHECK(step == which && try == 0 && *failed);
			CHECK_EQ(ret, -ENOMEM);
		}
	}
	munmap(at - PAGE, (N + 2) * PAGE);
	close(fd);
	return 0;
}

static int every_allocation_fails(void)
{
	int watch = dev_open(0), failures = 0;
	long before;

	knob = open("/proc/thread-self/fail-nth", O_RDWR);
	CHECK(knob >= 0);
	CHECK_EQ(left(watch), 0);
	before = counter(watch, USERPTR_ALLOCATIONS);
	for (int which = OPEN; which < STEPS; which++) {
		bool failed = true;

		for (int n = 1; n < 200 && failed; n++) {
			int line = round_of(which, n, &failed);

			if (line) {
				size_t len = strlen(why);

				snprintf(why + len, sizeof(why) - len, " (step %d, allocation %d)", which, n);
				return line;
			}
			failures += failed;
			CHECK_EQ(left(watch), 0);
			CHECK_EQ(counter(watch, USERPTR_GRABS), 0);
			CHECK_EQ(counter(watch, USERPTR_ALLOCATIONS), before);
		}
		CHECK(!failed);
	}
	CHECK(failures > 15);
	return 0;
}

const struct test fault_tests[] = {
	{ "every-allocation-fails", every_allocation_fails },
	{ NULL, NULL },
};
