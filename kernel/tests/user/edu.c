// SPDX-License-Identifier: MIT OR GPL-2.0
/* The edu device: data, limits, and changes of the mapping while it writes. */
#include "edu.h"

static int copy(void)
{
	unsigned char buffer[64];

	DO(begin(3, 1));
	CHECK(agree(0, 2048) && agree(PAGE + 1000, 2048));
	/* Over a page border, from odd offsets. */
	CHECK(agree(PAGE - 5, 17));
	memset(buffer, 0x5A, sizeof(buffer));
	CHECK_EQ(dev_write(fd, h, 2 * PAGE - 3, buffer, 10), 0);
	CHECK(at[2 * PAGE - 4] != 0x5A && at[2 * PAGE - 3] == 0x5A);
	CHECK(at[2 * PAGE + 6] == 0x5A && at[2 * PAGE + 7] != 0x5A);
	CHECK(cpu_sees(at, 1, 1));
	CHECK(agree(3 * PAGE - 1, 1));
	CHECK_EQ(dev_read(fd, h, 3 * PAGE - 1, buffer, 2), -EFAULT);
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(left(fd), 0);
	CHECK_EQ(mapped(), 0);
	return 0;
}

static int put_pages(void)
{
	DO(begin(4, 2));
	for (int i = 0; i < 20; i++) {
		CHECK_EQ(dev_put(fd, h), 0);
		CHECK_EQ(pins(fd) + mapped(), 0);
		CHECK_EQ(dev_get(fd, h), 0);
		CHECK_EQ(mapped(), 4);
	}
	CHECK(agree(3 * PAGE, 64));
	return 0;
}

