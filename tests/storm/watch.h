/*
 * Watch: what is known of processes from outside, for a storm that does not end.
 */
#ifndef GOALLOC_TESTS_STORM_WATCH_H
#define GOALLOC_TESTS_STORM_WATCH_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Describe all descendants of the calling process, a subreaper, on standard error. */
void watch_describe_all(void);

/*
 * Wait for the child to end. True: it has, and *ret_status is its status. False: it has not within the time; then all
 * descendants of the calling process have been described on standard error.
 */
bool watch_child(pid_t pid, int64_t seconds, int *ret_status);

/* Kill all descendants of the calling process, which is their subreaper; how many there were. */
unsigned watch_kill_all(void);

#endif
