#include "test.h"
const struct test scenario_tests[] = { { NULL, NULL } };
