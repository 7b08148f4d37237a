// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * What one munmap costs with so many objects registered: without notifications, with the C baseline, with the core. Each of
 * these has a process of its own, with the same memory; they take turns, a few calls each, so that drift falls on all
 * alike. Only the munmap is timed. Prints a table of ratios, and "ok" only if each call hit what it was meant to hit.
 */
#include "../user/dev.h"

#include <stdatomic.h>
#include <sys/prctl.h>
#include <x86intrin.h>

char why[256];

enum { PLAIN, BASELINE, HERE, QUEUED, SIDES };
static const char *const paths[SIDES] = { NULL, "/dev/userptr-c", "/dev/userptr0", "/dev/userptr1" };

enum { OUTSIDE, INSIDE, ONE, LARGE, ALL, CASES };
static const char *const cases[CASES] = {
	"outside the hull, no hit", "inside the hull, no hit", "hits 1 of 1 page", "hits 1 of 256 pages", "hits all, 1 page each",
};

enum { SAMPLES = 1024, HOLE = 1024, LARGE_PAGES = 256 };

/* Shared by all processes. */
static struct {
	uint64_t took[SIDES][SAMPLES];
	atomic_int failed;
} *all;

/* ---- one side ---- */

static int fd = -1;
static unsigned char *low, *high, *inside, *outside;
static size_t lows, highs;
static uint64_t *handles, one, large;

static void must(bool fine, const char *what, long value)
{
	if (fine)
		return;
	printf("not ok numbers: %s: %ld (errno %d)\n", what, value, errno);
	fflush(stdout);
	all->failed = 1;
	_exit(1);
}

/* Writes to each page. Pages of their own: a huge page would be split by what is measured. */
static void fresh(unsigned char *at, size_t pages)
{
	if (!pages)
		return;
	must(memory_at(at, pages) != NULL, "mmap", 0);
	madvise(at, pages * PAGE, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < pages; i++)
		at[i * PAGE] = 1;
}

static void get_all(void)
{
	if (fd < 0)
		return;
	for (size_t i = 0; i < lows + highs; i++) {
		int ret = dev_get(fd, handles[i]);

		must(!ret, "get", ret);
	}
}

