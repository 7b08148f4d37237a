// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Memory runs short: reclaim takes pages away, with their locks held, and brings them back from swap. What the device wrote is
 * content like any other. Swap lies on a RAM disk (/dev/ram1), made by the guest where its kernel has one.
 */
#include "dev.h"

#include <pthread.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/swap.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define N 16

static int fd;
static unsigned char *at;
static uint64_t h;

static unsigned char *shared_memory(size_t pages)
{
	unsigned char *got = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return got == MAP_FAILED ? NULL : got;
}

/* Reads a byte of each page, so that all are present. */
static void look_at(const unsigned char *memory, size_t pages)
{
	for (size_t i = 0; i < pages; i++)
		(void)*(const volatile unsigned char *)(memory + i * PAGE);
}

/* Whether all pages of the range are present, or (`in` false) none is. */
static bool resident(unsigned char *memory, size_t pages, bool in)
{
	bool same = true;

	for (size_t i = 0; i < pages; i++)
		same &= page_entry(memory + i * PAGE) >> 63 == in;
	return same;
}

/*
 * Asks reclaim for the range, once on each processor: a page that has just come in lies in a list of the processor that the
 * fault ran on, perhaps a worker's, where reclaim does not find it; and the advice empties the list of its own processor only.
 */
static int page_out(unsigned char *memory, size_t pages)
{
	cpu_set_t all, one;
	int ret = sched_getaffinity(0, sizeof(all), &all);

	for (int cpu = 0; !ret && cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		ret = sched_setaffinity(0, sizeof(one), &one) || madvise(memory, pages * PAGE, MADV_PAGEOUT);
	}
	return sched_setaffinity(0, sizeof(all), &all) || ret;
}

/* Pages the range out until none is left: reclaim passes over a page that somebody happens to hold. */
static bool paged_out(unsigned char *memory, size_t pages)
{
	for (long until = now_ms() + 30000; now_ms() < until; usleep(1000)) {
		if (page_out(memory, pages))
			return false;
		if (resident(memory, pages, false))
			return true;
	}
	return false;
}

/*
 * The device writes to pages that are present and writable but clean. By the fast pin, which marks nothing, or this would show
 * nothing. Then reclaim takes them: it holds the lock of the page when it tells us, and a clean page is dropped.
 */
static int written_then_reclaimed(unsigned char *memory)
{
	long slow;

	at = memory;
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	slow = counter(fd, USERPTR_SLOW_PINS);
	for (int i = 0; i < N; i++)
		CHECK_EQ(dev_write(fd, h, i * PAGE, "device", 6), 0);
	CHECK_EQ(counter(fd, USERPTR_SLOW_PINS), slow);
	CHECK_EQ(pins(fd), N);
	for (long until = now_ms() + 30000; pins(fd) && now_ms() < until;)
		CHECK_EQ(page_out(at, N), 0);
	CHECK_EQ(pins(fd), 0);
	for (int i = 0; i < N; i++)
		CHECK(!memcmp(at + i * PAGE, "device", 6));
	return 0;
}

static int lazily_freed(void)
{
	unsigned char *memory_ = memory(N);

	fd = dev_open(0);
	stamp(memory_, N, 30);
	CHECK_EQ(madvise(memory_, N * PAGE, MADV_FREE), 0);
	return written_then_reclaimed(memory_);
}

static int shared_clean(void)
{
	unsigned char *memory_ = shared_memory(N);

	fd = dev_open(0);
	CHECK(memory_ != NULL);
	look_at(memory_, N);
	return written_then_reclaimed(memory_);
}

/* ---- with swap ---- */

static int swap_on(void)
{
	CHECK(!swapon("/dev/ram1", 0) || errno == EBUSY);
	return 0;
}
#define SWAP_ON()                       \
	do {                            \
		int line_ = swap_on();  \
		if (line_)              \
			return line_;   \
		fd = dev_open(0);       \
	} while (0)