/* What the device can address is its limit, and it is known before anything is pinned. */
static int limits(void)
{
	const uint64_t most = 1ULL << 32;
	unsigned char *area;

	fd = dev_open(USERPTR_EDU);
	area = mmap(NULL, most + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(area != MAP_FAILED);
	CHECK_EQ(dev_create(fd, area, most + PAGE, 0, &h), -E2BIG);
	CHECK_EQ(dev_create(fd, area, most, 0, &h), 0);
	CHECK_EQ(pins(fd), 0);
	return 0;
}

/*
 * Behind an IOMMU the device has an address space of its own, and that can be full: an error, once, with nothing left pinned or
 * mapped; and there is room again when an object goes. The memory is one huge page of zeros, over and over.
 */
static int address_space_full(void)
{
	enum { GIB = 1 << 30, MOST = 5 };
	uint64_t handle[MOST];
	int n = 0, ret = 0;

	fd = dev_open(USERPTR_EDU);
	at = mmap(NULL, GIB, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(at != MAP_FAILED);
	CHECK_EQ(madvise(at, GIB, MADV_HUGEPAGE), 0);
	for (; n < MOST && !ret; n++) {
		CHECK_EQ(dev_create(fd, at, GIB, USERPTR_READ_ONLY, &handle[n]), 0);
		ret = dev_get(fd, handle[n]);
	}
	CHECK_EQ(ret, -ENOMEM);
	CHECK(n > 1);
	CHECK_EQ(pins(fd), (n - 1) * (GIB / PAGE));
	CHECK_EQ(mapped(), (n - 1) * (GIB / PAGE));
	CHECK_EQ(dev_close(fd, handle[0]), 0);
	CHECK_EQ(dev_get(fd, handle[n - 1]), 0);
	h = handle[n - 1];
	CHECK(agree(GIB - 100, 100));
	return 0;
}

/* Two huge pages: few mappings, and each byte is where it should be. */
static int huge_pages(void)
{
	const size_t huge = 512 * PAGE, n = 1024;
	unsigned char *area = memory(4 * 512);

	at = (unsigned char *)(((uintptr_t)area + huge - 1) & -huge);
	CHECK_EQ(madvise(at, 2 * huge, MADV_HUGEPAGE), 0);
	stamp(at, n, 3);
	CHECK(is_huge(at + 100 * PAGE) && is_huge(at + 600 * PAGE));
	fd = dev_open(USERPTR_EDU);
	CHECK_EQ(dev_create(fd, at, n * PAGE, 0, &h), 0);
	CHECK(agree(0, 64) && agree(511 * PAGE + 4000, 96) && agree(1023 * PAGE + 4090, 6));
	CHECK_EQ(mapped(), n);
	CHECK_EQ(dev_write(fd, h, 700 * PAGE + 7, "device", 6), 0);
	CHECK(!memcmp(at + 700 * PAGE + 7, "device", 6));
	CHECK_EQ(madvise(at + 100 * PAGE, PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(pins(fd) + mapped(), 0);
	return 0;
}

static int read_only(void)
{
	unsigned char byte = 1;
	long dirtied;

	fd = dev_open(USERPTR_EDU);
	at = memory(2);
	stamp(at, 2, 4);
	CHECK_EQ(mprotect(at, 2 * PAGE, PROT_READ), 0);
	CHECK_EQ(dev_create(fd, at, 2 * PAGE, USERPTR_READ_ONLY, &h), 0);
	CHECK(agree(PAGE + 9, 100));
	CHECK_EQ(mapped(), 2);
	CHECK_EQ(dev_write(fd, h, 0, &byte, 1), -EPERM);
	CHECK(cpu_sees(at, 2, 4));
	dirtied = counter(fd, USERPTR_DIRTIED);
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(counter(fd, USERPTR_DIRTIED), dirtied);
	CHECK_EQ(pins(fd) + mapped(), 0);
	return 0;
}

/* Each side sees what the other writes, while it writes: no bounce buffer is between them. */
static int coherency(void)
{
	int changes = 0;

	DO(begin(1, 5));
	CHECK_EQ(dev_fill(fd, h, 1, 0, 1300, false), 0);
	for (int last = -1; dev_wait(fd, 10) == -ETIMEDOUT;) {
		int now = *(volatile unsigned char *)(at + 77);

		changes += now != last;
		last = now;
	}
	CHECK_EQ(dev_wait(fd, 5000), 0);
	CHECK(changes >= 3);
	for (size_t i = 1; i < PAGE; i++)
		CHECK_EQ(at[i], at[0]);
	stamp(at, 1, 6);
	CHECK(agree(2048, 2048));
	CHECK_EQ(mapped(), 1);
	return 0;
}

static int unmap_waits(void)
{
	DO(begin(2, 7));
	for (int i = 0; i < 3; i++) {
		long from;

		DO(busy(0x40));
		from = now_ms();
		CHECK_EQ(munmap(at, 2 * PAGE), 0);
		/* One transfer, not the whole job. */
		CHECK(now_ms() - from < 2500);
		/* Whoever gets the page now finds it his own. */
		CHECK(memory_at(at, 2) == at);
		stamp(at, 2, 8);
		DO(let_go());
		CHECK(cpu_sees(at, 2, 8));
		CHECK(agree(60, 64));
	}
	return 0;
}

static int map_fixed_busy(void)
{
	DO(begin(1, 9));
	for (int i = 0; i < 3; i++) {
		DO(busy(0x50));
		CHECK(memory_at(at, 1) == at);
		stamp(at, 1, 10);
		DO(let_go());
		CHECK(cpu_sees(at, 1, 10));
		CHECK(agree(1024, 512));
	}
	return 0;
}

static int dontneed_busy(void)
{
	DO(begin(1, 11));
	DO(busy(0x77));
	CHECK_EQ(madvise(at, PAGE, MADV_DONTNEED), 0);
	DO(let_go());
	for (size_t i = 0; i < PAGE; i++)
		CHECK_EQ(at[i], 0);
	CHECK(agree(3000, 64));
	CHECK_EQ(dev_write(fd, h, 3000, "fresh", 5), 0);
	CHECK(!memcmp(at + 3000, "fresh", 5));
	return 0;
}

/* The pages themselves move to another address, where somebody else uses them on. */
static int mremap_busy(void)
{
	unsigned char *from, *to;

	DO(begin(1, 12));
	DO(busy(0x66));
	from = at;
	to = mremap(at, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, memory(1));
	CHECK(to != MAP_FAILED);
	stamp(to, 1, 13);
	DO(let_go());
	CHECK(cpu_sees(to, 1, 13));
	CHECK_EQ(dev_get(fd, h), -EFAULT);
	CHECK_EQ(pins(fd) + mapped(), 0);
	/* And back, onto the object's range. */
	CHECK(mremap(to, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, from) == from);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK(agree(0, 64));
	return 0;
}

/* The device does not obey for longer than its deadline: the unmap does not hang, the page stays pinned and mapped. */
static int quarantine(void)
{
	long from;

	DO(begin(1, 19));
	CHECK_EQ(dev_fill(fd, h, 1, 1, 5500, true), 0);
	from = now_ms();
	CHECK_EQ(munmap(at, PAGE), 0);
	CHECK(now_ms() - from < 5000);
	CHECK_EQ(pins(fd), 1);
	CHECK_EQ(mapped(), 1);
	CHECK(memory_at(at, 1) == at);
	stamp(at, 1, 20);
	CHECK_EQ(dev_wait(fd, 20000), 0);
	CHECK(cpu_sees(at, 1, 20));
	CHECK_EQ(dev_reset(fd), 0);
	CHECK_EQ(pins(fd) + mapped(), 0);
	CHECK(agree(0, 64));
	return 0;
}

/* An IOMMU gives the device an address space of its own. */
const struct test edu_iommu_tests[] = {
	{ "edu-address-space-full", address_space_full },
	{ NULL, NULL },
};

const struct test edu_tests[] = {
	{ "edu-copy", copy },
	{ "edu-put-pages", put_pages },
	{ "edu-limits", limits },
	{ "edu-huge-pages", huge_pages },
	{ "edu-read-only", read_only },
	{ "edu-coherency", coherency },
	{ "edu-unmap-waits", unmap_waits },
	{ "edu-map-fixed-busy", map_fixed_busy },
	{ "edu-dontneed-busy", dontneed_busy },
	{ "edu-mremap-busy", mremap_busy },
	{ "edu-quarantine", quarantine },
	{ NULL, NULL },
};
