/*
 * mcache: the thread's spans, the process's pool of spans of exited threads, and the slow paths of malloc and free.
 *
 * Called by alloc.c (fast paths), attach.c (detach, fork). Calls connection (refill, return). Data: all private, but
 * the bits: the owner of a span writes its alloc words and folds its remote words (object_fold_word).
 *
 * A span's way through a thread, per span class:
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
 * Asking: the first request of a class is for one span, then twice as many each time, up to 1 MiB a request, or 1/16
 * of what the class holds, up to 8 MiB. Giving back: nkeep grows with every span that was asked for (to 16 MiB) and
 * shrinks by an eighth with every surrender (2 MiB stay in any case), so a program that needs its memory again keeps
 * it and one that does not gives it up. A surrender returns the empty spans above half of nkeep. A Trim of the
 * daemon, or goalloc_trim(), takes the rest.
 *
 * What is true if the process dies at any point: the alloc bits say which objects are allocated; all else here is
 * forgotten, and the daemon ends the lease. Order at return: the span disappears from mspan_of before the request is
 * sent (connection_return), since the daemon may lease it to another at once.
 *
 * Locks: struct_lock guards free structures and the list of mcaches; pool_lock the pool. Neither is held during a
 * request. Order: pool, then struct.
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
#define BATCH_PAGES       (MIB / PAGE_BYTES)
#define BATCH_PAGES_MAX   (8 * MIB / PAGE_BYTES)
#define KEEP_PAGES_MIN    (2 * MIB / PAGE_BYTES)
#define KEEP_PAGES_MAX    (16 * MIB / PAGE_BYTES)

mspan mspan_none;
mspan mspan_held;
mspan mspan_large;
mspan mspan_doubt;
mcache mcache_none = { .tiny.used = TINY_BLOCK_BYTES, .alloc = { [0 ... SPAN_CLASS_COUNT - 1] = &mspan_none } };
_Thread_local mcache *mcache_tls __attribute__((tls_model("initial-exec"))) = &mcache_none;

static pthread_mutex_t struct_lock = PTHREAD_MUTEX_INITIALIZER;
static mspan *free_mspans;
static mcache *free_mcaches;
static mcache *all_mcaches;

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static mspan_list pool[SPAN_CLASS_COUNT];
static shm_u64 npool;

static pthread_key_t exit_key;
static bool have_exit_key;

/* --- lists --- */

static void list_push_front(mspan_list *list, mspan *s)
{
    s->prev = NULL;
    s->next = list->head;
    if (list->head != NULL)
        list->head->prev = s;
    else
        list->tail = s;
    list->head = s;
    list->count++;
}

static void list_push_back(mspan_list *list, mspan *s)
{
    s->next = NULL;
    s->prev = list->tail;
    if (list->tail != NULL)
        list->tail->next = s;
    else
        list->head = s;
    list->tail = s;
    list->count++;
}

static void list_remove(mspan_list *list, mspan *s)
{
    if (s->prev != NULL)
        s->prev->next = s->next;
    else
        list->head = s->next;
    if (s->next != NULL)
        s->next->prev = s->prev;
    else
        list->tail = s->prev;
    list->count--;
}

static mspan_list *list_of(mcache *mc, const mspan *s)
{
    mcache_class *c = &mc->classes[s->spc.n];

    switch (s->place) {
    case MSPAN_PARTIAL:
        return &c->partial;
    case MSPAN_EMPTY:
        return &c->empty;
    case MSPAN_FULL:
        return &c->full;
    default:
        return NULL;
    }
}

/* Put a span that is in no list where nused says. */
static void place_span(mcache *mc, mspan *s)
{
    bool full = s->nused >= (int32_t)s->nelems;

    s->place = full ? MSPAN_FULL : s->nused == 0 ? MSPAN_EMPTY : MSPAN_PARTIAL;
    s->slow_at = full ? (int32_t)s->nelems : 0;
    if (full)
        list_push_back(&mc->classes[s->spc.n].full, s);
    else
        list_push_front(list_of(mc, s), s);
}

/* --- structures --- */