/* Out, read back (so there is a copy in swap that looks as good as the page), written by the device, and out again. */
static int swapped_in(bool shared)
{
	SWAP_ON();
	at = shared ? shared_memory(N) : memory(N);
	stamp(at, N, 31);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	for (int round = 0; round < 5; round++) {
		CHECK(paged_out(at, N));
		look_at(at, N);
		for (int i = 0; i < N; i++)
			CHECK_EQ(dev_write(fd, h, i * PAGE, &round, sizeof(round)), 0);
		/* Private pages that somebody pins are passed over, without a word to us: until the device lets go. */
		if (!shared)
			CHECK_EQ(dev_put(fd, h), 0);
		CHECK(paged_out(at, N));
		CHECK_EQ(pins(fd), 0);
		for (int i = 0; i < N; i++)
			CHECK(!memcmp(at + i * PAGE, &round, sizeof(round)));
	}
	return 0;
}

static int swapped_in_private(void) { return swapped_in(false); }
static int swapped_in_shared(void) { return swapped_in(true); }

/* The device is the one who brings pages back: its pin waits for the swap. */
static int device_swaps_in(void)
{
	long slow;

	SWAP_ON();
	at = memory(64);
	stamp(at, 64, 32);
	CHECK_EQ(dev_create(fd, at, 64 * PAGE, 0, &h), 0);
	for (int round = 0; round < 3; round++) {
		CHECK(paged_out(at, 64));
		slow = counter(fd, USERPTR_SLOW_PINS);
		CHECK(device_sees(fd, h, 64, 32));
		CHECK(counter(fd, USERPTR_SLOW_PINS) >= slow + 64);
		CHECK_EQ(dev_put(fd, h), 0);
	}
	return 0;
}

/* Pinned private pages stay where they are: reclaim looks at the pins before it tells anybody. */
static int pinned_stays(void)
{
	SWAP_ON();
	at = memory(N);
	stamp(at, N, 33);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	for (int i = 0; i < 20; i++)
		CHECK_EQ(page_out(at, N), 0);
	CHECK_EQ(pins(fd), N);
	CHECK(resident(at, N, true));
	CHECK_EQ(dev_put(fd, h), 0);
	CHECK(paged_out(at, N));
	CHECK(cpu_sees(at, N, 33));
	return 0;
}

/* Locked memory stays; unlocked, it goes. The device has it all the time. */
static int locked_memory(void)
{
	SWAP_ON();
	at = shared_memory(N);
	stamp(at, N, 34);
	CHECK_EQ(mlock(at, N * PAGE), 0);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	(void)page_out(at, N);
	CHECK_EQ(pins(fd), N);
	CHECK(device_sees(fd, h, N, 34));
	CHECK_EQ(munlock(at, N * PAGE), 0);
	CHECK(paged_out(at, N));
	CHECK_EQ(pins(fd), 0);
	CHECK(device_sees(fd, h, N, 34));
	return 0;
}

