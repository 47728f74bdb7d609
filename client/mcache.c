/*
 * mcache: the thread's spans, the process's pool of spans of exited threads, and the slow paths of malloc and free.
 *
 * Called by alloc.c (fast paths), attach.c (detach, fork). Calls mspan.c (bits), connection (refill, return). Data:
 * all private.
 *
 * A span's way through a thread, per slot:
 *
 *        refill                     out of free objects
 *       ---------> EMPTY ---> CURRENT ------------------> FULL
 *                    ^           ^                         |  one of its objects is freed: by this thread
 *                    |           +------- PARTIAL <--------+  (mcache_note_free), or from afar (found when looked at)
 *                    +-- last object freed --+
 *
 * mcache_refill, in order: 1. other words of the current span, 2. a partial span, 3. an empty one, 4. full spans,
 * oldest first, at most 100: have others freed something?, 5. the pool, 6. the daemon. So steady churn asks nobody.
 *
 * Asking: the first request of a slot is for one span, then twice as many each time, up to 64 KiB a request, or 1/8
 * of what the slot holds, up to 8 MiB: what has been asked for and is not used yet stays a small part of a heap that
 * has objects of many sizes. Giving back: nkeep grows with every span that was asked for (to 64 MiB) and
 * shrinks by an eighth with every surrender (2 MiB stay in any case), so a program that needs its memory again keeps
 * it and one that does not gives it up. A surrender returns the empty spans above half of nkeep. When a thread asks for
 * more while an eighth of what it holds is empty spans (of other slots), those go back first, and those of slots that
 * have not been used for some requests already at a 32nd: a heap that grows does not keep what another phase of the
 * program has left. A Trim of the daemon, or goalloc_trim(), takes the rest.
 *
 * What is true if the process dies at any point: the alloc bits say which objects are allocated; all else here is
 * forgotten, and the daemon ends the lease. Order at return: the span disappears from mspan_of before the request is
 * sent (connection_return), since the daemon may lease it to another at once.
 *
 * Locks: list_lock guards the list of mcaches; pool_lock the pool. Neither is held during a request. Order: pool, list,
 * then that of mspan.c.
 */
#include "client/mcache.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "client/connection.h"
#include "client/large.h"
#include "client/meta.h"
#include "client/tiny.h"

#define SCAN_FULL_MAX     100u
#define BATCH_SHARE       8u
#define BATCH_PAGES_MIN   (64 * KIB / PAGE_BYTES)
#define BATCH_PAGES_MAX   (8 * MIB / PAGE_BYTES)
#define KEEP_PAGES_MIN    (2 * MIB / PAGE_BYTES)
#define KEEP_PAGES_MAX    (64 * MIB / PAGE_BYTES)
#define COUNT_AT          64u /* objects */
/* Of what a thread holds, in empty spans while it asks for more: at all, and if slots have not used theirs for long. */
#define KEEP_SHARE        8u
#define KEEP_IDLE_SHARE   32u
#define KEEP_IDLE_REFILLS 8u

mcache mcache_none = {
    .tiny.used = TINY_BLOCK_BYTES,
    .current = { [0 ... SLOT_COUNT - 1] = &mspan_none },
    .direct = { [0 ... 1] = { [0 ... DIRECT_COUNT - 1] = &mspan_none } },
};
_Thread_local mcache *mcache_tls = &mcache_none;

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static mcache *free_mcaches;
static mcache *all_mcaches;

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static mspan_list pool[SLOT_COUNT];
static shm_u64 npool;

static pthread_key_t exit_key;
static bool have_exit_key;

/* --- places --- */

static void place_empty(mcache *mc, mspan *s)
{
    s->place = MSPAN_EMPTY;
    s->nfrees = 0;
    mc->nempty_pages += s->npages;
    mc->slots[s->slot].nempty++;
    mspan_list_push_front(&mc->slots[s->slot].empty, s);
}

static inline void place_full(mcache *mc, mspan *s)
{
    s->place = MSPAN_FULL;
    s->nfrees = 1;
    mspan_list_push_back(&mc->slots[s->slot].full, s);
}

