/*
 * mcache: the thread's spans, and the slow paths of malloc and free.
 *
 * Called by alloc.c (fast paths), attach.c (detach, fork). Calls mspan.c (bits), pool.c (spans of exited threads),
 * connection (refill, return). Data: all private.
 *
 * A span's way through a thread, per slot:
 *
 *        refill                     out of free objects
 *       ---------> EMPTY ---> CURRENT ------------------> FULL
 *                    ^           ^                         |  one of its objects is freed: by this thread
 *                    |           +------- PARTIAL <--------+  (mcache_note_free), or remotely (found when looked at)
 *                    +-- last object freed --+
 *
 * mcache_refill, in order: 1. other words of the current span, 2. the partial span that has waited longest, so has most
 * free objects, 3. an empty one, 4. full spans, at most 100: have others freed something?, 5. the pool, 6. the daemon.
 * So steady churn asks nobody. A full span is in no list but that of all, so that the first free in it touches no other
 * span but the last of the partial ones.
 *
 * Asking: the first request of a slot is for one span, then twice as many each time, up to 64 KiB a request, or 1/16
 * of what the slot holds, up to what a refill may bring: what has been asked for and is not used yet stays a small part of a heap that
 * has objects of many sizes. Giving back: nkeep grows with every span that was asked for (to 128 MiB) and
 * shrinks by an eighth with every surrender (2 MiB stay in any case), so a program that needs its memory again keeps
 * it and one that does not gives it up. A surrender returns the empty spans above half of nkeep. And a thread that asks
 * for more gives as much back that other slots hold empty, but for a small part: a heap that grows does not keep what
 * another phase of the program has left. A Trim of the daemon, or goalloc_trim(), takes the rest.
 *
 * What is true if the process dies at any point: the alloc bits say which objects are allocated; all else here is
 * forgotten, and the daemon ends the lease. A span that goes back counts as held until the message is sent (outbox.c);
 * its structure is gone before, so nobody allocates there any more.
 *
 * Locks: list_lock guards the list of mcaches; a thread that ends holds it, and a detach, so that they do not meet.
 * Neither it nor the pool's is held while anybody waits for the daemon. Order: list, pool, then that of mspan.c and
 * those of the outbox. fork() takes none of them: the child makes them anew.
 */
#include "client/lib/mcache.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "client/lib/connection.h"
#include "client/lib/large.h"
#include "client/lib/meta.h"
#include "client/lib/pool.h"
#include "client/lib/tiny.h"

#define SCAN_FULL_MAX     100u
#define BATCH_SHARE       16u
#define BATCH_PAGES_MIN   (64 * KIB / PAGE_BYTES)
#define KEEP_PAGES_MIN    (2 * MIB / PAGE_BYTES)
#define KEEP_PAGES_MAX    (128 * MIB / PAGE_BYTES)
#define COUNT_AT          64u /* objects */
/* What a thread keeps in empty spans of other slots while one asks for more: of all, of the slot. */
#define KEEP_IDLE_SHARE   32u
#define KEEP_IDLE_MIN     (512 * KIB / PAGE_BYTES)
#define KEEP_RUNS_MIN     (2 * MIB / PAGE_BYTES)
#define KEEP_SLOT_SHARE   16u
#define EXCHANGE_PAGES_MIN 16u /* smaller requests would become more by it */

mcache mcache_none = {
    .tiny.used = TINY_BLOCK_BYTES,
    .current = { [0 ... SLOT_COUNT - 1] = &mspan_none },
};
_Thread_local mcache *mcache_tls = &mcache_none;

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static mcache *free_mcaches;
static mcache *all_mcaches;
static mcache *made_mcaches; /* all, by next_made */
static mcache *old_mcaches;  /* those of made_mcaches from here on are the parent's: free in this child */

static pthread_key_t exit_key;
static shm_u32 have_exit_key;

/* --- places --- */