/* Swap goes away: everything is read back, below the objects. */
static int swap_off(void)
{
	unsigned char *private;

	SWAP_ON();
	private = memory(N);
	at = shared_memory(N);
	stamp(private, N, 35);
	stamp(at, N, 36);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK(paged_out(private, N) && paged_out(at, N));
	CHECK_EQ(swapoff("/dev/ram1"), 0);
	CHECK(device_sees(fd, h, N, 36));
	CHECK(cpu_sees(private, N, 35));
	CHECK_EQ(munmap(at, N * PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	return 0;
}

/* ---- a group of processes with less memory than they use ---- */

#define GROUP "/sys/fs/cgroup/userptr"

static int set(const char *name, const char *value)
{
	char path[96];
	int file, ok;

	snprintf(path, sizeof(path), GROUP "%s%s", *name ? "/" : "", name);
	file = open(path, O_WRONLY | O_CLOEXEC);
	ok = file >= 0 && write(file, value, strlen(value)) == (ssize_t)strlen(value);
	close(file);
	return ok ? 0 : -1;
}

static int group(const char *most, const char *swap)
{
	CHECK(!mkdir(GROUP, 0755) || errno == EEXIST);
	CHECK_EQ(set("memory.max", most), 0);
	CHECK_EQ(set("memory.swap.max", swap), 0);
	return 0;
}

/* Twice as much memory as the group may have, all of it with objects; the device and the processor write in turn. */
static int pressure(void)
{
	enum { EACH = 128, OBJECTS = 12 };
	unsigned char *memory_[OBJECTS], *buffer = malloc(EACH * PAGE);
	uint64_t handle[OBJECTS];
	int line;

	SWAP_ON();
	line = group("3145728", "max");
	if (line)
		return line;
	CHECK_EQ(set("cgroup.procs", "0"), 0);
	for (int i = 0; i < OBJECTS; i++) {
		memory_[i] = i % 2 ? shared_memory(EACH) : memory(EACH);
		CHECK(memory_[i] && buffer);
		CHECK_EQ(dev_create(fd, memory_[i], EACH * PAGE, 0, &handle[i]), 0);
		stamp(memory_[i], EACH, i);
	}
	for (int round = 1; round < 3; round++)
		for (int i = 0; i < OBJECTS; i++) {
			CHECK(device_sees(fd, handle[i], EACH, i + (round - 1) * OBJECTS));
			if ((round + i) % 3) {
				stamp(buffer, EACH, i + round * OBJECTS);
				CHECK_EQ(dev_write(fd, handle[i], 0, buffer, EACH * PAGE), 0);
			} else {
				stamp(memory_[i], EACH, i + round * OBJECTS);
			}
			/* A private object's pages are nobody's but its own until it lets go. */
			if (i % 2 == 0)
				CHECK_EQ(dev_put(fd, handle[i]), 0);
			CHECK(cpu_sees(memory_[i], EACH, i + round * OBJECTS));
		}
	return 0;
}

/* No more memory for the group: a process with objects and a busy device is killed, and nothing is left of it. */
static int out_of_memory(void)
{
	int status, line = group("16777216", "0"), file;
	long kills = 0, until;
	char text[256] = "", *kill_;
	pid_t child;

	if (line)
		return line;
	fd = dev_open(0);
	child = fork();
	if (child == 0) {
		int mine = dev_open(0);

		at = memory(N);
		stamp(at, N, 37);
		if (set("cgroup.procs", "0") || dev_create(mine, at, N * PAGE, 0, &h) || dev_fill(mine, h, N, 1, 500, false))
			_exit(1);
		for (;;)
			stamp(memory(256), 256, 1);
	}
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	file = open(GROUP "/memory.events", O_RDONLY);
	CHECK(read(file, text, sizeof(text) - 1) > 0);
	kill_ = strstr(text, "oom_kill ");
	CHECK(kill_ && sscanf(kill_, "oom_kill %ld", &kills) == 1 && kills > 0);
	/* The file was the child's: closed in its own time after it was reaped. */
	for (until = now_ms() + 60000; pins(fd) && now_ms() < until; usleep(1000))
		;
	CHECK_EQ(left(fd), 0);
	CHECK_EQ(counter(fd, USERPTR_USERS), 0);
	return 0;
}

const struct test reclaim_tests[] = {
	{ "lazily-freed-written-by-device", lazily_freed },
	{ "shared-clean-written-by-device", shared_clean },
	{ NULL, NULL },
};

const struct test swap_tests[] = {
	{ "swapped-in-written-by-device", swapped_in_private },
	{ "swapped-in-shared-written-by-device", swapped_in_shared },
	{ "device-swaps-in", device_swaps_in },
	{ "pinned-private-stays", pinned_stays },
	{ "locked-memory", locked_memory },
	{ "swap-off", swap_off },
	{ NULL, NULL },
};

const struct test group_tests[] = {
	{ "group-out-of-memory", out_of_memory },
	{ NULL, NULL },
};

const struct test group_swap_tests[] = {
	{ "group-under-pressure", pressure },
	{ NULL, NULL },
};
