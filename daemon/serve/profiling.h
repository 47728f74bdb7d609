/*
 * Profiling: who samples what it allocates, and the region in which that is recorded.
 */
#ifndef GOALLOC_DAEMON_SERVE_PROFILING_H
#define GOALLOC_DAEMON_SERVE_PROFILING_H

#include <uv.h>

#include "daemon/memory/sysmem.h"
#include "daemon/serve/session.h"

typedef struct profiling {
    uv_loop_t *loop;
    mheap *heap;
    session_table *sessions;
    sysmem *mem;
    void (*on_change)(void *data); /* who waits for the region is to look again */
    void *data;
    uv_work_t work;         /* in the thread pool: */
    bool working;           /* a region is being made, or closed */
    bool stopped;
    bool dirty;             /* one before this may still be on the shelf */
    profilefile made;       /* the work's */
    profilefile old;        /* the same: to be closed */
    int result;             /* of making it */
    uint64_t nmade;         /* regions, since the start */
    uint64_t not_before_ns; /* none is begun, since there was no memory for one */
} profiling;

/* What a caller handles itself: a region is being made, or closed: on_change() comes. */
enum { PROFILING_E_WAIT = 1 };

/*
 * p is zeroed; heap, sessions and mem are borrowed. After another daemon: words that it has left behind are set right,
 * and if somebody samples and there is no region, one is made.
 */
void profiling_start(profiling *p, uv_loop_t *loop, session_table *sessions, sysmem *mem);
void profiling_stop(profiling *p);

/* Have a region: 0; PROFILING_E_WAIT; -ENOMEM: the heap may have no more memory, or the system has none. */
int profiling_need(profiling *p) __attribute__((warn_unused_result));

/* Have another one in its place, of which p->nmade is the number once it is there. PROFILING_E_WAIT, -ENOMEM. */
int profiling_renew(profiling *p) __attribute__((warn_unused_result));

/* Nobody samples: have none. 0, PROFILING_E_WAIT. */
int profiling_remove(profiling *p) __attribute__((warn_unused_result));

/* True if any session samples, or any that would attach. Linear in sessions and groups. */
bool profiling_is_on(const profiling *p);

/* True if the session samples, and marks mean something: it may have marked spans. */
bool profiling_marks(const profiling *p, const session *s);

/*
 * The word of a session that attaches: it asks for that rate, or (0) leaves it to its group (NULL: none) and the heap.
 */
uint64_t profiling_word(const profiling *p, uint64_t asked_bytes, const group *g);

/* Sample so: one session, the members of a group and those that will join it, all. Returns how many sessions. */
uint32_t profiling_set_session(profiling *p, session *s, uint64_t rate);
uint32_t profiling_set_group(profiling *p, group *g, uint64_t rate);
uint32_t profiling_set_all(profiling *p, uint64_t rate);

/* Of sessions that attach. 0: they don't. */
uint64_t profiling_rate(const profiling *p);

#endif
