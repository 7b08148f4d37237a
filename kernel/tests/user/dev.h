/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* The device as C functions. Each returns 0 or a negative errno. */
#ifndef DEV_H
#define DEV_H

#include "test.h"
#include "uapi.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL

int dev_open(int n);
int dev_create(int fd, void *at, uint64_t size, uint64_t flags, uint64_t *handle);
int dev_close(int fd, uint64_t handle);
int dev_get(int fd, uint64_t handle);
/* As dev_get(), but does not wait for what is in the way: EAGAIN. */
int dev_try(int fd, uint64_t handle);
int dev_put(int fd, uint64_t handle);
int dev_read(int fd, uint64_t handle, uint64_t offset, void *buffer, uint64_t len);
int dev_write(int fd, uint64_t handle, uint64_t offset, const void *buffer, uint64_t len);
int dev_fill(int fd, uint64_t handle, uint64_t pages, unsigned int value, unsigned int ms, bool deaf);
int dev_wait(int fd, unsigned int ms);
int dev_probe(int fd, void *at, uint64_t size);
int dev_export(int fd, uint64_t handle);
int dev_settle(int fd);
long counter(int fd, int which);
/* Pages pinned at this moment: what an invalidation promises. */
long pins(int fd);
/* Pages pinned once workers have ended: a pin worker may hold the last reference for a moment after a close. */
long left(int fd);
int dev_reset(int fd);
/* Page pins of the machine that were not given back, by the kernel's own count; in `ever`, all that were taken. */
long machine_pins(long *ever);

/* Private anonymous memory, each page filled with its own pattern from `seed`. */
unsigned char *memory(size_t pages);
unsigned char *memory_at(void *at, size_t pages);
void stamp(unsigned char *at, size_t pages, unsigned int seed);
/* Whether what the device reads of the object is the pattern. */
bool device_sees(int fd, uint64_t handle, size_t pages, unsigned int seed);
bool cpu_sees(const unsigned char *at, size_t pages, unsigned int seed);
long now_ms(void);
/* What the kernel says of the page in /proc/self/pagemap: 0 if it cannot be told. */
uint64_t page_entry(const unsigned char *page);
/* The frame that a page lies in; 0 if it lies in none. */
uint64_t frame(const unsigned char *page);
/* Whether the page is part of a huge one. */
bool is_huge(const unsigned char *page);
/* A number of /proc/vmstat, brought up to date; -1 if there is none. */
long vmstat(const char *name);
/* Ends and reaps a child; its exit status, or -1. */
int reap(pid_t child);

#endif
