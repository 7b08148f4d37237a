// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * What the core is measured against: the algorithm of the reference (src/docs/port_map.md) in plain C on the kernel's own
 * interval tree and one spinlock. For measurement only. It has the reference's holes: no end of an invalidation, a mutex in
 * the cancel, a start that waits for the whole queue.
 *
 * /dev/userptr-c understands CREATE, CLOSE, GET, COUNTER and SETTLE of uapi.h. A file belongs to one address space, and its
 * pages must have been touched.
 */
#include "uapi.h"

#include <linux/fs.h>
#include <linux/interval_tree.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mmu_notifier.h>
#include <linux/module.h>
#include <linux/scatterlist.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

/* An address space that is watched, and the file that has its objects. */
struct watch {
	struct mmu_notifier mn;
	struct mm_struct *mm; /* NULL until the first object */
	spinlock_t lock; /* the tree */
	struct rb_root_cached attached;
	struct workqueue_struct *cancels;
	struct xarray handles;
};

struct object {
	struct kref ref;
	struct watch *home;
	struct interval_tree_node node; /* start and last, inclusive */
	bool is_attached; /* under the home's lock */
	struct work_struct cancel;
	struct list_head link; /* of the start that cancels it */
	unsigned long n;
	/* Under the device's mutex: */
	struct page **pages; /* NULL: none are pinned */
	struct sg_table sg;
	bool written;
};

static DEFINE_MUTEX(device_mutex);
static atomic_long_t pins, starts, hits;

static void detach(struct object *o)
{
	spin_lock(&o->home->lock);
	if (o->is_attached) {
		interval_tree_remove(&o->node, &o->home->attached);
		o->is_attached = false;
	}
	spin_unlock(&o->home->lock);
}

/* Under the device's mutex. */
static void put_pages(struct object *o)
{
	unsigned long i;

	if (!o->pages)
		return;
	sg_free_table(&o->sg);
	for (i = 0; i < o->n; i++) {
		if (o->written)
			set_page_dirty(o->pages[i]);
		mark_page_accessed(o->pages[i]);
		unpin_user_page(o->pages[i]);
	}
	atomic_long_sub(o->n, &pins);
	kvfree(o->pages);
	o->pages = NULL;
	o->written = false;
}

static void release(struct kref *ref)
{
	struct object *o = container_of(ref, struct object, ref);

	detach(o);
	mutex_lock(&device_mutex);
	put_pages(o);
	mutex_unlock(&device_mutex);
	kfree(o);
}

static void cancel(struct work_struct *work)
{
	struct object *o = container_of(work, struct object, cancel);

	mutex_lock(&device_mutex);
	/* Here the reference waits for the rendering; this device has none. */
	put_pages(o);
	mutex_unlock(&device_mutex);
	kref_put(&o->ref, release);
}

static int on_start(struct mmu_notifier *mn, const struct mmu_notifier_range *range)
{
	struct watch *w = container_of(mn, struct watch, mn);
	unsigned long last = range->end - 1;
	struct interval_tree_node *node;
	struct object *o;
	LIST_HEAD(met);

	atomic_long_inc(&starts);
	/* As the reference does, without the lock. */
	if (RB_EMPTY_ROOT(&w->attached.rb_root))
		return 0;
	spin_lock(&w->lock);
	node = interval_tree_iter_first(&w->attached, range->start, last);
	if (node && !mmu_notifier_range_blockable(range)) {
		spin_unlock(&w->lock);
		return -EAGAIN;
	}
	for (; node; node = interval_tree_iter_next(node, range->start, last)) {
		o = container_of(node, struct object, node);
		if (kref_get_unless_zero(&o->ref))
			queue_work(w->cancels, &o->cancel);
		list_add(&o->link, &met);
	}
	list_for_each_entry(o, &met, link) {
		interval_tree_remove(&o->node, &w->attached);
		o->is_attached = false;
	}
	spin_unlock(&w->lock);
	if (!list_empty(&met)) {
		atomic_long_inc(&hits);
		flush_workqueue(w->cancels);
	}
	return 0;
}

static const struct mmu_notifier_ops watch_ops = {
	.invalidate_range_start = on_start,
};

static int begin_to_watch(struct watch *w)
{
	int ret = 0;

	mutex_lock(&device_mutex);
	if (!w->mm) {
		w->mn.ops = &watch_ops;
		ret = mmu_notifier_register(&w->mn, current->mm);
		if (!ret) {
			mmgrab(current->mm);
			w->mm = current->mm;
		}
	} else if (w->mm != current->mm) {
		ret = -EFAULT;
	}
	mutex_unlock(&device_mutex);
	return ret;
}

static int create(struct watch *w, u64 *words)
{
	unsigned long start = words[0], size = words[1];
	struct object *o;
	u32 handle;
	int ret;

	if (!size || (start | size) & ~PAGE_MASK || !access_ok((void __user *)start, size))
		return -EINVAL;
	ret = begin_to_watch(w);
	if (ret)
		return ret;
	o = kzalloc(sizeof(*o), GFP_KERNEL);
	if (!o)
		return -ENOMEM;
	kref_init(&o->ref);
	o->home = w;
	o->node.start = start;
	o->node.last = start + size - 1;
	o->n = size >> PAGE_SHIFT;
	INIT_WORK(&o->cancel, cancel);
	ret = xa_alloc(&w->handles, &handle, o, XA_LIMIT(1, UINT_MAX), GFP_KERNEL);
	if (ret) {
		kfree(o);
		return ret;
	}
	words[3] = handle;
	return 0;
}

