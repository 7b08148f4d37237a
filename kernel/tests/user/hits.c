// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Invalidations by the thousand that hit: each takes the pages of an object that was alive and in use. The module counts
 * them (USERPTR_HITS); those that meet no pages are not counted.
 */
#include "dev.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>

enum { KINDS = 5, PROCESSES = 2, CHANGERS = 2, USERS = 1, SLOTS = 4, PAGES = 2, STALLED_S = 40, LOST_KIB = 4 * 1024 };
static const char *const kinds[KINDS] = { "munmap", "dontneed", "mremap", "mprotect", "fork" };

/* A place that is changed, the place that mremap moves it to, and an object over each. */
struct slot {
	unsigned char *at, *away;
	uint64_t here, there;
	atomic_uint generation; /* in place at `at` once it is set */
};

static struct shared {
	atomic_int stop, bad;
	atomic_ulong done[KINDS], seen, used;
	char why[200];
} *all;
static int fd;
static struct slot slots[CHANGERS][SLOTS];

static unsigned int next(unsigned int *seed)
{
	*seed = *seed * 1664525u + 1013904223u;
	return *seed >> 8;
}

static void failed(int line, const char *what, long value)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&all->bad, &none, line))
		snprintf(all->why, sizeof(all->why), "%s: %ld (errno %d)", what, value, errno);
	all->stop = 1;
}
#define DEMAND(what) ((what) ? (void)0 : failed(__LINE__, #what, 0))

static int prepare(struct slot *s, int device_fd)
{
	s->at = memory(PAGES);
	s->away = memory(PAGES);
	CHECK(s->at && s->away);
	CHECK_EQ(dev_create(device_fd, s->at, PAGES * PAGE, 0, &s->here), 0);
	CHECK_EQ(dev_create(device_fd, s->away, PAGES * PAGE, 0, &s->there), 0);
	return 0;
}

/*
 * Pins the pages. A user thread may have found the hole of a moment ago and report it late, which sticks until somebody asks
 * to look again.
 */
static int get(uint64_t h)
{
	int ret = -EFAULT;

	for (int i = 0; i < 100 && ret == -EFAULT; i++)
		ret = dev_get(fd, h);
	return ret;
}

/*
 * A generation as it lies in memory: twice, so that a read which is torn is known. The device copies byte by byte, and the
 * processor may write between two of them.
 */
static uint64_t marker(unsigned int generation)
{
	return generation * 0x100000001ULL;
}

/* One change of the kind. The memory is there again, writable, when it returns. */
static bool change(struct slot *s, int kind)
{
	pid_t child;

	switch (kind) {
	case 0:
		return !munmap(s->at, PAGES * PAGE) && memory_at(s->at, PAGES);
	case 1:
		return !madvise(s->at, PAGES * PAGE, MADV_DONTNEED);
	case 2:
		if (mremap(s->at, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, s->away) != s->away)
			return false;
		/* Back, with the other object's pages pinned meanwhile: its invalidation is the second hit. */
		return !get(s->there) &&
		       mremap(s->away, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, s->at) == s->at;
	case 3:
		return !mprotect(s->at, PAGES * PAGE, PROT_READ) && !mprotect(s->at, PAGES * PAGE, PROT_READ | PROT_WRITE);
	default:
		child = fork();
		if (child == 0)
			_exit(0);
		return child > 0 && reap(child) == 0;
	}
}

/* ---- what is counted ---- */

static int what_is_a_hit(void)
{
	static struct slot one;
	unsigned char *beside = memory(PAGES);
	long hits, starts;
	int line;

	fd = dev_open(0);
	line = prepare(&one, fd);
	if (line)
		return line;
	for (int kind = 0; kind < KINDS; kind++) {
		memset(one.at, 1, PAGES * PAGE);
		CHECK_EQ(get(one.here), 0);
		CHECK_EQ(pins(fd), PAGES);
		hits = counter(fd, USERPTR_HITS);
		CHECK(change(&one, kind));
		if (counter(fd, USERPTR_HITS) - hits != (kind == 2 ? 2 : 1)) {
			snprintf(why, sizeof(why), "%s: %ld hits", kinds[kind], counter(fd, USERPTR_HITS) - hits);
			return __LINE__;
		}
		CHECK_EQ(pins(fd), 0);
	}
	/* No pages; pages elsewhere; pages that were given back: no hit. */
	hits = counter(fd, USERPTR_HITS);
	starts = counter(fd, USERPTR_STARTS);
	CHECK(change(&one, 1));
	memset(one.at, 1, PAGES * PAGE);
	CHECK_EQ(get(one.here), 0);
	memset(beside, 1, PAGES * PAGE);
	CHECK_EQ(madvise(beside, PAGES * PAGE, MADV_DONTNEED), 0);
	CHECK_EQ(dev_put(fd, one.here), 0);
	CHECK(change(&one, 1));
	CHECK_EQ(counter(fd, USERPTR_HITS), hits);
	CHECK(counter(fd, USERPTR_STARTS) >= starts + 3);
	return 0;
}

