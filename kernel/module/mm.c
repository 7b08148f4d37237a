// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Address spaces: invalidation callbacks, holds, pinning.
 */
#include "shim.h"
