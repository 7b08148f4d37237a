/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/*
 * What the Rust half of the samples calls (sample_*), and what it exports (userptr_*). Its mirror is src/ffi.rs.
 */
#ifndef USERPTR_SAMPLES_H
#define USERPTR_SAMPLES_H

#include "shim.h"
#include "uapi.h"

/* Pages for the device in software, users' buffers, counters: copier.c */
void sample_copy_page(struct page *page, size_t offset, void *buffer, size_t len, bool to_page);
void sample_fill_page(struct page *page, size_t offset, u8 value, size_t len);
int sample_copy_from_user(void *to, unsigned long from, size_t len);
int sample_copy_to_user(unsigned long to, const void *from, size_t len);
void sample_count(unsigned int which, long by);
long sample_counter(unsigned int which);

/* The edu device: edu.c */
int sample_edu_register(void);
void sample_edu_unregister(void);
bool sample_edu_present(void);
void sample_edu_limits(u64 *pages, u64 *mapping_pages, bool *reaches_all);
int sample_edu_map(unsigned long frame, unsigned long pages, bool write, u64 *at);
void sample_edu_unmap(u64 at, unsigned long pages, bool write);
void *sample_edu_staging(u64 *at);
void sample_edu_start(u64 memory, size_t len, bool to_memory);
int sample_edu_running(void);

/* Rust: called by main.c. */
int userptr_init_driver(void);
void userptr_exit_driver(void);
const void *userptr_open(unsigned int device, int *err);
void userptr_close(const void *file);
long userptr_request(const void *file, unsigned int request, u64 *words);

#endif
