// SPDX-License-Identifier: MIT OR GPL-2.0
/* Processes: fork, exec, exit, being killed, signals, the reaper. */
#include "fixture.h"

#include <pthread.h>
#include <sys/syscall.h>
#include <sys/time.h>

/* The child has another address space at the same addresses: the parent's object is not its memory. */
static int fork_child_refused(void)
{
	pid_t child;
	unsigned char byte;

	BEGIN(1);
	child = fork();
	if (child == 0)
		_exit(dev_get(fd, h) == -EFAULT && dev_read(fd, h, 0, &byte, 1) == -EFAULT ? 0 : 1);
	CHECK_EQ(reap(child), 0);
	CHECK(device_sees(fd, h, N, 1));
	return 0;
}

/* After a fork the pages are shared for reading: the device writes to the parent's copy, the child keeps the old content. */
static int fork_copy_on_write(void)
{
	int go[2];
	pid_t child;
	char c;

	BEGIN(2);
	CHECK_EQ(pipe(go), 0);
	child = fork();
	if (child == 0) {
		if (read(go[0], &c, 1) != 1)
			_exit(2);
		_exit(cpu_sees(at, N, 2) ? 0 : 1);
	}
	CHECK(device_sees(fd, h, N, 2));
	for (int i = 0; i < N; i++)
		CHECK_EQ(dev_write(fd, h, i * PAGE, "parent", 6), 0);
	for (int i = 0; i < N; i++)
		CHECK(!memcmp(at + i * PAGE, "parent", 6));
	CHECK_EQ(write(go[1], "g", 1), 1);
	CHECK_EQ(reap(child), 0);
	return 0;
}

