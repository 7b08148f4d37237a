// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * What others do to the memory: a process that moves pages between nodes, that writes into another process, that answers faults;
 * and mappings that a child does not get, or that stay behind when their pages move.
 */
#include "dev.h"

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#define N 16

static int fd;
static unsigned char *at;
static uint64_t h;

/* An object over N stamped pages, pinned. */
static int begin(unsigned int seed)
{
	fd = dev_open(0);
	at = memory(N);
	CHECK(fd >= 0 && at);
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

/* Another process writes into the range, and reads what the device wrote: on the same pages, so nothing is invalidated. */
static int written_by_another(void)
{
	char text[8] = "";
	pid_t child;

	BEGIN(1);
	child = fork();
	if (child == 0) {
		struct iovec mine = { "parent", 6 }, theirs = { at + 2 * PAGE + 5, 6 };

		if (process_vm_writev(getppid(), &mine, 1, &theirs, 1, 0) != 6)
			_exit(1);
		mine = (struct iovec){ text, 6 };
		theirs.iov_base = at + 3 * PAGE;
		while (process_vm_readv(getppid(), &mine, 1, &theirs, 1, 0) == 6 && memcmp(text, "device", 6))
			usleep(1000);
		_exit(memcmp(text, "device", 6) != 0);
	}
	/* The fork took the pages away. */
	CHECK_EQ(dev_write(fd, h, 3 * PAGE, "device", 6), 0);
	CHECK_EQ(reap(child), 0);
	CHECK_EQ(dev_read(fd, h, 2 * PAGE + 5, text, 6), 0);
	CHECK(!memcmp(text, "parent", 6));
	CHECK_EQ(pins(fd), N);
	return 0;
}

/* Memory that a child does not get is not protected for it: the device keeps its pages over a fork. */
static int not_for_children(void)
{
	pid_t child;

	BEGIN(2);
	CHECK_EQ(madvise(at, N * PAGE, MADV_DONTFORK), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	child = fork();
	if (child == 0) {
		unsigned char in;

		_exit(!mincore(at, PAGE, &in) || errno != ENOMEM);
	}
	CHECK_EQ(pins(fd), N);
	CHECK_EQ(dev_write(fd, h, 0, "device", 6), 0);
	CHECK(!memcmp(at, "device", 6));
	CHECK_EQ(reap(child), 0);
	return 0;
}

/* The pages move and the mapping stays, empty: the device sees zeros, and a write of it does not reach what has moved. */
static int moved_but_mapped(void)
{
	unsigned char *to = memory(N), byte = 1;

	BEGIN(3);
	CHECK(mremap(at, N * PAGE, N * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) == to);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_read(fd, h, 5 * PAGE, &byte, 1), 0);
	CHECK_EQ(byte, 0);
	CHECK_EQ(dev_write(fd, h, 0, "device", 6), 0);
	CHECK(!memcmp(at, "device", 6));
	CHECK(cpu_sees(to, N, 3));
	return 0;
}

/* Whether the kernel has noted a write to the page since the marks were cleared. */
static bool soft_dirty(const unsigned char *page)
{
	return page_entry(page) >> 55 & 1;
}

/* A checkpoint asks which pages were written since the last one: what the device writes counts. */
static int written_since(void)
{
	int knob = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);

	BEGIN(4);
	for (int round = 0; round < 5; round++) {
		CHECK_EQ(write(knob, "4", 1), 1);
		/* It had the right to write; that would not be noted. */
		CHECK_EQ(pins(fd), 0);
		CHECK(!soft_dirty(at + 3 * PAGE));
		CHECK_EQ(dev_write(fd, h, 3 * PAGE, "device", 6), 0);
		CHECK(soft_dirty(at + 3 * PAGE));
		CHECK(!memcmp(at + 3 * PAGE, "device", 6));
	}
	return 0;
}

/* ---- a thread of the process that answers faults ---- */

static int uffd;
static atomic_int answered;

static int watch_faults(unsigned char *from, size_t pages, int mode)
{
	struct uffdio_api api = { .api = UFFD_API, .features = mode & UFFDIO_REGISTER_MODE_WP ? UFFD_FEATURE_PAGEFAULT_FLAG_WP : 0 };
	struct uffdio_register reg = { .range = { (unsigned long)from, pages * PAGE }, .mode = mode };

	uffd = syscall(SYS_userfaultfd, O_CLOEXEC);
	CHECK(uffd >= 0);
	CHECK_EQ(ioctl(uffd, UFFDIO_API, &api), 0);
	CHECK_EQ(ioctl(uffd, UFFDIO_REGISTER, &reg), 0);
	return 0;
}

