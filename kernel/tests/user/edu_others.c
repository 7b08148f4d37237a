// SPDX-License-Identifier: MIT OR GPL-2.0
/* The edu device and others: processes that fork, go and end, a second device, a second object, a naive driver, races. */
#include "edu.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>

static int fork_busy(void)
{
	pid_t child;
	unsigned char byte;

	DO(begin(1, 14));
	for (int i = 0; i < 3; i++) {
		DO(busy(0x10 * i));
		child = fork();
		if (child == 0) {
			unsigned char first[PAGE];

			memcpy(first, at, PAGE);
			usleep(250000);
			if (memcmp(first, at, PAGE))
				_exit(1);
			_exit(dev_read(fd, h, 0, &byte, 1) == -EFAULT ? 0 : 2);
		}
		CHECK_EQ(reap(child), 0);
		CHECK_EQ(dev_put(fd, h), 0);
		CHECK_EQ(dev_wait(fd, 5000), 0);
	}
	memset(at, 7, PAGE);
	CHECK(agree(0, 64));
	return 0;
}

/* The process goes while the device writes to its memory: nothing is left when it can be waited for. */
static int goes_busy(int how)
{
	int ready[2], status;
	char c;
	pid_t child;

	CHECK_EQ(pipe(ready), 0);
	child = fork();
	if (child == 0) {
		if (begin(2, 15) || busy(1))
			_exit(1);
		fcntl(fd, F_SETFD, 0);
		if (write(ready[1], "r", 1) != 1)
			_exit(1);
		if (how == 2) {
			execl("/bin/busybox", "busybox", "sleep", "2", NULL);
			_exit(2);
		}
		if (how == 1)
			pause();
		_exit(0);
	}
	close(ready[1]);
	CHECK_EQ(read(ready[0], &c, 1), 1);
	fd = dev_open(USERPTR_EDU);
	if (how == 2) {
		/* The file stays open in the new program. */
		for (int i = 0; i < 1000 && pins(fd); i++)
			usleep(1000);
		CHECK_EQ(waitpid(child, &status, WNOHANG), 0);
	} else {
		if (how == 1)
			CHECK_EQ(kill(child, SIGKILL), 0);
		CHECK_EQ(waitpid(child, &status, 0), child);
		CHECK_EQ(WIFSIGNALED(status), how);
	}
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(mapped(), 0);
	if (how == 2)
		CHECK_EQ(reap(child), 0);
	CHECK_EQ(left(fd), 0);
	CHECK_EQ(counter(fd, USERPTR_GRABS), 0);
	CHECK_EQ(counter(fd, USERPTR_REGISTRATIONS), 0);
	return 0;
}

static int exit_busy(void)
{
	return goes_busy(0);
}

static int killed_busy(void)
{
	return goes_busy(1);
}

static int exec_busy(void)
{
	return goes_busy(2);
}

/* The software device and the edu device on one range: the call waits for both. */
static int two_devices(void)
{
	int copier = dev_open(0);
	uint64_t other;

	DO(begin(1, 16));
	CHECK_EQ(dev_create(copier, at, PAGE, 0, &other), 0);
	CHECK_EQ(dev_get(copier, other), 0);
	CHECK_EQ(pins(fd), 2);
	CHECK_EQ(mapped(), 1);
	DO(busy(1));
	CHECK_EQ(dev_fill(copier, other, 1, 2, 300, true), 0);
	CHECK(memory_at(at, 1) == at);
	CHECK_EQ(dev_wait(copier, 0), 0);
	stamp(at, 1, 17);
	DO(let_go());
	CHECK(cpu_sees(at, 1, 17));
	CHECK(device_sees(copier, other, 1, 17));
	CHECK(agree(100, 100));
	return 0;
}