/* The thread has one more span, or one less. */
static void add_span(mcache *mc, mspan *s)
{
    mcache_slot *slot = &mc->slots[s->slot];

    s->all_prev = NULL;
    s->all_next = slot->all;
    if (slot->all != NULL)
        slot->all->all_prev = s;
    slot->all = s;
    slot->nspans++;
    mc->nheld_pages += s->npages;
}

static void remove_span(mcache *mc, mspan *s)
{
    mcache_slot *slot = &mc->slots[s->slot];

    if (slot->scan_at == s)
        slot->scan_at = s->all_next;
    if (s->all_prev != NULL)
        s->all_prev->all_next = s->all_next;
    else
        slot->all = s->all_next;
    if (s->all_next != NULL)
        s->all_next->all_prev = s->all_prev;
    slot->nspans--;
    mc->nheld_pages -= s->npages;
}

static void place_empty(mcache *mc, mspan *s)
{
    s->place = MSPAN_EMPTY;
    s->nfrees = 0;
    mc->nempty_pages += s->npages;
    mc->slots[s->slot].nempty++;
    mspan_list_push_front(&mc->slots[s->slot].empty, s);
}

static inline void place_full(mspan *s)
{
    s->place = MSPAN_FULL;
    s->nfrees = 1;
}

/* At the end: until it is used again, more of its objects are freed. */
static inline void place_partial(mcache_slot *slot, mspan *s, uint32_t nused)
{
    s->place = MSPAN_PARTIAL;
    s->nfrees = nused;
    mspan_list_push_back(&slot->partial, s);
}

/* Put a span that is in no list where it belongs. */
static void place_span(mcache *mc, mspan *s, uint32_t nused)
{
    if (nused == 0)
        place_empty(mc, s);
    else if (nused >= s->nelems)
        place_full(s);
    else
        place_partial(&mc->slots[s->slot], s, nused);
}

/* Take a span that is not current out of its list. */
static void unlist(mcache *mc, mspan *s)
{
    mcache_slot *slot = &mc->slots[s->slot];

    if (s->place == MSPAN_PARTIAL)
        mspan_list_remove(&slot->partial, s);
    if (s->place != MSPAN_EMPTY)
        return;
    mspan_list_remove(&slot->empty, s);
    slot->nempty--;
    mc->nempty_pages -= s->npages;
}

static void mcache_clear(mcache *mc)
{
    mc->tiny = (tiny_block){ .used = TINY_BLOCK_BYTES };
    mc->nempty_pages = mc->nheld_pages = 0;
    memset(mc->slots, 0, sizeof(mc->slots));
    memcpy(mc->current, mcache_none.current, sizeof(mc->current));
    for (size_t i = 0; i < sizeof(mc->slot8[0]); i++) {
        mc->slot8[0][i] = (uint8_t)slot_of_class((size_class){ size_table8[i] }, false);
        mc->slot8[1][i] = (uint8_t)slot_of_class((size_class){ size_table8[i] }, true);
    }
}

/* Goes up when somebody wants idle spans back: the daemon from this session, or a thread of this process from all. */
static uint32_t trim_seq(void)
{
    const shm_u32 *of_session = atomic_load_explicit(&process.session_trim_seq, memory_order_relaxed);

    return u32_load_relaxed(&process.trim_seq) + u32_load_relaxed(of_session);
}

/*
 * A thread that allocated in the last round of its destructors has left its mcache, and this one has the name that it
 * had: so the spans count as its own, and the mcache must too. list_lock is held.
 */
static mcache *left_behind(void)
{
    mcache *mc = all_mcaches;

    while (mc != NULL && mc->thread != thread_self())
        mc = mc->next;
    return mc;
}

/* Memory for an mcache: one that a thread has left, one of the parent's, or new. list_lock is held. NULL: none. */
static mcache *mcache_new(void)
{
    mcache *mc = free_mcaches;
    void *p;

    if (mc != NULL) {
        free_mcaches = mc->next;
    } else if (old_mcaches != NULL) {
        mc = old_mcaches;
        old_mcaches = mc->next_made;
    } else if (mapping_private(sizeof(*mc), MAPPING_UNWIPED_UNIT, &p) == 0) {
        mc = p;
        mc->next_made = made_mcaches;
        made_mcaches = mc;
    }
    return mc;
}

