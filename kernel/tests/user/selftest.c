// SPDX-License-Identifier: MIT OR GPL-2.0
/* Asks the module to test its platform inside the kernel. */
#include "dev.h"

static int self(unsigned int which)
{
	struct userptr_words words = { .w = { which } };
	int fd = open("/dev/userptr0", O_RDWR | O_CLOEXEC);

	CHECK(fd >= 0);
	CHECK_EQ(ioctl(fd, USERPTR_SELFTEST, &words), 0);
	close(fd);
	if (words.w[1]) {
		snprintf(why, sizeof(why), "selftest/src/lib.rs:%llu", words.w[1]);
		return __LINE__;
	}
	CHECK_EQ(words.w[2], 0);
	return 0;
}

#define SELF(n) static int self##n(void) { return self(n); }
SELF(0) SELF(1) SELF(2) SELF(3) SELF(4) SELF(5) SELF(6) SELF(7) SELF(8) SELF(9)

const struct test self_tests[] = {
	{ "host-references", self0 },
	{ "host-put-and-lock", self1 },
	{ "host-work-refused-while-pending", self2 },
	{ "host-work-cancelled", self3 },
	{ "host-queue-drain-follows-chains", self4 },
	{ "host-spinlock-two-threads", self5 },
	{ "host-wait-timeout-and-wake", self6 },
	{ "host-alloc-aligned-fallible", self7 },
	{ "host-software-queue", self8 },
	{ "host-interval-tree", self9 },
	{ NULL, NULL },
};

/* A module with known bugs has more of them (seeded.rs). They pass if they ran: it is the kernel that has to complain. */
SELF(100) SELF(101) SELF(102) SELF(103) SELF(104)

/* The first registration tells lockdep what an invalidation waits for. */
static int self105(void)
{
	int fd = dev_open(0);
	uint64_t h;

	CHECK_EQ(dev_create(fd, memory(1), PAGE, 0, &h), 0);
	return self(105);
}

const struct test seeded_tests[] = {
	/* A report of KASAN ends the work of lockdep, and lockdep stops at its own first report. */
	{ "seeded-sleep-under-spinlock", self102 },
	{ "seeded-lock-order", self101 },
	{ "seeded-lease-across-allocation", self105 },
	{ "seeded-use-after-free", self100 },
	{ "seeded-leak", self103 },
	{ "seeded-race", self104 },
	{ NULL, NULL },
};
