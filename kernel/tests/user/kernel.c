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

/* How many of the pages lie in other frames than before; notes where they lie now. */
static int moved(uint64_t *frames, size_t pages)
{
	int n = 0;

	for (size_t i = 0; i < pages; i++) {
		uint64_t now = frame(at + i * PAGE);

		n += frames[i] != now;
		frames[i] = now;
	}
	return n;
}

static int compaction(void)
{
	enum { LOTS = 1024, HOLES = 32 };
	int knob = open("/proc/sys/vm/compact_memory", O_WRONLY);
	static uint64_t frames[LOTS];
	unsigned char *holes;
	int follows = 0;

	CHECK(knob >= 0);
	fd = dev_open(0);
	/* A page here, a hole there: something to move, and somewhere to move it. */
	holes = memory(HOLES * LOTS);
	CHECK_EQ(madvise(holes, HOLES * LOTS * PAGE, MADV_NOHUGEPAGE), 0);
	at = memory(LOTS);
	for (size_t i = 0; i < HOLES * LOTS; i++) {
		holes[i * PAGE] = 1;
		if (i % HOLES == 0)
			at[i / HOLES * PAGE] = 1;
	}
	for (size_t i = 0; i < HOLES * LOTS; i += 2)
		CHECK_EQ(madvise(holes + i * PAGE, PAGE, MADV_DONTNEED), 0);
	stamp(at, LOTS, 5);
	CHECK_EQ(dev_create(fd, at, LOTS * PAGE, 0, &h), 0);
	for (int i = 0; i < 3; i++) {
		long before;

		CHECK_EQ(dev_get(fd, h), 0);
		moved(frames, LOTS);
		before = vmstat("pgmigrate_success");
		CHECK_EQ(write(knob, "1", 1), 1);
		/* Nobody is told: pinned pages are passed over, whatever else moves. */
		CHECK_EQ(pins(fd), LOTS);
		CHECK_EQ(moved(frames, LOTS), 0);
		CHECK(device_sees(fd, h, LOTS, 5));
		CHECK_EQ(dev_put(fd, h), 0);
		CHECK_EQ(write(knob, "1", 1), 1);
		follows += moved(frames, LOTS);
		CHECK(vmstat("pgmigrate_success") > before || i);
		CHECK(device_sees(fd, h, LOTS, 5));
	}
	CHECK(follows > 0);
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
