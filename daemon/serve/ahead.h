/*
 * Ahead: memory is put behind the next free pages before anybody asks for them.
 */
#ifndef GOALLOC_DAEMON_SERVE_AHEAD_H
#define GOALLOC_DAEMON_SERVE_AHEAD_H

#include "daemon/heap/mheap.h"
#include "daemon/memory/commit.h"
#include "daemon/memory/sysmem.h"
#include "daemon/serve/scavenge.h"

/* Ranges that one job prepares at most. */
#define AHEAD_RUNS_MAX 64u

/*
 * Because of this file, free pages that have memory are at most this part of those in use, and at most so many; but at
 * least SHM_STOCK_PAGES are prepared, where memory is not short.
 */
#define AHEAD_PART      32u /* that is, 1/32 */
#define AHEAD_PAGES_MAX (32 * MIB / PAGE_BYTES)

typedef struct ahead {
    mheap *heap;
    commit_pool *commits;
    sysmem *mem;
    const scavenger *scav;      /* knows what was in use before, and whether memory is being given back just now */
    void (*on_end)(void *data, bool failed); /* the job's pages are free; failed: which have memory nobody knows */
    void *on_end_data;
    page_no at;             /* where the next pages are looked for */
    bool short_spans;       /* what grows: spans of small objects, whose descriptions lie close together */
    uint64_t not_before_ns; /* after a failure */
    bool busy;
    commit_share share;
    commit_job job;
    page_range ranges[AHEAD_RUNS_MAX];
} ahead;

/* a is zeroed. Nothing is prepared before this call, which begins the stock. What it is given stays the caller's. */
void ahead_start(ahead *a, mheap *heap, commit_pool *commits, sysmem *mem, const scavenger *scav,
                 void (*on_end)(void *data, bool failed), void *data);

/* A range has been leased of which nscavenged pages had no memory: what comes next is looked for behind it. */
void ahead_note_fresh(ahead *a, page_no first, uint64_t npages, uint64_t nscavenged);

/* If little is ready, begin to prepare a piece. Cost: some sums, or the start of a job. */
void ahead_prepare(ahead *a);

/* True if a piece is under way and less is ready than npages: who wants these waits rather than commits them itself. */
bool ahead_is_worth_waiting(const ahead *a, uint64_t npages);

#endif
