// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Which part of an object a change hits, and what the kernel makes of the mapping: first and last pages, both sides, neighbours;
 * mappings that merge and split; huge pages that split and come together.
 */
#include "dev.h"

#define N 16
#define HUGE (512 * PAGE)

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

static int fd;
static unsigned char *area, *at;
static uint64_t h;

/* An object over N pages, with N pages of the same mapping on either side. */
static int begin(unsigned int seed)
{
	fd = dev_open(0);
	area = memory(3 * N);
	CHECK(fd >= 0 && area);
	at = area + N * PAGE;
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

/* Discards `pages` pages from page `from` of the area; the object is hit or not, and sees zeros where it was. */
static int discard(int from, int pages, bool hit)
{
	unsigned char page[PAGE], zeros[PAGE] = { 0 };

	CHECK_EQ(madvise(area + from * PAGE, pages * PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(pins(fd), hit ? 0 : N);
	for (int i = N; i < 2 * N; i++) {
		CHECK_EQ(dev_read(fd, h, (i - N) * PAGE, page, PAGE), 0);
		CHECK_EQ(!memcmp(page, zeros, PAGE), i >= from && i < from + pages);
	}
	stamp(at, N, from);
	CHECK(device_sees(fd, h, N, from));
	CHECK_EQ(pins(fd), N);
	return 0;
}
#define DISCARD(...)                              \
	do {                                      \
		int line_ = discard(__VA_ARGS__); \
		if (line_)                        \
			return line_;             \
	} while (0)

static int first_page(void)
{
	BEGIN(1);
	DISCARD(N, 1, true);
	/* And with the neighbour below. */
	DISCARD(N - 1, 2, true);
	return 0;
}

static int last_page(void)
{
	BEGIN(2);
	DISCARD(2 * N - 1, 1, true);
	DISCARD(2 * N - 1, 2, true);
	return 0;
}

static int both_sides(void)
{
	BEGIN(3);
	/* Up to the object, from its end on: not hit. */
	DISCARD(0, N, false);
	DISCARD(2 * N, N, false);
	DISCARD(N - 1, 1, false);
	DISCARD(2 * N, 1, false);
	/* Over it and beyond on both sides. */
	DISCARD(0, 3 * N, true);
	DISCARD(N - 1, N + 2, true);
	return 0;
}

/* The same, by unmapping: what is left of the object is not memory any more. */
static int unmapped_ends(void)
{
	static const struct { int from, pages; bool hit; } part[] = {
		{ N - 1, 1, false }, { 2 * N, 1, false }, { N, 1, true }, { 2 * N - 1, 1, true }, { 0, N + 1, true }, { 2 * N - 1, N, true },
	};

	for (size_t i = 0; i < sizeof(part) / sizeof(*part); i++) {
		BEGIN(4);
		CHECK_EQ(munmap(area + part[i].from * PAGE, part[i].pages * PAGE), 0);
		CHECK_EQ(pins(fd), part[i].hit ? 0 : N);
		CHECK_EQ(dev_get(fd, h), part[i].hit ? -EFAULT : 0);
		CHECK_EQ(dev_close(fd, h), 0);
		CHECK_EQ(left(fd), 0);
		close(fd);
	}
	return 0;
}

/* How many mappings the kernel has in [from, to). */
static int mappings(const unsigned char *from, const unsigned char *to)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long start, end;
	char line[512];
	int n = 0;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%lx-%lx", &start, &end) == 2 && start < (unsigned long)to && end > (unsigned long)from)
			n++;
	if (f)
		fclose(f);
	return n;
}

/* A mapping splits below an object and merges again; the object spans the borders. */
static int split_and_merge(void)
{
	BEGIN(5);
	CHECK_EQ(mappings(area, area + 3 * N * PAGE), 1);
	CHECK_EQ(mprotect(at + 4 * PAGE, 4 * PAGE, PROT_READ), 0);
	CHECK_EQ(mappings(area, area + 3 * N * PAGE), 3);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_get(fd, h), -EFAULT);
	CHECK_EQ(mprotect(at + 4 * PAGE, 4 * PAGE, PROT_READ | PROT_WRITE), 0);
	CHECK_EQ(mappings(area, area + 3 * N * PAGE), 1);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK(device_sees(fd, h, N, 5));
	/* Split where no access changes: the pages stay, and they are the right ones. */
	CHECK_EQ(madvise(at + 4 * PAGE, 4 * PAGE, MADV_DONTFORK), 0);
	CHECK_EQ(mappings(area, area + 3 * N * PAGE), 3);
	CHECK(device_sees(fd, h, N, 5));
	CHECK_EQ(pins(fd), N);
	CHECK_EQ(madvise(at + 4 * PAGE, 4 * PAGE, MADV_DOFORK), 0);
	CHECK_EQ(mappings(area, area + 3 * N * PAGE), 1);
	CHECK_EQ(munmap(at + 5 * PAGE, PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	return 0;
}

/* Two mappings with an object each have a hole between them; what comes there merges with one of them. An object over all three. */
static int merge_neighbours(void)
{
	uint64_t low, high, all;

	fd = dev_open(0);
	area = memory(3 * N);
	CHECK_EQ(munmap(area + N * PAGE, N * PAGE), 0);
	stamp(area, N, 6);
	stamp(area + 2 * N * PAGE, N, 7);
	CHECK_EQ(dev_create(fd, area, N * PAGE, 0, &low), 0);
	CHECK_EQ(dev_create(fd, area + 2 * N * PAGE, N * PAGE, 0, &high), 0);
	CHECK_EQ(dev_create(fd, area, 3 * N * PAGE, 0, &all), 0);
	CHECK_EQ(dev_get(fd, low) | dev_get(fd, high), 0);
	CHECK_EQ(dev_get(fd, all), -EFAULT);
	CHECK(memory_at(area + N * PAGE, N) != NULL);
	/* With the one or with the other: each has pages of its own history. */
	CHECK_EQ(mappings(area, area + 3 * N * PAGE), 2);
	CHECK_EQ(pins(fd), 2 * N);
	CHECK_EQ(dev_get(fd, all), 0);
	CHECK_EQ(pins(fd), 5 * N);
	CHECK(device_sees(fd, low, N, 6) && device_sees(fd, high, N, 7));
	CHECK_EQ(munmap(area + N * PAGE, N * PAGE), 0);
	CHECK_EQ(pins(fd), 2 * N);
	CHECK(device_sees(fd, low, N, 6) && device_sees(fd, high, N, 7));
	return 0;
}

/* ---- huge pages ---- */

/* Two huge pages, stamped. */
static int huge_pair(unsigned int seed)
{
	area = memory(4 * 512);
	CHECK(area != NULL);
	at = (unsigned char *)(((uintptr_t)area + HUGE - 1) & -HUGE);
	CHECK_EQ(madvise(at, 2 * HUGE, MADV_HUGEPAGE), 0);
	stamp(at, 1024, seed);
	fd = dev_open(0);
	return 0;
}
#define HUGE_PAIR(seed)                       \
	do {                                  \
		int line_ = huge_pair(seed);  \
		if (line_)                    \
			return line_;         \
	} while (0)

/* A huge page is taken apart below a pinned object: by a part that is unmapped, protected, moved. */
static int huge_split(void)
{
	unsigned char *to = memory(16), byte;

	HUGE_PAIR(8);
	CHECK(is_huge(at + 100 * PAGE) && is_huge(at + 600 * PAGE));
	CHECK_EQ(dev_create(fd, at + 50 * PAGE, 900 * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(pins(fd), 900);
	/* Outside of the object, in the middle of its huge page: the pages are told by the page that goes. */
	CHECK_EQ(madvise(at + 10 * PAGE, PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(dev_read(fd, h, 0, &byte, 1), 0);
	CHECK_EQ(byte, at[50 * PAGE]);
	CHECK_EQ(mprotect(at + 500 * PAGE, 24 * PAGE, PROT_READ), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(mprotect(at + 500 * PAGE, 24 * PAGE, PROT_READ | PROT_WRITE), 0);
	CHECK_EQ(dev_write(fd, h, 460 * PAGE, "split", 5), 0);
	CHECK(!memcmp(at + 510 * PAGE, "split", 5));
	CHECK(mremap(at + 504 * PAGE, 16 * PAGE, 16 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	CHECK_EQ(pins(fd), 0);
	CHECK(!memcmp(to + 6 * PAGE, "split", 5));
	CHECK_EQ(dev_get(fd, h), -EFAULT);
	return 0;
}

/* Small pages become a huge one: not while the device has them, and with their content once it has let go. */
static int collapse(void)
{
	area = memory(2 * 512);
	at = (unsigned char *)(((uintptr_t)area + HUGE - 1) & -HUGE);
	CHECK_EQ(madvise(at, HUGE, MADV_NOHUGEPAGE), 0);
	stamp(at, 512, 9);
	CHECK(!is_huge(at + 100 * PAGE));
	fd = dev_open(0);
	CHECK_EQ(dev_create(fd, at + 100 * PAGE, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_write(fd, h, 0, "before", 6), 0);
	CHECK_EQ(madvise(at, HUGE, MADV_HUGEPAGE), 0);
	/* Nobody is told of the attempt, which ends at the pin. */
	CHECK(madvise(at, HUGE, MADV_COLLAPSE));
	CHECK(!is_huge(at + 100 * PAGE));
	CHECK_EQ(pins(fd), N);
	CHECK_EQ(dev_write(fd, h, PAGE, "during", 6), 0);
	CHECK_EQ(dev_put(fd, h), 0);
	/* Others may hold one of the pages for a moment. */
	for (long until = now_ms() + 30000; madvise(at, HUGE, MADV_COLLAPSE) && now_ms() < until; usleep(1000))
		;
	CHECK(is_huge(at + 100 * PAGE));
	CHECK_EQ(dev_write(fd, h, 2 * PAGE, "after", 5), 0);
	CHECK(!memcmp(at + 100 * PAGE, "before", 6) && !memcmp(at + 101 * PAGE, "during", 6) && !memcmp(at + 102 * PAGE, "after", 5));
	return 0;
}

/* Huge pages of the pool: all of one page is pinned, and it goes back to the pool. */
static long pool(const char *what)
{
	char line[128];
	long n = -1;
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, what, strlen(what)))
			sscanf(line + strlen(what), ": %ld", &n);
	if (f)
		fclose(f);
	return n;
}

static int pool_pages(void)
{
	int knob = open("/proc/sys/vm/nr_hugepages", O_WRONLY | O_CLOEXEC);
	pid_t child;

	CHECK_EQ(write(knob, "4", 1), 1);
	CHECK_EQ(pool("HugePages_Free"), 4);
	fd = dev_open(0);
	at = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	CHECK(at != MAP_FAILED);
	CHECK_EQ(dev_create(fd, at + 100 * PAGE, 600 * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(pins(fd), 600);
	stamp(at, 1024, 10);
	CHECK_EQ(dev_write(fd, h, 0, "pool", 4), 0);
	CHECK(!memcmp(at + 100 * PAGE, "pool", 4));
	/* A fork shares them; the child's copy is its own. */
	child = fork();
	if (child == 0)
		_exit(memcmp(at + 100 * PAGE, "pool", 4) || memset(at, 1, 2 * HUGE) != at);
	CHECK_EQ(reap(child), 0);
	CHECK_EQ(dev_write(fd, h, PAGE, "mine", 4), 0);
	CHECK(!memcmp(at + 101 * PAGE, "mine", 4));
	CHECK_EQ(munmap(at, 2 * HUGE), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_get(fd, h), -EFAULT);
	CHECK_EQ(pool("HugePages_Free"), 4);
	CHECK_EQ(write(knob, "0", 1), 1);
	return 0;
}

const struct test range_tests[] = {
	{ "first-page", first_page },
	{ "last-page", last_page },
	{ "both-sides", both_sides },
	{ "unmapped-ends", unmapped_ends },
	{ "split-and-merge", split_and_merge },
	{ "merge-neighbours", merge_neighbours },
	{ "huge-split", huge_split },
	{ "collapse-around-pins", collapse },
	{ "pool-of-huge-pages", pool_pages },
	{ NULL, NULL },
};
