// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Every allocation of a request fails once, in the thread that asks and in the workers that serve it: the request says so or
 * does without, nothing is left behind, and the next try works.
 */
#include "dev.h"

#define N 16

/* ---- the failures ---- */

/* Both knobs: n makes the n-th allocation from now on fail, 0 none; reading gives what is left of n. */
enum { THREAD, WORKERS, KNOBS };
static int knobs[KNOBS];

static void fail_nth(int knob, int n)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%d\n", n);

	if (pwrite(knobs[knob], text, len, 0) != len)
		_exit(9);
}

/* Whether the failure has happened. */
static bool has_failed(int knob)
{
	char text[16] = "";

	if (pread(knobs[knob], text, sizeof(text) - 1, 0) < 0)
		_exit(9);
	return atoi(text) == 0;
}

/* ---- the steps of a round ---- */

struct round {
	int device, fd;
	uint64_t flags, h;
	unsigned char *at, *other, buffer[PAGE];
	unsigned int selftest;
};

static int do_open(struct round *r)
{
	r->fd = dev_open(r->device);
	return r->fd < 0 ? -errno : 0;
}

static int do_create(struct round *r)
{
	return dev_create(r->fd, r->at, N * PAGE, r->flags, &r->h);
}

static int do_probe(struct round *r)
{
	return dev_probe(r->fd, r->other, N * PAGE);
}

static int do_get(struct round *r)
{
	return dev_get(r->fd, r->h);
}

static int do_put(struct round *r)
{
	return dev_put(r->fd, r->h);
}

/* The edu device is slow. */
static int some(struct round *r, int many, int few)
{
	return r->device == USERPTR_EDU ? few : many;
}

static int do_read(struct round *r)
{
	return dev_read(r->fd, r->h, 0, r->buffer, some(r, PAGE, 64));
}

static int do_write(struct round *r)
{
	return dev_write(r->fd, r->h, 0, r->buffer, some(r, PAGE, 64));
}

static int do_fill(struct round *r)
{
	return dev_fill(r->fd, r->h, some(r, N, 1), 1, 1, false);
}

static int do_wait(struct round *r)
{
	return dev_wait(r->fd, 10000);
}

static int do_counter(struct round *r)
{
	return counter(r->fd, USERPTR_PINS) < 0 ? -errno : 0;
}

static int do_export(struct round *r)
{
	return dev_export(r->fd, r->h);
}

static int do_settle(struct round *r)
{
	return dev_settle(r->fd);
}

static int do_reset(struct round *r)
{
	return dev_reset(r->fd);
}

/* No request, but what the second device's revoke queue is for. */
static int do_unmap(struct round *r)
{
	return munmap(r->at, N * PAGE) ? -errno : 0;
}

static int do_close(struct round *r)
{
	return dev_close(r->fd, r->h);
}

/* One after the other; a test that finds no memory says in which line, and leaves nothing either. */
static int do_selftest(struct round *r)
{
	struct userptr_words words = { .w = { r->selftest } };

	if (ioctl(r->fd, USERPTR_SELFTEST, &words))
		return -errno;
	return words.w[2] ? -EBUSY : words.w[1] ? -ENOMEM : 0;
}

static int do_end(struct round *r)
{
	int fd = r->fd;

	r->fd = -1;
	return close(fd) ? -errno : 0;
}

static void map_again(struct round *r)
{
	memory_at(r->at, N);
}

static const struct step {
	const char *name;
	int (*run)(struct round *);
	/* The number of the request; -1: it is none. */
	int request;
	/* What has to be in place, done before the failures begin. */
	void (*before)(struct round *);
} steps[] = {
	{ "open", do_open, -1, NULL },
	{ "create", do_create, 1, NULL },
	/* Nothing is there yet: a worker faults it in. */
	{ "get-untouched", do_get, 3, NULL },
	{ "put", do_put, 10, NULL },
	{ "get", do_get, 3, NULL },
	{ "read", do_read, 4, NULL },
	{ "write", do_write, 4, NULL },
	{ "fill", do_fill, 5, NULL },
	{ "wait", do_wait, 6, NULL },
	{ "counter", do_counter, 7, NULL },
	/* Before any other object of this process asks for notifications, so that it is this one's to ask. */
	{ "export", do_export, 9, NULL },
	{ "get-exported", do_get, 3, NULL },
	{ "probe", do_probe, 8, NULL },
	{ "unmap", do_unmap, -1, NULL },
	{ "get-remapped", do_get, 3, map_again },
	{ "settle", do_settle, 11, NULL },
	{ "reset", do_reset, 12, NULL },
	{ "selftest", do_selftest, 0, NULL },
	{ "close", do_close, 2, NULL },
	{ "end", do_end, -1, NULL },
};
#define STEPS (sizeof(steps) / sizeof(*steps))

/* Runs the steps with a failure at the n-th allocation of step `which`. Sets *failed if there were so many. */
static int round_of(struct round *r, int watch, size_t which, int knob, int n, bool *failed)
{
	r->at = memory(N);
	r->other = memory(N);
	CHECK(r->at && r->other);
	memset(r->buffer, 2, PAGE);
	for (size_t i = 0; i < STEPS; i++) {
		const struct step *step = &steps[i];
		int ret;

		/* The self-tests are long, and need nothing but the device. */
		if (steps[which].request == 0 ? step->request > 0 || step->run == do_unmap : step->request == 0)
			continue;
		if (step->before)
			step->before(r);
		if (i == which) {
			CHECK_EQ(dev_settle(watch), 0);
			fail_nth(knob, n);
		}
		ret = step->run(r);
		if (i == which) {
			if (knob == WORKERS)
				CHECK_EQ(dev_settle(watch), 0);
			*failed = has_failed(knob);
			fail_nth(knob, 0);
			if (ret) {
				/* Only the step whose allocation failed may fail, and a second try works. */
				CHECK(*failed);
				CHECK_EQ(ret, -ENOMEM);
				ret = step->run(r);
			}
		}
		if (ret) {
			snprintf(why, sizeof(why), "%s gave %d", step->name, ret);
			return __LINE__;
		}
	}
	munmap(r->at - PAGE, (N + 2) * PAGE);
	munmap(r->other - PAGE, (N + 2) * PAGE);
	return 0;
}

