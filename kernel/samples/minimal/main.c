// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * The smallest driver on the library: the module, and one character device. What it does is decided in Rust (src/lib.rs).
 *
 * Its one request gives a range of the caller's memory to the "device", asks it for the number of pages, and takes the memory back.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>

struct minimal_range {
	__u64 address;
	__u64 size;
};
#define MINIMAL_COUNT_PAGES _IOW('M', 0, struct minimal_range)

/* Rust. */
int minimal_load(void);
void minimal_unload(void);
long minimal_count_pages(unsigned long address, unsigned long size);

static long minimal_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct minimal_range range;

	if (cmd != MINIMAL_COUNT_PAGES)
		return -ENOTTY;
	if (copy_from_user(&range, (void __user *)arg, sizeof(range)))
		return -EFAULT;
	return minimal_count_pages(range.address, range.size);
}

static const struct file_operations minimal_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = minimal_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice minimal_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "userptr-minimal",
	.fops = &minimal_fops,
};

static int __init minimal_init(void)
{
	int ret = minimal_load();

	if (ret)
		return ret;
	ret = misc_register(&minimal_device);
	if (ret)
		minimal_unload();
	return ret;
}

static void __exit minimal_exit(void)
{
	misc_deregister(&minimal_device);
	minimal_unload();
}

module_init(minimal_init);
module_exit(minimal_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("The smallest driver on the userptr library");
