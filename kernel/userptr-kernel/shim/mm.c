// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Address spaces: invalidation callbacks, holds, pinning.
 */
#include "shim.h"

#include <linux/capability.h>
#include <linux/lockdep.h>
#include <linux/mmu_notifier.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/swap.h>
#include <linux/uaccess.h>
#include <linux/version.h>

static atomic_long_t counters[USERPTR_COUNTERS];

void uk_count(unsigned int which, long by)
{
	if (which < USERPTR_COUNTERS)
		atomic_long_add(by, &counters[which]);
}

long uk_counter(unsigned int which)
{
	return which < USERPTR_COUNTERS ? atomic_long_read(&counters[which]) : 0;
}

void uk_count_hit(void)
{
	uk_count(USERPTR_HITS, 1);
}

long uk_allocations(void)
{
	return uk_counter(USERPTR_ALLOCATIONS);
}

/*
 * Two subscriptions on one address space. The kernel calls every `end` after a start that anybody refused, and a
 * subscription cannot know whether its own start had been refused: so the one that refuses may not have an `end`
 * (the kernel warns if it does), and the one that has the `end` has no start.
 *
 * `end` is registered first and unregistered last. Registering shuts out every invalidation of the address space, so
 * none is in progress when `start` comes in: each start that is seen has its end seen, and an end whose start came
 * before the registration finds no window and is ignored.
 */
struct uk_registration {
	struct mmu_notifier start;
	struct mmu_notifier end;
	struct mm_struct *mm;
	const void *notifier;
};

/*
 * For lockdep, an invalidation is a lock that reclaim takes: so it sees that what an invalidation takes may not be held over an
 * allocation. The kernel has such a lock of its own, but the SRCU section between it and the callbacks (seen on 6.12) hides
 * them from each other: lockdep follows no chain through a recursive reader.
 */
#ifdef CONFIG_LOCKDEP
static struct lock_class_key invalidation_key;
static struct lockdep_map invalidation = STATIC_LOCKDEP_MAP_INIT("userptr_invalidation", &invalidation_key);
/* A lease is one more: its holders share it, and an invalidation waits for all of them. */
static struct lock_class_key lease_key;
static struct lockdep_map lease = STATIC_LOCKDEP_MAP_INIT("userptr_lease", &lease_key);
#endif

/* A thread takes or drops a lease. */
void uk_note_lease(bool taken)
{
	if (taken)
		lock_map_acquire_read(&lease);
	else
		lock_map_release(&lease);
}

/* Before the first registration: reclaim may start an invalidation. */
static void teach_lockdep(void)
{
#ifdef CONFIG_LOCKDEP
	static bool taught;

	if (xchg(&taught, true))
		return;
	fs_reclaim_acquire(GFP_KERNEL);
	lock_map_acquire(&invalidation);
	lock_map_acquire(&lease);
	lock_map_release(&lease);
	lock_map_release(&invalidation);
	fs_reclaim_release(GFP_KERNEL);
#endif
}

static int on_start(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct uk_registration *reg = container_of(mn, struct uk_registration, start);
	int ret;

	lock_map_acquire(&invalidation);
	if (mmu_notifier_range_blockable(range)) {
		lock_map_acquire(&lease);
		lock_map_release(&lease);
	}
	ret = userptr_invalidate_start(reg->notifier, range->start, range->end, mmu_notifier_range_blockable(range));
	lock_map_release(&invalidation);
	uk_count(USERPTR_STARTS, 1);
	if (ret == -EAGAIN) {
		/* Its end will come all the same, to the other subscription. */
		userptr_open_window(reg->notifier, range->start, range->end);
		uk_count(USERPTR_REFUSED, 1);
		return ret;
	}
	if (ret)
		pr_warn_ratelimited("userptr: %#lx-%#lx invalidated with pages still in use (%d)\n", range->start, range->end, ret);
	return 0;
}

static void on_end(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct uk_registration *reg = container_of(mn, struct uk_registration, end);

	userptr_invalidate_end(reg->notifier, range->start, range->end);
	uk_count(USERPTR_ENDS, 1);
}

static void on_release(struct mmu_notifier *mn, struct mm_struct *mm)
{
	struct uk_registration *reg = container_of(mn, struct uk_registration, start);

	if (userptr_exit(reg->notifier))
		pr_warn_ratelimited("userptr: an address space ends with pages still in use\n");
	uk_count(USERPTR_EXITS, 1);
}

static const struct mmu_notifier_ops start_ops = {
	.invalidate_range_start = on_start,
	.release = on_release,
};

static const struct mmu_notifier_ops end_ops = {
	.invalidate_range_end = on_end,
};

/* The caller holds a reference to the address space's record. NULL: see *err. */
struct uk_registration *uk_register(struct mm_struct *mm, const void *notifier, int *err)
{
	struct uk_registration *reg;

	teach_lockdep();
	reg = kzalloc(sizeof(*reg), GFP_KERNEL);
	*err = -ENOMEM;
	if (!reg)
		return NULL;
	reg->start.ops = &start_ops;
	reg->end.ops = &end_ops;
	reg->mm = mm;
	reg->notifier = notifier;
	*err = -EFAULT;
	if (!mmget_not_zero(mm))
		goto free;
	*err = -EINTR;
	if (mmap_write_lock_killable(mm))
		goto put;
	*err = __mmu_notifier_register(&reg->end, mm);
	if (*err)
		goto unlock;
	*err = __mmu_notifier_register(&reg->start, mm);
	mmap_write_unlock(mm);
	if (*err) {
		mmu_notifier_unregister(&reg->end, mm);
		goto put;
	}
	mmput_async(mm);
	uk_count(USERPTR_REGISTRATIONS, 1);
	return reg;
unlock:
	mmap_write_unlock(mm);
put:
	mmput_async(mm);
free:
	kfree(reg);
	return NULL;
}