/* Put a span that is in no list where it belongs. */
static void place_span(mcache *mc, mspan *s, uint32_t nused)
{
    if (nused == 0) {
        place_empty(mc, s);
    } else if (nused >= s->nelems) {
        place_full(mc, s);
    } else {
        s->place = MSPAN_PARTIAL;
        s->nfrees = nused;
        mspan_list_push_front(&mc->slots[s->slot].partial, s);
    }
}

static void unlist_empty(mcache *mc, mspan *s)
{
    mspan_list_remove(&mc->slots[s->slot].empty, s);
    mc->slots[s->slot].nempty--;
    mc->nempty_pages -= s->npages;
}

/* Current spans of small objects are found by size, too. */
__attribute__((noinline)) static void set_direct(mcache *mc, uint32_t slot, mspan *s)
{
    uint32_t class = slot % SLOT_NOSCAN;
    mspan **direct = mc->direct[slot >= SLOT_NOSCAN];
    uint32_t last = size_class_bytes[class] / 8;

    for (uint32_t i = class == 1 ? 0 : size_class_bytes[class - 1] / 8 + 1; i <= last; i++)
        direct[i] = s;
}

static inline bool is_direct(const mspan *s)
{
    return s->elem_bytes <= DIRECT_BYTES_MAX && s->slot != SLOT_TINY;
}

/* s is current no more. */
static void set_none(mcache *mc, mspan *s)
{
    mc->current[s->slot] = &mspan_none;
    if (is_direct(s))
        set_direct(mc, s->slot, &mspan_none);
}

static inline void set_current(mcache *mc, mspan *s)
{
    mc->current[s->slot] = s;
    if (is_direct(s))
        set_direct(mc, s->slot, s);
}

static void mcache_clear(mcache *mc)
{
    mc->tiny = (tiny_block){ .used = TINY_BLOCK_BYTES };
    mc->nempty_pages = mc->nheld_pages = 0;
    memset(mc->slots, 0, sizeof(mc->slots));
    memcpy(mc->current, mcache_none.current, sizeof(mc->current));
    memcpy(mc->direct, mcache_none.direct, sizeof(mc->direct));
}

/* Goes up when somebody wants idle spans back: the daemon from this session, or a thread of this process from all. */
static uint32_t trim_seq(void)
{
    const shm_u32 *of_session = atomic_load_explicit(&process.session_trim_seq, memory_order_relaxed);

    return u32_load_relaxed(&process.trim_seq) + u32_load_relaxed(of_session);
}

/* The thread's mcache, made at its first use. NULL: no memory. */
static mcache *mcache_get(void)
{
    mcache *mc = mcache_tls;

    if (mc != &mcache_none)
        return mc;
    (void)pthread_mutex_lock(&list_lock);
    mc = free_mcaches;
    if (mc != NULL) {
        free_mcaches = mc->next;
    } else {
        mspan_fork_prepare(); /* memory for structures is theirs too */
        mc = meta_alloc(sizeof(*mc));
        mspan_fork_parent();
    }
    if (mc != NULL) {
        mcache_clear(mc);
        mc->next = all_mcaches;
        all_mcaches = mc;
    }
    (void)pthread_mutex_unlock(&list_lock);
    if (mc == NULL)
        return NULL;
    mc->thread = thread_self();
    mc->trim_seen = trim_seq();
    mcache_tls = mc;
    if (have_exit_key)
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
    s->recent = NULL;
}

/* The slot has no current span any more: it goes where it belongs. */
static void put_current(mcache *mc, mspan *s)
{
    uint32_t nused = mspan_nused(s);

    leave_current(mc, s, nused);
    set_none(mc, s);
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
    /* If the connection is gone they go back when there is one again. */
    if (r->n > 0)
        (void)connection_return(r->spans, r->n, false);
    r->n = 0;
}

static void returns_add(returns *r, mspan *s)
{
    if (r->n == PROTO_SPANS_MAX)
        returns_flush(r);
    r->spans[r->n++] = s->first.n;
    mspan_delete(s);
}