/* The thread's mcache, made at its first use. NULL: no memory. */
static mcache *mcache_get(void)
{
    mcache *mc = mcache_tls;

    if (mc->thread != NULL) /* not mcache_none; nor one of the parent's that nobody has: see mcache_reset() */
        return mc;
    (void)pthread_mutex_lock(&list_lock);
    mc = left_behind();
    if (mc == NULL) {
        mc = mcache_new();
        if (mc != NULL) {
            mcache_clear(mc);
            mc->thread = thread_self();
            mc->next = all_mcaches;
            all_mcaches = mc;
        }
    }
    (void)pthread_mutex_unlock(&list_lock);
    if (mc == NULL)
        return NULL;
    mc->trim_seen = trim_seq();
    mcache_tls = mc;
    if (u32_load_acquire(&have_exit_key) != 0)
        (void)pthread_setspecific(exit_key, mc);
    return mc;
}

/* --- counting --- */

void mcache_count(const mcache *mc, span_class spc, uint64_t n)
{
    if (n > 0 && mc != &mcache_none && process_state_now() == PROCESS_ATTACHED)
        u64_add_relaxed(&shm_counters(&process.map, process.session)[spc.n], n);
}

/* Tell everybody what a slot has handed out. */
__attribute__((noinline)) static void flush_count(mcache *mc, uint32_t slot)
{
    if (slot != SLOT_TINY) /* of tiny blocks the objects are counted, not they themselves */
        mcache_count(mc, slot_spc(slot), mc->slots[slot].nuncounted);
    mc->slots[slot].nuncounted = 0;
}

/* Count what a current span, in which nused objects are used, has handed out. */
static inline void count_current(mcache *mc, mspan *s, uint32_t nused)
{
    mcache_slot *slot = &mc->slots[s->slot];

    slot->nuncounted += mspan_take_count(s, nused);
    if (slot->nuncounted >= COUNT_AT)
        flush_count(mc, s->slot);
}

void mcache_count_all(mcache *mc)
{
    if (mc == &mcache_none)
        return;
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        if (mc->current[i] != &mspan_none)
            count_current(mc, mc->current[i], mspan_nused(mc->current[i]));
        if (mc->slots[i].nuncounted > 0)
            flush_count(mc, i);
    }
    mcache_count(mc, (span_class){ SPAN_CLASS_TINY }, mc->tiny.nallocs);
    mc->tiny.nallocs = 0;
}

/* A span with nused objects ceases to be current. It is in no list, and something else has to become current. */
static inline void leave_current(mcache *mc, mspan *s, uint32_t nused)
{
    count_current(mc, s, nused);
    s->needzero = true;
    s->reuse = false;
}

/* The slot has no current span any more: it goes where it belongs. */
static void put_current(mcache *mc, mspan *s)
{
    uint32_t nused = mspan_nused(s);

    leave_current(mc, s, nused);
    mc->current[s->slot] = &mspan_none;
    place_span(mc, s, nused);
}

/* --- giving back --- */

/* Collects spans for ReturnSpans and sends them by batches. */
typedef struct returns {
    uint32_t n;
    uint32_t spans[PROTO_SPANS_MAX];
} returns;

static void returns_flush(returns *r)
{
    connection_return(r->spans, r->n);
    r->n = 0;
}

static void returns_add(returns *r, mspan *s)
{
    if (r->n == PROTO_SPANS_MAX)
        returns_flush(r);
    r->spans[r->n++] = mspan_first(s).n;
    mspan_delete(s);
}

/* Return a span of the thread's that is not current. */
static void return_span(mcache *mc, mspan *s, returns *r)
{
    unlist(mc, s);
    remove_span(mc, s);
    returns_add(r, s);
}

