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

/* Rust: called by the shim. */
void userptr_work_run(struct work_struct *work);
int userptr_selftest(unsigned int which);

#endif
