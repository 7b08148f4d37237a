// SPDX-License-Identifier: MIT OR GPL-2.0
/* The module comes and goes while processes live on. After everything else: its counters begin again at zero. */
#include "dev.h"

#include <sys/socket.h>
#include <sys/syscall.h>

#define N 16
#define MODULE "/userptr.ko"

/* If something still runs in code that is gone, the machine is to end at once, and not to hang until its time is up. */
static void end_at_an_oops(void)
{
	int knob = open("/proc/sys/kernel/panic_on_oops", O_WRONLY);

	if (knob < 0 || write(knob, "1", 1) != 1)
		perror("panic_on_oops");
	close(knob);
}

static int unload(void)
{
	end_at_an_oops();
	return syscall(SYS_delete_module, "userptr", O_NONBLOCK) ? -errno : 0;
}

static int load(void)
{
	int file = open(MODULE, O_RDONLY | O_CLOEXEC), ret;

	if (file < 0)
		return -errno;
	ret = syscall(SYS_finit_module, file, "", 0) ? -errno : 0;
	close(file);
	return ret;
}

/* Handles closed, then the file: nothing of the module is in use, though the memory that it had pinned is. */
static int memory_outlives_module(void)
{
	unsigned char *at = memory(N);
	uint64_t h[3];
	long begun;
	int fd;

	stamp(at, N, 1);
	for (int round = 0; round < 3; round++) {
		fd = dev_open(round % 2);
		CHECK(fd >= 0);
		for (int i = 0; i < 3; i++)
			CHECK_EQ(dev_create(fd, at + i * PAGE, (N - 2) * PAGE, 0, &h[i]), 0);
		for (int i = 0; i < 3; i++)
			CHECK_EQ(dev_get(fd, h[i]), 0);
		CHECK_EQ(pins(fd), 3 * (N - 2));
		CHECK_EQ(dev_write(fd, h[0], 0, at, PAGE), 0);
		/* One round gives the handles back, the others leave that to the file's close. */
		for (int i = 0; round == 0 && i < 3; i++)
			CHECK_EQ(dev_close(fd, h[i]), 0);
		CHECK_EQ(close(fd), 0);
		begun = now_ms();
		CHECK_EQ(unload(), 0);
		CHECK(now_ms() - begun < 5000);
		CHECK_EQ(machine_pins(NULL), 0);
		CHECK(access("/dev/userptr0", F_OK) != 0);
		/* The memory is as it was, can be written, changed and unmapped: no notifier of the module is left in its way. */
		CHECK(cpu_sees(at, N, round + 1));
		CHECK_EQ(mprotect(at, N * PAGE, PROT_READ), 0);
		CHECK_EQ(mprotect(at, N * PAGE, PROT_READ | PROT_WRITE), 0);
		CHECK_EQ(madvise(at, N * PAGE, MADV_DONTNEED), 0);
		CHECK_EQ(at[0], 0);
		CHECK_EQ(munmap(at, N * PAGE), 0);
		CHECK(memory_at(at, N));
		stamp(at, N, round + 2);
		CHECK_EQ(load(), 0);
	}
	/* The same address space, known to the module that is gone, is taken by the new one. */
	fd = dev_open(0);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h[0]), 0);
	CHECK(device_sees(fd, h[0], N, 4));
	CHECK_EQ(munmap(at, N * PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	return 0;
}

/* Takes the file out of the message when told to, and closes it when told again; then the module can go. */
static void other_process(int from, int go, uint64_t h)
{
	unsigned char room[CMSG_SPACE(sizeof(int))], byte;
	struct iovec iov = { &byte, 1 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room) };
	int fd;

	if (read(go, &byte, 1) != 1 || recvmsg(from, &message, 0) != 1)
		_exit(1);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
	/* The handle is the file's, but the memory is its creator's, where it is still pinned. */
	if (pins(fd) != N || dev_get(fd, h) != -EFAULT || unload() != -EAGAIN)
		_exit(2);
	if (close(fd) || unload())
		_exit(3);
	_exit(0);
}