static void mspan_set_holder(mspan *s, mcache *mc)
{
    atomic_store_explicit(&s->holder, mc, memory_order_relaxed);
    atomic_store_explicit(&s->owner, s->spc.n == SPAN_CLASS_TINY ? NULL : mc, memory_order_relaxed);
}

/*
 * Describe a span that the daemon has just leased to this process. NULL: no memory, or the description is not a span
 * of that class.
 */
static mspan *mspan_new(mcache *mc, span_class spc, uint32_t first)
{
    const shm_span *span;
    mspan *s;

    if (first == 0 || first >= process.map.npages)
        return NULL;
    span = shm_span_at(&process.map, page_at(first));
    if (span->spc.n != spc.n || span->nelems != size_class_nelems[span_class_size(spc).n])
        return NULL;

    (void)pthread_mutex_lock(&struct_lock);
    s = free_mspans;
    if (s != NULL)
        free_mspans = s->next;
    else
        s = meta_alloc(sizeof(*s));
    (void)pthread_mutex_unlock(&struct_lock);
    if (s == NULL)
        return NULL;

    s->cache = 0;
    s->elem_bytes = (uint32_t)span->elem_bytes;
    s->magic = span->magic;
    s->base = (char *)(uintptr_t)(process.map.base + page_offset(page_at(first)));
    s->alloc = shm_alloc_bits(&process.map, page_at(first));
    s->nelems = span->nelems;
    s->npages = span->npages;
    s->first = page_at(first);
    s->spc = spc;
    s->needzero = span->needzero != 0;
    s->cur = UINT32_MAX; /* no word yet: the search begins at word 0 */
    s->fresh_from = 0;
    s->fresh = 0;
    s->nloaded = s->nback = 0;
    s->nused = 0;
    for (uint32_t w = 0; w < bits_nwords(s->nelems); w++)
        s->nused += __builtin_popcountll(u64_load_relaxed(&s->alloc[w]) & bits_mask(s->nelems, w));
    mspan_set_holder(s, mc);
    for (uint32_t i = 0; i < s->npages; i++)
        atomic_store_explicit(&process.mspan_of[first + i], s, memory_order_release);
    mc->classes[spc.n].nspans++;
    return s;
}

/*
 * Forget a span that is about to be returned. Until connection_return() clears it, under the connection's lock, the
 * first page's entry still says that the span is held: else it might be returned twice, once by who finds it unknown
 * after the connection was lost.
 */
static void mspan_delete(mspan *s)
{
    atomic_store_explicit(&process.mspan_of[s->first.n], &mspan_held, memory_order_release);
    for (uint32_t i = 1; i < s->npages; i++)
        atomic_store_explicit(&process.mspan_of[s->first.n + i], NULL, memory_order_release);
    mspan_set_holder(s, NULL);
    (void)pthread_mutex_lock(&struct_lock);
    s->next = free_mspans;
    free_mspans = s;
    (void)pthread_mutex_unlock(&struct_lock);
}

static void mcache_clear(mcache *mc)
{
    mc->tiny = (tiny_block){ .used = TINY_BLOCK_BYTES };
    memset(mc->classes, 0, sizeof(mc->classes));
    for (int i = 0; i < SPAN_CLASS_COUNT; i++)
        mc->alloc[i] = &mspan_none;
}

