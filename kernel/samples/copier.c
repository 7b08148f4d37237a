// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * The C half of the device in software: its access to pages; the buffers of its users; and the counters of the samples.
 */
#include "samples.h"

#include <linux/highmem.h>
#include <linux/uaccess.h>

/* The device's access to one page. */
void sample_copy_page(struct page *page, size_t offset, void *buffer, size_t len, bool to_page)
{
	char *at = kmap_local_page(page);

	if (to_page)
		memcpy(at + offset, buffer, len);
	else
		memcpy(buffer, at + offset, len);
	kunmap_local(at);
}

void sample_fill_page(struct page *page, size_t offset, u8 value, size_t len)
{
	char *at = kmap_local_page(page);

	memset(at + offset, value, len);
	kunmap_local(at);
}

int sample_copy_from_user(void *to, unsigned long from, size_t len)
{
	return copy_from_user(to, (const void __user *)from, len) ? -EFAULT : 0;
}

int sample_copy_to_user(unsigned long to, const void *from, size_t len)
{
	return copy_to_user((void __user *)to, from, len) ? -EFAULT : 0;
}

static atomic_long_t counters[USERPTR_SAMPLE_END - USERPTR_JOBS];

void sample_count(unsigned int which, long by)
{
	if (which >= USERPTR_JOBS && which < USERPTR_SAMPLE_END)
		atomic_long_add(by, &counters[which - USERPTR_JOBS]);
}

/* By the numbers of uapi.h: the samples' own, or the library's. */
long sample_counter(unsigned int which)
{
	if (which >= USERPTR_JOBS && which < USERPTR_SAMPLE_END)
		return atomic_long_read(&counters[which - USERPTR_JOBS]);
	return uk_counter(which);
}
