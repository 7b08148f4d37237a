// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Runs the tests, each in a process of its own with a deadline, and prints "ok NAME" or "not ok NAME: why".
 * Arguments: names (or beginnings of names) of the tests to run; none means all but the long ones (named_tests).
 * With USERPTR_EDU in the environment a machine without an edu device is a failure; if it is "iommu", so is one without that.
 */
#include "test.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

char why[256];

#define DEADLINE_SECONDS 120
/* For what loads the module a hundred times on a kernel with checkers. */
#define LOADS_SECONDS 360
/* For what runs only when asked for by name. */
#define LONG_SECONDS 1800

static int wanted(const struct test *list, const char *name, int argc, char **argv)
{
	/* Long ones and known bugs: by name only. */
	for (int i = 1; i < argc; i++)
		if (!strncmp(name, argv[i], strlen(argv[i])))
			return 1;
	return argc <= 1 && list != named_tests && list != seeded_tests;
}

static int seconds_for(const struct test *list)
{
	return list == named_tests ? LONG_SECONDS : list == module_fault_tests ? LOADS_SECONDS : DEADLINE_SECONDS;
}

static int run(const struct test *t, int seconds)
{
	struct timespec from, to;
	int status, report[2];
	pid_t child, got;
	int line = -1;

	clock_gettime(CLOCK_MONOTONIC, &from);
	if (pipe(report))
		return 1;
	fflush(stdout);
	child = fork();
	if (child == 0) {
		setpgid(0, 0);
		close(report[0]);
		line = t->run();
		if (write(report[1], &line, sizeof(line)) != sizeof(line) || write(report[1], why, sizeof(why)) < 0)
			_exit(3);
		_exit(0);
	}
	setpgid(child, child);
	close(report[1]);
	for (int i = 0; (got = waitpid(child, &status, WNOHANG)) == 0 && i < seconds * 200; i++)
		usleep(5000);
	kill(-child, SIGKILL);
	clock_gettime(CLOCK_MONOTONIC, &to);
	if (got == 0) {
		printf("not ok %s: still running after %d s\n", t->name, seconds);
	} else if (!WIFEXITED(status) || WEXITSTATUS(status) || read(report[0], &line, sizeof(line)) != sizeof(line)) {
		printf("not ok %s: the process died (status %#x)\n", t->name, status);
	} else if (line) {
		if (read(report[0], why, sizeof(why)) <= 0)
			why[0] = 0;
		printf("not ok %s: line %d: %s\n", t->name, line, why);
	} else {
		long ms = (to.tv_sec - from.tv_sec) * 1000 + (to.tv_nsec - from.tv_nsec) / 1000000;

		printf("ok %s (%ld ms)\n", t->name, ms);
	}
	close(report[0]);
	fflush(stdout);
	return line != 0;
}

/* What the machine lacks that the list is about, and that may be lacking. */
static const char *lacks(const struct test *list)
{
	const char *needed = getenv("USERPTR_EDU");

	if (list != edu_tests && list != edu_other_tests && list != edu_iommu_tests)
		return NULL;
	if (!needed && access("/dev/userptr3", F_OK))
		return "an edu device";
	if (list == edu_iommu_tests && (!needed || strcmp(needed, "iommu")) && access("/sys/class/iommu/dmar0", F_OK))
		return "an IOMMU before its edu device";
	return NULL;
}

/* Whether the kernel has what the list needs. */
static int has(const struct test *list)
{
	if (list == fault_tests || list == module_fault_tests)
		return !access("/proc/self/fail-nth", F_OK);
	if (list == minimal_tests)
		return !access("/dev/userptr-minimal", F_OK);
	if (list == swap_tests || list == disk_tests)
		return !access("/dev/ram1", F_OK);
	if (list == group_tests || list == group_swap_tests)
		return !access("/sys/fs/cgroup/cgroup.controllers", F_OK) && (list == group_tests || !access("/dev/ram1", F_OK));
	if (list == node_tests)
		return !access("/sys/devices/system/node/node1", F_OK);
	if (list == plain_tests)
		return access("/proc/lockdep_stats", F_OK);
	return 1;
}

int main(int argc, char **argv)
{
	const struct test *lists[] = { self_tests, basic_tests, mapping_tests, process_tests, record_tests, stress_tests, kernel_tests, reclaim_tests, swap_tests, group_tests,
				       group_swap_tests, file_tests, disk_tests, node_tests, range_tests, other_tests, edu_tests,
				       edu_other_tests, edu_iommu_tests, fault_tests, plain_tests, hit_tests, named_tests, last_tests,
				       module_tests, module_fault_tests, minimal_tests, seeded_tests };
	int failed = 0;

	for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++)
		for (const struct test *t = lists[i]; t->name; t++)
			if (!has(lists[i]) || !wanted(lists[i], t->name, argc, argv))
				continue;
			else if (lacks(lists[i]))
				printf("skipped: %s: the machine lacks %s\n", t->name, lacks(lists[i]));
			else
				failed += run(t, seconds_for(lists[i]));
	return failed != 0;
}
