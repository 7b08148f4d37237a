// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Module entry and the character device.
 */
#include "shim.h"
#include "uapi.h"

#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>

static long device_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct userptr_words words;
	long ret;

	if (_IOC_TYPE(cmd) != 'U' || _IOC_SIZE(cmd) != sizeof(words))
		return -ENOTTY;
	if (copy_from_user(&words, (void __user *)arg, sizeof(words)))
		return -EFAULT;
	switch (cmd) {
	case USERPTR_SELFTEST: {
		long before = uk_allocations();

		ret = userptr_selftest(words.w[0]);
		if (ret < 0)
			return ret;
		words.w[1] = ret;
		words.w[2] = uk_allocations() - before;
		ret = 0;
		break;
	}
	default:
		return -ENOTTY;
	}
	if (copy_to_user((void __user *)arg, &words, sizeof(words)))
		return -EFAULT;
	return ret;
}

static const struct file_operations device_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = device_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "userptr",
	.fops = &device_fops,
	.mode = 0666,
};

static int __init userptr_init(void)
{
	return misc_register(&device);
}

static void __exit userptr_exit(void)
{
	misc_deregister(&device);
	if (uk_allocations())
		WARN(1, "userptr: %ld allocations left behind\n", uk_allocations());
}

module_init(userptr_init);
module_exit(userptr_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("User memory for devices: the userptr core in Rust behind a C shim");
