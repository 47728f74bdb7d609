/*
 * Unmap: the offers of a session that ends, or gets new ones, are unmapped in the thread pool, one mapping at a time.
 *
 * Called by the server; offers.c calls back for each mapping. Whoever unmaps a file of which nobody else has anything
 * frees its memory: 0.7 us for each 4 KiB that its session's process has touched, 11 ms for 64 MiB of them. The loop
 * has no time for that. One thread of the pool at most does it, so that commits have the others; what comes meanwhile
 * is in a list, which has an entry a mapping. If there is no memory for an entry, the loop does it.
 *
 * Nobody knows the mapping any more when it comes here. If the daemon dies, the kernel does all of this.
 */
#include "daemon/serve/unmap.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "daemon/heap/offers.h"

typedef struct mapping {
    struct mapping *next;
    void *at;
    uint64_t bytes;
} mapping;

static struct {
    uv_loop_t *loop;
    uv_work_t work;
    mapping *first; /* the work's, while there is one */
    mapping *last;
} the;

static void unmap_work(uv_work_t *work)
{
    const mapping *m = work->data;

    (void)munmap(m->at, m->bytes);
}

static void unmap_after(uv_work_t *work, int status);

/* Begin with the first one. If the pool takes nothing, all are done here. */
static void begin(void)
{
    while (the.first != NULL) {
        the.work.data = the.first;
        if (the.loop != NULL && uv_queue_work(the.loop, &the.work, unmap_work, unmap_after) == 0)
            return;
        unmap_work(&the.work);
        the.first = the.first->next;
        free(the.work.data);
    }
}

static void unmap_after(uv_work_t *work, int status)
{
    mapping *m = work->data;

    if (status != 0)
        unmap_work(work); /* it was cancelled */
    the.first = m->next;
    free(m);
    begin();
}

static void unmap_later(void *at, uint64_t bytes)
{
    mapping *m = malloc(sizeof(*m));

    if (m == NULL) {
        (void)munmap(at, bytes);
        return;
    }
    *m = (mapping){ .at = at, .bytes = bytes };
    if (the.first == NULL)
        the.first = m;
    else
        the.last->next = m;
    the.last = m;
    if (the.first == m)
        begin();
}

void unmap_start(uv_loop_t *loop)
{
    the.loop = loop;
    offers_unmap_by(unmap_later);
}

void unmap_stop(void)
{
    the.loop = NULL;
    offers_unmap_by(NULL);
}
