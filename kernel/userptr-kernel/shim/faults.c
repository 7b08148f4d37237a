// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Failing allocations of work items, on a kernel with fault injection.
 *
 * Such a kernel fails the n-th allocation of a thread that is named by /proc/PID/task/TID/fail-nth, but nobody knows which
 * thread will run an item. So a number written to the module's parameter worker_fail_nth goes from item to item: each makes it
 * its thread's own and hands on what is left. Items that run at the same time go without.
 */
#include "shim.h"

#ifdef CONFIG_FAULT_INJECTION
#include <linux/module.h>
#include <linux/sched.h>

static int worker_fail_nth;
module_param(worker_fail_nth, int, 0600);
MODULE_PARM_DESC(worker_fail_nth, "the n-th allocation of the work items from now on fails; what is left of n");

void uk_faults_begin(void)
{
	current->fail_nth = xchg(&worker_fail_nth, 0);
}

void uk_faults_end(void)
{
	if (current->fail_nth)
		WRITE_ONCE(worker_fail_nth, current->fail_nth);
	current->fail_nth = 0;
}
#endif
