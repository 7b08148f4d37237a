/* SPDX-License-Identifier: MIT OR GPL-2.0 */
#ifndef TEST_H
#define TEST_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* A test returns 0, or the line that failed; `why` may say more. */
extern char why[256];
#define CHECK(what)                                                                                  \
	do {                                                                                         \
		if (!(what)) {                                                                       \
			snprintf(why, sizeof(why), "%s (errno %d)", #what, errno);                   \
			return __LINE__;                                                             \
		}                                                                                    \
	} while (0)
#define CHECK_EQ(a, b)                                                                               \
	do {                                                                                         \
		long long a_ = (long long)(a), b_ = (long long)(b);                                  \
		if (a_ != b_) {                                                                      \
			snprintf(why, sizeof(why), "%s is %lld, not %s = %lld (errno %d)", #a, a_,   \
				 #b, b_, errno);                                                     \
			return __LINE__;                                                             \
		}                                                                                    \
	} while (0)

struct test {
	const char *name;
	int (*run)(void);
};
extern const struct test self_tests[], basic_tests[], mapping_tests[], process_tests[], stress_tests[], kernel_tests[], fault_tests[], plain_tests[], last_tests[];
extern const struct test hit_tests[], named_tests[], edu_tests[], edu_other_tests[], edu_iommu_tests[], module_tests[], seeded_tests[], minimal_tests[], module_fault_tests[],
	record_tests[], reclaim_tests[], swap_tests[], group_tests[], group_swap_tests[], file_tests[], disk_tests[], node_tests[], range_tests[], other_tests[];

#endif
