/*
 * Idle: giving back.
 *
 * Called by refill.c, large.c (before a request, after a refusal) and heap.c (goalloc_trim). Calls mcache.c, pool.c,
 * largecache.c, marked.c, held.c, comeback.c and outbox.c, which sends without waiting. Data: the thread's lists.
 *
 * Empty spans go back in three ways:
 *   offer       a free makes a span empty, and the thread has more than it soon needs: the daemon may take it, at once
 *               if memory is short, or when it has been idle for a second (offer.c). A thread that needs it again
 *               before that takes it back;
 *   exchange    the thread asks for much: it gives as many pages back as it asks for, of what its other slots and the
 *               process's cache of large spans hold idle above RETAIN_PAGES_MIN, or 1/RETAIN_SHARE of what the thread
 *               holds. So a heap that grows does not retain what another phase of the program has left;
 *   return      the daemon wants memory back (trim_seq), refuses a request, or the program calls goalloc_trim(): all of
 *               them go.
 * Policy: client/README.md says what was measured.
 *
 * A span that goes back counts as held until the message is sent (outbox.c); its structure is gone before, so nobody
 * allocates there any more. If the process dies in between, the daemon ends the lease.
 */
#include "client/lib/idle.h"

#include "client/lib/comeback.h"
#include "client/lib/held.h"
#include "client/lib/largecache.h"
#include "client/lib/marked.h"
#include "client/lib/outbox.h"
#include "client/lib/pool.h"
#include "client/lib/shadow.h"

#define RETAIN_PAGES_MIN   (512 * KIB / PAGE_BYTES)
#define RETAIN_SHARE       32u /* of the thread's pages; of a slot's spans */
#define EXCHANGE_PAGES_MIN (128 * KIB / PAGE_BYTES) /* smaller requests would become more by it, and */
#define EXCHANGE_SHARE     48u                      /* those for less than this share of the thread's pages */

/* Collects spans for ReturnSpans and sends them by batches. */
typedef struct returns {
    uint32_t n;
    uint32_t spans[PROTO_SPANS_MAX];
} returns;

static void returns_flush(returns *r)
{
    outbox_return(r->spans, r->n);
    r->n = 0;
}

/* The mark comes before the structure goes: until it has been sent, a process that comes back must know the span. */
static void returns_add(returns *r, mspan *s)
{
    uint32_t *first = &r->spans[r->n++];

    *first = mspan_first(s).n;
    shadow_span_leaves(page_at(*first));
    held_set(first, 1);
    mspan_delete(s);
    if (r->n == PROTO_SPANS_MAX)
        returns_flush(r);
}

/* Return a span of the thread's that is not current. */
static void return_span(mcache *mc, mspan *s, returns *r)
{
    mcache_remove(mc, s);
    returns_add(r, s);
}

/* Return spans of a slot that are empty, those that are offered first, until nleft are left. */
static void return_empty(mcache *mc, mcache_slot *slot, uint64_t nleft, returns *r)
{
    while (slot->noffered > 0 && slot->noffered + slot->nempty > nleft) {
        mspan *s = mcache_take_offered(mc, slot, true);

        if (s != NULL)
            return_span(mc, s, r);
    }
    while (slot->nempty > nleft)
        return_span(mc, slot->empty.tail, r);
}

/* Look through the spans of a slot: what others have emptied goes to the empty ones. */
static void fold_slot(mcache *mc, mcache_slot *slot)
{
    for (mspan *s = slot->all; s != NULL; s = s->all_next) {
        uint32_t nused;

        if ((s->place != MSPAN_PARTIAL && s->place != MSPAN_FULL) || !mspan_has_remote_frees(s))
            continue;
        nused = mspan_fold(s);
        if (s->place == MSPAN_PARTIAL && nused != 0)
            s->nfrees = nused; /* it waits where it is */
        else
            mcache_move(mc, s, nused);
    }
}

