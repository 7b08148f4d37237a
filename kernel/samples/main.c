// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Module entry and the character devices.
 */
#include "samples.h"

#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>

static struct miscdevice devices[USERPTR_DEVICES];

static int device_open(struct inode *inode, struct file *file)
{
	/* The misc layer leaves its device in private_data. */
	struct miscdevice *misc = file->private_data;
	int err = -ENOMEM;
	const void *client = userptr_open(misc - devices, &err);

	if (!client)
		return err;
	file->private_data = (void *)client;
	return 0;
}

static int device_release(struct inode *inode, struct file *file)
{
	userptr_close(file->private_data);
	return 0;
}

static long device_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct userptr_words words;
	long ret;

	if (cmd != USERPTR_REQUEST(_IOC_NR(cmd)) || _IOC_NR(cmd) >= USERPTR_REQUESTS)
		return -ENOTTY;
	if (copy_from_user(&words, (void __user *)arg, sizeof(words)))
		return -EFAULT;
	ret = userptr_request(file->private_data, _IOC_NR(cmd), words.w);
	if (!ret && copy_to_user((void __user *)arg, &words, sizeof(words)))
		return -EFAULT;
	return ret;
}

static const struct file_operations device_fops = {
	.owner = THIS_MODULE,
	.open = device_open,
	.release = device_release,
	.unlocked_ioctl = device_ioctl,
	/* The words are the same for 32 bits. */
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static const char *const device_names[USERPTR_DEVICES] = { "userptr0", "userptr1", "userptr2", "userptr3" };

static void remove_devices(void)
{
	int i;

	for (i = 0; i < USERPTR_DEVICES; i++)
		if (devices[i].name)
			misc_deregister(&devices[i]);
}

static int __init userptr_init(void)
{
	int ret, i;

	ret = sample_edu_register();
	if (ret)
		return ret;
	ret = userptr_init_driver();
	if (ret)
		goto unregister;
	for (i = 0; i < USERPTR_DEVICES; i++) {
		if (i == USERPTR_EDU && !sample_edu_present())
			continue;
		devices[i] = (struct miscdevice){
			.minor = MISC_DYNAMIC_MINOR,
			.name = device_names[i],
			.fops = &device_fops,
			.mode = 0666,
		};
		ret = misc_register(&devices[i]);
		if (!ret)
			continue;
		devices[i].name = NULL;
		/* Somebody may have opened one that is there already: from the first on, the module stays. */
		if (i == 0)
			goto exit;
		pr_warn("userptr: there will be no /dev/%s (%d)\n", device_names[i], ret);
	}
	return 0;
exit:
	userptr_exit_driver();
unregister:
	sample_edu_unregister();
	return ret;
}

static void __exit userptr_exit_module(void)
{
	remove_devices();
	userptr_exit_driver();
	sample_edu_unregister();
	WARN(uk_allocations(), "userptr: %ld allocations left behind\n", uk_allocations());
	WARN(uk_counter(USERPTR_PINS), "userptr: %ld pages left pinned\n", uk_counter(USERPTR_PINS));
	WARN(uk_counter(USERPTR_GRABS), "userptr: %ld address spaces left held\n", uk_counter(USERPTR_GRABS));
}

module_init(userptr_init);
module_exit(userptr_exit_module);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("Test devices on the memory of processes: samples of the userptr library");