/*
 * The same in a process of its own: what an address space has once, it allocates for its first object only. A fork leaves the
 * child another thread, so another knob.
 */
static int round_in_child(struct round *r, int watch, size_t which, int knob, int n, bool *failed)
{
	static struct said {
		int line;
		bool failed;
		char why[sizeof(why)];
	} *said;
	pid_t child;

	if (!said)
		said = mmap(NULL, sizeof(*said), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(said != MAP_FAILED);
	child = fork();
	if (child == 0) {
		knobs[THREAD] = open("/proc/thread-self/fail-nth", O_RDWR);
		said->line = round_of(r, watch, which, knob, n, &said->failed);
		memcpy(said->why, why, sizeof(why));
		_exit(0);
	}
	CHECK_EQ(reap(child), 0);
	memcpy(why, said->why, sizeof(why));
	*failed = said->failed;
	return said->line;
}

/* What has to be as before when a round is over. */
static const int kept[] = { USERPTR_PINS, USERPTR_REGISTRATIONS, USERPTR_GRABS, USERPTR_USERS, USERPTR_JOBS, USERPTR_MAPPED,
			    USERPTR_ALLOCATIONS };
#define KEPT (sizeof(kept) / sizeof(*kept))

/* Makes every allocation of the steps fail: those of the self-tests, all others, or those in which the edu device has a part. */
enum set { REQUESTS, SELFTESTS, EDU };

static int walk(int knob, enum set set)
{
	const bool selftests = set == SELFTESTS;
	int watch = dev_open(0), all = 0;
	bool walked[USERPTR_REQUESTS] = { false };
	long before[KEPT];
	char table[512] = "";

	knobs[WORKERS] = open("/sys/module/userptr/parameters/worker_fail_nth", O_RDWR);
	CHECK(watch >= 0 && knobs[WORKERS] >= 0);
	CHECK_EQ(left(watch), 0);
	for (size_t k = 0; k < KEPT; k++)
		before[k] = counter(watch, kept[k]);
	for (size_t which = 0; which < STEPS; which++) {
		/* Each device, with and without notifications; or each of the self-tests. */
		int variants = selftests ? 10 : set == EDU ? 1 : 4, failures = 0;
		size_t len = strlen(table);

		if (selftests != (steps[which].request == 0) || (set == EDU && (steps[which].request < 3 || steps[which].request > 5)))
			continue;
		for (int v = 0; v < variants; v++) {
			struct round r = { .device = set == EDU ? USERPTR_EDU : v & 1, .flags = v & 2 ? USERPTR_UNSYNCHRONIZED : 0, .selftest = v };
			bool failed = true;

			for (int n = 1; failed; n++) {
				int line = round_in_child(&r, watch, which, knob, n, &failed);

				CHECK_EQ(dev_settle(watch), 0);
				for (size_t k = 0; !line && k < KEPT; k++)
					if (counter(watch, kept[k]) != before[k]) {
						snprintf(why, sizeof(why), "counter %d is %ld, not %ld", kept[k], counter(watch, kept[k]), before[k]);
						line = __LINE__;
					}
				if (line) {
					len = strlen(why);
					snprintf(why + len, sizeof(why) - len, " (%s, variant %d, allocation %d)", steps[which].name, v, n);
					return line;
				}
				failures += failed;
				CHECK(n < 300);
			}
		}
		snprintf(table + len, sizeof(table) - len, "%s %s %d", len ? "," : "", steps[which].name, failures);
		all += failures;
		if (steps[which].request >= 0)
			walked[steps[which].request] = true;
	}
	printf("# failed allocations of %s%s:%s\n", knob == THREAD ? "the thread that asks" : "workers", set == EDU ? ", edu" : "", table);
	fflush(stdout);
	if (set == EDU) {
		CHECK(all > 5);
		return 0;
	}
	for (int i = 0; i < USERPTR_REQUESTS; i++)
		if (walked[i] == (selftests == (i != 0))) {
			snprintf(why, sizeof(why), "request %d has no step", i);
			return __LINE__;
		}
	/* And there are no more of them. */
	CHECK(ioctl(watch, USERPTR_REQUEST(USERPTR_REQUESTS), &(struct userptr_words){ 0 }) && errno == ENOTTY);
	CHECK(all > 15);
	return 0;
}

static int every_allocation_fails(void)
{
	return walk(THREAD, REQUESTS);
}

static int every_worker_allocation_fails(void)
{
	return walk(WORKERS, REQUESTS);
}

static int every_selftest_allocation_fails(void)
{
	return walk(THREAD, SELFTESTS);
}

static int edu_every_allocation_fails(void)
{
	return walk(THREAD, EDU);
}

static int edu_every_worker_allocation_fails(void)
{
	return walk(WORKERS, EDU);
}

const struct test fault_tests[] = {
	{ "every-allocation-fails", every_allocation_fails },
	{ "every-worker-allocation-fails", every_worker_allocation_fails },
	{ "every-selftest-allocation-fails", every_selftest_allocation_fails },
	{ "edu-every-allocation-fails", edu_every_allocation_fails },
	{ "edu-every-worker-allocation-fails", edu_every_worker_allocation_fails },
	{ NULL, NULL },
};
