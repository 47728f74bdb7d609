/*
 * Pool: the spans of threads that have exited.
 *
 * Called by thread.c (threads that exit, detach, fork), refill.c and idle.c. Data: lists by slot, private, under one
 * lock, which is not held during a request.
 *
 * While a span is in the pool its owner is the pool itself, written and compared under the lock: what mspan_of names
 * may be no span's structure, or that of another span, which a thread is writing, but one that has the pool for its
 * owner is in it. A span that leaves gets its next owner before the lock is released, so of two threads that want
 * it one has it.
 *
 * nfrees of a span in the pool is what is used in it; others free there remotely, and whoever looks folds.
 */
#include "client/lib/pool.h"

#include <pthread.h>
#include <string.h>

#include "client/lib/offer.h"

#define SCAN_MAX 100u

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static mspan_list pool[SLOT_COUNT];
static mspan_list offered[SLOT_COUNT]; /* those without object: the daemon may take them (offer.c) */
static shm_u64 npool; /* spans of both; looked at without the lock first */

static void add_npool(uint64_t n)
{
    u64_store_relaxed(&npool, u64_load_relaxed(&npool) + n);
}

/* For a thread, or (NULL) for nobody. */
static void leave(mspan *s, void *thread)
{
    mspan_list_remove(&pool[s->slot], s);
    add_npool(UINT64_MAX);
    s->place = MSPAN_CURRENT;
    mspan_set_owner(s, thread);
}

/* Take back a span of that slot that was offered, for a thread, or (NULL) for nobody. NULL: none, or some are gone. */
static mspan *take_offered(uint32_t slot, void *thread)
{
    mspan *s;

    for (unsigned n = 0; n < OFFER_LOOK_MAX && (s = offered[slot].head) != NULL; n++) {
        mspan_list_pop(&offered[slot]);
        add_npool(UINT64_MAX);
        if (offer_take_back(s, thread))
            return s;
        offer_forget(s);
    }
    return NULL;
}

/* A span comes in, or stays and has no object any more: it is in no list. */
static void put(mspan *s, uint32_t nused)
{
    s->nfrees = nused;
    if (nused == 0 && offer_is_possible()) {
        mspan_list_push_front(&offered[s->slot], s);
        offer_make(s);
        return;
    }
    s->place = MSPAN_POOLED;
    mspan_set_owner(s, pool);
    mspan_list_push_back(&pool[s->slot], s);
}

void pool_put(mspan *all)
{
    (void)pthread_mutex_lock(&lock);
    for (mspan *s = all; s != NULL; s = s->all_next) {
        if (s->place == MSPAN_OFFERED)
            mspan_list_push_back(&offered[s->slot], s);
        else
            put(s, mspan_nused(s));
        add_npool(1);
    }
    (void)pthread_mutex_unlock(&lock);
}

mspan *pool_take(uint32_t slot, void *thread, uint32_t *ret_nused)
{
    mspan *s = NULL;
    mspan *look = NULL;
    mspan_list *list = &pool[slot];
    mspan *last;

    if (u64_load_relaxed(&npool) == 0)
        return NULL;
    (void)pthread_mutex_lock(&lock);
    last = list->tail;
    for (unsigned n = 0; n < SCAN_MAX && look != last && s == NULL; n++) {
        look = list->head;
        look->nfrees = mspan_fold(look);
        if (look->nfrees < look->nelems) {
            s = look;
        } else {
            mspan_list_remove(list, look);
            mspan_list_push_back(list, look);
        }
    }
    if (s != NULL) {
        *ret_nused = s->nfrees;
        leave(s, thread);
    } else {
        *ret_nused = 0;
        s = take_offered(slot, thread);
    }
    (void)pthread_mutex_unlock(&lock);
    return s;
}

mspan *pool_take_at(page_no first, void *thread, uint32_t *ret_nused)
{
    mspan *s;

    if (u64_load_relaxed(&npool) == 0)
        return NULL;
    (void)pthread_mutex_lock(&lock);
    s = atomic_load_explicit(&process.mspan_of[first.n], memory_order_acquire);
    if (s == NULL || !mspan_is_of(s, pool) || s->slot == SLOT_TINY || mspan_first(s).n != first.n) {
        s = NULL;
    } else {
        *ret_nused = mspan_fold(s);
        leave(s, thread);
    }
    (void)pthread_mutex_unlock(&lock);
    return s;
}

mspan *pool_take_all(bool empty_only)
{
    mspan *taken = NULL;

    if (u64_load_relaxed(&npool) == 0)
        return NULL;
    (void)pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        for (mspan *s = pool[i].head, *next; s != NULL; s = next) {
            next = s->next;
            s->nfrees = mspan_fold(s);
            if (empty_only && s->nfrees != 0)
                continue;
            leave(s, NULL);
            s->next = taken;
            taken = s;
        }
        while (offered[i].head != NULL) {
            mspan *s = take_offered(i, NULL);

            if (s == NULL)
                continue;
            s->next = taken;
            taken = s;
        }
    }
    (void)pthread_mutex_unlock(&lock);
    return taken;
}

static void clear(void)
{
    memset(pool, 0, sizeof(pool));
    memset(offered, 0, sizeof(offered));
    u64_store_relaxed(&npool, 0);
}

static void forget_list(const mspan_list *list)
{
    for (mspan *s = list->head; s != NULL; s = s->next)
        s->all_next = s->next;
    mspan_free_all(list->head);
}

void pool_forget(void)
{
    (void)pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < SLOT_COUNT; i++) {
        forget_list(&pool[i]);
        forget_list(&offered[i]);
    }
    clear();
    (void)pthread_mutex_unlock(&lock);
}

void pool_reset(void)
{
    (void)pthread_mutex_init(&lock, NULL);
    clear();
}
