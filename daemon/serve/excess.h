/*
 * Excess: memory that the heap's files have beyond the daemon's books is found, shown and given back.
 */
#ifndef GOALLOC_DAEMON_SERVE_EXCESS_H
#define GOALLOC_DAEMON_SERVE_EXCESS_H

#include <uv.h>

#include "daemon/heap/mheap.h"
#include "daemon/memory/helper.h"

#define EXCESS_HOLES_MAX 128u

/* Zeroed at the start. */
typedef struct excess {
    mheap *heap;
    helper *helper;
    uv_timer_t timer;
    void (*on_end)(void *data); /* pages that were taken are free again */
    void *on_end_data;
    uint64_t seen_bytes;  /* at the last look; 0: less than is worth a pass */
    uint64_t begun_bytes; /* when the pass under way began; 0: there is none */
    uint64_t pause_ms;    /* after the last pass */
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
