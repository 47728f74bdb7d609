/*
 * Serviceloop: what the loops of the services beside the daemon wait by: signals as a descriptor, and time.
 */
#ifndef GOALLOC_PROTO_SERVICELOOP_H
#define GOALLOC_PROTO_SERVICELOOP_H

#include <stdint.h>

/* CLOCK_MONOTONIC. */
int64_t serviceloop_clock_ms(void);

/* From here on SIGTERM and SIGINT come by the descriptor that is returned, and SIGPIPE not at all. -errno. */
int serviceloop_open_signals(void) __attribute__((warn_unused_result));

/* For poll(): from now until then; until_ms INT64_MAX: for ever. */
int serviceloop_wait_ms(int64_t until_ms, int64_t now_ms);

#endif
