// SPDX-License-Identifier: MIT OR GPL-2.0
/* Races: mappings that change under readers, closes against invalidations, registrations against each other. */
#include "dev.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define N 16
#define THREADS 4

static int fd;
static unsigned char *at;
static uint64_t h;
static atomic_int bad, stop;
static atomic_uint begun, ended;

static unsigned int next(unsigned int *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

static int threads(int n, void *(*run)(void *))
{
	pthread_t thread[16];

	for (int i = 0; i < n; i++)
		CHECK_EQ(pthread_create(&thread[i], NULL, run, (void *)(long)i), 0);
	for (int i = 0; i < n; i++)
		pthread_join(thread[i], NULL);
	return 0;
}

static void until(long ms)
{
	long end = now_ms() + ms;

	while (now_ms() < end && !bad)
		usleep(5000);
	stop = 1;
}

/* ---- the device never reads a page older than the mapping that a call has put in place ---- */

/* Thread 0 renews the mapping: generation g is in place once `ended` says so. The others read through the device. */
static void *renew_or_read(void *arg)
{
	unsigned int page[N * PAGE / 4];

	if (!arg) {
		for (unsigned int g = 1; !stop; g++) {
			begun = g;
			switch (g % 3) {
			case 0:
				if (munmap(at, N * PAGE))
					bad = __LINE__;
				/* fall through */
			case 1:
				if (!memory_at(at, N))
					bad = __LINE__;
				break;
			default:
				if (madvise(at, N * PAGE, MADV_DONTNEED))
					bad = __LINE__;
			}
			for (int i = 0; i < N; i++)
				*(unsigned int *)(at + i * PAGE) = g;
			ended = g;
			if (g % 8 == 0)
				usleep(300);
		}
		return NULL;
	}
	while (!stop) {
		unsigned int floor = ended;
		int ret = dev_read(fd, h, 0, page, N * PAGE);

		if (ret == -EFAULT) {
			/* In the middle of a change of kind 0 or 1; look again. */
			dev_get(fd, h);
			continue;
		}
		if (ret && ret != -EAGAIN) {
			bad = __LINE__;
			snprintf(why, sizeof(why), "read gave %d", ret);
		}
		for (int i = 0; !ret && i < N; i++) {
			unsigned int g = page[i * PAGE / 4];

			/* Zero: fresh memory that is not written yet, so a change is under way. */
			if (g ? g < floor : floor && begun == floor) {
				snprintf(why, sizeof(why), "page %d has generation %u after %u", i, g, floor);
				bad = __LINE__;
				stop = 1;
			}
		}
	}
	return NULL;
}

static void *timer(void *arg)
{
	until((long)arg);
	return NULL;
}

static int never_stale(void)
{
	pthread_t clock;

	fd = dev_open(0);
	at = memory(N);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	pthread_create(&clock, NULL, timer, (void *)4000L);
	CHECK_EQ(threads(3, renew_or_read), 0);
	pthread_join(clock, NULL);
	if (bad)
		return bad;
	CHECK(ended > 50);
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(left(fd), 0);
	return 0;
}

/* ---- close against unmap, both of the same object ---- */

static pthread_barrier_t line;

static void *close_or_unmap(void *arg)
{
	pthread_barrier_wait(&line);
	if (arg ? dev_close(fd, h) : munmap(at, N * PAGE))
		bad = __LINE__;
	/* What either call promises holds when it returns. */
	if (!arg && pins(fd))
		bad = __LINE__;
	return NULL;
}

static int close_against_unmap(void)
{
	fd = dev_open(0);
	pthread_barrier_init(&line, NULL, 2);
	for (int i = 0; i < 150; i++) {
		at = memory(N);
		stamp(at, N, i);
		CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
		CHECK_EQ(i % 3 ? dev_get(fd, h) : dev_fill(fd, h, N, 1, 5, false), 0);
		CHECK_EQ(threads(2, close_or_unmap), 0);
		CHECK_EQ(bad, 0);
		CHECK_EQ(left(fd), 0);
	}
	return 0;
}

/* ---- everything at once on overlapping ranges ---- */

static void *anything(void *arg)
{
	unsigned int seed = (unsigned int)(long)arg * 7919 + 17;
	int mine = dev_open((int)(long)arg % 2);
	unsigned char buffer[PAGE];

	while (!stop) {
		unsigned int from = next(&seed) % N, len = 1 + next(&seed) % (N - from);
		uint64_t own;
		int ret = dev_create(mine, at + from * PAGE, len * PAGE, next(&seed) % 4 ? 0 : USERPTR_READ_ONLY, &own);

		if (ret) {
			bad = __LINE__;
			break;
		}
		for (int i = 0; i < 4; i++) {
			switch (next(&seed) % 6) {
			case 0:
				madvise(at + from * PAGE, len * PAGE, MADV_DONTNEED);
				break;
			case 1:
				ret = dev_fill(mine, own, len, 0xA0, 2, false);
				if (ret && ret != -EPERM && ret != -EAGAIN)
					bad = __LINE__;
				break;
			case 2:
				if (dev_put(mine, own))
					bad = __LINE__;
				break;
			case 3:
				at[from * PAGE] = 1;
				break;
			default:
				ret = dev_read(mine, own, 0, buffer, PAGE);
				if (ret && ret != -EAGAIN) {
					snprintf(why, sizeof(why), "read gave %d", ret);
					bad = __LINE__;
				}
			}
		}
		if (dev_close(mine, own))
			bad = __LINE__;
	}
	close(mine);
	return NULL;
}

static int anything_at_once(void)
{
	pthread_t clock;

	fd = dev_open(0);
	at = memory(N);
	pthread_create(&clock, NULL, timer, (void *)4000L);
	CHECK_EQ(threads(6, anything), 0);
	pthread_join(clock, NULL);
	CHECK_EQ(bad, 0);
	CHECK_EQ(left(fd), 0);
	CHECK_EQ(counter(fd, USERPTR_JOBS), 0);
	return 0;
}

/* ---- one handle, closed while others use it ---- */

static void *use_or_close(void *arg)
{
	unsigned char byte;
	int ret;

	pthread_barrier_wait(&line);
	if (arg) {
		ret = (long)arg == 1 ? dev_read(fd, h, 0, &byte, 1) : dev_get(fd, h);
		if (ret && ret != -ENOENT && ret != -EAGAIN)
			bad = __LINE__;
	} else if (dev_close(fd, h)) {
		bad = __LINE__;
	}
	return NULL;
}

static int close_while_used(void)
{
	fd = dev_open(0);
	at = memory(N);
	pthread_barrier_init(&line, NULL, 3);
	for (int i = 0; i < 150; i++) {
		CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
		CHECK_EQ(threads(3, use_or_close), 0);
		CHECK_EQ(bad, 0);
		CHECK_EQ(left(fd), 0);
		if (i % 2)
			madvise(at, N * PAGE, MADV_DONTNEED);
	}
	return 0;
}

/* ---- the first objects of an address space, made by several threads at once: one registration stays ---- */

static void *first(void *arg)
{
	uint64_t own;

	pthread_barrier_wait(&line);
	if (dev_create(fd, at + (long)arg * PAGE, PAGE, 0, &own) || dev_get(fd, own))
		bad = __LINE__;
	return NULL;
}

static int first_registration(void)
{
	int watch = dev_open(0);

	for (int i = 0; i < 25; i++) {
		pid_t child = fork();

		if (child == 0) {
			fd = dev_open(0);
			at = memory(THREADS);
			pthread_barrier_init(&line, NULL, THREADS);
			if (threads(THREADS, first) || bad || pins(fd) != THREADS)
				_exit(1);
			dev_settle(fd);
			if (counter(fd, USERPTR_REGISTRATIONS) != 1)
				_exit(2);
			munmap(at, THREADS * PAGE);
			_exit(pins(fd) ? 3 : 0);
		}
		CHECK_EQ(reap(child), 0);
		CHECK_EQ(left(watch), 0);
		CHECK_EQ(counter(watch, USERPTR_REGISTRATIONS), 0);
	}
	return 0;
}

/* ---- many processes ---- */

static int many_processes(void)
{
	enum { MANY = 12 };
	int watch = dev_open(0);
	pid_t child[MANY];

	for (int i = 0; i < MANY; i++) {
		child[i] = fork();
		if (child[i] == 0) {
			fd = dev_open(i % 2);
			for (int k = 0; k < 15; k++) {
				at = memory(N);
				stamp(at, N, i * 31 + k);
				if (dev_create(fd, at, N * PAGE, 0, &h) || !device_sees(fd, h, N, i * 31 + k))
					_exit(1);
				if (k % 3 == 0)
					munmap(at, N * PAGE);
			}
			_exit(0);
		}
	}
	for (int i = 0; i < MANY; i++)
		CHECK_EQ(reap(child[i]), 0);
	CHECK_EQ(left(watch), 0);
	CHECK_EQ(counter(watch, USERPTR_GRABS), 0);
	CHECK_EQ(counter(watch, USERPTR_REGISTRATIONS), 0);
	return 0;
}

const struct test stress_tests[] = {
	{ "never-stale", never_stale },
	{ "close-against-unmap", close_against_unmap },
	{ "close-while-used", close_while_used },
	{ "anything-at-once", anything_at_once },
	{ "first-registration", first_registration },
	{ "many-processes", many_processes },
	{ NULL, NULL },
};

/* ---- after everything: nothing is left ---- */

static int nothing_left(void)
{
	fd = dev_open(0);
	CHECK_EQ(dev_settle(fd), 0);
	if (pins(fd)) {
		snprintf(why, sizeof(why), "left: %ld pins, %ld grabs, %ld users, %ld registrations, %ld jobs, %ld allocations",
			 pins(fd), counter(fd, USERPTR_GRABS), counter(fd, USERPTR_USERS),
			 counter(fd, USERPTR_REGISTRATIONS), counter(fd, USERPTR_JOBS), counter(fd, USERPTR_ALLOCATIONS));
		return __LINE__;
	}
	CHECK_EQ(counter(fd, USERPTR_JOBS), 0);
	CHECK_EQ(counter(fd, USERPTR_MAPPED), 0);
	CHECK_EQ(counter(fd, USERPTR_GRABS), 0);
	CHECK_EQ(counter(fd, USERPTR_USERS), 0);
	CHECK_EQ(counter(fd, USERPTR_REGISTRATIONS), 0);
	CHECK(counter(fd, USERPTR_COPIED) > 0 && counter(fd, USERPTR_STARTS) > 0 && counter(fd, USERPTR_ENDS) > 0);
	return 0;
}

const struct test last_tests[] = {
	{ "nothing-left", nothing_left },
	{ NULL, NULL },
};
