// SPDX-License-Identifier: MIT OR GPL-2.0
/* Creation, handles, data, checks of input, privilege, read-only. */
#include "dev.h"

#define N 16

static int create_destroy(void)
{
	int fd = dev_open(0);
	unsigned char *at = memory(N);
	uint64_t h;

	stamp(at, N, 1);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(pins(fd), N);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(pins(fd), N);
	CHECK(device_sees(fd, h, N, 1));
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(left(fd), 0);
	return 0;
}

static int many_handles(void)
{
	enum { MANY = 200 };
	int fd = dev_open(0), other = dev_open(0);
	unsigned char *at = memory(MANY);
	uint64_t h[MANY], extra;

	stamp(at, MANY, 2);
	for (int i = 0; i < MANY; i++) {
		CHECK_EQ(dev_create(fd, at + i * PAGE, PAGE, 0, &h[i]), 0);
		for (int j = 0; j < i; j++)
			CHECK(h[i] != h[j]);
		CHECK_EQ(dev_get(fd, h[i]), 0);
	}
	CHECK_EQ(pins(fd), MANY);
	for (int i = 0; i < MANY; i += 2)
		CHECK_EQ(dev_close(fd, h[i]), 0);
	CHECK_EQ(pins(fd), MANY / 2);
	CHECK_EQ(dev_create(fd, at, PAGE, 0, &extra), 0);
	/* Closing the file closes the rest. */
	close(fd);
	CHECK_EQ(left(other), 0);
	return 0;
}

static int input_checks(void)
{
	int fd = dev_open(0);
	unsigned char *at = memory(N);
	uint64_t h;
	long before = counter(fd, USERPTR_ALLOCATIONS);

	CHECK_EQ(dev_create(fd, at, 0, 0, &h), -EINVAL);
	CHECK_EQ(dev_create(fd, at + 1, PAGE, 0, &h), -EINVAL);
	CHECK_EQ(dev_create(fd, at, PAGE + 1, 0, &h), -EINVAL);
	CHECK_EQ(dev_create(fd, at, PAGE, 0x100, &h), -EINVAL);
	CHECK_EQ(dev_create(fd, at, PAGE, 1ULL << 40, &h), -EINVAL);
	CHECK(dev_create(fd, at, -PAGE, 0, &h) < 0);
	/* The kernel's half, and across its border. */
	CHECK_EQ(dev_create(fd, (void *)0xffff888000000000UL, PAGE, 0, &h), -EFAULT);
	CHECK_EQ(dev_create(fd, (void *)0x7ffffffff000UL, 2 * PAGE, 0, &h), -EFAULT);
	CHECK_EQ(counter(fd, USERPTR_ALLOCATIONS), before);
	CHECK_EQ(pins(fd), 0);
	return 0;
}

/* What a request does not use must be zero, or it can never mean anything; what is no request is none. */
static int odd_requests(void)
{
	static const int used[USERPTR_REQUESTS] = { 1, 3, 1, 2, 5, 6, 1, 1, 2, 1, 1, 0, 0 };
	int fd = dev_open(0);
	uint64_t h;

	CHECK_EQ(dev_create(fd, memory(1), PAGE, 0, &h), 0);
	for (int n = 0; n < USERPTR_REQUESTS; n++)
		for (int word = used[n]; word < 8; word++) {
			struct userptr_words words = { 0 };

			words.w[word] = 1ULL << 40;
			CHECK(ioctl(fd, USERPTR_REQUEST(n), &words) < 0 && errno == EINVAL);
		}
	CHECK_EQ(dev_get(fd, h), 0);
	struct userptr_words words = { .w = { h } };

	CHECK(ioctl(fd, USERPTR_REQUEST(USERPTR_REQUESTS), &words) < 0 && errno == ENOTTY);
	/* Another direction, size or type. */
	CHECK(ioctl(fd, _IOW('U', 2, struct userptr_words), &words) < 0 && errno == ENOTTY);
	CHECK(ioctl(fd, _IOWR('U', 2, uint64_t), &words) < 0 && errno == ENOTTY);
	CHECK(ioctl(fd, _IOWR('u', 2, struct userptr_words), &words) < 0 && errno == ENOTTY);
	/* A job that goes on for ever would keep whoever waits for all jobs. */
	CHECK_EQ(dev_fill(fd, h, 1, 1, 60001, false), -EINVAL);
	CHECK_EQ(dev_close(fd, h), 0);
	return 0;
}

