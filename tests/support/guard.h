/*
 * Guard: a process that cleans up after a test program, however that ends.
 */
#ifndef GOALLOC_TESTS_GUARD_H
#define GOALLOC_TESTS_GUARD_H

/*
 * The test program's own directory, below $GOALLOC_TEST_DIR or /tmp. The first call starts the guard, so it must come
 * before any thread, and before any child process that shall be cleaned up. Exits the test program if that fails.
 */
const char *guard_dir(void);

#endif