/* Answers each fault with a page that says which one it is, or takes the protection off. */
static void *answer(void *arg)
{
	static unsigned char page[PAGE];
	struct uffd_msg msg;

	(void)arg;
	while (read(uffd, &msg, sizeof(msg)) == sizeof(msg)) {
		unsigned long address = msg.arg.pagefault.address & -PAGE;
		struct uffdio_copy copy = { .dst = address, .src = (unsigned long)page, .len = PAGE };
		struct uffdio_writeprotect wp = { .range = { address, PAGE } };

		memset(page, (int)((address - (unsigned long)at) / PAGE) + 1, PAGE);
		answered++;
		if (msg.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)
			ioctl(uffd, UFFDIO_WRITEPROTECT, &wp);
		else
			ioctl(uffd, UFFDIO_COPY, &copy);
	}
	return NULL;
}

/* The device's own pin faults, in a worker of the kernel, and a thread of the process answers. */
static int answered_fault(void)
{
	unsigned char byte;
	pthread_t thread;
	int line;

	fd = dev_open(0);
	at = memory(N);
	line = watch_faults(at, N, UFFDIO_REGISTER_MODE_MISSING);
	if (line)
		return line;
	CHECK_EQ(pthread_create(&thread, NULL, answer, NULL), 0);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	for (int round = 0; round < 5; round++) {
		CHECK_EQ(dev_get(fd, h), 0);
		CHECK_EQ(answered, (round + 1) * N);
		for (int i = 0; i < N; i++) {
			CHECK_EQ(dev_read(fd, h, i * PAGE, &byte, 1), 0);
			CHECK_EQ(byte, i + 1);
		}
		CHECK_EQ(madvise(at, N * PAGE, MADV_DONTNEED), 0);
		CHECK_EQ(pins(fd), 0);
	}
	return 0;
}

/* Memory is protected against writes from under the device: it has to ask, as everybody. */
static int answered_write(void)
{
	struct uffdio_writeprotect wp = { .mode = UFFDIO_WRITEPROTECT_MODE_WP };
	pthread_t thread;
	int line;

	BEGIN(5);
	line = watch_faults(at, N, UFFDIO_REGISTER_MODE_WP);
	if (line)
		return line;
	CHECK_EQ(pthread_create(&thread, NULL, answer, NULL), 0);
	for (int round = 0; round < 5; round++) {
		wp.range = (struct uffdio_range){ (unsigned long)at, N * PAGE };
		CHECK_EQ(ioctl(uffd, UFFDIO_WRITEPROTECT, &wp), 0);
		CHECK_EQ(pins(fd), 0);
		answered = 0;
		CHECK_EQ(dev_write(fd, h, 3 * PAGE, "device", 6), 0);
		CHECK_EQ(answered, N);
		CHECK(!memcmp(at + 3 * PAGE, "device", 6));
	}
	return 0;
}

/* ---- machines with two nodes ---- */

/* Moves the pages to the other node; true if all lie there. A page that somebody holds for a moment needs another try. */
static bool move_away(void)
{
	void *pages[N] = { at };
	int nodes[N], status[N], node;
	bool all = false;

	if (syscall(SYS_move_pages, 0, 1, pages, NULL, status, 0) || status[0] < 0)
		return false;
	node = !status[0];

	for (int i = 0; i < N; i++) {
		pages[i] = at + i * PAGE;
		nodes[i] = node;
	}
	for (long until = now_ms() + 30000; !all && now_ms() < until;) {
		if (syscall(SYS_move_pages, 0, N, pages, nodes, status, 2 /* MPOL_MF_MOVE */) < 0)
			return false;
		all = syscall(SYS_move_pages, 0, N, pages, NULL, status, 0) == 0;
		for (int i = 0; i < N; i++)
			all &= status[i] == node;
	}
	return all;
}

/* Pages move from node to node under a pinned object: it lets go, and the device follows to the new pages. */
static int moved_pages(void)
{
	BEGIN(6);
	for (int round = 0; round < 6; round++) {
		uint64_t before = frame(at + 3 * PAGE);

		CHECK_EQ(dev_get(fd, h), 0);
		CHECK(move_away());
		CHECK_EQ(pins(fd), 0);
		CHECK(frame(at + 3 * PAGE) != before);
		CHECK_EQ(dev_write(fd, h, 3 * PAGE, &round, sizeof(round)), 0);
		CHECK(!memcmp(at + 3 * PAGE, &round, sizeof(round)));
	}
	return 0;
}

