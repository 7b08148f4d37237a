// SPDX-License-Identifier: MIT OR GPL-2.0
#include "dev.h"

static int request(int fd, unsigned long number, struct userptr_words *words)
{
	return ioctl(fd, number, words) ? -errno : 0;
}

#define REQUEST(fd, number, ...) request(fd, number, &(struct userptr_words){ .w = { __VA_ARGS__ } })

int dev_open(int n)
{
	char path[] = "/dev/userptr0";

	path[sizeof(path) - 2] += n;
	return open(path, O_RDWR | O_CLOEXEC);
}

int dev_create(int fd, void *at, uint64_t size, uint64_t flags, uint64_t *handle)
{
	struct userptr_words words = { .w = { (uint64_t)at, size, flags } };
	int ret = request(fd, USERPTR_CREATE, &words);

	*handle = words.w[3];
	return ret;
}

int dev_close(int fd, uint64_t handle)
{
	return REQUEST(fd, USERPTR_CLOSE, handle);
}

int dev_get(int fd, uint64_t handle)
{
	return REQUEST(fd, USERPTR_GET, handle, 10000);
}

int dev_try(int fd, uint64_t handle)
{
	return REQUEST(fd, USERPTR_GET, handle, 0);
}

int dev_put(int fd, uint64_t handle)
{
	return REQUEST(fd, USERPTR_PUT, handle);
}

int dev_read(int fd, uint64_t handle, uint64_t offset, void *buffer, uint64_t len)
{
	return REQUEST(fd, USERPTR_COPY, handle, offset, len, (uint64_t)buffer, 0);
}

int dev_write(int fd, uint64_t handle, uint64_t offset, const void *buffer, uint64_t len)
{
	return REQUEST(fd, USERPTR_COPY, handle, offset, len, (uint64_t)buffer, 1);
}

int dev_fill(int fd, uint64_t handle, uint64_t pages, unsigned int value, unsigned int ms, bool deaf)
{
	return REQUEST(fd, USERPTR_FILL, handle, 0, pages * PAGE, value, ms, deaf);
}

int dev_wait(int fd, unsigned int ms)
{
	return REQUEST(fd, USERPTR_WAIT, ms);
}

int dev_probe(int fd, void *at, uint64_t size)
{
	return REQUEST(fd, USERPTR_PROBE, (uint64_t)at, size);
}

int dev_export(int fd, uint64_t handle)
{
	return REQUEST(fd, USERPTR_EXPORT, handle);
}

int dev_settle(int fd)
{
	return REQUEST(fd, USERPTR_SETTLE, 0);
}

long counter(int fd, int which)
{
	struct userptr_words words = { .w = { which } };

	return request(fd, USERPTR_COUNTER, &words) ? -1 : (long)words.w[1];
}

long pins(int fd)
{
	return counter(fd, USERPTR_PINS);
}

long left(int fd)
{
	return dev_settle(fd) ? -1 : pins(fd);
}

int dev_reset(int fd)
{
	return REQUEST(fd, USERPTR_RESET, 0);
}

unsigned char *memory_at(void *at, size_t pages)
{
	unsigned char *got = mmap(at, pages * PAGE, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | (at ? MAP_FIXED : 0), -1, 0);

	return got == MAP_FAILED ? NULL : got;
}

unsigned char *memory(size_t pages)
{
	/* With a hole on either side, so that no neighbour is merged with it. */
	unsigned char *at = mmap(NULL, (pages + 2) * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return at == MAP_FAILED ? NULL : memory_at(at + PAGE, pages);
}

static unsigned char pattern(size_t i, unsigned int seed)
{
	return (unsigned char)(i * 7 + (i / PAGE) * 13 + seed * 101);
}

void stamp(unsigned char *at, size_t pages, unsigned int seed)
{
	for (size_t i = 0; i < pages * PAGE; i++)
		at[i] = pattern(i, seed);
}

bool cpu_sees(const unsigned char *at, size_t pages, unsigned int seed)
{
	for (size_t i = 0; i < pages * PAGE; i++)
		if (at[i] != pattern(i, seed)) {
			snprintf(why, sizeof(why), "byte %zu is %#x, not %#x", i, at[i], pattern(i, seed));
			return false;
		}
	return true;
}

bool device_sees(int fd, uint64_t handle, size_t pages, unsigned int seed)
{
	unsigned char *buffer = malloc(pages * PAGE);
	bool same;

	if (!buffer)
		return false;
	memset(buffer, 0xEE, pages * PAGE);
	errno = -dev_read(fd, handle, 0, buffer, pages * PAGE);
	same = errno == 0 && cpu_sees(buffer, pages, seed);
	free(buffer);
	return same;
}

uint64_t page_entry(const unsigned char *page)
{
	int file = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	if (pread(file, &entry, sizeof(entry), (off_t)((uintptr_t)page / PAGE * sizeof(entry))) != sizeof(entry))
		entry = 0;
	close(file);
	return entry;
}

uint64_t frame(const unsigned char *page)
{
	uint64_t entry = page_entry(page);

	return entry >> 63 ? entry & ((1ULL << 55) - 1) : 0;
}

bool is_huge(const unsigned char *page)
{
	int file = open("/proc/kpageflags", O_RDONLY | O_CLOEXEC);
	uint64_t bits = 0;

	/* KPF_THP, for the first and for all further pages. */
	if (pread(file, &bits, sizeof(bits), (off_t)(frame(page) * sizeof(bits))) != sizeof(bits))
		bits = 0;
	close(file);
	return bits >> 22 & 1;
}

long vmstat(const char *name)
{
	int refresh = open("/proc/sys/vm/stat_refresh", O_WRONLY | O_CLOEXEC);
	FILE *f = fopen("/proc/vmstat", "re");
	size_t len = strlen(name);
	char line[128];
	long n = -1;

	if (write(refresh, "1", 1) == 1)
		while (f && fgets(line, sizeof(line), f))
			if (!strncmp(line, name, len) && line[len] == ' ')
				sscanf(line + len, "%ld", &n);
	close(refresh);
	if (f)
		fclose(f);
	return n;
}

long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

long machine_pins(long *ever)
{
	long acquired = vmstat("nr_foll_pin_acquired"), released = vmstat("nr_foll_pin_released");

	if (ever)
		*ever = acquired;
	return acquired > 0 && released >= 0 ? acquired - released : -1;
}

int reap(pid_t child)
{
	int status;

	if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}
