// SPDX-License-Identifier: MIT OR GPL-2.0
/* The record of an address space goes with its last object: from inside the invalidation that releases that object's pages. */
#include "dev.h"

#include <pthread.h>

#define N 16

static unsigned char *at;

static void *unmap_it(void *arg)
{
	(void)arg;
	return (void *)(long)munmap(at, N * PAGE);
}

/*
 * The only object of its address space, on a device that is busy for a while. An unmap waits for the device and holds a
 * reference to the object meanwhile; a close takes the other one. So the unmap gives back the object and the record, with the
 * kernel's locks held: it takes the registry's mutex there, and may not free the record, because that waits for unmaps.
 */
static int last_record(int device)
{
	int fd = dev_open(device), ret;
	long registrations, grabs;
	pthread_t thread;
	void *unmapped;
	uint64_t h;

	/* What a process before this one left to the workers is gone first. */
	CHECK_EQ(left(fd), 0);
	registrations = counter(fd, USERPTR_REGISTRATIONS);
	grabs = counter(fd, USERPTR_GRABS);
	for (int i = 0; i < 3; i++) {
		at = memory(N);
		CHECK(fd >= 0 && at);
		stamp(at, N, 1);
		CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
		CHECK_EQ(counter(fd, USERPTR_REGISTRATIONS), registrations + 1);
		CHECK_EQ(dev_fill(fd, h, N, 1, 400, true), 0);
		CHECK_EQ(pthread_create(&thread, NULL, unmap_it, NULL), 0);
		/* Until the unmap has begun to release the pages. */
		while ((ret = dev_try(fd, h)) == 0)
			usleep(200);
		CHECK_EQ(ret, -EAGAIN);
		CHECK_EQ(dev_close(fd, h), 0);
		/* It is still at it, so the last reference is its own. */
		CHECK_EQ(counter(fd, USERPTR_JOBS), 1);
		CHECK_EQ(pins(fd), N);
		CHECK_EQ(pthread_join(thread, &unmapped), 0);
		CHECK_EQ((long)unmapped, 0);
		CHECK_EQ(pins(fd), 0);
		CHECK_EQ(left(fd), 0);
		CHECK_EQ(counter(fd, USERPTR_REGISTRATIONS), registrations);
		CHECK_EQ(counter(fd, USERPTR_GRABS), grabs);
	}
	return 0;
}

static int last_record_in_invalidation(void)
{
	return last_record(0);
}

/* The second device's revocations run on a queue: the record goes in one of its items, while the unmap waits for that. */
static int last_record_in_revocation(void)
{
	return last_record(1);
}

const struct test record_tests[] = {
	{ "last-record-in-invalidation", last_record_in_invalidation },
	{ "last-record-in-revocation", last_record_in_revocation },
	{ NULL, NULL },
};