/* Return empty spans of a slot until nleft are left. */
static void return_empty(mcache *mc, mcache_slot *slot, uint64_t nleft, returns *r)
{
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
        if (s->place == MSPAN_PARTIAL && nused != 0) {
            s->nfrees = nused;
        } else {
            unlist(mc, s);
            place_span(mc, s, nused);
        }
    }
}

static void return_pooled(returns *r)
{
    for (mspan *s = pool_take_all(process.reclaim), *next; s != NULL; s = next) {
        next = s->next;
        returns_add(r, s);
    }
}

void mcache_return_empty(mcache *mc)
{
    returns r = { .n = 0 };

    for (uint32_t i = 0; mc != &mcache_none && i < SLOT_COUNT; i++) {
        mcache_slot *slot = &mc->slots[i];

        fold_slot(mc, slot);
        return_empty(mc, slot, 0, &r);
        slot->nkeep = 0;
        slot->nbatch = 0;
    }
    return_pooled(&r);
    returns_flush(&r);
    large_return_cached();
}

/* Current spans go where they belong, or (all) everything goes back, but what a session that reclaims must keep. */
void mcache_return_all(void)
{
    mcache *mc = mcache_tls;
    returns r = { .n = 0 };

    if (mc != &mcache_none) {
        mcache_count_all(mc);
        tiny_close(mc);
        mc->trim_seen = trim_seq(); /* what was asked for is being done */
    }
    for (uint32_t i = 0; mc != &mcache_none && i < SLOT_COUNT; i++) {
        if (mc->current[i] != &mspan_none)
            put_current(mc, mc->current[i]);
        while (mc->slots[i].all != NULL && !process.reclaim)
            return_span(mc, mc->slots[i].all, &r);
    }
    returns_flush(&r);
    mcache_return_empty(mc);
}

/* More empty spans than the slot is to keep: let those above half of it go. */
__attribute__((noinline)) static void surrender(mcache *mc, mcache_slot *slot, uint32_t npages)
{
    returns r = { .n = 0 };
    uint32_t nmin = (uint32_t)KEEP_PAGES_MIN / npages;
    int keep_errno = errno;

    if (slot->nkeep < nmin)
        slot->nkeep = nmin;
    if (slot->nempty <= slot->nkeep || !connection_is_up()) /* who knows when there will be more */
        return;
    slot->nkeep -= slot->nkeep / 8;
    return_empty(mc, slot, (slot->nkeep > nmin ? slot->nkeep : nmin) / 2, &r);
    returns_flush(&r);
    errno = keep_errno;
}

void mcache_note_free(void *p, mspan *s)
{
    mcache *mc = mcache_get(); /* a free of its owner's: there is one, maybe left behind */
    mcache_slot *slot = &mc->slots[s->slot];

    (void)p;
    switch (s->place) {
    case MSPAN_FULL:
        if (s->nelems > 1) {
            place_partial(slot, s, s->nelems - 1);
            return;
        }
        break;
    case MSPAN_PARTIAL:
        mspan_list_remove(&slot->partial, s);
        break;
    default: /* two billion frees into the current span */
        count_current(mc, s, mspan_nused(s));
        return;
    }
    place_empty(mc, s);
    if (UNLIKELY(slot->nempty > slot->nkeep))
        surrender(mc, slot, s->npages);
}

/* --- refill --- */

static bool trim_is_due(const mcache *mc)
{
    return trim_seq() != mc->trim_seen;
}

static void answer_trim(mcache *mc)
{
    if (!trim_is_due(mc))
        return;
    mc->trim_seen = trim_seq();
    mcache_return_empty(mc);
}

static inline mspan *take_from_lists(mcache *mc, mcache_slot *slot, uint32_t *ret_nused)
{
    mspan *s = slot->partial.head;

    *ret_nused = 0;
    if (s != NULL) {
        *ret_nused = s->nfrees;
        mspan_list_pop(&slot->partial);
        return s;
    }
    s = slot->empty.head;
    if (s != NULL) {
        mspan_list_pop(&slot->empty);
        slot->nempty--;
        mc->nempty_pages -= s->npages;
    }
    return s;
}

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
 * A thread that frees objects of a span that nobody owns any more, and has spans of its own, takes it over: its frees,
 * and what it allocates there, take the fast path from now on.
 */
