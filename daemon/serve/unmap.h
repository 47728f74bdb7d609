/*
 * Unmap: gives back what was mapped for sessions that have ended, without the loop.
 */
#ifndef GOALLOC_DAEMON_SERVE_UNMAP_H
#define GOALLOC_DAEMON_SERVE_UNMAP_H

#include <uv.h>

/* From now on offers that end are unmapped in the thread pool of the loop; after unmap_stop(), where they end. */
void unmap_start(uv_loop_t *loop);
void unmap_stop(void);

#endif
