#include "test.h"
const struct test last_tests[] = { { NULL, NULL } };
