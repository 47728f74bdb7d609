/*
 * Excess: memory that the heap's files have beyond the daemon's books is found, shown and given back.
 */
#ifndef GOALLOC_DAEMON_SERVE_EXCESS_H
#define GOALLOC_DAEMON_SERVE_EXCESS_H

#include <uv.h>

#include "daemon/heap/mheap.h"
#include "daemon/memory/helper.h"

#define EXCESS_HOLES_MAX 128u

/* What the files have more than the books say. */
typedef struct excess_found {
    uint64_t arena_bytes;
    uint64_t metadata_bytes; /* bits, descriptions, page map */
} excess_found;

/* Zeroed at the start. */
typedef struct excess {
    mheap *heap;
    helper *helper;
    uv_timer_t timer;
    void (*on_end)(void *data); /* pages that were taken are free again */
    void *on_end_data;
    bool seen;          /* the last look found what is worth a pass */
    bool passing;       /* a pass is under way, */
    excess_found begun; /* and that was there when it began */
    uint64_t pause_ms;  /* after passes in which most of the metadata's stayed; 0: the last one was none of these */
    uint64_t metadata_not_before_ms; /* no pass for metadata alone */
    page_no at;           /* the pass goes downwards: pages from here on are done */
    bool busy;
    helper_punch punch;
    helper_hole holes[EXCESS_HOLES_MAX];
    size_t nholes;
    bool fenced; /* the holes are in one fence, else each range is aside */
} excess;

/* Look now and then, until the timer is closed; a request that is under way then still ends. */
void excess_start(excess *e, uv_loop_t *loop, mheap *heap, helper *punches, void (*on_end)(void *data), void *data);

/* Bytes that the files have more than the books say. Some system calls. */
uint64_t excess_bytes(const mheap *heap);

#endif