/* A fork in the middle of a device's writes: the child's snapshot does not change any more. */
static int fork_busy(void)
{
	pid_t child;

	BEGIN(3);
	for (int i = 0; i < 10; i++) {
		CHECK_EQ(dev_fill(fd, h, N, i, 3000, false), 0);
		child = fork();
		if (child == 0) {
			unsigned char first[N];

			for (int p = 0; p < N; p++)
				first[p] = at[p * PAGE];
			usleep(3000);
			for (int p = 0; p < N; p++)
				if (at[p * PAGE] != first[p])
					_exit(1);
			_exit(0);
		}
		CHECK_EQ(reap(child), 0);
	}
	CHECK_EQ(munmap(at, N * PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	return 0;
}

/* The child makes objects of its own over its own memory, through the file that it inherited. */
static int inherited_file(void)
{
	pid_t child;
	unsigned char byte = 0;

	BEGIN(4);
	child = fork();
	if (child == 0) {
		uint64_t own;

		at[0] = 0x99;
		if (dev_create(fd, at, N * PAGE, 0, &own) || dev_read(fd, own, 0, &byte, 1) || byte != 0x99)
			_exit(1);
		_exit(0);
	}
	CHECK_EQ(reap(child), 0);
	/* The child's object lives on in the file, but its pages went with its address space; ours went at the fork. */
	CHECK_EQ(pins(fd), 0);
	CHECK(device_sees(fd, h, N, 4));
	CHECK_EQ(pins(fd), N);
	CHECK_EQ(dev_get(fd, h + 1), -EFAULT);
	return 0;
}

static int exec_releases(void)
{
	int watch = dev_open(0), status;
	pid_t child = fork();

	CHECK(watch >= 0);
	if (child == 0) {
		if (begin(5))
			_exit(1);
		/* The file stays open across the exec; the address space does not. */
		fcntl(fd, F_SETFD, 0);
		dev_fill(fd, h, N, 1, 20000, false);
		execl("/bin/busybox", "busybox", "sleep", "1", NULL);
		_exit(2);
	}
	for (int i = 0; i < 500 && (i < 100 || pins(watch)); i++)
		usleep(2000);
	CHECK_EQ(waitpid(child, &status, WNOHANG), 0);
	CHECK_EQ(pins(watch), 0);
	CHECK_EQ(counter(watch, USERPTR_JOBS), 0);
	CHECK_EQ(reap(child), 0);
	return 0;
}

static int ends_busy(bool killed)
{
	int watch = dev_open(0), ready[2], status;
	char c;
	pid_t child;

	CHECK_EQ(pipe(ready), 0);
	child = fork();
	if (child == 0) {
		if (begin(6) || dev_fill(fd, h, N, 1, 30000, false) || write(ready[1], "r", 1) != 1)
			_exit(1);
		if (killed)
			pause();
		_exit(0);
	}
	CHECK_EQ(read(ready[0], &c, 1), 1);
	if (killed)
		CHECK_EQ(kill(child, SIGKILL), 0);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK_EQ(WIFSIGNALED(status), killed);
	/* The address space goes before the process can be waited for. */
	CHECK_EQ(pins(watch), 0);
	CHECK_EQ(counter(watch, USERPTR_JOBS), 0);
	CHECK_EQ(left(watch), 0);
	CHECK_EQ(counter(watch, USERPTR_GRABS), 0);
	CHECK_EQ(counter(watch, USERPTR_REGISTRATIONS), 0);
	return 0;
}

static int exit_busy(void)
{
	return ends_busy(false);
}

static int killed_busy(void)
{
	return ends_busy(true);
}

/* Killed at any moment of pinning, copying, unmapping: nothing stays. */
static int killed_anywhere(void)
{
	int watch = dev_open(0), status;

	for (int i = 0; i < 25; i++) {
		pid_t child = fork();

		if (child == 0) {
			unsigned char buffer[PAGE];

			for (fd = dev_open(0);;) {
				uint64_t more;

				at = memory(256);
				dev_create(fd, at, 256 * PAGE, 0, &more);
				dev_get(fd, more);
				dev_fill(fd, more, 256, 1, 50, false);
				dev_read(fd, more, 5 * PAGE, buffer, PAGE);
				munmap(at, 100 * PAGE);
				dev_close(fd, more);
				munmap(at, 256 * PAGE);
			}
		}
		usleep(3000 + i * 2777);
		kill(child, SIGKILL);
		CHECK_EQ(waitpid(child, &status, 0), child);
		CHECK(WIFSIGNALED(status));
		CHECK_EQ(left(watch), 0);
	}
	CHECK_EQ(counter(watch, USERPTR_JOBS), 0);
	CHECK_EQ(counter(watch, USERPTR_GRABS), 0);
	CHECK_EQ(counter(watch, USERPTR_USERS), 0);
	return 0;
}

static volatile int alarms;

static void on_alarm(int signal)
{
	(void)signal;
	alarms++;
}

static void set_alarm(long us)
{
	struct itimerval every = { { 0, us }, { 0, us } };
	struct sigaction action = { .sa_handler = on_alarm };

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &every, NULL);
}

static int signal_ends_wait(void)
{
	long from;

	BEGIN(7);
	CHECK_EQ(dev_fill(fd, h, N, 1, 20000, false), 0);
	set_alarm(50000);
	from = now_ms();
	CHECK_EQ(dev_wait(fd, 15000), -EINTR);
	CHECK(now_ms() - from < 5000);
	set_alarm(0);
	/* The job goes on. */
	CHECK_EQ(counter(fd, USERPTR_JOBS), 1);
	CHECK_EQ(dev_wait(fd, 20), -ETIMEDOUT);
	CHECK_EQ(dev_put(fd, h), 0);
	CHECK_EQ(counter(fd, USERPTR_JOBS), 0);
	return 0;
}

static void *discard_it(void *arg)
{
	(void)arg;
	madvise(at, 64 * PAGE, MADV_DONTNEED);
	return NULL;
}

/* Signals rain on every request: each either works or says EINTR, and nothing leaks or is done by half. */
static int signals_everywhere(void)
{
	unsigned char buffer[64];
	int interrupted = 0, waits = 0;
	long until = now_ms() + 30000;
	pthread_t thread;

	fd = dev_open(0);
	set_alarm(1500);
	/* A slow machine has fewer rounds, not a later end. */
	for (int i = 0; i < 150 && (i < 10 || now_ms() < until); i++) {
		int ret;

		at = memory(64);
		CHECK(at != NULL);
		while ((ret = dev_create(fd, at, 64 * PAGE, 0, &h)) == -EINTR)
			interrupted++;
		CHECK_EQ(ret, 0);
		while ((ret = dev_get(fd, h)) == -EINTR)
			interrupted++;
		CHECK_EQ(ret, 0);
		at[PAGE * 3] = i;
		while ((ret = dev_read(fd, h, PAGE * 3, buffer, 1)) == -EINTR)
			interrupted++;
		CHECK_EQ(ret, 0);
		CHECK_EQ(buffer[0], (unsigned char)i);
		if (i & 1)
			CHECK_EQ(munmap(at, 64 * PAGE), 0);
		CHECK_EQ(dev_close(fd, h), 0);
		if (!(i & 1))
			CHECK_EQ(munmap(at, 64 * PAGE), 0);
	}
	/* A request that has to wait is interrupted for certain: for a job, and for a device that does not stop. */
	at = memory(64);
	CHECK_EQ(dev_create(fd, at, 64 * PAGE, 0, &h), 0);
	while (dev_fill(fd, h, 64, 1, 1500, true) == -EINTR)
		interrupted++;
	CHECK_EQ(pthread_create(&thread, NULL, discard_it, NULL), 0);
	CHECK_EQ(dev_wait(fd, 15000), -EINTR);
	while (pins(fd) && dev_try(fd, h) == 0)
		usleep(200);
	for (int ret; (ret = dev_get(fd, h)) == -EINTR; waits++)
		CHECK(counter(fd, USERPTR_JOBS) == 1 || waits);
	CHECK(waits > 0);
	CHECK_EQ(pthread_join(thread, NULL), 0);
	CHECK_EQ(dev_close(fd, h), 0);
	set_alarm(0);
	CHECK(alarms > 0);
	CHECK_EQ(left(fd), 0);
	return 0;
}

static void *close_it(void *arg)
{
	(void)arg;
	dev_close(fd, h);
	return NULL;
}

/*
 * The reaper of the out-of-memory killer may not wait. One thread of the child is stuck in a close, because its device is
 * busy; the child is killed, and its memory is to be reaped meanwhile: refused, without a complaint of the kernel.
 */
static int reaper_is_refused(void)
{
	int watch = dev_open(0), ready[2], status, ret, pidfd;
	long refused = counter(watch, USERPTR_REFUSED);
	char c;
	pid_t child;

	CHECK_EQ(pipe(ready), 0);
	child = fork();
	if (child == 0) {
		pthread_t thread;

		if (begin(8) || dev_fill(fd, h, N, 1, 1500, true))
			_exit(1);
		pthread_create(&thread, NULL, close_it, NULL);
		usleep(100000);
		if (write(ready[1], "r", 1) != 1)
			_exit(1);
		pause();
	}
	CHECK_EQ(read(ready[0], &c, 1), 1);
	pidfd = syscall(SYS_pidfd_open, child, 0);
	CHECK(pidfd >= 0);
	CHECK_EQ(kill(child, SIGKILL), 0);
	ret = syscall(448 /* process_mrelease */, pidfd, 0);
	CHECK(ret == -1 && errno == EAGAIN);
	CHECK(counter(watch, USERPTR_REFUSED) > refused);
	CHECK_EQ(counter(watch, USERPTR_PINS), N);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(WIFSIGNALED(status));
	CHECK_EQ(pins(watch), 0);
	CHECK_EQ(left(watch), 0);
	CHECK_EQ(counter(watch, USERPTR_GRABS), 0);
	return 0;
}

/* An object outlives the process that made it, through the file that somebody else holds. */
static int object_outlives_process(void)
{
	int handle[2], watch = dev_open(0);
	uint64_t theirs;
	pid_t child;

	fd = dev_open(0);
	CHECK_EQ(pipe(handle), 0);
	child = fork();
	if (child == 0) {
		at = memory(N);
		stamp(at, N, 9);
		if (dev_create(fd, at, N * PAGE, 0, &h) || dev_get(fd, h) || write(handle[1], &h, 8) != 8)
			_exit(1);
		_exit(0);
	}
	CHECK_EQ(read(handle[0], &theirs, 8), 8);
	CHECK_EQ(reap(child), 0);
	CHECK_EQ(pins(watch), 0);
	CHECK_EQ(dev_get(fd, theirs), -EFAULT);
	/* The record is held as long as the object is, the memory is not. */
	CHECK(counter(watch, USERPTR_GRABS) > 0);
	CHECK_EQ(dev_close(fd, theirs), 0);
	CHECK_EQ(left(watch), 0);
	CHECK_EQ(counter(watch, USERPTR_GRABS), 0);
	return 0;
}

/* The process ends while its device ignores everybody for longer than the deadline: the exit does not hang, the pages stay. */
static int quarantine_outlives_process(void)
{
	int watch = dev_open(1), ready[2], status;
	long from = now_ms();
	char c;
	pid_t child;

	CHECK_EQ(pipe(ready), 0);
	child = fork();
	if (child == 0) {
		fd = dev_open(1);
		at = memory(N);
		if (dev_create(fd, at, N * PAGE, 0, &h) || dev_fill(fd, h, N, 1, 5000, true) || write(ready[1], "r", 1) != 1)
			_exit(1);
		_exit(0);
	}
	CHECK_EQ(read(ready[0], &c, 1), 1);
	CHECK_EQ(waitpid(child, &status, 0), child);
	CHECK(now_ms() - from < 4500);
	CHECK_EQ(pins(watch), N);
	while (counter(watch, USERPTR_JOBS))
		usleep(20000);
	CHECK_EQ(pins(watch), N);
	CHECK_EQ(dev_reset(watch), 0);
	CHECK_EQ(left(watch), 0);
	CHECK_EQ(counter(watch, USERPTR_GRABS), 0);
	return 0;
}

const struct test process_tests[] = {
	{ "fork-child-refused", fork_child_refused },
	{ "fork-copy-on-write", fork_copy_on_write },
	{ "fork-busy", fork_busy },
	{ "inherited-file", inherited_file },
	{ "exec-releases", exec_releases },
	{ "exit-busy", exit_busy },
	{ "killed-busy", killed_busy },
	{ "killed-anywhere", killed_anywhere },
	{ "signal-ends-wait", signal_ends_wait },
	{ "signals-everywhere", signals_everywhere },
	{ "reaper-is-refused", reaper_is_refused },
	{ "quarantine-outlives-process", quarantine_outlives_process },
	{ "object-outlives-process", object_outlives_process },
	{ NULL, NULL },
};
