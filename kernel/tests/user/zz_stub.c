#include "test.h"
const struct test file_tests[] = {{ NULL, NULL }}, disk_tests[] = {{ NULL, NULL }}, node_tests[] = {{ NULL, NULL }}, range_tests[] = {{ NULL, NULL }}, other_tests[] = {{ NULL, NULL }};