/* An object on each page on both sides of a hole; a second hole lies beyond them. */
static void set_up(int side, size_t objects)
{
	unsigned char *at;
	int ret;

	if (paths[side]) {
		fd = open(paths[side], O_RDWR | O_CLOEXEC);
		must(fd >= 0, paths[side], side);
	}
	highs = objects / 2;
	lows = objects - highs;
	handles = calloc(objects + 1, sizeof(*handles));
	at = mmap(NULL, (objects + 2 * HOLE + 16) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	must(at != MAP_FAILED && handles, "mmap", 0);
	low = at + PAGE;
	inside = low + lows * PAGE + PAGE;
	high = inside + (HOLE + 1) * PAGE;
	outside = high + highs * PAGE + PAGE;
	munmap(inside, HOLE * PAGE);
	munmap(outside, HOLE * PAGE);
	fresh(low, lows);
	fresh(high, highs);
	if (fd < 0)
		return;
	/* Registers the address space even where there is no object with pages. */
	ret = dev_create(fd, inside + 8 * PAGE, PAGE, 0, &one);
	must(!ret, "create", ret);
	ret = dev_create(fd, inside + 16 * PAGE, LARGE_PAGES * PAGE, 0, &large);
	must(!ret, "create", ret);
	for (size_t i = 0; i < objects; i++) {
		ret = dev_create(fd, i < lows ? low + i * PAGE : high + (i - lows) * PAGE, PAGE, 0, &handles[i]);
		must(!ret, "create", ret);
	}
	get_all();
}

static uint64_t unmap(unsigned char *at, size_t pages)
{
	uint64_t from = __rdtsc(), to;
	int ret = munmap(at, pages * PAGE);

	to = __rdtsc();
	must(!ret, "munmap", ret);
	return to - from;
}

/* One call, timed. */
static uint64_t sample(int which)
{
	unsigned char *at = which == OUTSIDE ? outside + 8 * PAGE : which == LARGE ? inside + 16 * PAGE : inside + 8 * PAGE;
	size_t pages = which == LARGE ? LARGE_PAGES : 1;
	uint64_t took;

	if (which == ALL) {
		took = unmap(low, lows + 1 + HOLE + 1 + highs);
		fresh(low, lows);
		fresh(high, highs);
		get_all();
		return took;
	}
	fresh(at, pages);
	if (fd >= 0 && which >= ONE) {
		int ret = dev_get(fd, which == ONE ? one : large);

		must(!ret, "get", ret);
	}
	return unmap(at, pages);
}

/* A few calls; the module says whether they met what they should. */
static void batch(int side, int which, int at, int count)
{
	/* Without a device each of these is -1. */
	long met = counter(fd, USERPTR_HITS), seen = counter(fd, USERPTR_STARTS), held = pins(fd);

	for (int i = 0; i < count; i++)
		all->took[side][at + i] = sample(which);
	if (fd < 0)
		return;
	met = counter(fd, USERPTR_HITS) - met;
	seen = counter(fd, USERPTR_STARTS) - seen;
	must(met == (which >= ONE ? count : 0), "invalidations that hit", met);
	must(seen >= count, "invalidations", seen);
	must(pins(fd) == held, "pages pinned", pins(fd) - held);
}

struct turn {
	int which, at, count;
};

static struct {
	int to, from;
	pid_t pid;
} child[SIDES];

static void start(int side, size_t objects)
{
	int down[2], up[2];

	must(!pipe(down) && !pipe(up), "pipe", 0);
	child[side].pid = fork();
	must(child[side].pid >= 0, "fork", 0);
	if (child[side].pid == 0) {
		struct turn turn;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(down[1]);
		set_up(side, objects);
		while (write(up[1], "d", 1) == 1 && read(down[0], &turn, sizeof(turn)) == sizeof(turn)) {
			/* The end. */
			if (!turn.count)
				_exit(0);
			batch(side, turn.which, turn.at, turn.count);
		}
		_exit(1);
	}
	close(down[0]);
	close(up[1]);
	child[side].to = down[1];
	child[side].from = up[0];
}

static void await(int side)
{
	char done;

	if (read(child[side].from, &done, 1) != 1)
		exit(1);
}

static void tell(int side, struct turn turn)
{
	if (write(child[side].to, &turn, sizeof(turn)) != sizeof(turn))
		exit(1);
}

/* ---- all sides ---- */

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static double at_percent(int side, int count, int percent)
{
	return all->took[side][(count - 1) * percent / 100];
}

static void row(size_t objects, int which, int rounds, int count)
{
	int samples = rounds * count;
	double half[SIDES], late[SIDES], added;

	for (int round = 0; round < rounds; round++)
		for (int i = 0; i < SIDES; i++) {
			/* Each goes first as often as another. */
			int side = (i + round) % SIDES;

			tell(side, (struct turn){ which, round * count, count });
			await(side);
		}
	for (int side = 0; side < SIDES; side++) {
		qsort(all->took[side], samples, sizeof(uint64_t), compare);
		half[side] = at_percent(side, samples, 50);
		late[side] = at_percent(side, samples, 99);
	}
	added = half[BASELINE] - half[PLAIN];
	printf("| %zu | %s | 1 | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f | %.2f |\n", objects, cases[which],
	       half[BASELINE] / half[PLAIN], half[HERE] / half[PLAIN], half[QUEUED] / half[PLAIN], half[HERE] / half[BASELINE],
	       (half[HERE] - half[PLAIN]) / added, (half[QUEUED] - half[PLAIN]) / added, late[HERE] / late[BASELINE]);
	printf("... %d samples, ticks: plain %.0f, C %.0f, userptr %.0f, queued %.0f\n", samples, half[PLAIN], half[BASELINE],
	       half[HERE], half[QUEUED]);
	fflush(stdout);
}

static void population(size_t objects)
{
	for (int side = 0; side < SIDES; side++) {
		start(side, objects);
		await(side);
	}
	row(objects, OUTSIDE, 128, 8);
	/* One object is its own hull. */
	if (objects > 1)
		row(objects, INSIDE, 128, 8);
	row(objects, ONE, 96, 8);
	row(objects, LARGE, 32, 4);
	if (objects > 1)
		row(objects, ALL, objects > 10000 ? 7 : 128, 1);
	for (int side = 0; side < SIDES; side++) {
		tell(side, (struct turn){ 0, 0, 0 });
		must(reap(child[side].pid) == 0, "a side ended badly", side);
		close(child[side].to);
		close(child[side].from);
	}
}

int main(void)
{
	all = mmap(NULL, sizeof(*all), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (all == MAP_FAILED)
		return 1;
	printf("| objects with pages | the munmap | plain | C | userptr | userptr, queue | userptr / C | added: userptr / C | "
	       "added: queue / C | p99: userptr / C |\n|---|---|---|---|---|---|---|---|---|---|\n");
	for (size_t objects = 0; objects <= 100000; objects = objects ? objects == 1 ? 1000 : objects * 100 : 1)
		population(objects);
	if (!all->failed)
		printf("ok numbers\n");
	return all->failed;
}
