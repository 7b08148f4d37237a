/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * What the Rust half calls (uk_*), and what it exports (userptr_*). Its mirror is ../userptr-kernel/src/ffi.rs.
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
long uk_allocations(void);
void uk_fence(void);

/* Around a work item: faults.c */
#ifdef CONFIG_FAULT_INJECTION
void uk_faults_begin(void);
void uk_faults_end(void);
#else
static inline void uk_faults_begin(void) {}
static inline void uk_faults_end(void) {}
#endif

/* Address spaces and pages: mm.c. Counts for the tests. */
enum {
	UK_PINS, /* pages pinned now */
	UK_SLOW_PINS, /* pages ever pinned by waiting */
	UK_DIRTIED, /* pages ever marked dirty at unpin */
	UK_STARTS, /* invalidations */
	UK_ENDS,
	UK_REFUSED, /* starts that could not wait */
	UK_EXITS, /* address spaces that ended, or were unregistered */
	UK_REGISTRATIONS, /* now */
	UK_GRABS, /* records held now */
	UK_USERS, /* users held now */
	UK_JOBS, /* jobs of the devices, now */
	UK_COPIED, /* bytes they ever copied */
	UK_NOT_HERE, /* the number of uk_allocations() in the requests */
	UK_MAPPED, /* pages mapped for DMA now */
	UK_TRANSFERS, /* DMA transfers from or to pages, ever begun */
	UK_HITS, /* invalidations that took pages from an object */
	UK_COUNTERS,
};
struct uk_registration;
void uk_teach_lockdep(void);
void uk_count(unsigned int which, long by);
long uk_counter(unsigned int which);
struct uk_registration *uk_register(struct mm_struct *mm, const void *notifier, int *err);
void uk_unregister(struct uk_registration *reg);
struct mm_struct *uk_current_mm(void);
void uk_mmgrab(struct mm_struct *mm);
void uk_mmdrop(struct mm_struct *mm);
bool uk_mmget(struct mm_struct *mm);
void uk_mmput(struct mm_struct *mm);
bool uk_access_ok(unsigned long start, unsigned long len);
bool uk_privileged(void);
long uk_pin_fast(unsigned long start, unsigned long n, bool write, struct page **pages);
long uk_pin(struct mm_struct *mm, unsigned long start, unsigned long n, bool write, struct page **pages);
void uk_unpin(struct page *const *pages, unsigned long n, bool dirty, bool accessed);
unsigned long uk_pfn(struct page *page);
void uk_copy_page(struct page *page, size_t offset, void *buffer, size_t len, bool to_page);
void uk_fill_page(struct page *page, size_t offset, u8 value, size_t len);
void uk_pause(void);
u64 uk_now_ns(void);
bool uk_signal_pending(void);
int uk_copy_from_user(void *to, unsigned long from, size_t len);
int uk_copy_to_user(unsigned long to, const void *from, size_t len);

/* The edu device: edu.c */
int uk_edu_register(void);
void uk_edu_unregister(void);
bool uk_edu_present(void);
void uk_edu_limits(u64 *pages, u64 *mapping_pages, bool *reaches_all);
int uk_edu_map(unsigned long frame, unsigned long pages, bool write, u64 *at);
void uk_edu_unmap(u64 at, unsigned long pages, bool write);
void *uk_edu_staging(u64 *at);
void uk_edu_start(u64 memory, size_t len, bool to_memory);
int uk_edu_running(void);

/* Rust: called by the shim. */
int userptr_init_driver(void);
void userptr_exit_driver(void);
const void *userptr_open(unsigned int device, int *err);
void userptr_close(const void *file);
long userptr_request(const void *file, unsigned int request, u64 *words);
int userptr_invalidate_start(const void *notifier, unsigned long start, unsigned long end, bool blockable);
void userptr_invalidate_end(const void *notifier, unsigned long start, unsigned long end);
void userptr_open_window(const void *notifier, unsigned long start, unsigned long end);
int userptr_exit(const void *notifier);
void userptr_work_run(struct work_struct *work);
int userptr_selftest(unsigned int which);

#endif