/* Waits for callbacks in progress; calls userptr_exit() if the address space has not ended yet. */
void uk_unregister(struct uk_registration *reg)
{
	mmu_notifier_unregister(&reg->start, reg->mm);
	mmu_notifier_unregister(&reg->end, reg->mm);
	kfree(reg);
	uk_count(USERPTR_REGISTRATIONS, -1);
}

struct mm_struct *uk_current_mm(void)
{
	return current->flags & PF_KTHREAD ? NULL : current->mm;
}

void uk_mmgrab(struct mm_struct *mm)
{
	mmgrab(mm);
	uk_count(USERPTR_GRABS, 1);
}

void uk_mmdrop(struct mm_struct *mm)
{
	uk_count(USERPTR_GRABS, -1);
	mmdrop(mm);
}

bool uk_mmget(struct mm_struct *mm)
{
	if (!mmget_not_zero(mm))
		return false;
	uk_count(USERPTR_USERS, 1);
	return true;
}

/* From a work item: whoever may be the last user. */
void uk_mmput(struct mm_struct *mm)
{
	uk_count(USERPTR_USERS, -1);
	mmput_async(mm);
}

/*
 * Some processors ignore bits of a user's address (x86 with LAM, arm64), and so do access_ok() and pins. Invalidations come without
 * them: an object that was kept under a tagged address would pin pages, and never hear that they are gone.
 */
unsigned long uk_untagged(unsigned long address)
{
	return untagged_addr(address);
}

bool uk_access_ok(unsigned long start, unsigned long len)
{
	return untagged_addr(start) == start && access_ok((void __user *)start, len);
}

bool uk_privileged(void)
{
	return capable(CAP_SYS_ADMIN);
}

/* The most pages in one call, so that a signal is noticed and an int holds the number. */
#define PIN_CHUNK 16384L

static unsigned int gup_flags(bool write)
{
	return write ? FOLL_WRITE : 0;
}

/* Pins from the start of the range what needs no waiting. May be fewer than `n`. */
long uk_pin_fast(unsigned long start, unsigned long n, bool write, struct page **pages)
{
	long done = 0;

	while (done < n) {
		long some = min_t(long, n - done, PIN_CHUNK), got;

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 5, 0)
		got = pin_user_pages_fast_only(start + done * PAGE_SIZE, some, gup_flags(write), pages + done);
#else
		/* There is no variant for modules that takes no lock; this one may wait for mmap_lock, but does not fault. */
		got = pin_user_pages_fast(start + done * PAGE_SIZE, some, gup_flags(write) | FOLL_NOFAULT, pages + done);
#endif
		if (got <= 0)
			break;
		done += got;
		if (got < some)
			break;
	}
	uk_count(USERPTR_PINS, done);
	return done;
}

/* Pins from the start of the range, faulting as needed. The caller holds the users. Errors only if nothing was pinned. */
long uk_pin(struct mm_struct *mm, unsigned long start, unsigned long n, bool write, struct page **pages)
{
	long done = 0, got = 0;

	while (done < n) {
		long some = min_t(long, n - done, PIN_CHUNK);
		int locked = 1;

		if (fatal_signal_pending(current) || mmap_read_lock_killable(mm)) {
			got = -EINTR;
			break;
		}
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 5, 0)
		got = pin_user_pages_remote(mm, start + done * PAGE_SIZE, some, gup_flags(write), pages + done, NULL, &locked);
#else
		got = pin_user_pages_remote(mm, start + done * PAGE_SIZE, some, gup_flags(write), pages + done, &locked);
#endif
		if (locked)
			mmap_read_unlock(mm);
		if (got <= 0)
			break;
		done += got;
		uk_count(USERPTR_SLOW_PINS, got);
	}
	uk_count(USERPTR_PINS, done);
	return done ? done : got;
}

/*
 * The device wrote to it. The thread that invalidates may hold the page's lock, and so may reclaim, which drops what is
 * clean: the lock is only tried, and a page is marked all the same. A fast pin had marked nothing.
 *
 * Without the lock: the page of anonymous or of shared memory needs no more than the bit (what noop_dirty_folio() does; no
 * mapping is looked at, which could go away). For the others nothing is left to do: a page of a file is written through an
 * entry that page_mkwrite() made writable and the page dirty, and writeback takes that entry away, with an invalidation,
 * before it looks at the content.
 */
static void mark_dirty(struct page *page)
{
	struct folio *folio = page_folio(page);

	if (trylock_page(page)) {
		set_page_dirty(page);
		unlock_page(page);
	} else if (folio_test_anon(folio) || folio_test_swapbacked(folio)) {
		/* Before the pin goes: who finds the page unreferenced finds it dirty. */
		folio_set_dirty(folio);
	}
	uk_count(USERPTR_DIRTIED, 1);
}

/* Called inside invalidations. */
void uk_unpin(struct page *const *pages, unsigned long n, bool dirty, bool accessed)
{
	unsigned long i;

	uk_count(USERPTR_PINS, -(long)n);
	for (i = 0; i < n; i++) {
		if (dirty)
			mark_dirty(pages[i]);
		if (accessed)
			mark_page_accessed(pages[i]);
		unpin_user_page(pages[i]);
	}
}

unsigned long uk_pfn(struct page *page)
{
	return page_to_pfn(page);
}