/* Return a span of the thread's that is in no list any more. */
static void return_own(mcache *mc, mspan *s, returns *r)
{
    mc->slots[s->slot].nspans--;
    mc->nheld_pages -= s->npages;
    returns_add(r, s);
}

/* Return empty spans of a slot until nleft are left. */
static void return_empty(mcache *mc, mcache_slot *slot, uint64_t nleft, returns *r)
{
    while (slot->nempty > nleft) {
        mspan *s = slot->empty.tail;

        unlist_empty(mc, s);
        return_own(mc, s, r);
    }
}

/* Look through the full or partial spans of a slot: what others have emptied goes to the empty ones. */
static void fold_list(mcache *mc, mspan_list *list)
{
    for (mspan *s = list->head, *next; s != NULL; s = next) {
        uint32_t nused;

        next = s->next;
        if (!mspan_has_remote_frees(s))
            continue;
        nused = mspan_fold(s);
        if (s->place == MSPAN_PARTIAL && nused != 0) {
            s->nfrees = nused;
        } else if (s->place == MSPAN_PARTIAL || nused < s->nelems) {
            mspan_list_remove(list, s);
            place_span(mc, s, nused);
        }
    }
}

static void pool_return(returns *r)
{
    mspan *taken = NULL;

    if (u64_load_relaxed(&npool) == 0)
        return;
    (void)pthread_mutex_lock(&pool_lock);
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        for (mspan *s = pool[i].head, *next; s != NULL; s = next) {
            next = s->next;
            s->nfrees = mspan_fold(s);
            if (process.reclaim && s->nfrees != 0)
                continue;
            mspan_list_remove(&pool[i], s);
            u64_store_relaxed(&npool, u64_load_relaxed(&npool) - 1);
            s->next = taken;
            taken = s;
        }
    }
    (void)pthread_mutex_unlock(&pool_lock);
    /* Nobody knows them now; a request may follow, and takes the connection's lock, which comes before the pool's. */
    for (mspan *s = taken, *next; s != NULL; s = next) {
        next = s->next;
        returns_add(r, s);
    }
}

