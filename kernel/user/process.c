#include "test.h"
const struct test process_tests[] = { { NULL, NULL } };
