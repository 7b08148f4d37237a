// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * What the kernel does to memory by itself: it moves pages, and merges those that are equal.
 */
#include "dev.h"

#define N 16

static unsigned char *at;
static int fd;
static uint64_t h;

/* ---- the kernel moves pages about: pinned ones stay, others move and the device follows ---- */

static int compaction(void)
{
	enum { LOTS = 2048 };
	int knob = open("/proc/sys/vm/compact_memory", O_WRONLY);

	CHECK(knob >= 0);
	fd = dev_open(0);
	at = memory(LOTS);
	stamp(at, LOTS, 5);
	CHECK_EQ(dev_create(fd, at, LOTS * PAGE, 0, &h), 0);
	for (int i = 0; i < 5; i++) {
		CHECK_EQ(dev_get(fd, h), 0);
		CHECK_EQ(write(knob, "1", 1), 1);
		CHECK(device_sees(fd, h, LOTS, 5));
		CHECK_EQ(dev_put(fd, h), 0);
		CHECK_EQ(write(knob, "1", 1), 1);
		CHECK(device_sees(fd, h, LOTS, 5));
	}
	CHECK(cpu_sees(at, LOTS, 5));
	return 0;
}

/* ---- equal pages become one page, read-only (KSM): pinned ones are released first, and the device never writes to a shared one ---- */

static long ksm(const char *knob, const char *value)
{
	char path[64], text[32] = "";
	int file;

	snprintf(path, sizeof(path), "/sys/kernel/mm/ksm/%s", knob);
	file = open(path, value ? O_WRONLY : O_RDONLY);
	if (file < 0 || (value ? write(file, value, strlen(value)) : read(file, text, sizeof(text) - 1)) < 0)
		return -1;
	close(file);
	return atol(text);
}

/* The frame that a page lies in; 0 if it cannot be told. */
static uint64_t frame(const unsigned char *page)
{
	int file = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	if (file < 0 || pread(file, &entry, sizeof(entry), (off_t)((uintptr_t)page / PAGE * sizeof(entry))) != sizeof(entry))
		entry = 0;
	close(file);
	return entry & ((1ULL << 55) - 1);
}

/* Whether each page and its twin lie in one frame, before long. Not by the kernel's counts, which lag behind what is taken apart. */
static bool merged(const unsigned char *one, const unsigned char *other, size_t pages)
{
	long until = now_ms() + 30000;

	for (size_t i = 0; i < pages; i++)
		for (uint64_t f; (f = frame(one + i * PAGE)) == 0 || f != frame(other + i * PAGE); usleep(10000))
			if (now_ms() > until)
				return false;
	return true;
}

static int merge(void)
{
	unsigned char *twin, *scratch;

	CHECK(ksm("sleep_millisecs", "0") >= 0);
	CHECK(ksm("pages_to_scan", "1000") >= 0);
	CHECK(ksm("run", "1") >= 0);
	fd = dev_open(0);
	at = memory(N);
	twin = memory(N);
	scratch = memory(N);
	stamp(twin, N, 5);
	CHECK_EQ(madvise(at, N * PAGE, MADV_MERGEABLE), 0);
	CHECK_EQ(madvise(twin, N * PAGE, MADV_MERGEABLE), 0);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	for (int round = 0; round < 5; round++) {
		/* Unlike its twin: nothing is merged while the device has it. */
		stamp(at, N, 6 + round);
		CHECK_EQ(dev_get(fd, h), 0);
		/* A merge that came into a pin made a worker's pages useless: it may still be about to give them back. */
		CHECK_EQ(left(fd), N);
		/* The device makes them equal. */
		stamp(scratch, N, 5);
		CHECK_EQ(dev_write(fd, h, 0, scratch, N * PAGE), 0);
		CHECK(merged(at, twin, N));
		CHECK_EQ(left(fd), 0);
		/* A write of the device takes them apart, and reaches one of the two. */
		stamp(scratch, N, 100 + round);
		CHECK_EQ(dev_write(fd, h, 0, scratch, N * PAGE), 0);
		CHECK(cpu_sees(at, N, 100 + round));
		CHECK(cpu_sees(twin, N, 5));
	}
	CHECK_EQ(dev_get(fd, h), 0);
	/* All apart again. */
	CHECK(ksm("run", "2") >= 0);
	CHECK(device_sees(fd, h, N, 104));
	CHECK_EQ(ksm("pages_sharing", NULL), 0);
	CHECK(ksm("run", "0") >= 0);
	return 0;
}

const struct test kernel_tests[] = {
	{ "compaction", compaction },
	{ "merged-pages", merge },
	{ NULL, NULL },
};