/* Two objects share the engine. One of them goes: that waits for a transfer, not for the other's job, which goes on. */
static int two_objects(void)
{
	unsigned char *second = memory(1);
	int file = dev_open(USERPTR_EDU), changes = 0;
	uint64_t other;
	long from;

	DO(begin(1, 18));
	CHECK_EQ(dev_create(file, second, PAGE, 0, &other), 0);
	CHECK_EQ(dev_fill(file, other, 1, 1, 20000, false), 0);
	DO(busy(1));
	from = now_ms();
	CHECK_EQ(munmap(at, PAGE), 0);
	CHECK(now_ms() - from < 2500);
	CHECK_EQ(pins(fd), 1);
	CHECK_EQ(mapped(), 1);
	CHECK_EQ(dev_wait(fd, 2000), 0);
	from = now_ms();
	for (int last = second[0]; now_ms() - from < 1500; usleep(10000))
		if (*(volatile unsigned char *)second != last) {
			last = second[0];
			changes++;
		}
	CHECK(changes >= 2);
	CHECK_EQ(dev_close(file, other), 0);
	CHECK_EQ(left(fd), 0);
	CHECK_EQ(mapped(), 0);
	return 0;
}

/* ---- the danger, and the cure: the same steps with an object that nobody tells of changes, and with one that follows ---- */