mspan *mcache_adopt(page_no first)
{
    mcache *mc = mcache_tls;
    uint32_t nused;
    mspan *s = mc->thread == NULL ? NULL : pool_take_at(first, mc->thread, &nused);

    if (s != NULL) {
        add_span(mc, s);
        place_span(mc, s, nused);
    }
    return s;
}

/* Runs that are current and have no object are idle, too: one of each length that was used. */
static void put_idle_runs(mcache *mc)
{
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        mspan *s = mc->current[i];

        if (i % SLOT_NOSCAN >= SLOT_RUNS && s != &mspan_none && mspan_nused(s) == 0)
            put_current(mc, s);
    }
}

void mcache_exchange(mcache *mc, uint32_t growing, uint64_t npages)
{
    returns r = { .n = 0 };
    uint64_t keep = mc->nheld_pages / KEEP_IDLE_SHARE > KEEP_IDLE_MIN ? mc->nheld_pages / KEEP_IDLE_SHARE
                                                                      : KEEP_IDLE_MIN;
    bool small = growing < SLOT_COUNT && growing % SLOT_NOSCAN < SLOT_RUNS;
    bool runs_too = small;
    uint64_t cached;
    uint64_t idle;

    if (mc == &mcache_none || !connection_is_up() || npages < EXCHANGE_PAGES_MIN)
        return;
    if (small)
        put_idle_runs(mc);
    cached = small ? large_cached_pages() : 0;
    idle = mc->nempty_pages + cached;
    if (growing < SLOT_COUNT)
        idle -= (uint64_t)mc->slots[growing].nempty * slot_npages(growing);
    if (idle <= keep)
        return;
    /* For larger objects only if it is much: buffers of all lengths take turns, each would be asked for again. */
    if (idle > KEEP_RUNS_MIN && idle > mc->nheld_pages / 16)
        runs_too = true;
    if (npages > idle - keep)
        npages = idle - keep;
    for (uint32_t n = 0; n < SLOT_COUNT && npages > 0; n++) {
        uint32_t i = mc->exchange_at;
        mcache_slot *slot = &mc->slots[i];
        uint64_t each = slot_npages(i);
        uint64_t nleft = slot->nspans / KEEP_SLOT_SHARE;

        mc->exchange_at = i + 1 < SLOT_COUNT ? i + 1 : 0;
        if (i == growing || slot->nempty <= nleft || (!runs_too && i % SLOT_NOSCAN >= SLOT_RUNS))
            continue;
        if ((slot->nempty - nleft) * each > npages)
            nleft = slot->nempty - (npages + each - 1) / each;
        npages -= npages < (slot->nempty - nleft) * each ? npages : (slot->nempty - nleft) * each;
        return_empty(mc, slot, nleft, &r);
        slot->nbatch -= slot->nbatch / 2;
        slot->nkeep -= slot->nkeep / 8;
    }
    returns_flush(&r);
    if (npages > 0 && cached > 0)
        large_give_back(npages);
}

/* How many spans to ask for: twice as many as last time, but not more than a share of what the slot holds. */
static uint32_t next_batch(mcache_slot *slot, uint64_t npages)
{
    uint64_t most_pages = slot->nspans * npages / BATCH_SHARE;

    if (most_pages < BATCH_PAGES_MIN)
        most_pages = BATCH_PAGES_MIN;
    if (most_pages > SHM_REFILL_PAGES_MAX)
        most_pages = SHM_REFILL_PAGES_MAX;

    uint64_t most = most_pages > npages ? most_pages / npages : 1;

    if (most > PROTO_SPANS_MAX)
        most = PROTO_SPANS_MAX;
    slot->nbatch = slot->nbatch == 0 ? 1 : slot->nbatch * 2;
    if (slot->nbatch > most)
        slot->nbatch = (uint32_t)most;
    return slot->nbatch;
}