/* A 32-bit program's system call. */
static long call32(long number, long a, long b, void *c)
{
	long ret;

	__asm__ volatile("int $0x80" : "=a"(ret) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	return ret;
}

/* The words are the same for a 32-bit program. */
static int requests_of_32_bits(void)
{
	int fd = dev_open(0);
	struct userptr_words *words = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	CHECK(words != MAP_FAILED);
	words->w[0] = (uint64_t)memory(3);
	words->w[1] = 3 * PAGE;
	/* ioctl */
	CHECK_EQ(call32(54, fd, USERPTR_CREATE, words), 0);
	CHECK_EQ(dev_get(fd, words->w[3]), 0);
	CHECK_EQ(pins(fd), 3);
	CHECK_EQ(dev_close(fd, words->w[3]), 0);
	CHECK_EQ(left(fd), 0);
	return 0;
}

static int unknown_handles(void)
{
	int fd = dev_open(0), other = dev_open(0);
	unsigned char *at = memory(1), byte;
	uint64_t h;

	CHECK_EQ(dev_close(fd, 77), -ENOENT);
	CHECK_EQ(dev_get(fd, 0), -ENOENT);
	CHECK_EQ(dev_create(fd, at, PAGE, 0, &h), 0);
	/* A handle is its file's own. */
	CHECK_EQ(dev_get(other, h), -ENOENT);
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(dev_close(fd, h), -ENOENT);
	CHECK_EQ(dev_read(fd, h, 0, &byte, 1), -ENOENT);
	CHECK_EQ(dev_put(fd, h), -ENOENT);
	CHECK_EQ(dev_export(fd, h), -ENOENT);
	CHECK_EQ(dev_wait(fd, 1), -ENOENT);
	CHECK_EQ(ioctl(fd, USERPTR_REQUEST(99), &h), -1);
	return 0;
}

static int copy_both_ways(void)
{
	int fd = dev_open(0);
	unsigned char *at = memory(N), buffer[3 * PAGE];
	uint64_t h;

	stamp(at, N, 3);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	/* Over page borders, from odd offsets; pins on demand. */
	CHECK_EQ(dev_read(fd, h, PAGE - 5, buffer, 2 * PAGE + 17), 0);
	CHECK(!memcmp(buffer, at + PAGE - 5, 2 * PAGE + 17));
	memset(buffer, 0x5A, sizeof(buffer));
	CHECK_EQ(dev_write(fd, h, 2 * PAGE - 3, buffer, PAGE + 6), 0);
	CHECK(at[2 * PAGE - 4] != 0x5A && at[2 * PAGE - 3] == 0x5A);
	CHECK(at[3 * PAGE + 2] == 0x5A && at[3 * PAGE + 3] != 0x5A);
	CHECK_EQ(dev_read(fd, h, N * PAGE - 1, buffer, 1), 0);
	CHECK_EQ(dev_read(fd, h, N * PAGE - 1, buffer, 2), -EFAULT);
	CHECK(dev_read(fd, h, UINT64_MAX, buffer, 2) < 0);
	/* A bad buffer of the caller harms nothing. */
	CHECK_EQ(dev_read(fd, h, 0, (void *)1, 8), -EFAULT);
	CHECK_EQ(dev_write(fd, h, 0, (void *)1, 8), -EFAULT);
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(left(fd), 0);
	return 0;
}

/* The caller's buffer is the object's own memory: no lease is held across the copy to the user. */
static int copy_onto_itself(void)
{
	int fd = dev_open(0);
	unsigned char *at = memory(N);
	uint64_t h;

	stamp(at, N, 4);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_read(fd, h, 0, at + 8 * PAGE, 8 * PAGE), 0);
	CHECK(!memcmp(at, at + 8 * PAGE, 8 * PAGE));
	CHECK_EQ(dev_write(fd, h, 0, at + 4 * PAGE, 4 * PAGE), 0);
	CHECK(!memcmp(at, at + 4 * PAGE, 4 * PAGE));
	return 0;
}

static int put_pages(void)
{
	int fd = dev_open(0);
	unsigned char *at = memory(N);
	uint64_t h;

	stamp(at, N, 5);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_put(fd, h), 0);
	for (int i = 0; i < 20; i++) {
		CHECK_EQ(dev_get(fd, h), 0);
		CHECK_EQ(pins(fd), N);
		CHECK_EQ(dev_put(fd, h), 0);
		CHECK_EQ(pins(fd), 0);
	}
	CHECK(device_sees(fd, h, N, 5));
	return 0;
}