static int page_of_a_file(uint64_t flags, int *file)
{
	fd = dev_open(USERPTR_EDU);
	*file = syscall(SYS_memfd_create, "file", 0);
	CHECK_EQ(ftruncate(*file, PAGE), 0);
	at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, *file, 0);
	CHECK(at != MAP_FAILED);
	memset(at, 'f', PAGE);
	CHECK_EQ(dev_create(fd, at, PAGE, flags, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	/* The process has the page no more: it belongs to the file, and to whoever reads that. */
	CHECK(memory_at(at, 1) == at);
	memset(at, 'm', PAGE);
	CHECK_EQ(dev_write(fd, h, 100, "device", 6), 0);
	return 0;
}

static int naive_goes_stale(void)
{
	char got[6];
	int file;

	DO(page_of_a_file(USERPTR_UNSYNCHRONIZED, &file));
	CHECK_EQ(pread(file, got, 6, 100), 6);
	CHECK(!memcmp(got, "device", 6)); /* somebody else's data is overwritten */
	CHECK_EQ(at[100], 'm'); /* and the process waits in vain for its own */
	CHECK_EQ(dev_read(fd, h, 99, got, 2), 0);
	CHECK(!memcmp(got, "fd", 2));
	CHECK_EQ(dev_close(fd, h), 0);

	DO(page_of_a_file(0, &file));
	CHECK_EQ(pread(file, got, 6, 100), 6);
	CHECK(!memcmp(got, "ffffff", 6));
	CHECK(!memcmp(at + 99, "mdevicem", 8));
	CHECK(agree(99, 8));
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(left(fd), 0);
	CHECK_EQ(mapped(), 0);
	return 0;
}

/* ---- races ---- */

static void *read_page(void *buffer)
{
	return (void *)(long)dev_read(fd, h, 0, buffer, PAGE);
}

/* The pages go in the middle of a copy of two pieces: what comes out is whole, and from the new page. */
static int copy_starts_over(void)
{
	unsigned char got[PAGE];
	pthread_t thread;
	void *ret;
	long before;

	DO(begin(1, 22));
	before = transfers();
	CHECK_EQ(pthread_create(&thread, NULL, read_page, got), 0);
	for (int i = 0; transfers() == before && i < 5000; i++)
		usleep(1000);
	CHECK_EQ(madvise(at, PAGE, MADV_DONTNEED), 0);
	memset(at, 'n', PAGE);
	CHECK_EQ(pthread_join(thread, &ret), 0);
	CHECK_EQ((long)ret, 0);
	for (size_t i = 0; i < PAGE; i++)
		CHECK_EQ(got[i], 'n');
	return 0;
}

static atomic_int bad, stop;
static atomic_uint begun, ended;

static void *renew(void *arg)
{
	unsigned int seed = 1;

	for (unsigned int g = 1; !stop; g++) {
		begun = g;
		if (g % 2 ? !memory_at(at, 1) : madvise(at, PAGE, MADV_DONTNEED))
			bad = __LINE__;
		*(volatile unsigned int *)at = g;
		ended = g;
		/* Sometimes in the middle of a transfer, sometimes not for the length of a copy. */
		seed = seed * 1664525u + 1013904223u;
		usleep((seed >> 8) % 450000);
	}
	return arg;
}

/* The device never reads a page older than the mapping that a call has put in place. */
static int never_stale(void)
{
	long end = now_ms() + 5000;
	int reads = 0;
	pthread_t thread;

	DO(begin(1, 21));
	*(volatile unsigned int *)at = 0;
	CHECK_EQ(pthread_create(&thread, NULL, renew, NULL), 0);
	while (now_ms() < end && !bad) {
		unsigned int floor = ended, g = 0;
		int ret = dev_read(fd, h, 0, &g, sizeof(g));

		/* Zero: fresh memory that is not written yet, so a change was under way. */
		if (ret || (g ? g < floor || g > begun : floor && begun == floor)) {
			snprintf(why, sizeof(why), "read gave %d: generation %u after %u", ret, g, floor);
			bad = __LINE__;
		}
		reads++;
	}
	stop = 1;
	pthread_join(thread, NULL);
	if (bad)
		return bad;
	CHECK(reads >= 5 && ended >= 5);
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(left(fd), 0);
	CHECK_EQ(mapped(), 0);
	return 0;
}

static void *anything(void *arg)
{
	unsigned int seed = (unsigned int)(long)arg * 7919 + 17;
	int mine = dev_open((long)arg % 2 ? USERPTR_EDU : 0);

	while (!stop) {
		unsigned char byte;
		unsigned int from = (seed = seed * 1664525u + 1013904223u) >> 30;
		uint64_t own;
		int ret = 0;

		if (dev_create(mine, at + from * PAGE, (4 - from) * PAGE, 0, &own))
			bad = __LINE__;
		switch ((seed >> 20) % 4) {
		case 0:
			ret = dev_fill(mine, own, 1, 0xA0, 200, false);
			madvise(at + from * PAGE, PAGE, MADV_DONTNEED);
			break;
		case 1:
			ret = dev_fill(mine, own, 1, 0xA0, 100, false);
			usleep((seed >> 10) % 300000);
			break;
		case 2:
			ret = dev_get(mine, own);
			break;
		default:
			ret = dev_read(mine, own, 5, &byte, 1);
		}
		if ((ret && ret != -EAGAIN) || dev_close(mine, own)) {
			snprintf(why, sizeof(why), "a request gave %d", ret);
			bad = __LINE__;
		}
	}
	close(mine);
	return NULL;
}

static int anything_at_once(void)
{
	pthread_t thread[5];

	fd = dev_open(USERPTR_EDU);
	at = memory(4);
	for (long i = 0; i < 5; i++)
		CHECK_EQ(pthread_create(&thread[i], NULL, anything, (void *)i), 0);
	sleep(4);
	stop = 1;
	for (int i = 0; i < 5; i++)
		pthread_join(thread[i], NULL);
	if (bad)
		return bad;
	CHECK_EQ(left(fd), 0);
	CHECK_EQ(mapped(), 0);
	CHECK_EQ(counter(fd, USERPTR_JOBS), 0);
	return 0;
}

const struct test edu_other_tests[] = {
	{ "edu-fork-busy", fork_busy },
	{ "edu-exit-busy", exit_busy },
	{ "edu-killed-busy", killed_busy },
	{ "edu-exec-busy", exec_busy },
	{ "edu-two-devices", two_devices },
	{ "edu-two-objects", two_objects },
	{ "edu-naive-goes-stale", naive_goes_stale },
	{ "edu-copy-starts-over", copy_starts_over },
	{ "edu-never-stale", never_stale },
	{ "edu-anything-at-once", anything_at_once },
	{ NULL, NULL },
};