static mspan *take_from_daemon(mcache *mc, uint32_t i, uint32_t *ret_nused)
{
    mcache_slot *slot = &mc->slots[i];
    uint32_t npages = slot_npages(i);
    uint32_t spans[PROTO_SPANS_MAX];
    mspan *first = NULL;
    uint32_t want = next_batch(slot, npages);
    int n;

    mcache_exchange(mc, i, (uint64_t)want * npages);
    n = connection_refill(slot_spc(i), npages, want, false, spans);
    if (n == -ENOMEM || n == -EAGAIN) {
        /*
         * What this process holds empty may be what is missing, or what puts the heap above its memory limit; and
         * looking for it may have found free objects of this slot.
         */
        mcache_return_empty(mc);
        first = take_from_lists(mc, slot, ret_nused);
        if (first != NULL)
            return first;
        slot->nbatch = 1;
        n = connection_refill(slot_spc(i), npages, 1, true, spans);
    }
    if (n < 0) {
        errno = -n;
        return NULL;
    }
    CRASH_POINT(refill_after_reply);
    for (int at = 0; at < n; at++) {
        uint32_t nused;
        mspan *s = mspan_new(i, spans[at], &nused);

        if (s == NULL) { /* no room to describe it */
            connection_return(&spans[at], (uint32_t)(n - at));
            break;
        }
        add_span(mc, s);
        if (first == NULL) {
            first = s;
            *ret_nused = nused;
        } else if (nused == 0) { /* by address, as they come */
            s->place = MSPAN_EMPTY;
            s->nfrees = 0;
            mc->nempty_pages += npages;
            slot->nempty++;
            mspan_list_push_back(&slot->empty, s);
        } else {
            place_span(mc, s, nused);
        }
    }
    slot->nkeep += (uint32_t)n;
    if (slot->nkeep < KEEP_PAGES_MIN / npages)
        slot->nkeep = (uint32_t)KEEP_PAGES_MIN / npages;
    if (slot->nkeep > KEEP_PAGES_MAX / npages)
        slot->nkeep = (uint32_t)(KEEP_PAGES_MAX / npages);
    if (first == NULL)
        errno = ENOMEM;
    return first;
}

/* A span of the thread's lists becomes current. NULL: there is none. */
static inline mspan *refill_from_lists(mcache *mc, uint32_t i)
{
    uint32_t nused;
    mspan *s;

    while ((s = take_from_lists(mc, &mc->slots[i], &nused)) != NULL) {
        if (LIKELY(mspan_make_current(s, nused))) {
            mc->current[i] = s;
            return s;
        }
        place_span(mc, s, s->nelems); /* the bits of a leased span are full: somebody scribbles */
    }
    return NULL;
}

/* All else that there is. */
__attribute__((noinline)) static mspan *refill_slowly(uint32_t i)
{
    int r = process_ensure_writable();
    mcache *mc = r < 0 ? NULL : mcache_get();

    if (mc == NULL) {
        errno = r < 0 ? -r : ENOMEM;
        return NULL;
    }
    answer_trim(mc);
    for (;;) {
        uint32_t nused;
        mspan *s = refill_from_lists(mc, i);

        if (s != NULL)
            return s;
        s = take_from_full(&mc->slots[i], &nused);
        if (s == NULL && (s = pool_take(i, mc->thread, &nused)) != NULL)
            add_span(mc, s);
        if (s == NULL)
            s = take_from_daemon(mc, i, &nused);
        if (s == NULL)
            return NULL;
        place_span(mc, s, nused); /* at the head of its list */
    }
}

