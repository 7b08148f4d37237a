// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Memory that belongs to a file: shared with other processes, on a disk with writeback, cut short below the object. And memory
 * that is not memory: mappings of a device. The disk is a RAM disk with ext2 (/dev/ram0), where the guest's kernel has one.
 */
#include "dev.h"

#include <dirent.h>
#include <linux/falloc.h>
#include <sys/mount.h>

#define N 16

static int fd;
static unsigned char *at;
static uint64_t h;

/* ---- shared memory ---- */

static int shared_fork(void)
{
	unsigned char page[PAGE];
	int up[2], down[2];
	pid_t child;
	char c;

	CHECK_EQ(pipe(up) | pipe(down), 0);
	fd = dev_open(0);
	at = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	child = fork();
	if (child == 0) {
		/* What the device writes after the fork, it writes here, too. */
		if (read(down[0], &c, 1) != 1 || memcmp(at + 3 * PAGE, "shared", 6))
			_exit(1);
		at[4 * PAGE] = 77;
		/* The child's mapping is its own. */
		if (munmap(at, N * PAGE) || write(up[1], "m", 1) != 1)
			_exit(2);
		_exit(0);
	}
	CHECK_EQ(dev_write(fd, h, 3 * PAGE, "shared", 6), 0);
	CHECK_EQ(pins(fd), N);
	CHECK_EQ(write(down[1], "g", 1), 1);
	CHECK_EQ(read(up[0], &c, 1), 1);
	CHECK_EQ(pins(fd), N);
	CHECK_EQ(reap(child), 0);
	CHECK_EQ(dev_read(fd, h, 4 * PAGE, page, 1), 0);
	CHECK_EQ(page[0], 77);
	CHECK_EQ(pins(fd), N);
	return 0;
}

/* Content goes, the mapping stays: through another mapping, which nobody registered. */
static int removed_by_alias(void)
{
	int file = memfd_create("object", MFD_CLOEXEC);
	unsigned char *alias, byte = 1;

	CHECK_EQ(ftruncate(file, N * PAGE), 0);
	fd = dev_open(0);
	at = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	alias = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	stamp(at, N, 20);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(madvise(alias + 2 * PAGE, PAGE, MADV_REMOVE), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_read(fd, h, 2 * PAGE, &byte, 1), 0);
	CHECK_EQ(byte, 0);
	CHECK_EQ(dev_write(fd, h, 2 * PAGE, "new", 3), 0);
	CHECK(!memcmp(alias + 2 * PAGE, "new", 3));
	/* Nor does an unmap of the alias concern the object. */
	CHECK_EQ(munmap(alias, N * PAGE), 0);
	CHECK_EQ(pins(fd), N);
	return 0;
}

