/*
 * Refill: where a thread's next span comes from.
 *
 * Called by alloc.c. Calls mcache.c (lists), idle.c and outbox.c (what goes back), pool.c (spans of exited threads),
 * offer.c, thread.c, connection.c and window.c. Data: the thread's mcache.
 *
 * The magazine of the slot is empty whenever a malloc comes here; that of an mcache which the thread finds left behind
 * (thread.c) is flushed. So what spans have free is what their bits say, and words may be loaded (magazine.h).
 *
 * In order: 1. other words of the current span, 2. the partial span that has waited longest, so has most free objects,
 * 3. an empty one, of which those that it has offered come last (so far refill_near), 4. one of 100 full spans in which
 * others have freed objects, 5. the pool, 6. the daemon. So steady churn asks nobody.
 *
 * How many are asked for, and why: next_batch(), and client/README.md, policy.
 *
 * If the process dies between the daemon's reply and the span's first object, the lease's end frees the span.
 */
#include "client/lib/refill.h"

#include <errno.h>

#include "client/lib/connection.h"
#include "client/lib/idle.h"
#include "client/lib/outbox.h"
#include "client/lib/pool.h"
#include "client/lib/thread.h"
#include "client/lib/window.h"

#define SCAN_FULL_MAX   100u
#define BATCH_SHARE     16u /* of the slot's pages */
#define BATCH_SLOT      2u  /* of them, while that is no more than 1/BATCH_THREAD of the thread's */
#define BATCH_THREAD    32u
#define BATCH_PAGES_MIN (64 * KIB / PAGE_BYTES)

void refill_note_free(const void *object, mspan *s)
{
    mcache *mc = thread_mcache(); /* a free of its owner's: there is one, maybe left behind */
    uint32_t i = s->slot;

    (void)object;
    if (!mcache_place_freed(mc, s))
        return;
    mcache_place_idle(mc, s);
    mcache_close_magazine(mc, i);
}

mspan *refill_inherit(page_no first)
{
    mcache *mc = mcache_tls;
    uint32_t nused;
    mspan *s = mc->thread == NULL ? NULL : pool_take_at(first, mc->thread, &nused);

    if (s != NULL) {
        mcache_add(mc, s);
        mcache_place(mc, s, nused);
    }
    return s;
}

/* --- near --- */

/* One with free objects that is in no list then. NULL: there is none. What comes next is fetched meanwhile. */
static inline mspan *take_listed(mcache *mc, mcache_slot *slot, uint32_t *ret_nused)
{
    mspan *s = mcache_take(mc, slot, ret_nused);

    if (LIKELY(s != NULL)) {
        if (slot->empty.head != NULL)
            mspan_prefetch(slot->empty.head);
        return s;
    }
    s = slot->offered.head;
    if (s == NULL)
        return NULL;
    mcache_unlist_offered(mc, slot, s);
    if (slot->offered.head != NULL) {
        mspan_prefetch(slot->offered.head);
        offer_prefetch(slot->offered.head);
    }
    if (LIKELY(offer_take_back(s, mc->thread))) {
        mcache_note_wanted(mc, s);
        return s;
    }
    mcache_forget(mc, s);
    return mcache_take_offered(mc, slot, false);
}

/* A span of the thread's lists becomes current. NULL: there is none. */
static inline mspan *take_from_lists(mcache *mc, uint32_t i)
{
    uint32_t nused;
    mspan *s;

    while ((s = take_listed(mc, &mc->slots[i], &nused)) != NULL) {
        if (LIKELY(mspan_make_current(s, nused))) {
            if (UNLIKELY(!s->needzero && nused == 0)) /* for the first time */
                window_map(s->base, s->npages * PAGE_BYTES);
            mc->current[i] = s;
            return s;
        }
        mcache_place_full(s); /* the bits of a leased span are full: somebody scribbles */
    }
    return NULL;
}

mspan *refill_near(uint32_t i)
{
    mcache *mc = mcache_tls;
    mspan *s = mc->current[i];
    mspan *next;

    if (s->alloc == NULL) /* mspan_none, or one of the parent's, in a child that does not know it yet */
        return NULL;
    mcache_open_magazine(mc, i);
    if (mspan_advance(s))
        return s;
    mcache_leave_current(mc, s, s->nelems);
    mcache_place_full(s);
    if (LIKELY(!idle_is_wanted(mc)) && LIKELY((next = take_from_lists(mc, i)) != NULL))
        return next;
    mc->current[i] = &mspan_none;
    return NULL;
}

/* --- far --- */

/* A full span in which others have freed objects. The search goes on where the last one ended. */
static mspan *take_from_full(mcache_slot *slot, uint32_t *ret_nused)
{
    mspan *start = slot->scan_at != NULL ? slot->scan_at : slot->all;
    mspan *s = start;

    for (unsigned n = 0; n < SCAN_FULL_MAX && s != NULL; n++) {
        mspan *next = s->all_next != NULL ? s->all_next : slot->all;

        slot->scan_at = next;
        if (s->place == MSPAN_FULL && mspan_has_remote_frees(s)) {
            *ret_nused = mspan_fold(s);
            if (*ret_nused < s->nelems)
                return s;
        }
        s = next != start ? next : NULL;
    }
    return NULL;
}

