/*
 * graph: publishes all that an object reaches.
 *
 * Called by users. Calls owner.c (publish one object) and mapping.c (private memory). Data: the kept bits, once the
 * walk has ended; private: what has been reached.
 *
 *   1. Walk from the object through the unpublished objects of this session, and note them. Nothing is written in the
 *      heap. It ends at what is the heap's already or another's: what such an object points to is not looked for.
 *   2. Publish what was noted, one after another.
 *
 * What is noted are two bits for each object: reached, and to be scanned. They lie in private memory as kept bits lie
 * in bitmap, by page, with a list of spans that have something to be scanned. So no stack is needed, whatever the
 * graph's shape, and memory has a bound: 264 bytes of address space for each page of the heap in use, of which only
 * those of reached spans get memory. A span is entered into the list once for each time that it gets something to be
 * scanned while it is not in there.
 *
 * Any word that has the address of a live object counts as a pointer to it, as for a collector. A word that others
 * change meanwhile is read before or after: the caller sees to it that the graph is not changed.
 *
 * If the process dies in step 1, nothing has changed. In step 2, some of the objects are the heap's, others end with
 * their session; nobody knows of the first ones yet, and they stay. If the daemon can't be reached in step 2 (a request
 * is needed for objects of up to 8 bytes), those that were published here are the session's again.
 */
#include <errno.h>

#include "client/include/goalloc.h"
#include "client/lib/attach.h"
#include "client/lib/mapping.h"
#include "client/lib/owner.h"
#include "shm/crash.h"

/* Of a span, at its first page. */
typedef struct span_note {
    uint64_t reached[SHM_BITS_WORDS];
    uint64_t to_scan[SHM_BITS_WORDS];
    uint32_t next_to_scan; /* 1 + the first page of the next span in that list; 0: not in it */
    uint32_t next_reached;
} span_note;

#define LAST UINT32_MAX /* the end of a list */

typedef struct graph {
    span_note *notes;
    uint64_t npages;  /* that they have room for */
    uint32_t to_scan; /* heads of lists, as in span_note */
    uint32_t reached;
} graph;

/* Pages of the arena below the highest one that has been in use. */
static uint64_t used_pages(void)
{
    uint64_t n = process.map.npages / SHM_HEAP_ARENA_PAGES;

    while (n > 0 && u64_load_acquire(&process.map.heap_arenas[n - 1].npages) == 0)
        n--;
    return n * SHM_HEAP_ARENA_PAGES;
}

/* --- the walk --- */

/* True if the object is this session's (or its group's) by its place, and not published. Without RECLAIM nothing is. */
static bool is_private(const object_ref *object)
{
    return process.owner.n != 0 &&
           u32_load_acquire(&shm_span_at(&process.map, object->first)->owner) == process.owner.n &&
           !owner_is_heap(object);
}

static void note(graph *g, const object_ref *object)
{
    span_note *span = &g->notes[object->first.n];

    if ((span->reached[object->word] & object->bit) != 0)
        return;
    span->reached[object->word] |= object->bit;
    if (span->next_reached == 0) {
        span->next_reached = g->reached;
        g->reached = object->first.n + 1;
    }
    if (span_class_noscan(shm_span_at(&process.map, object->first)->spc))
        return;
    span->to_scan[object->word] |= object->bit;
    if (span->next_to_scan == 0) {
        span->next_to_scan = g->to_scan;
        g->to_scan = object->first.n + 1;
    }
}

static void scan(graph *g, uint64_t offset, uint64_t bytes)
{
    const shm_u64 *words = (const shm_u64 *)(const void *)(process.map.arena + offset);
    object_ref object;

    for (uint64_t i = 0; i < bytes / sizeof(*words); i++) {
        uint64_t p = u64_load_relaxed(&words[i]);

        if (p - process.map.base < g->npages * PAGE_BYTES && object_find(&process.map, p, &object) == OBJECT_LIVE &&
            is_private(&object))
            note(g, &object);
    }
}

static void scan_span(graph *g, page_no first)
{
    const shm_span *span = shm_span_at(&process.map, first);
    span_note *n = &g->notes[first.n];

    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
        while (n->to_scan[w] != 0) {
            uint64_t index = w * 64 + (uint64_t)__builtin_ctzll(n->to_scan[w]);

            n->to_scan[w] &= n->to_scan[w] - 1;
            scan(g, page_offset(first) + index * span->elem_bytes, span->elem_bytes);
        }
    }
}

static void walk(graph *g, const object_ref *object)
{
    if (is_private(object))
        note(g, object);
    else if (!span_class_noscan(shm_span_at(&process.map, object->first)->spc))
        scan(g, object->offset, object->bytes);
    while (g->to_scan != LAST) {
        page_no first = page_at(g->to_scan - 1);

        g->to_scan = g->notes[first.n].next_to_scan;
        g->notes[first.n].next_to_scan = 0;
        scan_span(g, first);
    }
}

/* --- publishing --- */

/* Visit what was reached, until visit() says that it has failed. */
static int each_reached(const graph *g, int (*visit)(const object_ref *object, void *arg), void *arg)
{
    for (uint32_t at = g->reached; at != LAST; at = g->notes[at - 1].next_reached) {
        page_no first = page_at(at - 1);
        const shm_span *span = shm_span_at(&process.map, first);

        for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
            for (uint64_t bits = g->notes[first.n].reached[w]; bits != 0; bits &= bits - 1) {
                uint32_t index = w * 64 + (uint32_t)__builtin_ctzll(bits);
                object_ref object = { .first = first,
                                      .index = index,
                                      .word = w,
                                      .bit = bits & -bits,
                                      .offset = page_offset(first) + index * span->elem_bytes,
                                      .bytes = span->elem_bytes };
                int r = visit(&object, arg);

                if (r < 0)
                    return r;
            }
        }
    }
    return 0;
}

static int publish(const object_ref *object, void *arg)
{
    size_t *n = arg;
    int r = owner_publish(object);

    *n += r == 0;
    CRASH_POINT(graph_after_publish);
    return r;
}

/* Of those that were published, which come first: nobody has been told of them. */
static int take_back(const object_ref *object, void *arg)
{
    size_t *left = arg;

    if (*left == 0)
        return -ECANCELED;
    --*left;
    return owner_adopt(object);
}

int goalloc_publish_graph(void *p, size_t *ret_n)
{
    graph g = { .npages = 0, .to_scan = LAST, .reached = LAST };
    object_ref object;
    size_t n = 0;
    void *notes;
    int r = attach_ensure_writable();

    if (r == 0)
        r = process_verdict_error(object_find(&process.map, (uintptr_t)p, &object));
    if (r == 0) {
        g.npages = used_pages();
        r = mapping_private(g.npages * sizeof(span_note), 0, &notes);
    }
    if (r < 0)
        return r;
    g.notes = notes;
    walk(&g, &object);
    r = each_reached(&g, publish, &n);
    if (r < 0)
        (void)each_reached(&g, take_back, &n);
    else if (ret_n != NULL)
        *ret_n = n;
    mapping_delete(notes, g.npages * sizeof(span_note));
    return r;
}