static int truncated(int file)
{
	unsigned char byte = 1;

	fd = dev_open(0);
	CHECK_EQ(ftruncate(file, N * PAGE), 0);
	at = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(at != MAP_FAILED);
	stamp(at, N, 21);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(ftruncate(file, 4 * PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(dev_get(fd, h), -EFAULT);
	CHECK_EQ(ftruncate(file, N * PAGE), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(dev_read(fd, h, 5 * PAGE, &byte, 1), 0);
	CHECK_EQ(byte, 0);
	CHECK_EQ(dev_read(fd, h, 3 * PAGE + 9, &byte, 1), 0);
	CHECK_EQ(byte, at[3 * PAGE + 9]);
	return 0;
}

static int memory_truncated(void)
{
	return truncated(memfd_create("object", MFD_CLOEXEC));
}

/* A private mapping of a file: the device writes to the process's copy, and the file stays as it was. */
static int private_of(int file)
{
	unsigned char page[PAGE];

	fd = dev_open(0);
	memset(page, 5, PAGE);
	for (int i = 0; i < N; i++)
		CHECK_EQ(pwrite(file, page, PAGE, i * PAGE), PAGE);
	at = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	CHECK(at != MAP_FAILED);
	CHECK_EQ(at[0], 5);
	CHECK_EQ(dev_create(fd, at, N * PAGE, USERPTR_READ_ONLY, &h), 0);
	CHECK_EQ(dev_read(fd, h, 2 * PAGE, page, 1), 0);
	CHECK_EQ(page[0], 5);
	/* The process writes below a read-only pin: a copy takes the page's place, and the device follows. */
	at[2 * PAGE] = 6;
	CHECK_EQ(dev_read(fd, h, 2 * PAGE, page, 1), 0);
	CHECK_EQ(page[0], 6);
	CHECK_EQ(dev_close(fd, h), 0);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_write(fd, h, 3 * PAGE, "mine", 4), 0);
	CHECK(!memcmp(at + 3 * PAGE, "mine", 4));
	CHECK_EQ(pread(file, page, 1, 3 * PAGE), 1);
	CHECK_EQ(page[0], 5);
	/* What was copied for the device stays when the file is written. */
	CHECK_EQ(pwrite(file, "x", 1, 3 * PAGE), 1);
	CHECK(!memcmp(at + 3 * PAGE, "mine", 4));
	return 0;
}

static int private_of_memory(void)
{
	return private_of(memfd_create("object", MFD_CLOEXEC));
}

/* A read-only object over memory that nobody wrote: the page of zeros, until the process writes. */
static int zero_page_then_written(void)
{
	unsigned char byte = 1;

	fd = dev_open(0);
	at = memory(N);
	CHECK_EQ(dev_create(fd, at, N * PAGE, USERPTR_READ_ONLY, &h), 0);
	for (int i = 0; i < N; i++) {
		CHECK_EQ(dev_read(fd, h, i * PAGE, &byte, 1), 0);
		CHECK_EQ(byte, 0);
	}
	for (int i = 0; i < N; i++) {
		at[i * PAGE] = i + 1;
		CHECK_EQ(dev_read(fd, h, i * PAGE, &byte, 1), 0);
		CHECK_EQ(byte, i + 1);
	}
	return 0;
}

/* ---- on a disk ---- */

static int disk_file(const char *name)
{
	char path[64];

	if (mount("/dev/ram0", "/disk", "ext2", 0, NULL) && errno != EBUSY)
		return -1;
	snprintf(path, sizeof(path), "/disk/%s", name);
	return open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
}

/* What is on the disk, and not in the cache. */
static int on_disk(int file, int page, void *buffer, size_t len)
{
	CHECK_EQ(posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED), 0);
	CHECK_EQ(pread(file, buffer, len, page * PAGE), (ssize_t)len);
	return 0;
}

/* Writeback takes the right to write away, which is an invalidation, and writes what the device wrote. Again and again. */
static int writeback(void)
{
	int file = disk_file("writeback"), line;
	unsigned char buffer[16];

	CHECK(file >= 0);
	CHECK_EQ(ftruncate(file, N * PAGE), 0);
	fd = dev_open(0);
	at = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(at != MAP_FAILED);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	for (int round = 0; round < 5; round++) {
		for (int i = 0; i < N; i++)
			CHECK_EQ(dev_write(fd, h, i * PAGE, &round, sizeof(round)), 0);
		CHECK_EQ(pins(fd), N);
		CHECK_EQ(msync(at, N * PAGE, MS_SYNC), 0);
		CHECK_EQ(pins(fd), 0);
		for (int i = 0; i < N; i++) {
			line = on_disk(file, i, buffer, sizeof(round));
			if (line)
				return line;
			CHECK(!memcmp(buffer, &round, sizeof(round)));
		}
	}
	/* What the device wrote last is written when the mapping goes, too. */
	CHECK_EQ(dev_write(fd, h, 0, "last", 4), 0);
	CHECK_EQ(munmap(at, N * PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	CHECK_EQ(fsync(file), 0);
	line = on_disk(file, 0, buffer, 4);
	if (line)
		return line;
	CHECK(!memcmp(buffer, "last", 4));
	return 0;
}

/* The device works on the file while it is written back: nothing is lost, whichever comes first. */
static int writeback_busy(void)
{
	int file = disk_file("busy"), line;
	unsigned char last[PAGE], on[PAGE];

	CHECK(file >= 0);
	CHECK_EQ(ftruncate(file, N * PAGE), 0);
	fd = dev_open(0);
	at = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(at != MAP_FAILED);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	for (int round = 0; round < 10; round++) {
		CHECK_EQ(dev_fill(fd, h, N, round * 20, 10000, false), 0);
		CHECK_EQ(fdatasync(file), 0);
		CHECK_EQ(dev_wait(fd, 20000), 0);
	}
	CHECK_EQ(dev_settle(fd), 0);
	memcpy(last, at + 7 * PAGE, PAGE);
	CHECK_EQ(msync(at, N * PAGE, MS_SYNC), 0);
	CHECK_EQ(munmap(at, N * PAGE), 0);
	line = on_disk(file, 7, on, PAGE);
	if (line)
		return line;
	CHECK(!memcmp(last, on, PAGE));
	CHECK_EQ(on[0], on[PAGE - 1]);
	return 0;
}

static int disk_truncated(void)
{
	int file = disk_file("short");

	CHECK(file >= 0);
	return truncated(file);
}

static int private_of_disk(void)
{
	int file = disk_file("private");

	CHECK(file >= 0);
	return private_of(file);
}

/* The file goes, the mapping keeps it. Then the file system cannot be unmounted until the last page was given back. */
static int deleted_file(void)
{
	int file = disk_file("deleted");

	CHECK(file >= 0);
	CHECK_EQ(ftruncate(file, N * PAGE), 0);
	fd = dev_open(0);
	at = mmap(NULL, N * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	stamp(at, N, 22);
	CHECK_EQ(dev_create(fd, at, N * PAGE, 0, &h), 0);
	CHECK_EQ(dev_get(fd, h), 0);
	CHECK_EQ(unlink("/disk/deleted"), 0);
	close(file);
	CHECK(device_sees(fd, h, N, 22));
	CHECK(umount("/disk") && errno == EBUSY);
	CHECK_EQ(munmap(at, N * PAGE), 0);
	CHECK_EQ(pins(fd), 0);
	/* Other tests' processes may hold it for a moment. */
	for (long until = now_ms() + 30000; umount("/disk") && now_ms() < until; usleep(1000))
		;
	CHECK(umount("/disk") && errno == EINVAL);
	return 0;
}

/* ---- what is not memory ---- */

/* Pages without a `struct page`: the kernel's own data page in every process. */
static int special_mapping(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long start = 0, end = 0;
	char line[512];

	while (f && fgets(line, sizeof(line), f))
		if (strstr(line, "[vvar]") && sscanf(line, "%lx-%lx", &start, &end) == 2)
			break;
	CHECK(end > start);
	fd = dev_open(0);
	CHECK_EQ(dev_create(fd, (void *)start, PAGE, USERPTR_READ_ONLY, &h), 0);
	CHECK_EQ(dev_get(fd, h), -EFAULT);
	CHECK_EQ(left(fd), 0);
	CHECK_EQ(dev_probe(fd, (void *)start, PAGE), -EFAULT);
	return 0;
}

/* A device's own registers, mapped into the process. */
static int device_mapping(void)
{
	DIR *dir = opendir("/sys/bus/pci/devices");
	struct dirent *entry;
	int seen = 0;

	fd = dev_open(0);
	/* Those that a driver has claimed cannot be mapped. */
	for (int bar = 0; dir && (entry = readdir(dir)); bar = 0) {
		char path[300];
		int file;

		at = MAP_FAILED;
		for (; bar < 6 && at == MAP_FAILED; bar++) {
			snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource%d", entry->d_name, bar);
			file = open(path, O_RDWR | O_CLOEXEC);
			if (file < 0)
				continue;
			at = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
			close(file);
		}
		if (at == MAP_FAILED)
			continue;
		seen++;
		CHECK_EQ(dev_create(fd, at, PAGE, 0, &h), 0);
		CHECK_EQ(dev_get(fd, h), -EFAULT);
		CHECK_EQ(left(fd), 0);
		/* Ordinary memory in its place works, with the same object. */
		CHECK(memory_at(at, 1) == at);
		CHECK_EQ(dev_get(fd, h), 0);
		CHECK_EQ(pins(fd), 1);
		CHECK_EQ(munmap(at, PAGE), 0);
	}
	CHECK(seen > 0);
	return 0;
}

const struct test file_tests[] = {
	{ "shared-fork", shared_fork },
	{ "removed-by-alias", removed_by_alias },
	{ "memory-file-truncated", memory_truncated },
	{ "private-of-memory-file", private_of_memory },
	{ "zero-page-then-written", zero_page_then_written },
	{ "special-mapping-refused", special_mapping },
	{ "device-mapping-refused", device_mapping },
	{ NULL, NULL },
};

const struct test disk_tests[] = {
	{ "writeback", writeback },
	{ "writeback-while-busy", writeback_busy },
	{ "disk-file-truncated", disk_truncated },
	{ "private-of-disk-file", private_of_disk },
	{ "deleted-file", deleted_file },
	{ NULL, NULL },
};
