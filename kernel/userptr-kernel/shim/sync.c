// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Locks, waits, work and memory: the inlines and macros of the kernel as functions that Rust can call.
 */
#include "shim.h"

#include <linux/delay.h>
#include <linux/jiffies.h>
#include <linux/ktime.h>
#include <linux/lockdep.h>
#include <linux/sched/signal.h>

static_assert(sizeof(spinlock_t) <= UK_SPIN_BYTES);
static_assert(sizeof(struct mutex) <= UK_MUTEX_BYTES);
static_assert(sizeof(wait_queue_head_t) <= UK_WAIT_BYTES);
static_assert(sizeof(struct work_struct) <= UK_WORK_BYTES);
static_assert(__alignof__(spinlock_t) <= 8 && __alignof__(struct mutex) <= 8);
static_assert(__alignof__(wait_queue_head_t) <= 8 && __alignof__(struct work_struct) <= 8);

static const char *const layout __used = &UK_LAYOUT;

/*
 * One lockdep class for each class of the core, named as the core names it. A driver's own locks have the ranks 50 to 90, by
 * tens; the last class is for any other.
 */
static const char *const class_names[] = {
	"userptr_handles", "userptr_registry", "userptr_notifier", "userptr_queue", "userptr_driver_50", "userptr_driver_60",
	"userptr_driver_70", "userptr_driver_80", "userptr_driver_90", "userptr_other",
};
static struct lock_class_key class_keys[ARRAY_SIZE(class_names)];

static unsigned int class_index(unsigned int rank)
{
	return rank >= 10 && rank <= 90 && rank % 10 == 0 ? rank / 10 - 1 : ARRAY_SIZE(class_names) - 1;
}

void uk_spin_init(spinlock_t *lock, unsigned int class)
{
	unsigned int i = class_index(class);

	spin_lock_init(lock);
	lockdep_set_class_and_name(lock, &class_keys[i], class_names[i]);
}

void uk_spin_lock(spinlock_t *lock)
{
	spin_lock(lock);
}

void uk_spin_unlock(spinlock_t *lock)
{
	spin_unlock(lock);
}

void uk_mutex_init(struct mutex *lock, unsigned int class)
{
	unsigned int i = class_index(class);

	__mutex_init(lock, class_names[i], &class_keys[i]);
}

void uk_mutex_lock(struct mutex *lock)
{
	mutex_lock(lock);
}

void uk_mutex_unlock(struct mutex *lock)
{
	mutex_unlock(lock);
}

void uk_wait_init(wait_queue_head_t *wq)
{
	init_waitqueue_head(wq);
}

/* ns: U64_MAX waits for ever, 0 asks once. Not interruptible: an invalidation has to end whatever signal is pending. */
bool uk_wait_until(wait_queue_head_t *wq, u64 ns, bool (*met)(void *), void *data)
{
	u64 ticks;

	if (ns == 0)
		return met(data);
	if (ns == U64_MAX) {
		wait_event(*wq, met(data));
		return true;
	}
	ticks = nsecs_to_jiffies64(ns) + 1;
	return wait_event_timeout(*wq, met(data), min_t(u64, ticks, MAX_SCHEDULE_TIMEOUT - 1)) != 0;
}

/* As above, but a signal ends it: 1 met, 0 timed out, -EINTR. For requests, never for invalidations. */
int uk_wait_interruptible(wait_queue_head_t *wq, u64 ns, bool (*met)(void *), void *data)
{
	long left = wait_event_interruptible_timeout(*wq, met(data),
						     min_t(u64, nsecs_to_jiffies64(ns) + 1, MAX_SCHEDULE_TIMEOUT - 1));

	return left < 0 ? -EINTR : left > 0;
}

void uk_wake_all(wait_queue_head_t *wq)
{
	/* A full fence, then a look: pairs with the one in prepare_to_wait_event(). */
	if (wq_has_sleeper(wq))
		wake_up_all(wq);
}

static void work_run(struct work_struct *work)
{
	/* The item may be gone after its function. */
	uk_faults_begin();
	userptr_work_run(work);
	uk_faults_end();
}

/*
 * A lockdep class for each work function, because all items share the C function above: without it a pin that flushes
 * a revocation would look like an item that flushes itself.
 */
#define WORK_CLASSES 16
static struct lock_class_key work_keys[WORK_CLASSES];
static const void *work_functions[WORK_CLASSES];

void uk_work_init(struct work_struct *work, const void *function)
{
	size_t i = 0;

	INIT_WORK(work, work_run);
	for (; i < WORK_CLASSES - 1; i++) {
		const void *old = cmpxchg(&work_functions[i], NULL, function);

		if (!old || old == function)
			break;
	}
	lockdep_init_map(&work->lockdep_map, "userptr_work", &work_keys[i], 0);
}

/*
 * kinds 0 and 3: revocations, and the jobs of the device, which neither allocate nor take mmap_lock. Reclaim waits for both, so their
 * queues need a rescuer thread. Others may do both.
 */
struct workqueue_struct *uk_queue_new(unsigned int kind)
{
	static const char *const names[] = { "userptr_revoke", "userptr_pin", "userptr_release", "userptr_jobs" };

	if (kind >= ARRAY_SIZE(names))
		return NULL;
	return alloc_workqueue("%s", WQ_UNBOUND | (kind == 0 || kind == 3 ? WQ_MEM_RECLAIM : 0), 0, names[kind]);
}

void uk_queue_free(struct workqueue_struct *wq)
{
	destroy_workqueue(wq);
}

bool uk_queue_work(struct workqueue_struct *wq, struct work_struct *work)
{
	return queue_work(wq, work);
}

void uk_flush_work(struct work_struct *work)
{
	flush_work(work);
}

bool uk_cancel_work(struct work_struct *work)
{
	return cancel_work(work);
}

bool uk_work_pending(struct work_struct *work)
{
	return work_pending(work);
}

void uk_flush_queue(struct workqueue_struct *wq)
{
	flush_workqueue(wq);
}

void *uk_alloc(size_t size, size_t align)
{
	void *p;

	/* kmalloc aligns to 8 bytes, and powers of two to themselves. */
	if (align > ARCH_KMALLOC_MINALIGN) {
		if (size > PAGE_SIZE || align > PAGE_SIZE)
			size = max(size, align);
		else
			size = roundup_pow_of_two(max(size, align));
	}
	if (align > PAGE_SIZE)
		return NULL;
	/* Charged to the memory cgroup of the process that asks; what a worker allocates is charged to nobody. */
	p = kvmalloc(size, GFP_KERNEL_ACCOUNT | __GFP_NOWARN);
	if (p)
		uk_count(USERPTR_ALLOCATIONS, 1);
	return p;
}

void uk_free(void *p)
{
	if (!p)
		return;
	uk_count(USERPTR_ALLOCATIONS, -1);
	kvfree(p);
}

void uk_fence(void)
{
	smp_mb();
}

/* Lets others run for a moment. */
void uk_pause(void)
{
	usleep_range(50, 200);
}

u64 uk_now_ns(void)
{
	return ktime_get_ns();
}

bool uk_signal_pending(void)
{
	return signal_pending(current);
}
