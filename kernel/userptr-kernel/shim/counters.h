/* SPDX-License-Identifier: MIT OR GPL-2.0 */
/* What the library counts, for tests and statistics: numbers for uk_counter(). May be included by user programs. */
#ifndef USERPTR_COUNTERS_H
#define USERPTR_COUNTERS_H

enum {
	USERPTR_PINS, /* pages pinned now */
	USERPTR_SLOW_PINS, /* pages ever pinned by waiting */
	USERPTR_DIRTIED, /* pages ever marked dirty at unpin */
	USERPTR_STARTS, /* invalidations */
	USERPTR_ENDS,
	USERPTR_REFUSED, /* starts that could not wait */
	USERPTR_EXITS, /* address spaces that ended, or were unregistered */
	USERPTR_REGISTRATIONS, /* now */
	USERPTR_GRABS, /* address-space records held now */
	USERPTR_USERS, /* address-space users held now */
	USERPTR_ALLOCATIONS, /* of the Rust half, now */
	USERPTR_HITS, /* invalidations that took pages from an object; the others found none, or somebody had begun already */
	USERPTR_COUNTERS,
};

#endif