/* ---- many ---- */

/* Changes its own slots; nobody else does. */
static void *changer(void *arg)
{
	struct slot *mine = slots[(long)arg];
	unsigned int seed = getpid() * 31 + (unsigned int)(long)arg, g = 0;
	uint64_t got = 0;

	while (!all->stop) {
		struct slot *s = &mine[next(&seed) % SLOTS];
		unsigned int dice = next(&seed) % 400;
		int kind = dice < 120 ? 0 : dice < 250 ? 1 : dice < 310 ? 2 : dice < 399 ? 3 : 4, ret;

		/* The first page is the processor's alone, the device writes to the others. Pages that are not there are a worker's. */
		for (int i = 1; i < PAGES && dice % 16; i++)
			s->at[i * PAGE] = 1;
		*(volatile uint64_t *)s->at = marker(++g);
		s->generation = g;
		if (dice % 16 == 1) {
			while ((ret = dev_read(fd, s->here, 0, &got, sizeof(got))) == -EFAULT && !get(s->here) && !all->stop)
				;
			if (ret || got != marker(g))
				failed(__LINE__, "the device does not see what the processor wrote", ret ? ret : (long)got);
			all->seen++;
		} else {
			ret = get(s->here);
			if (ret)
				failed(__LINE__, "get", ret);
		}
		if (!change(s, kind))
			failed(__LINE__, kinds[kind], 0);
		all->done[kind]++;
	}
	return NULL;
}

/* The device writes for a millisecond, to all pages but the first. */
static int fill_rest(struct slot *s)
{
	struct userptr_words words = { .w = { s->here, PAGE, (PAGES - 1) * PAGE, 0x5A, 1, 0 } };

	return ioctl(fd, USERPTR_FILL, &words) ? -errno : 0;
}

/* Acquires, uses and releases what the changers change. */
static void *user(void *arg)
{
	unsigned int seed = getpid() * 77 + (unsigned int)(long)arg, floor;
	uint64_t own, got;
	int ret;

	while (!all->stop) {
		struct slot *s = &slots[next(&seed) % CHANGERS][next(&seed) % SLOTS];

		switch (next(&seed) % 5) {
		case 0:
			ret = fill_rest(s);
			break;
		default:
			floor = s->generation;
			ret = dev_read(fd, s->here, 0, &got, sizeof(got));
			/* Zero: fresh memory. Otherwise never older than what was in place before. */
			if (!ret && got && got == marker((unsigned int)got) && (unsigned int)got < floor)
				failed(__LINE__, "a stale page by generations", floor - (unsigned int)got);
			break;
		case 1:
			ret = dev_put(fd, s->here);
			break;
		case 2:
			ret = dev_create(fd, s->at, PAGES * PAGE, 0, &own);
			DEMAND(!ret);
			dev_get(fd, own);
			ret = dev_close(fd, own);
			DEMAND(!ret);
		}
		if (ret && ret != -EAGAIN && ret != -EFAULT)
			failed(__LINE__, "a user's request", ret);
		all->used++;
		usleep(1000);
	}
	return NULL;
}

static void work(int device)
{
	pthread_t thread[CHANGERS + USERS];
	int line = 0;

	/* Not left behind if the test is ended from outside. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fd = dev_open(device);
	for (int i = 0; i < CHANGERS * SLOTS && !line; i++)
		line = prepare(&slots[i / SLOTS][i % SLOTS], fd);
	if (line)
		failed(line, why, 0);
	for (int i = 0; i < CHANGERS + USERS; i++)
		DEMAND(!pthread_create(&thread[i], NULL, i < CHANGERS ? changer : user, (void *)(long)i));
	for (int i = 0; i < CHANGERS + USERS; i++)
		pthread_join(thread[i], NULL);
	_exit(0);
}

/* A value of /proc/meminfo or /proc/vmstat; -1 if there is none. */
static long from_proc(const char *file, const char *name)
{
	char line[128];
	FILE *f = fopen(file, "r");
	size_t len = strlen(name);
	long value = -1;

	while (f && value < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, name, len) && (line[len] == ' ' || line[len] == ':'))
			value = strtol(line + len + 1, NULL, 10);
	if (f)
		fclose(f);
	return value;
}

static void knob(const char *path, const char *value)
{
	int f = open(path, O_WRONLY);

	if (f >= 0 && write(f, value, strlen(value)) < 0)
		perror(path);
	close(f);
}

/* Free pages that lie ready for one processor are not in MemFree, and after much traffic they are many. */
static long ready_kib(void)
{
	char line[128];
	long pages = 0, some;
	FILE *f = fopen("/proc/zoneinfo", "r");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, " count: %ld", &some) == 1)
			pages += some;
	if (f)
		fclose(f);
	return pages * (long)PAGE / 1024;
}

