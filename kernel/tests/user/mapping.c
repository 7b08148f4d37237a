// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Changes of the mapping. When the call that changes it has returned, the pages are released (`pins` at once, without
 * waiting for any worker), and the device never sees or writes a stale page.
 */
#include "fixture.h"

#include <sys/syscall.h>

static int unmap(void)
{
	unsigned char byte;

	BEGIN(1);
	CHECK_EQ(munmap(at, N * PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_get(fd, h), -EFAULT);
	CHECK_EQ(dev_read(fd, h, 0, &byte, 1), -EFAULT);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_close(fd, h), 0);
	return 0;
}

static int unmap_cycles(void)
{
	BEGIN(2);
	for (unsigned int i = 0; i < 100; i++) {
		CHECK_EQ(munmap(at, N * PAGE), 0);
		CHECK_EQ(pins(fd), 0);
		CHECK(memory_at(at, N) == at);
		stamp(at, N, i);
		CHECK(device_sees(fd, h, N, i));
		CHECK_EQ(pins(fd), N);
	}
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(left(fd), 0);
	return 0;
}

static int unmap_after_close(void)
{
	BEGIN(3);
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(left(fd), 0);
	CHECK_EQ(munmap(at, N * PAGE), 0);
	CHECK(memory_at(at, N) == at);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	stamp(at, N, 4);
	CHECK(device_sees(fd, h, N, 4));
	return 0;
}