/* The thread's mcache, made at its first use. NULL: no memory. */
static mcache *mcache_get(void)
{
    mcache *mc = mcache_tls;

    if (mc != &mcache_none)
        return mc;
    (void)pthread_mutex_lock(&struct_lock);
    mc = free_mcaches;
    if (mc != NULL)
        free_mcaches = mc->next;
    else
        mc = meta_alloc(sizeof(*mc));
    if (mc != NULL) {
        mcache_clear(mc);
        mc->next = all_mcaches;
        all_mcaches = mc;
    }
    (void)pthread_mutex_unlock(&struct_lock);
    if (mc == NULL)
        return NULL;
    mc->process_trim_seen = u32_load_relaxed(&process.trim_seq);
    mc->session_trim_seen = u32_load_relaxed(&process.map.sessions[process.session.n].trim_seq);
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

/* Count what has been handed out of the cache of s since this was last done. */
static void mspan_count(const mcache *mc, mspan *s)
{
    uint32_t left = (uint32_t)__builtin_popcountll(s->cache);

    if (s->spc.n != SPAN_CLASS_TINY) /* of tiny blocks the objects are counted, not they themselves */
        mcache_count(mc, s->spc, s->nloaded + s->nback - left);
    s->nloaded = left;
    s->nback = 0;
}

void mcache_count_all(mcache *mc)
{
    if (mc == &mcache_none)
        return;
    for (int i = 0; i < SPAN_CLASS_COUNT; i++) {
        if (mc->alloc[i] != &mspan_none)
            mspan_count(mc, mc->alloc[i]);
    }
    mcache_count(mc, (span_class){ SPAN_CLASS_TINY }, mc->tiny.nallocs);
    mc->tiny.nallocs = 0;
}

/* --- words and spans --- */

/* Fold remote frees of word w into its alloc word. Returns the word's free objects. */
static uint64_t mspan_fold_word(mspan *s, uint32_t w)
{
    const shm_span *span = shm_span_at(&process.map, s->first);
    uint64_t before = u64_load_relaxed(&s->alloc[w]);
    uint64_t bits;

    if (s->spc.n == SPAN_CLASS_TINY) /* in the pool no block is open */
        bits = tiny_fold_word(&process.map, s->first, span, w, tiny_open_bit(mcache_tls, s, w));
    else
        bits = object_fold_word(&process.map, s->first, span, w);

    s->nused -= __builtin_popcountll(before & ~bits);
    return ~bits & bits_mask(s->nelems, w);
}

/* Go on to the next word with a free object, all round the span. True: cache is not 0. */
static bool mspan_advance(const mcache *mc, mspan *s)
{
    uint32_t nwords = bits_nwords(s->nelems);

    mspan_count(mc, s);
    for (uint32_t i = 0; s->cache == 0 && i < nwords; i++) {
        uint32_t w = s->cur + 1 < nwords ? s->cur + 1 : 0;

        s->cur = w;
        s->word = &s->alloc[w];
        s->word_base = s->base + (uint64_t)w * 64 * s->elem_bytes;
        s->cache = mspan_fold_word(s, w);
        s->fresh = 0;
        if (!s->needzero && w >= s->fresh_from) {
            s->fresh = s->cache;
            s->fresh_from = w + 1;
        }
    }
    s->nloaded = (uint32_t)__builtin_popcountll(s->cache);
    return s->cache != 0;
}

/* Fold the current word. */
static void mspan_fold_cache(mspan *s, uint32_t w)
{
    uint32_t before = (uint32_t)__builtin_popcountll(s->cache);

    s->cache = mspan_fold_word(s, w);
    s->nloaded += (uint32_t)__builtin_popcountll(s->cache) - before;
}

/* Fold all words of a span that is not current. */
static void mspan_fold(mspan *s)
{
    s->fresh &= s->cache; /* what comes into the cache now was used before */
    for (uint32_t w = 0; w < bits_nwords(s->nelems); w++) {
        if (w != s->cur)
            (void)mspan_fold_word(s, w);
        else
            mspan_fold_cache(s, w);
    }
}

static bool mspan_has_remote_frees(const mspan *s)
{
    uint64_t remote = 0;

    for (uint32_t w = 0; w < bits_nwords(s->nelems); w++)
        remote |= u64_load_relaxed(&s->alloc[SHM_BITS_WORDS + w]);
    return remote != 0;
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

/* Return empty spans of class c until nleft are left. */
static void class_return_empty(mcache_class *c, uint64_t nleft, returns *r)
{
    while (c->empty.count > nleft) {
        mspan *s = c->empty.tail;

        list_remove(&c->empty, s);
        c->nspans--;
        returns_add(r, s);
    }
}

/* Look through the full and partial spans of a class: what others have emptied goes to the empty ones. */
static void class_fold(mcache *mc, mspan_list *list)
{
    for (mspan *s = list->head, *next; s != NULL; s = next) {
        next = s->next;
        if (!mspan_has_remote_frees(s))
            continue;
        mspan_fold(s);
        if (s->place == MSPAN_PARTIAL ? s->nused != 0 : s->nused >= (int32_t)s->nelems)
            continue;
        list_remove(list, s);
        place_span(mc, s);
    }
}

static void pool_return(returns *r)
{
    mspan *taken = NULL;

    if (u64_load_relaxed(&npool) == 0)
        return;
    (void)pthread_mutex_lock(&pool_lock);
    for (int c = 0; c < SPAN_CLASS_COUNT; c++) {
        for (mspan *s = pool[c].head, *next; s != NULL; s = next) {
            next = s->next;
            mspan_fold(s);
            if (process.reclaim && s->nused != 0)
                continue;
            list_remove(&pool[c], s);
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

    for (int i = 0; mc != &mcache_none && i < SPAN_CLASS_COUNT; i++) {
        mcache_class *c = &mc->classes[i];

        class_fold(mc, &c->full);
        class_fold(mc, &c->partial);
        class_return_empty(c, 0, &r);
        c->nkeep = 0;
        c->nbatch = 0;
    }
    pool_return(&r);
    returns_flush(&r);
    large_return_cached();
}

void mcache_return_all(void)
{
    mcache *mc = mcache_tls;
    returns r = { .n = 0 };

    if (mc != &mcache_none) {
        mcache_count_all(mc);
        tiny_close(mc);
    }
    for (int i = 0; mc != &mcache_none && !process.reclaim && i < SPAN_CLASS_COUNT; i++) {
        mcache_class *c = &mc->classes[i];
        mspan_list *lists[] = { &c->partial, &c->full };

        if (mc->alloc[i] != &mspan_none)
            returns_add(&r, mc->alloc[i]);
        mc->alloc[i] = &mspan_none;
        for (size_t l = 0; l < 2; l++) {
            for (mspan *s = lists[l]->head, *next; s != NULL; s = next) {
                next = s->next;
                returns_add(&r, s);
            }
        }
        class_return_empty(c, 0, &r);
        *c = (mcache_class){ .nbatch = 0 };
    }
    for (int i = 0; mc != &mcache_none && process.reclaim && i < SPAN_CLASS_COUNT; i++) {
        mspan *s = mc->alloc[i];

        if (s != &mspan_none) {
            mspan_fold(s);
            mc->alloc[i] = &mspan_none;
            place_span(mc, s);
        }
    }
    returns_flush(&r);
    mcache_return_empty(mc);
}

/* More empty spans than the class is to keep: let those above half of it go. */
static void class_surrender(mcache_class *c, uint32_t nmin)
{
    returns r = { .n = 0 };
    int keep_errno = errno;

    if (!connection_is_up())
        return; /* who knows when there will be more */
    c->nkeep -= c->nkeep / 8;
    class_return_empty(c, (c->nkeep > nmin ? c->nkeep : nmin) / 2, &r);
    returns_flush(&r);
    errno = keep_errno;
}

void mcache_note_free(mcache *mc, mspan *s)
{
    mcache_class *c = &mc->classes[s->spc.n];
    uint32_t nmin = (uint32_t)KEEP_PAGES_MIN / s->npages;

    list_remove(list_of(mc, s), s);
    place_span(mc, s);
    if (s->place == MSPAN_EMPTY && c->empty.count > c->nkeep && c->empty.count > nmin)
        class_surrender(c, nmin);
}

/* --- refill --- */

static void answer_trim(mcache *mc)
{
    uint32_t of_process = u32_load_relaxed(&process.trim_seq);
    uint32_t of_session = u32_load_relaxed(&process.map.sessions[process.session.n].trim_seq);

    if (LIKELY(of_process == mc->process_trim_seen && of_session == mc->session_trim_seen))
        return;
    mc->process_trim_seen = of_process;
    mc->session_trim_seen = of_session;
    mcache_return_empty(mc);
}

static mspan *take_from_lists(mcache_class *c)
{
    mspan_list *list = c->partial.count > 0 ? &c->partial : &c->empty;
    mspan *s = list->head;

    if (s != NULL)
        list_remove(list, s);
    return s;
}

/* A full span in which others have freed objects. Those that were looked at in vain go to the young end. */
static mspan *take_from_full(mcache_class *c)
{
    uint64_t n = c->full.count < SCAN_FULL_MAX ? c->full.count : SCAN_FULL_MAX;

    for (; n > 0; n--) {
        mspan *s = c->full.head;

        list_remove(&c->full, s);
        if (mspan_has_remote_frees(s)) {
            mspan_fold(s);
            if (s->nused < (int32_t)s->nelems)
                return s;
        }
        list_push_back(&c->full, s);
    }
    return NULL;
}

static mspan *take_from_pool(mcache *mc, span_class spc)
{
    mspan *s = NULL;
    mspan_list *list = &pool[spc.n];

    if (u64_load_relaxed(&npool) == 0)
        return NULL;
    (void)pthread_mutex_lock(&pool_lock);
    for (uint64_t n = list->count < SCAN_FULL_MAX ? list->count : SCAN_FULL_MAX; n > 0 && s == NULL; n--) {
        mspan *look = list->head;

        list_remove(list, look);
        mspan_fold(look);
        if (look->nused < (int32_t)look->nelems)
            s = look;
        else
            list_push_back(list, look);
    }
    if (s != NULL) {
        u64_store_relaxed(&npool, u64_load_relaxed(&npool) - 1);
        mspan_set_holder(s, mc);
        mc->classes[spc.n].nspans++;
    }
    (void)pthread_mutex_unlock(&pool_lock);
    return s;
}

/* How many spans to ask for: twice as many as last time, within bounds. */
static uint32_t next_batch(mcache_class *c, uint64_t npages)
{
    uint64_t most_pages = c->nspans * npages / 16;

    if (most_pages < BATCH_PAGES)
        most_pages = BATCH_PAGES;
    if (most_pages > BATCH_PAGES_MAX)
        most_pages = BATCH_PAGES_MAX;

    uint64_t most = most_pages / npages;

    if (most > PROTO_SPANS_MAX)
        most = PROTO_SPANS_MAX;
    c->nbatch = c->nbatch == 0 ? 1 : c->nbatch * 2;
    if (c->nbatch > most)
        c->nbatch = (uint32_t)most;
    return c->nbatch;
}

static mspan *take_from_daemon(mcache *mc, span_class spc)
{
    mcache_class *c = &mc->classes[spc.n];
    uint64_t npages = size_class_npages[span_class_size(spc).n];
    uint32_t spans[PROTO_SPANS_MAX];
    mspan *first = NULL;
    int n = connection_refill(spc, next_batch(c, npages), false, spans);

    if (n == -ENOMEM || n == -EAGAIN) {
        /*
         * What this process holds empty may be what is missing, or what puts the heap above its memory limit; and
         * looking for it may have found free objects of this class.
         */
        mcache_return_empty(mc);
        first = take_from_lists(c);
        if (first != NULL)
            return first;
        c->nbatch = 1;
        n = connection_refill(spc, 1, true, spans);
    }
    if (n < 0) {
        errno = -n;
        return NULL;
    }
    CRASH_POINT(refill_after_reply);
    for (int i = 0; i < n; i++) {
        mspan *s = mspan_new(mc, spc, spans[i]);

        if (s == NULL) { /* no room to describe it */
            (void)connection_return(&spans[i], (uint32_t)(n - i), false);
            break;
        }
        if (first == NULL) {
            first = s;
            continue;
        }
        s->slow_at = 0;
        s->place = s->nused == 0 ? MSPAN_EMPTY : MSPAN_PARTIAL;
        list_push_back(list_of(mc, s), s);
    }
    c->nkeep += (uint32_t)n;
    if (c->nkeep > KEEP_PAGES_MAX / npages)
        c->nkeep = (uint32_t)(KEEP_PAGES_MAX / npages);
    if (first == NULL)
        errno = ENOMEM;
    return first;
}

mspan *mcache_refill(span_class spc)
{
    int r = process_ensure_writable();
    mcache *mc = r < 0 ? NULL : mcache_get();
    mspan *s;

    if (mc == NULL) {
        errno = r < 0 ? -r : ENOMEM;
        return NULL;
    }

    mcache_class *c = &mc->classes[spc.n];

    s = mc->alloc[spc.n];
    if (s != &mspan_none) {
        if (mspan_advance(mc, s))
            return s;
        mc->alloc[spc.n] = &mspan_none;
        place_span(mc, s);
    }
    answer_trim(mc);
    do {
        s = take_from_lists(c);
        if (s == NULL)
            s = take_from_full(c);
        if (s == NULL)
            s = take_from_pool(mc, spc);
        if (s == NULL)
            s = take_from_daemon(mc, spc);
        if (s == NULL)
            return NULL;
        s->place = MSPAN_CURRENT;
        s->slow_at = -1;
        if (mspan_advance(mc, s)) {
            mc->alloc[spc.n] = s;
            return s;
        }
        s->nused = (int32_t)s->nelems; /* the bits of a leased span are full: somebody scribbles */
        place_span(mc, s);
    } while (true);
}

void *mcache_alloc(span_class spc)
{
    mspan *s = mcache_tls->alloc[spc.n];

    if (s->cache == 0)
        s = mcache_refill(spc);
    return s == NULL ? NULL : mspan_take(s, s->cache);
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
    for (int i = 0; i < SPAN_CLASS_COUNT; i++) {
        mcache_class *c = &mc->classes[i];
        mspan_list *lists[] = { &c->partial, &c->empty, &c->full };

        if (mc->alloc[i] != &mspan_none)
            list_push_front(&c->partial, mc->alloc[i]);
        for (size_t l = 0; l < 3; l++) {
            for (mspan *s = lists[l]->head, *next; s != NULL; s = next) {
                next = s->next;
                mspan_set_holder(s, NULL);
                s->place = MSPAN_CURRENT;
                list_push_back(&pool[i], s);
                u64_store_relaxed(&npool, u64_load_relaxed(&npool) + 1);
            }
        }
    }
    (void)pthread_mutex_unlock(&pool_lock);

    (void)pthread_mutex_lock(&struct_lock);
    for (mcache **at = &all_mcaches; *at != NULL; at = &(*at)->next) {
        if (*at == mc) {
            *at = mc->next;
            break;
        }
    }
    mc->next = free_mcaches;
    free_mcaches = mc;
    (void)pthread_mutex_unlock(&struct_lock);
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
    (void)pthread_mutex_lock(&struct_lock);
    memset(pool, 0, sizeof(pool));
    u64_store_relaxed(&npool, 0);
    /* mcaches stay, since threads point to them; spans need no walk, their table is unmapped. */
    for (mcache *mc = all_mcaches; mc != NULL; mc = mc->next) {
        for (int i = 0; i < SPAN_CLASS_COUNT; i++) {
            mcache_class *c = &mc->classes[i];
            mspan_list *lists[] = { &c->partial, &c->empty, &c->full };

            if (mc->alloc[i] != &mspan_none)
                list_push_front(&c->partial, mc->alloc[i]);
            for (size_t l = 0; l < 3; l++) {
                for (mspan *s = lists[l]->head, *next; s != NULL; s = next) {
                    next = s->next;
                    s->next = free_mspans;
                    free_mspans = s;
                }
            }
        }
        mcache_clear(mc);
    }
    (void)pthread_mutex_unlock(&struct_lock);
    (void)pthread_mutex_unlock(&pool_lock);
}

void mcache_fork_prepare(void)
{
    (void)pthread_mutex_lock(&pool_lock);
    (void)pthread_mutex_lock(&struct_lock);
}

void mcache_fork_parent(void)
{
    (void)pthread_mutex_unlock(&struct_lock);
    (void)pthread_mutex_unlock(&pool_lock);
}

void mcache_fork_child(void)
{
    /*
     * The spans are the parent's, and other threads' lists may be torn: nothing is walked, all structures start over.
     */
    memset(pool, 0, sizeof(pool));
    u64_store_relaxed(&npool, 0);
    free_mspans = NULL;
    free_mcaches = NULL;
    all_mcaches = NULL;
    meta_reset();
    mcache_tls = &mcache_none;
    if (have_exit_key)
        (void)pthread_setspecific(exit_key, NULL);
    mcache_fork_parent();
}