/* What the kernel itself says, not the driver: how many page pins are not given back, and how much memory is free. */
struct accounts {
	long pinned, free_kib, slab_kib, allocations;
};

static struct accounts accounts(void)
{
	/* The kernel counts on each processor and adds up now and then, or when told to. */
	knob("/proc/sys/vm/drop_caches", "3");
	knob("/proc/sys/vm/stat_refresh", "1");
	return (struct accounts){
		.pinned = from_proc("/proc/vmstat", "nr_foll_pin_acquired") - from_proc("/proc/vmstat", "nr_foll_pin_released"),
		.free_kib = from_proc("/proc/meminfo", "MemFree") + ready_kib(),
		.slab_kib = from_proc("/proc/meminfo", "Slab"),
		.allocations = counter(fd, USERPTR_ALLOCATIONS),
	};
}

/* Whether each kind of change was made at least once: forks are rare. */
static bool every_kind(void)
{
	for (int kind = 0; kind < KINDS; kind++)
		if (all->done[kind] == 0)
			return false;
	return true;
}

/* Until that many have hit, by every kind, with a line on the console every five seconds. */
static int run(long wanted)
{
	long first = counter(fd, USERPTR_HITS), now = 0, last = 0, moved = now_ms(), begun = moved, said = moved;
	pid_t child[PROCESSES];

	memset(all, 0, sizeof(*all));
	for (int i = 0; i < PROCESSES; i++) {
		child[i] = fork();
		CHECK(child[i] >= 0);
		if (child[i] == 0)
			work(i % 2);
	}
	while (!all->stop) {
		usleep(100000);
		now = counter(fd, USERPTR_HITS) - first;
		if (now != last)
			moved = now_ms();
		last = now;
		if (now_ms() - said >= 5000) {
			said = now_ms();
			printf("... %ld of %ld invalidations that hit, %ld s\n", now, wanted, (said - begun) / 1000);
			fflush(stdout);
		}
		if (now_ms() - moved > STALLED_S * 1000)
			failed(__LINE__, "no invalidation hits any more; so far", now);
		if (now >= wanted && every_kind())
			all->stop = 1;
	}
	for (int i = 0; i < PROCESSES; i++)
		CHECK_EQ(reap(child[i]), 0);
	if (all->bad) {
		snprintf(why, sizeof(why), "%s", all->why);
		return all->bad;
	}
	CHECK_EQ(left(fd), 0);
	now = counter(fd, USERPTR_HITS) - first;
	CHECK(now >= wanted);
	printf("# %ld invalidations that hit in %ld s:", now, (now_ms() - begun) / 1000);
	for (int kind = 0; kind < KINDS; kind++) {
		printf(" %s %lu,", kinds[kind], all->done[kind]);
		CHECK(all->done[kind] > 0);
	}
	printf(" looked at %lu, used %lu\n", all->seen, all->used);
	CHECK(all->seen > 0 && all->used > 0);
	return 0;
}

static int many(long wanted)
{
	struct accounts before, after;
	int line;

	fd = dev_open(0);
	all = mmap(NULL, sizeof(*all), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(all != MAP_FAILED);
	/* The first time fills the kernel's caches. */
	line = run(1000);
	if (line)
		return line;
	before = accounts();
	CHECK(from_proc("/proc/vmstat", "nr_foll_pin_acquired") > 0);
	line = run(wanted);
	if (line)
		return line;
	/* What the kernel frees later (stacks and page tables of thousands of processes) has ten seconds to come back. */
	after = accounts();
	for (int i = 0; i < 20 && before.free_kib - after.free_kib >= LOST_KIB; i++) {
		usleep(500000);
		after = accounts();
	}
	printf("# accounts: %ld and %ld pages pinned, free %ld and %ld KiB, slabs %ld and %ld KiB\n", before.pinned, after.pinned,
	       before.free_kib, after.free_kib, before.slab_kib, after.slab_kib);
	CHECK_EQ(before.pinned, 0);
	CHECK_EQ(after.pinned, 0);
	CHECK_EQ(after.allocations, before.allocations);
	/* A kernel with checkers keeps freed memory back. A page lost in a thousand hits of a million would be 4 MiB. */
	if (access("/proc/lockdep_stats", F_OK))
		CHECK(before.free_kib - after.free_kib < LOST_KIB);
	return 0;
}

/* A kernel with checkers takes ten times as long. */
static int hits(void)
{
	return many(access("/proc/lockdep_stats", F_OK) ? 50000 : 5000);
}

static int million(void)
{
	return many(1000000);
}

const struct test hit_tests[] = {
	{ "what-is-a-hit", what_is_a_hit },
	{ "hits", hits },
	{ NULL, NULL },
};

/* Only when asked for. */
const struct test named_tests[] = {
	{ "million", million },
	{ NULL, NULL },
};