void mcache_return_empty(mcache *mc)
{
    returns r = { .n = 0 };

    for (uint32_t i = 0; mc != &mcache_none && i < SLOT_COUNT; i++) {
        mcache_slot *slot = &mc->slots[i];

        fold_list(mc, &slot->full);
        fold_list(mc, &slot->partial);
        return_empty(mc, slot, 0, &r);
        slot->nkeep = 0;
        slot->nbatch = 0;
    }
    pool_return(&r);
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
    }
    for (uint32_t i = 0; mc != &mcache_none && i < SLOT_COUNT; i++) {
        mcache_slot *slot = &mc->slots[i];
        mspan_list *lists[] = { &slot->partial, &slot->full };
        mspan *s = mc->current[i];

        if (s != &mspan_none)
            put_current(mc, s);
        for (size_t l = 0; l < 2 && !process.reclaim; l++) {
            while ((s = lists[l]->head) != NULL) {
                mspan_list_remove(lists[l], s);
                return_own(mc, s, &r);
            }
        }
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

void mcache_note_free(mspan *s)
{
    mcache *mc = atomic_load_explicit(&s->holder, memory_order_relaxed);
    mcache_slot *slot = &mc->slots[s->slot];

    switch (s->place) {
    case MSPAN_FULL:
        mspan_list_remove(&slot->full, s);
        if (s->nelems > 1) {
            s->place = MSPAN_PARTIAL;
            s->nfrees = s->nelems - 1;
            mspan_list_push_front(&slot->partial, s);
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

/* A full span in which others have freed objects. Those that were looked at in vain go to the young end. */
static mspan *take_from_full(mcache_slot *slot, uint32_t *ret_nused)
{
    mspan *last = slot->full.tail;
    mspan *s = NULL;

    for (unsigned n = 0; n < SCAN_FULL_MAX && s != last; n++) {
        s = slot->full.head;
        mspan_list_remove(&slot->full, s);
        if (mspan_has_remote_frees(s)) {
            *ret_nused = mspan_fold(s);
            if (*ret_nused < s->nelems)
                return s;
        }
        mspan_list_push_back(&slot->full, s);
    }
    return NULL;
}

static mspan *take_from_pool(mcache *mc, uint32_t slot, uint32_t *ret_nused)
{
    mspan *s = NULL;
    mspan *look = NULL;
    mspan_list *list = &pool[slot];
    mspan *last;

    if (u64_load_relaxed(&npool) == 0)
        return NULL;
    (void)pthread_mutex_lock(&pool_lock);
    last = list->tail;
    for (unsigned n = 0; n < SCAN_FULL_MAX && look != last && s == NULL; n++) {
        look = list->head;
        mspan_list_remove(list, look);
        look->nfrees = mspan_fold(look);
        if (look->nfrees < look->nelems)
            s = look;
        else
            mspan_list_push_back(list, look);
    }
    if (s != NULL) {
        u64_store_relaxed(&npool, u64_load_relaxed(&npool) - 1);
        mspan_set_holder(s, mc);
        mc->slots[slot].nspans++;
        mc->nheld_pages += s->npages;
        *ret_nused = s->nfrees;
    }
    (void)pthread_mutex_unlock(&pool_lock);
    return s;
}

/* Give back the empty spans of the slots that have taken none for nrefills requests, but for one slot. */
static void return_idle(mcache *mc, const mcache_slot *but, uint64_t nrefills)
{
    returns r = { .n = 0 };

    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        mcache_slot *slot = &mc->slots[i];

        if (slot == but || slot->nempty == 0 || mc->nrefills - slot->used_at < nrefills)
            continue;
        return_empty(mc, slot, 0, &r);
        slot->nkeep /= 2;
    }
    returns_flush(&r);
}

void mcache_make_room(mcache *mc, uint32_t slot)
{
    const mcache_slot *growing = slot < SLOT_COUNT ? &mc->slots[slot] : NULL;

    if (mc == &mcache_none || mc->nempty_pages <= KEEP_PAGES_MIN)
        return;
    if (mc->nempty_pages > mc->nheld_pages / KEEP_SHARE)
        return_idle(mc, growing, 0);
    else if (mc->nempty_pages > mc->nheld_pages / KEEP_IDLE_SHARE)
        return_idle(mc, growing, KEEP_IDLE_REFILLS);
}

/* How many spans to ask for: twice as many as last time, but not more than a share of what the slot holds. */
static uint32_t next_batch(mcache_slot *slot, uint64_t npages)
{
    uint64_t most_pages = slot->nspans * npages / BATCH_SHARE;

    if (most_pages < BATCH_PAGES_MIN)
        most_pages = BATCH_PAGES_MIN;
    if (most_pages > BATCH_PAGES_MAX)
        most_pages = BATCH_PAGES_MAX;

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
    int n;

    mc->nrefills++;
    mcache_make_room(mc, i);
    n = connection_refill(slot_spc(i), npages, next_batch(slot, npages), false, spans);
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
        mspan *s = mspan_new(mc, i, spans[at], &nused);

        if (s == NULL) { /* no room to describe it */
            (void)connection_return(&spans[at], (uint32_t)(n - at), false);
            break;
        }
        slot->nspans++;
        mc->nheld_pages += npages;
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
            set_current(mc, s);
            mc->slots[i].used_at = mc->nrefills;
            return s;
        }
        place_span(mc, s, s->nelems); /* the bits of a leased span are full: somebody scribbles */
    }
    return NULL;
}

/* All else that there is. */
__attribute__((noinline)) static mspan *refill_from_afar(uint32_t i)
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
        if (s == NULL)
            s = take_from_pool(mc, i, &nused);
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

    if (s != &mspan_none) {
        mspan *next;

        if (mspan_advance(s))
            return s;
        leave_current(mc, s, s->nelems);
        place_full(mc, s);
        if (LIKELY(!trim_is_due(mc)) && LIKELY((next = refill_from_lists(mc, i)) != NULL))
            return next;
        set_none(mc, s);
    }
    return refill_from_afar(i);
}