/*
 * What to ask for: a short span, then twice as many pages as last time, but not more than a share of what the slot
 * holds, or of what the thread holds. Spans are short as long as that is less than a long one. *ret_npages is the
 * length of one.
 */
static uint32_t next_batch(const mcache *mc, mcache_slot *slot, uint32_t i, uint32_t *ret_npages)
{
    uint32_t short_npages = slot_short_npages(i);
    uint32_t npages = slot_npages(i);
    uint64_t slot_pages = (uint64_t)(slot->nspans - slot->noffered) * npages;
    uint64_t most_pages = slot_pages / BATCH_SLOT;

    if (most_pages > mc->nheld_pages / BATCH_THREAD)
        most_pages = mc->nheld_pages / BATCH_THREAD;
    if (most_pages < slot_pages / BATCH_SHARE)
        most_pages = slot_pages / BATCH_SHARE;
    if (most_pages < BATCH_PAGES_MIN)
        most_pages = BATCH_PAGES_MIN;
    if (most_pages > SHM_REFILL_PAGES_MAX)
        most_pages = SHM_REFILL_PAGES_MAX;

    uint64_t most = most_pages > npages ? most_pages / npages : 1;

    if (most > PROTO_SPANS_MAX)
        most = PROTO_SPANS_MAX;
    slot->nbatch = slot->nbatch == 0 ? 1 : slot->nbatch * 2;
    if (slot->nbatch > most * npages / short_npages)
        slot->nbatch = (uint32_t)(most * npages / short_npages);
    *ret_npages = slot->nbatch * short_npages < npages ? short_npages : npages;
    return slot->nbatch * short_npages / *ret_npages;
}

/* The daemon has leased n spans for a slot: describe them. Returns the first, in no list; the others are placed. */
static mspan *take_leased(mcache *mc, uint32_t i, const uint32_t *spans, int n, uint32_t *ret_nused)
{
    mcache_slot *slot = &mc->slots[i];
    mspan *first = NULL;

    for (int at = 0; at < n; at++) {
        uint32_t nused;
        mspan *s = mspan_new(i, spans[at], &nused);

        if (s == NULL) { /* no room to describe it */
            outbox_return(&spans[at], (uint32_t)(n - at));
            break;
        }
        mcache_add(mc, s);
        if (s->needzero) /* it was zeroed long ago; others are when they become current, which gives the daemon time */
            window_map(s->base, s->npages * PAGE_BYTES);
        if (first == NULL) {
            first = s;
            *ret_nused = nused;
            continue;
        }
        mcache_place(mc, s, nused);
        if (nused == 0) { /* by address, as they come */
            mspan_list_pop(&slot->empty);
            mspan_list_push_back(&slot->empty, s);
        }
    }
    if (first == NULL)
        errno = ENOMEM;
    return first;
}

static mspan *take_from_daemon(mcache *mc, uint32_t i, uint32_t *ret_nused)
{
    mcache_slot *slot = &mc->slots[i];
    uint32_t npages;
    uint32_t spans[PROTO_SPANS_MAX];
    uint32_t want = next_batch(mc, slot, i, &npages);
    int n;

    mcache_flush_count(mc, i);
    idle_exchange(mc, i, (uint64_t)want * npages);
    n = connection_refill(slot_spc(i), npages, want, false, spans);
    if (connection_is_short(n)) {
        mspan *found;

        /*
         * What this process holds empty may be what is missing, or what it has too much by a limit; and looking for it
         * may have found free objects of this slot.
         */
        idle_return_empty(mc);
        found = take_listed(mc, slot, ret_nused);
        if (found != NULL)
            return found;
        slot->nbatch = 1;
        n = connection_refill(slot_spc(i), slot_short_npages(i), 1, true, spans);
    }
    if (n < 0) {
        errno = -n;
        return NULL;
    }
    CRASH_POINT(refill_after_reply);
    return take_leased(mc, i, spans, n, ret_nused);
}

mspan *refill_far(uint32_t i)
{
    mcache *mc = thread_mcache();

    if (mc == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    mcache_put_current(mc, i); /* it has one only if the mcache was left behind, and its magazine may have entries */
    if (idle_is_wanted(mc))
        idle_return_empty(mc);
    mcache_open_magazine(mc, i);
    for (;;) {
        uint32_t nused;
        mspan *s = take_from_lists(mc, i);

        if (s != NULL)
            return s;
        s = take_from_full(&mc->slots[i], &nused);
        if (s == NULL && (s = pool_take(i, mc->thread, &nused)) != NULL)
            mcache_add(mc, s);
        if (s == NULL)
            s = take_from_daemon(mc, i, &nused);
        if (s == NULL)
            return NULL;
        mcache_place(mc, s, nused); /* at the head of its list */
    }
}