void idle_return_empty(mcache *mc)
{
    returns r = { .n = 0 };
    largecache_out large;

    if (mc != &mcache_none)
        mc->trim_seen = process_trim_seq(); /* what may have been asked for is being done */
    for (uint32_t i = 0; mc != &mcache_none && i < SLOT_COUNT; i++) {
        mcache_slot *slot = &mc->slots[i];

        mcache_close_magazine(mc, i);
        fold_slot(mc, slot);
        return_empty(mc, slot, 0, &r);
        slot->nbatch = 0;
        slot->nwanted_pages = 0;
    }
    if (mc != &mcache_none)
        mc->nwanted_pages = 0;
    for (mspan *s = pool_take_all(process.reclaim), *next; s != NULL; s = next) {
        next = s->next;
        returns_add(&r, s);
    }
    returns_flush(&r);
    marked_return_empty();
    largecache_empty(&large_cache, &large);
    outbox_return(large.spans, large.n);
}

void idle_return_all(void)
{
    mcache *mc = mcache_tls;
    returns r = { .n = 0 };

    if (mc != &mcache_none) {
        mcache_count_all(mc);
        mcache_close_tiny(mc);
    }
    for (uint32_t i = 0; mc != &mcache_none && i < SLOT_COUNT; i++) {
        mcache_put_current(mc, i);
        return_empty(mc, &mc->slots[i], 0, &r);
        while (mc->slots[i].all != NULL && !process.reclaim)
            return_span(mc, mc->slots[i].all, &r);
    }
    returns_flush(&r);
    idle_return_empty(mc);
}

static bool is_run(uint32_t slot)
{
    return slot % SLOT_NOSCAN >= SLOT_RUNS;
}

/* Give up to npages of a slot's empty spans back, but for nleft spans. Returns how many pages are still to be given. */
static uint64_t give_back(mcache *mc, uint32_t i, uint64_t nleft, uint64_t npages, returns *r)
{
    mcache_slot *slot = &mc->slots[i];

    while (npages > 0 && slot->noffered + slot->nempty > nleft) {
        mspan *s = slot->noffered > 0 ? mcache_take_offered(mc, slot, true) : slot->empty.tail;
        uint64_t each = s == NULL ? 0 : s->npages;

        if (s != NULL)
            return_span(mc, s, r);
        npages = each < npages ? npages - each : 0;
    }
    return npages;
}

/* The slots take turns, so that none is always the one to give. */
static uint32_t next_slot(mcache *mc)
{
    uint32_t i = mc->give_back_at;

    mc->give_back_at = i + 1 < SLOT_COUNT ? i + 1 : 0;
    return i;
}

/* Runs that are current and have no object are idle, too: one of each length that was used. */
static void put_idle_runs(mcache *mc)
{
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        if (!is_run(i))
            continue;
        mcache_flush_magazine(mc, i);
        if (mc->current[i] != &mspan_none && mspan_nused(mc->current[i]) == 0)
            mcache_put_current(mc, i);
    }
}

/*
 * For larger objects runs and cached large spans stay: buffers of all lengths take turns, and each would be asked for
 * again. Runs go, too, if very much is idle.
 */
void idle_exchange(mcache *mc, uint32_t growing, uint64_t npages)
{
    returns r = { .n = 0 };
    uint64_t share = (mc->nheld_pages - mc->noffered_pages) / RETAIN_SHARE;
    uint64_t retain = share > RETAIN_PAGES_MIN ? share : RETAIN_PAGES_MIN;
    bool small = growing < SLOT_COUNT && !is_run(growing);
    uint64_t ncached = 0;
    uint64_t nidle;

    if (mc == &mcache_none || !comeback_is_up() || npages < EXCHANGE_PAGES_MIN ||
        npages < mc->nheld_pages / EXCHANGE_SHARE)
        return;
    if (mc->nwanted_pages > 0) /* then magazines may have much */
        mcache_flush_magazines(mc);
    if (small) {
        put_idle_runs(mc);
        ncached = largecache_npages(&large_cache);
    }
    /* None of them are of the slot that grows: it would not ask. */
    nidle = mc->nempty_pages + mc->noffered_pages + ncached;
    if (nidle <= retain)
        return;
    if (npages > nidle - retain)
        npages = nidle - retain;
    for (uint32_t n = 0; n < SLOT_COUNT && npages > 0; n++) {
        uint32_t i = next_slot(mc);

        if (i != growing && (small || nidle > 4 * retain || !is_run(i)))
            npages = give_back(mc, i, mc->slots[i].nspans / RETAIN_SHARE, npages, &r);
    }
    returns_flush(&r);
    if (npages > 0 && ncached > 0) {
        largecache_out large;

        largecache_shrink(&large_cache, npages, &large);
        outbox_return(large.spans, large.n);
    }
}