void *mcache_alloc(uint32_t slot)
{
    mspan *s = mcache_refill(slot);

    return LIKELY(s != NULL) ? mspan_take(s) : NULL;
}

/* --- threads, detach, fork --- */

/* A thread ends: its spans go to the process. */
static void mcache_on_thread_exit(void *data)
{
    mcache *mc = data;

    mcache_count_all(mc);
    tiny_close(mc);
    mcache_tls = &mcache_none;
    (void)pthread_mutex_lock(&pool_lock);
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        mcache_slot *slot = &mc->slots[i];
        mspan_list *lists[] = { &slot->partial, &slot->empty, &slot->full };
        mspan *s = mc->current[i];

        if (s != &mspan_none)
            put_current(mc, s);
        for (size_t l = 0; l < 3; l++) {
            while ((s = lists[l]->head) != NULL) {
                mspan_list_remove(lists[l], s);
                mspan_set_holder(s, NULL);
                s->nfrees = mspan_nused(s);
                s->place = MSPAN_POOLED;
                mspan_list_push_back(&pool[i], s);
                u64_store_relaxed(&npool, u64_load_relaxed(&npool) + 1);
            }
        }
    }
    (void)pthread_mutex_unlock(&pool_lock);

    (void)pthread_mutex_lock(&list_lock);
    for (mcache **at = &all_mcaches; *at != NULL; at = &(*at)->next) {
        if (*at == mc) {
            *at = mc->next;
            break;
        }
    }
    mc->next = free_mcaches;
    free_mcaches = mc;
    (void)pthread_mutex_unlock(&list_lock);
}

/* The process ends: the main thread's counts come in too. */
__attribute__((destructor)) static void mcache_on_process_exit(void)
{
    mcache_count_all(mcache_tls);
}

__attribute__((constructor)) static void mcache_init(void)
{
    /* At load time the key is one of the first, so that setting it never allocates. */
    have_exit_key = pthread_key_create(&exit_key, mcache_on_thread_exit) == 0;
}

void mcache_forget_all(void)
{
    (void)pthread_mutex_lock(&pool_lock);
    (void)pthread_mutex_lock(&list_lock);
    memset(pool, 0, sizeof(pool));
    u64_store_relaxed(&npool, 0);
    /* mcaches stay, since threads point to them; spans need no walk, their table is unmapped. */
    for (mcache *mc = all_mcaches; mc != NULL; mc = mc->next) {
        for (uint32_t i = 0; i < SLOT_COUNT; i++) {
            mcache_slot *slot = &mc->slots[i];

            if (mc->current[i] != &mspan_none)
                mspan_list_push_front(&slot->partial, mc->current[i]);
            mspan_free_list(&slot->partial);
            mspan_free_list(&slot->empty);
            mspan_free_list(&slot->full);
        }
        mcache_clear(mc);
    }
    (void)pthread_mutex_unlock(&list_lock);
    (void)pthread_mutex_unlock(&pool_lock);
}

void mcache_fork_prepare(void)
{
    (void)pthread_mutex_lock(&pool_lock);
    (void)pthread_mutex_lock(&list_lock);
    mspan_fork_prepare();
}

void mcache_fork_parent(void)
{
    mspan_fork_parent();
    (void)pthread_mutex_unlock(&list_lock);
    (void)pthread_mutex_unlock(&pool_lock);
}

void mcache_fork_child(void)
{
    /*
     * The spans are the parent's, and other threads' lists may be torn: nothing is walked, all structures start over.
     */
    memset(pool, 0, sizeof(pool));
    u64_store_relaxed(&npool, 0);
    free_mcaches = NULL;
    all_mcaches = NULL;
    mspan_fork_child();
    mcache_tls = &mcache_none;
    if (have_exit_key)
        (void)pthread_setspecific(exit_key, NULL);
    (void)pthread_mutex_unlock(&list_lock);
    (void)pthread_mutex_unlock(&pool_lock);
}