/* An open file keeps the module, wherever it is: here in a message that nobody has read yet, then in another process. */
static int module_in_use(void)
{
	unsigned char *at = memory(N), room[CMSG_SPACE(sizeof(int))] = { 0 }, byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof(room) };
	struct cmsghdr *c = CMSG_FIRSTHDR(&message);
	int pair[2], go[2], fd;
	uint64_t h;
	pid_t child;

	stamp(at, N, 7);
	CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	CHECK_EQ(pipe(go), 0);
	/* Before there are pages: a fork takes them. The first handle of a file is 1. */
	child = fork();
	if (child == 0)
		other_process(pair[1], go[0], 1);
	fd = dev_open(0);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(h, 1);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(unload(), -EAGAIN);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &fd, sizeof(int));
	CHECK_EQ(sendmsg(pair[0], &message, 0), 1);
	CHECK_EQ(close(fd), 0);
	CHECK_EQ(unload(), -EAGAIN);
	CHECK_EQ(write(go[1], "g", 1), 1);
	CHECK_EQ(reap(child), 0);
	CHECK_EQ(machine_pins(NULL), 0);
	CHECK(cpu_sees(at, N, 7));
	CHECK_EQ(munmap(at, N * PAGE), 0);
	CHECK_EQ(load(), 0);
	return 0;
}

/* The last close, then the unload at once, while a worker pins for an object that is gone already. */
static int unload_against_pins(void)
{
	enum { LOTS = 1024, ROUNDS = 50 };
	int in_flight = 0;

	for (int round = 0; round < ROUNDS; round++) {
		unsigned char *at = memory(LOTS);
		uint64_t h[3];
		int fd = dev_open(round % 2);

		CHECK(fd >= 0);
		/* Memory that was never touched: all of it is for the worker, which is not waited for. */
		for (int i = 0; i < 3; i++) {
			struct userptr_words words;

			CHECK_EQ(dev_create(fd, at + i * LOTS / 3 * PAGE, LOTS / 3 * PAGE, 0, &h[i]), 0);
			words = (struct userptr_words){ .w = { h[i], 0 } };
			in_flight += ioctl(fd, USERPTR_GET, &words) && errno == EAGAIN;
		}
		usleep(round % 10 * 100);
		CHECK_EQ(close(fd), 0);
		CHECK_EQ(unload(), 0);
		CHECK_EQ(machine_pins(NULL), 0);
		memset(at, round, LOTS * PAGE);
		CHECK_EQ(munmap(at - PAGE, (LOTS + 2) * PAGE), 0);
		CHECK_EQ(load(), 0);
	}
	CHECK(in_flight >= ROUNDS);
	return 0;
}

/* Opens a device as soon as it is there, and keeps it for a moment. */
static void open_eagerly(void)
{
	for (;;) {
		int fd = open("/dev/userptr0", O_RDONLY | O_CLOEXEC);

		if (fd >= 0) {
			usleep(20000);
			close(fd);
			/* Time to unload. */
			usleep(5000);
		}
	}
}

/*
 * An allocation fails while the module is loaded, one after another, and somebody opens each device at once. A module that fails to load is
 * freed, whoever has its files open: so it may fail only before it has any.
 */
static int load_with_failing_allocations(void)
{
	enum { MANY = 1000000, LAST = 100 };
	int knob = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC), failed = 0, fewer = 0, all = 0;
	char text[16] = "";
	pid_t child;

	CHECK(knob >= 0);
	CHECK_EQ(unload(), 0);
	child = fork();
	if (child == 0)
		open_eagerly();
	/* First none fails: how many are there? The module's own are the last. */
	for (int n = MANY; n > 0; n = n == MANY ? (all > LAST ? all - LAST : 1) : n < all ? n + 1 : 0) {
		int len = snprintf(text, sizeof(text), "%d", n), ret;
		long until = now_ms() + 5000;

		CHECK_EQ(pwrite(knob, text, len, 0), len);
		ret = load();
		CHECK(pread(knob, text, sizeof(text) - 1, 0) > 0);
		CHECK_EQ(pwrite(knob, "0", 1, 0), 1);
		if (n == MANY)
			all = MANY - atoi(text);
		if (ret) {
			CHECK(n != MANY);
			failed++;
			continue;
		}
		fewer += access("/dev/userptr2", F_OK) != 0;
		while ((ret = unload()) == -EAGAIN && now_ms() < until)
			usleep(1000);
		CHECK_EQ(ret, 0);
	}
	kill(child, SIGKILL);
	CHECK_EQ(waitpid(child, NULL, 0), child);
	printf("# loads that failed: %d; with fewer devices: %d; allocations: %d\n", failed, fewer, all);
	CHECK(failed > 0 && fewer > 0);
	CHECK_EQ(load(), 0);
	return 0;
}

const struct test module_fault_tests[] = {
	{ "load-with-failing-allocations", load_with_failing_allocations },
	{ NULL, NULL },
};

const struct test module_tests[] = {
	{ "memory-outlives-module", memory_outlives_module },
	{ "module-in-use", module_in_use },
	{ "unload-against-pins", unload_against_pins },
	{ NULL, NULL },
};
