/*
 * Garbage: what nobody can reach, by the marks of a heapcopy: its sums, and its end.
 *
 * Called by collect.c after the closure, while all processes go on. What is garbage stays so: nobody has its address,
 * so nobody frees it, its bits stay as they are, its place is not used again and its span not freed. So the copy is a
 * list that stays true however long this takes; and if the collector dies in between, the rest is found by the next one.
 *
 * Not garbage, though nobody reaches it, is what is in spans with an owner or with adopted objects: the daemon frees
 * there by itself, when the owner ends, and two may not free one object. It is told apart (owned).
 *
 * The list is of addresses, so it is good only as long as this session collects: looked at for each span. If it
 * has ended meanwhile, as when its heap was dropped, another collector may have freed these, and others have them.
 *
 * An object is freed by goalloc_free_checked(), as any process frees what another one has allocated: one bit. What is
 * freed is taken out of the copy. Spans that were leased at the snapshot are left alone: a thread may have been stopped
 * in a malloc, with the alloc bit set and no pointer yet that a word could show, or in a free of its own, with no
 * pointer any more and the bit not cleared. Where the caller knows that no thread of the lessee's was in there
 * (is_quiet), they are not.
 */
#include "client/collector/garbage.h"

#include <errno.h>
#include <stdlib.h>

#include "client/include/goalloc.h"
#include "client/lib/process.h"
#include "shm/crash.h"

#define TABLE ((size_t)2 * GARBAGE_PARTS_MAX) /* of a search by hash; a power of two */

static void add(garbage_sum *sum, uint64_t bytes)
{
    sum->objects++;
    sum->bytes += bytes;
}

static bool is_mine(const heap_span *span)
{
    return (span->flags & (HEAP_SPAN_TARGET | HEAP_SPAN_OWNED)) == HEAP_SPAN_TARGET;
}

/* --- parts --- */

/* The part of that origin; slots: TABLE numbers of parts plus 1. */
static garbage_part *part_of(garbage *g, uint16_t *slots, uint64_t origin)
{
    uint32_t at = (uint32_t)(origin * UINT64_C(0x9e3779b97f4a7c15) >> 32) % TABLE;

    while (slots[at] != 0 && g->parts[slots[at] - 1].origin != origin)
        at = (at + 1) % TABLE;
    if (slots[at] == 0) {
        if (g->nparts == GARBAGE_PARTS_MAX)
            return &g->parts[GARBAGE_PARTS_MAX - 1];
        g->parts[g->nparts++].origin = origin;
        slots[at] = (uint16_t)g->nparts;
    }
    return &g->parts[slots[at] - 1];
}

static int by_bytes(const void *a, const void *b)
{
    const garbage_part *one = a;
    const garbage_part *other = b;

    if (one->sum.bytes != other->sum.bytes)
        return one->sum.bytes < other->sum.bytes ? 1 : -1;
    return (one->origin > other->origin) - (one->origin < other->origin);
}

/* --- finding --- */

typedef struct finding {
    garbage *garbage;
    uint16_t *slots;
    const heap_span *span; /* the last one, and its part */
    garbage_part *part;
} finding;

static bool sum_up(const heap_object *object, void *arg)
{
    finding *f = arg;
    garbage *g = f->garbage;
    const heap_span *span = object->span;

    if (span != f->span) {
        f->span = span;
        f->part = part_of(g, f->slots, span->origin);
    }
    add(&g->total, object->bytes);
    add(&g->classes[span_class_size((span_class){ span->spc }).n], object->bytes);
    add(&f->part->sum, object->bytes);
    if (span->flags & HEAP_SPAN_LEASED)
        add(&g->leased, object->bytes);
    if (span->flags & HEAP_SPAN_NOSCAN)
        add(&g->noscan, object->bytes);
    return true;
}

/* False: visit() has said so. */
static bool each_of_span(const heapcopy *h, const heap_span *span, garbage_visit *visit, void *arg)
{
    for (uint32_t w = 0; w < (span->nordinals + 63) / 64; w++) {
        const heap_bits *bits = &h->bits[span->ordinal / 64 + w];

        for (uint64_t left = bits->live & ~bits->mark; left != 0; left &= left - 1) {
            heap_object object;

            heapcopy_object(h, span, span->ordinal + w * UINT64_C(64) + (uint64_t)__builtin_ctzll(left), &object);
            if (!visit(&object, arg))
                return false;
        }
    }
    return true;
}

void garbage_each(const heapcopy *h, garbage_visit *visit, void *arg)
{
    for (uint32_t i = 0; i < h->nspans; i++) {
        if (is_mine(&h->spans[i]) && !each_of_span(h, &h->spans[i], visit, arg))
            return;
    }
}