static int close_handle(struct watch *w, u64 handle)
{
	struct object *o = xa_erase(&w->handles, handle);

	if (!o)
		return -ENOENT;
	kref_put(&o->ref, release);
	return 0;
}

static struct object *look_up(struct watch *w, u64 handle)
{
	struct object *o;

	xa_lock(&w->handles);
	o = xa_load(&w->handles, handle);
	if (o)
		kref_get(&o->ref);
	xa_unlock(&w->handles);
	return o;
}

static long pin(unsigned long start, unsigned long n, struct page **pages)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 5, 0)
	return pin_user_pages_fast_only(start, n, FOLL_WRITE, pages);
#else
	return pin_user_pages_fast(start, n, FOLL_WRITE | FOLL_NOFAULT, pages);
#endif
}

/* Attach, pin, install. */
static int get_pages(struct object *o)
{
	struct page **pages = kvmalloc_array(o->n, sizeof(*pages), GFP_KERNEL);
	long got;
	int ret = 0;

	if (!pages)
		return -ENOMEM;
	mutex_lock(&device_mutex);
	if (o->pages)
		goto out;
	spin_lock(&o->home->lock);
	if (!o->is_attached) {
		interval_tree_insert(&o->node, &o->home->attached);
		o->is_attached = true;
	}
	spin_unlock(&o->home->lock);
	got = pin(o->node.start, o->n, pages);
	/* Under the mutex that a cancel takes, so nothing here may reclaim. */
	ret = got < (long)o->n ? -EFAULT :
				 sg_alloc_table_from_pages(&o->sg, pages, o->n, 0, o->n << PAGE_SHIFT, GFP_NOWAIT);
	if (ret) {
		if (got > 0)
			unpin_user_pages(pages, got);
		detach(o);
		goto out;
	}
	atomic_long_add(o->n, &pins);
	o->pages = pages;
	pages = NULL;
out:
	mutex_unlock(&device_mutex);
	kvfree(pages);
	return ret;
}

static int get(struct watch *w, u64 handle)
{
	struct object *o = look_up(w, handle);
	int ret;

	if (!o)
		return -ENOENT;
	ret = get_pages(o);
	kref_put(&o->ref, release);
	return ret;
}

static int counter(u64 *words)
{
	switch (words[0]) {
	case USERPTR_PINS:
		words[1] = atomic_long_read(&pins);
		return 0;
	case USERPTR_STARTS:
		words[1] = atomic_long_read(&starts);
		return 0;
	case USERPTR_HITS:
		words[1] = atomic_long_read(&hits);
		return 0;
	}
	return -EINVAL;
}

static long device_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct watch *w = file->private_data;
	struct userptr_words words;
	long ret = -ENOTTY;

	if (_IOC_TYPE(cmd) != 'U' || _IOC_SIZE(cmd) != sizeof(words))
		return ret;
	if (copy_from_user(&words, (void __user *)arg, sizeof(words)))
		return -EFAULT;
	switch (cmd) {
	case USERPTR_CREATE:
		ret = create(w, words.w);
		break;
	case USERPTR_CLOSE:
		ret = close_handle(w, words.w[0]);
		break;
	case USERPTR_GET:
		ret = get(w, words.w[0]);
		break;
	case USERPTR_COUNTER:
		ret = counter(words.w);
		break;
	case USERPTR_SETTLE:
		flush_workqueue(w->cancels);
		ret = 0;
		break;
	}
	if (!ret && copy_to_user((void __user *)arg, &words, sizeof(words)))
		return -EFAULT;
	return ret;
}

static int device_open(struct inode *inode, struct file *file)
{
	struct watch *w = kzalloc(sizeof(*w), GFP_KERNEL);

	if (!w)
		return -ENOMEM;
	spin_lock_init(&w->lock);
	w->attached = RB_ROOT_CACHED;
	xa_init_flags(&w->handles, XA_FLAGS_ALLOC1);
	/* The flags of the module's own queue of cancels. */
	w->cancels = alloc_workqueue("userptr_baseline", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	if (!w->cancels) {
		kfree(w);
		return -ENOMEM;
	}
	file->private_data = w;
	return 0;
}

static int device_release(struct inode *inode, struct file *file)
{
	struct watch *w = file->private_data;
	unsigned long handle;
	struct object *o;

	xa_for_each(&w->handles, handle, o)
		close_handle(w, handle);
	if (w->mm) {
		mmu_notifier_unregister(&w->mn, w->mm);
		mmdrop(w->mm);
	}
	destroy_workqueue(w->cancels);
	xa_destroy(&w->handles);
	kfree(w);
	return 0;
}

static const struct file_operations device_fops = {
	.owner = THIS_MODULE,
	.open = device_open,
	.release = device_release,
	.unlocked_ioctl = device_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "userptr-c",
	.fops = &device_fops,
	.mode = 0666,
};

static void __exit baseline_exit(void)
{
	misc_deregister(&device);
	WARN(atomic_long_read(&pins), "userptr-c: %ld pages left pinned\n", atomic_long_read(&pins));
}

static int __init baseline_init(void)
{
	return misc_register(&device);
}

module_init(baseline_init);
module_exit(baseline_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("What the userptr core is measured against");
