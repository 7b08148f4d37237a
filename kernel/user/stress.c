#include "test.h"
const struct test stress_tests[] = { { NULL, NULL } };