static int unmap_part(void)
{
	BEGIN(5);
	CHECK_EQ(munmap(at + 7 * PAGE, PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_get(fd, h), -EFAULT);
	CHECK_EQ(pins(fd), 0);
	/* The failure sticks until somebody asks to look again: a mapping that comes into a hole is not told. */
	CHECK(memory_at(at + 7 * PAGE, 1) != NULL);
	stamp(at, N, 6);
	CHECK(!device_sees(fd, h, N, 6) && errno == EFAULT);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK(device_sees(fd, h, N, 6));
	return 0;
}

static int unmap_neighbour(void)
{
	uint64_t other;

	BEGIN(7);
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(left(fd), 0);
	CHECK_EQ(dev_create(fd, at, 4 * PAGE, 0, &h), 0);
	CHECK_EQ(dev_create(fd, at + 5 * PAGE, 4 * PAGE, 0, &other), 0);
	CHECK_EQ(dev_get(fd, h) | dev_get(fd, other), 0);
	CHECK_EQ(munmap(at + 4 * PAGE, PAGE), 0);
	CHECK_EQ(pins(fd), 8);
	CHECK_EQ(munmap(at + 5 * PAGE, PAGE), 0);
	CHECK_EQ(pins(fd), 4);
	CHECK(device_sees(fd, h, 4, 7));
	return 0;
}

/* Overlapping, nested and identical ranges: each one that is hit is released, no other. */
static int overlap(void)
{
	static const int from[] = { 0, 0, 2, 4, 8, 8, 8, 15 }, len[] = { 16, 4, 4, 8, 8, 8, 1, 1 };
	uint64_t handle[8];
	long all = 0, hit = 0;

	fd = dev_open(0);
	at = memory(N);
	stamp(at, N, 8);
	for (int i = 0; i < 8; i++) {
		CHECK_EQ(dev_create(fd, at + from[i] * PAGE, len[i] * PAGE, 0, &handle[i]), 0);
		CHECK_EQ(dev_get(fd, handle[i]), 0);
		all += len[i];
		if (from[i] <= 9 && from[i] + len[i] > 9)
			hit += len[i];
	}
	CHECK_EQ(pins(fd), all);
	CHECK_EQ(madvise(at + 9 * PAGE, PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(pins(fd), all - hit);
	CHECK_EQ(munmap(at, N * PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	return 0;
}

static int map_fixed(void)
{
	BEGIN(9);
	CHECK(memory_at(at, N) == at);
	CHECK_EQ(pins(fd), 0);
	stamp(at, N, 10);
	CHECK(device_sees(fd, h, N, 10));
	return 0;
}

/* The device writes meanwhile: the call returns when it has stopped, and the new memory is never scribbled upon. */
static int map_fixed_busy(void)
{
	BEGIN(11);
	for (int i = 0; i < 5; i++) {
		long from = now_ms();

		CHECK_EQ(dev_fill(fd, h, N, 0x40, 20000, false), 0);
		CHECK_EQ(counter(fd, USERPTR_JOBS), 1);
		CHECK(memory_at(at, N) == at);
		CHECK_EQ(counter(fd, USERPTR_JOBS), 0);
		CHECK_EQ(pins(fd), 0);
		CHECK(now_ms() - from < 10000);
		stamp(at, N, 12);
		usleep(2000);
		CHECK(cpu_sees(at, N, 12));
		CHECK_EQ(dev_wait(fd, 0), 0);
	}
	return 0;
}

/* A device that does not stop before its job is done: the unmap waits for it. */
static int unmap_waits(void)
{
	long from;

	BEGIN(13);
	CHECK_EQ(dev_fill(fd, h, N, 1, 600, true), 0);
	from = now_ms();
	CHECK_EQ(munmap(at, N * PAGE), 0);
	CHECK(now_ms() - from >= 500);
	CHECK_EQ(counter(fd, USERPTR_JOBS), 0);
	CHECK_EQ(pins(fd), 0);
	return 0;
}

static int coherency(void)
{
	int changes = 0;

	BEGIN(14);
	/* On a busy machine the two may not run at once for long: the job is given more time until they do. */
	for (int ms = 400; changes <= 10 && ms <= 12800; ms *= 2) {
		CHECK_EQ(dev_fill(fd, h, N, 0, ms, false), 0);
		for (int last = -1; dev_wait(fd, 1) == -ETIMEDOUT;) {
			int now = *(volatile unsigned char *)(at + 9 * PAGE + 77);

			changes += now != last;
			last = now;
		}
		CHECK_EQ(dev_wait(fd, 5000), 0);
	}
	CHECK(changes > 10);
	/* And the last value is everywhere. */
	for (size_t i = 1; i < N * PAGE; i++)
		CHECK_EQ(at[i], at[0]);
	stamp(at, N, 15);
	CHECK(device_sees(fd, h, N, 15));
	return 0;
}

static int mremap_away(void)
{
	unsigned char *to;
	uint64_t moved;

	BEGIN(16);
	to = mremap(at, N * PAGE, N * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, memory(N));
	CHECK(to != MAP_FAILED);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_get(fd, h), -EFAULT);
	CHECK_EQ(dev_create(fd, to, N * PAGE, 0, &moved), 0);
	CHECK(device_sees(fd, moved, N, 16));
	CHECK_EQ(pins(fd), N);
	return 0;
}

static int mremap_onto(void)
{
	unsigned char *from = memory(N);

	BEGIN(17);
	stamp(from, N, 18);
	CHECK(mremap(from, N * PAGE, N * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, at) == at);
	CHECK_EQ(pins(fd), 0);
	CHECK(device_sees(fd, h, N, 18));
	return 0;
}

static int mremap_shrink(void)
{
	BEGIN(19);
	CHECK(mremap(at, N * PAGE, 8 * PAGE, 0) == at);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_get(fd, h), -EFAULT);
	return 0;
}

static int dontneed(void)
{
	unsigned char zero[PAGE] = { 0 }, got[PAGE];

	BEGIN(20);
	CHECK_EQ(madvise(at, N * PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(pins(fd), 0);
	memset(got, 1, PAGE);
	CHECK_EQ(dev_read(fd, h, 3 * PAGE, got, PAGE), 0);
	CHECK(!memcmp(got, zero, PAGE));
	CHECK_EQ(dev_write(fd, h, 3 * PAGE, "fresh", 5), 0);
	CHECK(!memcmp(at + 3 * PAGE, "fresh", 5));
	return 0;
}

static int dontneed_busy(void)
{
	BEGIN(21);
	CHECK_EQ(dev_fill(fd, h, N, 0x77, 20000, false), 0);
	CHECK_EQ(madvise(at, N * PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(counter(fd, USERPTR_JOBS), 0);
	for (size_t i = 0; i < N * PAGE; i++)
		CHECK_EQ(at[i], 0);
	return 0;
}

static int protect_read_only(void)
{
	BEGIN(22);
	CHECK_EQ(mprotect(at, N * PAGE, PROT_READ), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_get(fd, h), -EFAULT);
	CHECK_EQ(mprotect(at, N * PAGE, PROT_READ | PROT_WRITE), 0);
	CHECK(device_sees(fd, h, N, 22));
	return 0;
}

static int protect_none(void)
{
	uint64_t reader;

	BEGIN(23);
	CHECK_EQ(dev_create(fd, at, N * PAGE, USERPTR_READ_ONLY, &reader), 0);
	CHECK_EQ(dev_get(fd, reader), 0);
	CHECK_EQ(mprotect(at + 3 * PAGE, PAGE, PROT_NONE), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_get(fd, h), -EFAULT);
	CHECK_EQ(dev_get(fd, reader), -EFAULT);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(mprotect(at + 3 * PAGE, PAGE, PROT_READ), 0);
	CHECK(device_sees(fd, reader, N, 23));
	return 0;
}

/* Shared memory is changed through its file, not through the address: the callback comes by the reverse map. */
static int shared_punch_hole(void)
{
	unsigned char zero[PAGE] = { 0 }, got[PAGE];
	int file = syscall(SYS_memfd_create, "shared", 0);

	CHECK_EQ(ftruncate(file, N * PAGE), 0);
	at = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(at != MAP_FAILED);
	stamp(at, N, 24);
	fd = dev_open(0);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK(device_sees(fd, h, N, 24));
	CHECK_EQ(pins(fd), N);
	CHECK_EQ(fallocate(file, 3 /* PUNCH_HOLE | KEEP_SIZE */, 2 * PAGE, PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_read(fd, h, 2 * PAGE, got, PAGE), 0);
	CHECK(!memcmp(got, zero, PAGE));
	CHECK_EQ(dev_write(fd, h, 2 * PAGE, "device", 6), 0);
	CHECK_EQ(pread(file, got, 6, 2 * PAGE), 6);
	CHECK(!memcmp(got, "device", 6));
	CHECK_EQ(ftruncate(file, 8 * PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_get(fd, h), -EFAULT);
	return 0;
}

static int huge_pages(void)
{
	const size_t huge = 512 * PAGE;
	unsigned char *area = memory(4 * 512), byte;
	long n = 2 * 512;

	at = (unsigned char *)(((uintptr_t)area + huge - 1) & -huge);
	CHECK_EQ(madvise(at, 2 * huge, MADV_HUGEPAGE), 0);
	stamp(at, n, 25);
	fd = dev_open(0);
	CHECK_EQ(dev_create(fd, at, n * PAGE, 0, &h), 0);
	CHECK(is_huge(at + 100 * PAGE) && is_huge(at + 600 * PAGE));
	CHECK(device_sees(fd, h, n, 25));
	CHECK_EQ(pins(fd), n);
	CHECK_EQ(madvise(at + 100 * PAGE, PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_read(fd, h, 100 * PAGE + 5, &byte, 1), 0);
	CHECK_EQ(byte, 0);
	CHECK_EQ(dev_read(fd, h, 99 * PAGE + 5, &byte, 1), 0);
	CHECK_EQ(byte, at[99 * PAGE + 5]);
	return 0;
}

/* Two devices on one range: both stop, both let go, before the unmap returns. */
static int two_devices(void)
{
	int second = dev_open(1);
	uint64_t other;

	BEGIN(26);
	CHECK_EQ(dev_create(second, at, N * PAGE, 0, &other), 0);
	CHECK_EQ(dev_get(second, other), 0);
	CHECK_EQ(pins(fd), 2 * N);
	CHECK_EQ(dev_fill(fd, h, N, 1, 20000, false), 0);
	/* This one stops when its job is done, and its revocation runs on a workqueue: the unmap waits all the same. */
	CHECK_EQ(dev_fill(second, other, N, 2, 300, true), 0);
	CHECK_EQ(counter(fd, USERPTR_JOBS), 2);
	CHECK(memory_at(at, N) == at);
	CHECK_EQ(counter(fd, USERPTR_JOBS), 0);
	CHECK_EQ(pins(fd), 0);
	stamp(at, N, 27);
	CHECK(device_sees(fd, h, N, 27));
	CHECK(device_sees(second, other, N, 27));
	return 0;
}

/* The device ignores the request to stop for longer than its deadline: the unmap does not hang, the pages stay pinned. */
static int quarantine(void)
{
	long from, ever;

	fd = dev_open(1);
	at = memory(N);
	stamp(at, N, 28);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_fill(fd, h, N, 1, 4000, true), 0);
	ever = counter(fd, USERPTR_QUARANTINED);
	from = now_ms();
	CHECK_EQ(munmap(at, N * PAGE), 0);
	CHECK(now_ms() - from < 3500);
	CHECK_EQ(pins(fd), N);
	CHECK_EQ(counter(fd, USERPTR_JOBS), 1);
	/* New memory at the same place is not the quarantined memory. */
	CHECK(memory_at(at, N) == at);
	stamp(at, N, 29);
	CHECK_EQ(dev_wait(fd, 20000), 0);
	CHECK(cpu_sees(at, N, 29));
	/* The driver was notified by the worker that revoked, perhaps after the unmap had returned. */
	CHECK_EQ(dev_settle(fd), 0);
	CHECK_EQ(counter(fd, USERPTR_QUARANTINED), ever + 1);
	CHECK_EQ(dev_reset(fd), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK(device_sees(fd, h, N, 29));
	return 0;
}

/*
 * One deadline for one unmap, not one for each of its objects: four objects of a device that ignores the request to stop, and whose
 * deadline is 10 s. With one for each, the unmap would last as long as the device works: the jobs all end after 25 s.
 */
static int one_deadline(void)
{
	enum { MANY = 4 };
	uint64_t handles[MANY];
	int fds[MANY];
	long ever, from, took;

	fd = dev_open(0);
	ever = counter(fd, USERPTR_QUARANTINED);
	at = memory(N);
	stamp(at, N, 30);
	for (int i = 0; i < MANY; i++) {
		fds[i] = dev_open(0);
		CHECK_EQ(dev_create(fds[i], at, N * PAGE, 0, &handles[i]), 0);
		CHECK_EQ(dev_fill(fds[i], handles[i], N, 1, 25000, true), 0);
	}
	CHECK_EQ(counter(fd, USERPTR_JOBS), MANY);
	from = now_ms();
	CHECK_EQ(munmap(at, N * PAGE), 0);
	took = now_ms() - from;
	CHECK(took >= 9900);
	CHECK(took < 15000);
	CHECK_EQ(counter(fd, USERPTR_QUARANTINED), ever + MANY);
	CHECK_EQ(pins(fd), MANY * N);
	for (int i = 0; i < MANY; i++)
		CHECK_EQ(dev_wait(fds[i], 60000), 0);
	CHECK_EQ(dev_reset(fd), 0);
	CHECK_EQ(pins(fd), 0);
	return 0;
}

const struct test mapping_tests[] = {
	{ "unmap", unmap },
	{ "unmap-cycles", unmap_cycles },
	{ "unmap-after-close", unmap_after_close },
	{ "unmap-part", unmap_part },
	{ "unmap-neighbour", unmap_neighbour },
	{ "overlap", overlap },
	{ "map-fixed", map_fixed },
	{ "map-fixed-busy", map_fixed_busy },
	{ "unmap-waits", unmap_waits },
	{ "coherency", coherency },
	{ "mremap-away", mremap_away },
	{ "mremap-onto", mremap_onto },
	{ "mremap-shrink", mremap_shrink },
	{ "dontneed", dontneed },
	{ "dontneed-busy", dontneed_busy },
	{ "protect-read-only", protect_read_only },
	{ "protect-none", protect_none },
	{ "shared-punch-hole", shared_punch_hole },
	{ "huge-pages", huge_pages },
	{ "two-devices", two_devices },
	{ "quarantine", quarantine },
	{ "one-deadline", one_deadline },
	{ NULL, NULL },
};