static bool sum_up_owned(const heap_object *object, void *arg)
{
    add(arg, object->bytes);
    return true;
}

int garbage_find(garbage *g, const heapcopy *h)
{
    finding f = { .garbage = g, .slots = calloc(TABLE, sizeof(*f.slots)) };

    *g = (garbage){ .parts = calloc(GARBAGE_PARTS_MAX, sizeof(*g->parts)) };
    if (f.slots == NULL || g->parts == NULL) {
        free(f.slots);
        return -ENOMEM;
    }
    garbage_each(h, sum_up, &f);
    for (uint32_t i = 0; i < h->nspans; i++) {
        if ((h->spans[i].flags & (HEAP_SPAN_TARGET | HEAP_SPAN_OWNED)) == (HEAP_SPAN_TARGET | HEAP_SPAN_OWNED))
            (void)each_of_span(h, &h->spans[i], sum_up_owned, &g->owned);
    }
    qsort(g->parts, g->nparts, sizeof(g->parts[0]), by_bytes);
    free(f.slots);
    return 0;
}

void garbage_end(garbage *g)
{
    free(g->parts);
    g->parts = NULL;
    g->nparts = 0;
}

bool garbage_has(const heapcopy *h, uint64_t offset)
{
    heap_object object;

    return heapcopy_find(h, offset, &object) && is_mine(object.span) && !mark_is_marked(h, object.ordinal);
}

/* --- freeing --- */

typedef struct freeing {
    garbage *garbage;
    heapcopy *heap;
    garbage_is_quiet *is_quiet;
    void *arg;
    const heap_span *span; /* the last one */
    bool leave;            /* its objects are left alone */
    bool over;             /* the session does not collect any more */
} freeing;

/* True if this session has the right to collect, as the session table says. */
static bool collects(const shm_map *map)
{
    const shm_session *entry = &map->sessions[process.session.n];

    return goalloc_is_current() && u32_load_acquire(&entry->epoch) == process.epoch &&
           u32_load_acquire(&entry->state) != SHM_SESSION_FREE && u32_load_acquire(&entry->collecting) != 0;
}

static bool free_one(const heap_object *object, void *arg)
{
    freeing *f = arg;
    const heap_span *span = object->span;
    int r;

    if (span != f->span) {
        f->span = span;
        f->over = !collects(f->heap->map);
        f->leave = (span->flags & HEAP_SPAN_LEASED) != 0 && (f->is_quiet == NULL || !f->is_quiet(span->lessee, f->arg));
    }
    if (f->over)
        return false;
    if (f->leave)
        return true;
    r = goalloc_free_checked((void *)(uintptr_t)(f->heap->base + object->offset));
    if (r == 0)
        add(&f->garbage->freed, object->bytes);
    else
        f->garbage->ngone++;
    CRASH_POINT(collector_half_freed);
    f->heap->bits[object->ordinal / 64].live &= ~(UINT64_C(1) << object->ordinal % 64);
    return true;
}

int garbage_free(garbage *g, heapcopy *h, garbage_is_quiet *is_quiet, void *arg)
{
    freeing f = { .garbage = g, .heap = h, .is_quiet = is_quiet, .arg = arg };

    garbage_each(h, free_one, &f);
    return f.over ? -ESTALE : 0;
}

static bool is_clean(const heapcopy *h, const heap_span *span)
{
    for (uint32_t w = 0; w < (span->nordinals + 63) / 64; w++) {
        const heap_bits *bits = &h->bits[span->ordinal / 64 + w];

        if ((bits->live & ~bits->mark) != 0)
            return false;
    }
    return true;
}

static uint32_t count_reached(const heapcopy *h, const heap_span *span)
{
    uint32_t n = 0;

    for (uint32_t w = 0; w < (span->nordinals + 63) / 64; w++)
        n += bits_count(h->bits[span->ordinal / 64 + w].mark);
    return n;
}

uint32_t *garbage_count_reached(const heapcopy *h)
{
    uint32_t *ret = calloc(h->nspans + 1, sizeof(*ret));

    for (uint32_t i = 0; ret != NULL && i < h->nspans; i++)
        ret[i] = count_reached(h, &h->spans[i]);
    return ret;
}

void garbage_each_clean(const heapcopy *h, const uint32_t *before, bool (*wanted)(const heap_span *span),
                        void (*visit)(uint32_t page, void *arg), void *arg)
{
    for (uint32_t i = 0; i < h->nspans; i++) {
        const heap_span *span = &h->spans[i];

        if (is_mine(span) && !(span->flags & HEAP_SPAN_LEASED) && wanted(span) && is_clean(h, span) &&
            count_reached(h, span) == before[i])
            visit((uint32_t)(span->offset >> PAGE_SHIFT), arg);
    }
}