mspan *mcache_refill(uint32_t i)
{
    mcache *mc = mcache_tls;
    mspan *s = mc->current[i];

    if (s->alloc != NULL) { /* not mspan_none; nor one of the parent's, in a child that does not know it yet */
        mspan *next;

        if (mspan_advance(s))
            return s;
        leave_current(mc, s, s->nelems);
        place_full(s);
        if (LIKELY(!trim_is_due(mc)) && LIKELY((next = refill_from_lists(mc, i)) != NULL))
            return next;
        mc->current[i] = &mspan_none;
    }
    return refill_slowly(i);
}

void *mcache_alloc(uint32_t slot)
{
    mspan *s = mcache_refill(slot);

    return LIKELY(s != NULL) ? mspan_take(s) : NULL;
}

/* --- threads, detach, fork --- */

/* A thread ends: its spans go to the process. list_lock is held. */
static void leave(mcache *mc)
{
    mcache_count_all(mc);
    tiny_close(mc);
    mcache_tls = &mcache_none;
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        if (mc->current[i] != &mspan_none)
            put_current(mc, mc->current[i]);
        pool_put(mc->slots[i].all);
    }
    for (mcache **at = &all_mcaches; *at != NULL; at = &(*at)->next) {
        if (*at == mc) {
            *at = mc->next;
            break;
        }
    }
    mc->next = free_mcaches;
    free_mcaches = mc;
}

/* One lock for the whole of it, which a detach takes too: a thread that ends is not within the library for its user. */
static void mcache_on_thread_exit(void *data)
{
    (void)process_state_now(); /* in a child that does not know it yet this makes mcache_tls another one */
    (void)pthread_mutex_lock(&list_lock);
    if (data == mcache_tls && data != &mcache_none)
        leave(data);
    (void)pthread_mutex_unlock(&list_lock);
}

/* The process ends: the main thread's counts come in too. Or a program unloads the static library with a module. */
__attribute__((destructor)) static void mcache_on_process_exit(void)
{
    if (process_state_now() == PROCESS_ATTACHED)
        mcache_count_all(mcache_tls);
    if (u32_load_acquire(&have_exit_key) != 0) {
        u32_store_release(&have_exit_key, 0);
        (void)pthread_key_delete(exit_key); /* threads that end later must not come here */
    }
}

/* Before other constructors, which may allocate. */
__attribute__((constructor(101))) static void mcache_init(void)
{
    /* At load time the key is one of the first, so that setting it never allocates. */
    u32_store_release(&have_exit_key, pthread_key_create(&exit_key, mcache_on_thread_exit) == 0);
}

void mcache_forget_all(void (*close_gate)(void))
{
    (void)pthread_mutex_lock(&list_lock);
    for (mcache *mc = all_mcaches; mc != NULL; mc = mc->next)
        mcache_count_all(mc);
    close_gate();
    pool_forget();
    /* mcaches stay, since threads point to them; spans need no walk, their table is unmapped. */
    for (mcache *mc = all_mcaches; mc != NULL; mc = mc->next) {
        for (uint32_t i = 0; i < SLOT_COUNT; i++)
            mspan_free_all(mc->slots[i].all);
        mcache_clear(mc);
    }
    (void)pthread_mutex_unlock(&list_lock);
}

/*
 * One of the parent's mcaches is still that of the thread that has forked. If this is another thread, the child's own,
 * it can't take it away from there: so that one stays empty, the structures that it named stay zero, and that thread
 * gets another mcache when it needs one (mcache_get). Which of them it is, is not known: none is used again.
 */
void mcache_reset(bool is_forker)
{
    (void)pthread_mutex_init(&list_lock, NULL);
    free_mcaches = NULL;
    all_mcaches = NULL;
    old_mcaches = is_forker ? made_mcaches : NULL;
    for (mcache *mc = is_forker ? NULL : made_mcaches; mc != NULL; mc = mc->next_made)
        mcache_clear(mc);
    pool_reset();
    mspan_reset(is_forker);
    mcache_tls = &mcache_none;
    if (u32_load_acquire(&have_exit_key) != 0)
        (void)pthread_setspecific(exit_key, NULL);
}