/* Untouched memory has no page yet: the fast pin gets nothing and a worker faults the pages in. */
static int untouched_memory(void)
{
	int fd = dev_open(0);
	unsigned char *at = memory(N);
	long slow = counter(fd, USERPTR_SLOW_PINS);
	uint64_t h;

	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(pins(fd), N);
	CHECK(counter(fd, USERPTR_SLOW_PINS) >= slow + N);
	at[5] = 9;
	CHECK_EQ(dev_read(fd, h, 5, at + PAGE, 1), 0);
	CHECK_EQ(at[PAGE], 9);
	return 0;
}

static int partly_touched(void)
{
	int fd = dev_open(0);
	unsigned char *at = memory(N);
	uint64_t h;

	at[0] = at[PAGE] = at[2 * PAGE] = at[7 * PAGE] = 3;
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	/* Exactly once each, whoever pinned which. */
	CHECK_EQ(pins(fd), N);
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(left(fd), 0);
	return 0;
}

static int large_object(void)
{
	enum { LARGE = 16384 }; /* 64 MiB */
	int fd = dev_open(0);
	unsigned char *at = memory(LARGE), byte = 0;
	uint64_t h;

	at[LARGE * PAGE - 1] = 0xC3;
	CHECK_EQ(dev_create(fd, at, LARGE * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(pins(fd), LARGE);
	CHECK_EQ(dev_read(fd, h, LARGE * PAGE - 1, &byte, 1), 0);
	CHECK_EQ(byte, 0xC3);
	CHECK_EQ(munmap(at + 1000 * PAGE, PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	return 0;
}

static long available_kib(void)
{
	char line[128];
	long kib = -1;
	FILE *f = fopen("/proc/meminfo", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %ld", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return kib;
}

/* The counters of the driver could lie. The machine's memory does not: a page that stays pinned is not free. */
static int memory_comes_back(void)
{
	enum { PAGES = 2048, ROUNDS = 20 };
	int fd = dev_open(0);
	long before = available_kib(), after;

	CHECK(before > 0);
	for (int i = 0; i < ROUNDS * PAGES / N; i++) {
		unsigned char *at = memory(N);
		uint64_t h;

		memset(at, 1, N * PAGE);
		CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
		CHECK_EQ(dev_get(fd, h), 0);
		CHECK_EQ(munmap(at - PAGE, (N + 2) * PAGE), 0);
		CHECK_EQ(dev_close(fd, h), 0);
	}
	after = available_kib();
	/* One page of each object would be 10 MiB. */
	CHECK(before - after < 6 * 1024);
	return 0;
}

static int device_page_limit(void)
{
	int fd = dev_open(2);
	unsigned char *at = memory(N);
	uint64_t h;

	CHECK_EQ(dev_create(fd, at, 9 * PAGE, 0, &h), -E2BIG);
	CHECK_EQ(dev_create(fd, at, 8 * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(pins(fd), 8);
	return 0;
}

static int read_only(void)
{
	int fd = dev_open(0);
	unsigned char *at = memory(N), byte = 1;
	uint64_t h, w;
	long dirtied;

	stamp(at, N, 6);
	CHECK_EQ(mprotect(at, N * PAGE, PROT_READ), 0);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &w), 0);
	CHECK_EQ(dev_get(fd, w), -EFAULT);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_create(fd, at, N * PAGE, USERPTR_READ_ONLY, &h), 0);
	CHECK(device_sees(fd, h, N, 6));
	CHECK_EQ(pins(fd), N);
	CHECK(dev_write(fd, h, 0, &byte, 1) < 0);
	dirtied = counter(fd, USERPTR_DIRTIED);
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(counter(fd, USERPTR_DIRTIED), dirtied);
	CHECK_EQ(pins(fd), 0);
	return 0;
}

static int read_only_unable(void)
{
	int fd = dev_open(2);
	uint64_t h;

	CHECK_EQ(dev_create(fd, memory(1), PAGE, USERPTR_READ_ONLY, &h), -ENODEV);
	return 0;
}

static int written_is_dirty(void)
{
	int fd = dev_open(0);
	unsigned char *at = memory(N), byte = 1;
	uint64_t h;
	long dirtied;

	stamp(at, N, 7);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_write(fd, h, 0, &byte, 1), 0);
	dirtied = counter(fd, USERPTR_DIRTIED);
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK(counter(fd, USERPTR_DIRTIED) > dirtied);
	return 0;
}

static int unsynchronized_privilege(void)
{
	int fd = dev_open(0), status;
	unsigned char *at = memory(N);
	pid_t child = fork();

	if (child == 0) {
		uint64_t h;

		if (setuid(65534))
			_exit(2);
		_exit(dev_create(fd, at, N * PAGE, USERPTR_UNSYNCHRONIZED, &h) == -EPERM &&
		      dev_create(fd, at, N * PAGE, 0, &h) == 0 ? 0 : 1);
	}
	status = reap(child);
	CHECK_EQ(status, 0);
	return 0;
}

/* Nothing watches it: the pages stay pinned until they are given back. */
static int unsynchronized(void)
{
	int fd = dev_open(0);
	unsigned char *at = memory(N);
	uint64_t h;

	stamp(at, N, 8);
	CHECK_EQ(dev_create(fd, at, N * PAGE, USERPTR_UNSYNCHRONIZED, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(pins(fd), N);
	CHECK_EQ(munmap(at, N * PAGE), 0);
	CHECK_EQ(pins(fd), N);
	CHECK(device_sees(fd, h, N, 8));
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(left(fd), 0);
	return 0;
}

static int export_unsynchronized(void)
{
	int fd = dev_open(0);
	unsigned char *at = memory(N);
	uint64_t h;

	stamp(at, N, 9);
	CHECK_EQ(dev_create(fd, at, N * PAGE, USERPTR_UNSYNCHRONIZED, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(dev_export(fd, h), 0);
	/* The pages predate the watch. */
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_export(fd, h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(pins(fd), N);
	CHECK(device_sees(fd, h, N, 9));
	CHECK_EQ(munmap(at, N * PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_close(fd, h), 0);
	return 0;
}

static int export_synchronized(void)
{
	int fd = dev_open(0);
	unsigned char *at = memory(N);
	uint64_t h;

	stamp(at, N, 10);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(dev_export(fd, h), 0);
	/* It was watched all along: nothing to revoke. */
	CHECK_EQ(pins(fd), N);
	return 0;
}

static int probe(void)
{
	int fd = dev_open(0);
	unsigned char *at = memory(N);

	CHECK_EQ(dev_probe(fd, at, N * PAGE), 0);
	CHECK_EQ(munmap(at, PAGE), 0);
	CHECK_EQ(dev_probe(fd, at, N * PAGE), -EFAULT);
	CHECK_EQ(dev_probe(fd, at + PAGE, (N - 1) * PAGE), 0);
	CHECK_EQ(munmap(at + 7 * PAGE, PAGE), 0);
	CHECK_EQ(dev_probe(fd, at + PAGE, (N - 1) * PAGE), -EFAULT);
	CHECK_EQ(dev_probe(fd, at + PAGE, 6 * PAGE), 0);
	CHECK_EQ(munmap(at + (N - 1) * PAGE, PAGE), 0);
	CHECK_EQ(dev_probe(fd, at + 8 * PAGE, (N - 8) * PAGE), -EFAULT);
	CHECK_EQ(dev_probe(fd, at + 8 * PAGE, (N - 9) * PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	return 0;
}

const struct test basic_tests[] = {
	{ "create-destroy", create_destroy },
	{ "many-handles", many_handles },
	{ "input-checks", input_checks },
	{ "odd-requests", odd_requests },
	{ "unknown-handles", unknown_handles },
	{ "copy-both-ways", copy_both_ways },
	{ "copy-onto-itself", copy_onto_itself },
	{ "put-pages", put_pages },
	{ "untouched-memory", untouched_memory },
	{ "partly-touched", partly_touched },
	{ "large-object", large_object },
	{ "device-page-limit", device_page_limit },
	{ "read-only", read_only },
	{ "read-only-unable", read_only_unable },
	{ "written-is-dirty", written_is_dirty },
	{ "unsynchronized-privilege", unsynchronized_privilege },
	{ "unsynchronized", unsynchronized },
	{ "export-unsynchronized", export_unsynchronized },
	{ "export-synchronized", export_synchronized },
	{ "probe", probe },
	{ NULL, NULL },
};

/* A kernel with checkers keeps freed memory back, so what is available says little there. */
const struct test plain_tests[] = {
	{ "memory-comes-back", memory_comes_back },
	{ "requests-of-32-bits", requests_of_32_bits },
	{ NULL, NULL },
};