/* And while the device is at work: it is stopped first, and nothing that it wrote is lost on the way. */
static int moved_busy(void)
{
	BEGIN(7);
	for (int round = 0; round < 6; round++) {
		CHECK_EQ(dev_fill(fd, h, N, 1, 10000, false), 0);
		CHECK(move_away());
		CHECK_EQ(dev_wait(fd, 20000), 0);
		for (int i = 0; i < N; i++)
			for (size_t n = 1; n < PAGE; n++)
				CHECK_EQ(at[i * PAGE + n], at[i * PAGE]);
	}
	return 0;
}

/* ---- many threads against an engine that hangs ---- */

enum { MANY = 8 };
static unsigned char *part[MANY];
static atomic_int failed;

static pthread_barrier_t created;

static void *discard_part(void *arg)
{
	pthread_barrier_wait(&created);
	if (madvise(part[(long)arg], N * PAGE, MADV_DONTNEED))
		failed++;
	return NULL;
}

/*
 * Eight threads discard eight buffers of a device that does not stop. Side by side, so one deadline (1 s) is enough for all of
 * them: each object is quarantined while its job runs. They begin when all exist: to create a thread maps a stack, which waits
 * for a discard that has begun. The jobs run longer than eight deadlines one after another.
 */
static int hung_engine(void)
{
	pthread_t thread[MANY];
	uint64_t handle[MANY];
	int file[MANY];
	long quarantined, from, took, more, held;

	fd = dev_open(1);
	CHECK_EQ(pthread_barrier_init(&created, NULL, MANY + 1), 0);
	quarantined = counter(fd, USERPTR_QUARANTINED);
	for (long i = 0; i < MANY; i++) {
		file[i] = dev_open(1);
		part[i] = memory(N);
		stamp(part[i], N, 8);
		CHECK_EQ(dev_create(file[i], part[i], N * PAGE, 0, &handle[i]), 0);
		CHECK_EQ(dev_fill(file[i], handle[i], N, 1, 10000, true), 0);
	}
	for (long i = 0; i < MANY; i++)
		CHECK_EQ(pthread_create(&thread[i], NULL, discard_part, (void *)i), 0);
	pthread_barrier_wait(&created);
	from = now_ms();
	for (long i = 0; i < MANY; i++)
		CHECK_EQ(pthread_join(thread[i], NULL), 0);
	took = now_ms() - from;
	more = counter(fd, USERPTR_QUARANTINED) - quarantined;
	held = pins(fd);
	/* What is quarantined would stay so for every later test. */
	for (long i = 0; i < MANY; i++)
		CHECK_EQ(dev_wait(file[i], 60000), 0);
	CHECK_EQ(dev_reset(fd), 0);
	CHECK_EQ(failed, 0);
	/* None was given back while its job ran. */
	CHECK_EQ(more, MANY);
	CHECK_EQ(held, MANY * N);
	CHECK_EQ(left(fd), 0);
	CHECK_EQ(took < 5000 ? 0 : took, 0);
	return 0;
}

/* ---- bad addresses ---- */

static int bad_addresses(void)
{
	static const unsigned long bad[] = { 0, PAGE, 0x800000000000UL - PAGE, 0x800000000000UL, 0xffff888000000000UL, 0xffffffff81000000UL };

	fd = dev_open(0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		int ret = dev_create(fd, (void *)bad[i], PAGE, 0, &h);

		CHECK(ret == -EFAULT || (ret == 0 && dev_get(fd, h) == -EFAULT));
		CHECK_EQ(dev_probe(fd, (void *)bad[i], PAGE), -EFAULT);
	}
	CHECK_EQ(left(fd), 0);
	return 0;
}

const struct test other_tests[] = {
	{ "written-by-another", written_by_another },
	{ "not-for-children", not_for_children },
	{ "moved-but-mapped", moved_but_mapped },
	{ "written-since", written_since },
	{ "answered-fault", answered_fault },
	{ "answered-write", answered_write },
	{ "hung-engine", hung_engine },
	{ "bad-addresses", bad_addresses },
	{ NULL, NULL },
};

const struct test node_tests[] = {
	{ "moved-pages", moved_pages },
	{ "moved-while-busy", moved_busy },
	{ NULL, NULL },
};
