/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * The C half of the library: what its Rust half calls (uk_*), and what that exports (userptr_*). Its mirror is ../src/ffi.rs.
 * A driver includes this for the counters; it calls nothing else of it.
 */
#ifndef USERPTR_SHIM_H
#define USERPTR_SHIM_H

#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "counters.h"

/* The room that Rust keeps for a kernel type. A kernel with lock debugging needs more of it. */
#ifdef CONFIG_DEBUG_LOCK_ALLOC
#define UK_SPIN_BYTES 72
#define UK_MUTEX_BYTES 168
#define UK_WAIT_BYTES 96
#define UK_WORK_BYTES 112
#else
#define UK_SPIN_BYTES 8
#define UK_MUTEX_BYTES 40
#define UK_WAIT_BYTES 24
#define UK_WORK_BYTES 40
#endif

/*
 * The Rust half exports a symbol with the sizes that it was built for in its name. C asks for the one with its own: halves that
 * do not belong together are a link error.
 */
#define UK_LAYOUT_OF(spin, mutex, wait, work, shift) userptr_rooms_##spin##_##mutex##_##wait##_##work##_pages_##shift
#define UK_LAYOUT_NAME(...) UK_LAYOUT_OF(__VA_ARGS__)
#define UK_LAYOUT UK_LAYOUT_NAME(UK_SPIN_BYTES, UK_MUTEX_BYTES, UK_WAIT_BYTES, UK_WORK_BYTES, PAGE_SHIFT)
extern const char UK_LAYOUT;

/* Locks, waits, work, memory: sync.c */
void uk_spin_init(spinlock_t *lock, unsigned int class);
void uk_spin_lock(spinlock_t *lock);
void uk_spin_unlock(spinlock_t *lock);
void uk_mutex_init(struct mutex *lock, unsigned int class);
void uk_mutex_lock(struct mutex *lock);
void uk_mutex_unlock(struct mutex *lock);
void uk_wait_init(wait_queue_head_t *wq);
bool uk_wait_until(wait_queue_head_t *wq, u64 ns, bool (*met)(void *), void *data);
int uk_wait_interruptible(wait_queue_head_t *wq, u64 ns, bool (*met)(void *), void *data);
void uk_wake_all(wait_queue_head_t *wq);
void uk_work_init(struct work_struct *work, const void *function);
struct workqueue_struct *uk_queue_new(unsigned int kind);
void uk_queue_free(struct workqueue_struct *wq);
bool uk_queue_work(struct workqueue_struct *wq, struct work_struct *work);
void uk_flush_work(struct work_struct *work);
bool uk_cancel_work(struct work_struct *work);
bool uk_work_pending(struct work_struct *work);
void uk_flush_queue(struct workqueue_struct *wq);
void *uk_alloc(size_t size, size_t align);
void uk_free(void *p);
void uk_fence(void);
void uk_pause(void);
u64 uk_now_ns(void);
bool uk_signal_pending(void);

/* Around a work item: faults.c */
#ifdef CONFIG_FAULT_INJECTION
void uk_faults_begin(void);
void uk_faults_end(void);
#else
static inline void uk_faults_begin(void) {}
static inline void uk_faults_end(void) {}
#endif

/* Counts, by the numbers of counters.h: mm.c */
void uk_count(unsigned int which, long by);
long uk_counter(unsigned int which);
void uk_count_hit(void);
long uk_allocations(void);

/* Address spaces and pages: mm.c */
struct uk_registration;
struct uk_registration *uk_register(struct mm_struct *mm, const void *notifier, int *err);
void uk_unregister(struct uk_registration *reg);
struct mm_struct *uk_current_mm(void);
void uk_mmgrab(struct mm_struct *mm);
void uk_mmdrop(struct mm_struct *mm);
bool uk_mmget(struct mm_struct *mm);
void uk_mmput(struct mm_struct *mm);
unsigned long uk_untagged(unsigned long address);
void uk_note_lease(bool taken);
bool uk_access_ok(unsigned long start, unsigned long len);
bool uk_privileged(void);
long uk_pin_fast(unsigned long start, unsigned long n, bool write, struct page **pages);
long uk_pin(struct mm_struct *mm, unsigned long start, unsigned long n, bool write, struct page **pages);
void uk_unpin(struct page *const *pages, unsigned long n, bool dirty, bool accessed);
unsigned long uk_pfn(struct page *page);

/* Rust: called by the shim. */
int userptr_invalidate_start(const void *notifier, unsigned long start, unsigned long end, bool blockable);
void userptr_invalidate_end(const void *notifier, unsigned long start, unsigned long end);
void userptr_open_window(const void *notifier, unsigned long start, unsigned long end);
int userptr_exit(const void *notifier);
void userptr_work_run(struct work_struct *work);

#endif
