/*
 * mspan: structures of leased spans, the current span's way through its words, and folding.
 *
 * Called by mcache.c, refill.c, idle.c, pool.c and offer.c; calls meta.c. Data: the structures, private; mspan_of; the
 * spans' bits, whose alloc words the holder writes.
 *
 * What malloc and free write is one word of shared memory each. The current span has one of its words loaded into a
 * private cache of free objects. Those that are freed go to the magazine of the slot (magazine.h), or wait in their
 * alloc words until the span comes round to them.
 *
 * nfrees is all that a free counts, if it does not go to the magazine; what lies there counts as used until it is
 * flushed. It is set so that it becomes 0 with the free that changes the span's place:
 *   CURRENT   NFREES_CURRENT; the frees since are what it lacks. When it comes to 0 that is noted, and it is set again.
 *   FULL      1: the first free makes it PARTIAL, or EMPTY
 *   PARTIAL   the objects in use: the last free makes it EMPTY
 *   EMPTY     0, and no free can come: every alloc bit is 0
 *   POOLED    the objects in use; nobody's frees take the fast path
 *   OFFERED   0, and no free can come: the span is empty, or another's
 *
 * Allocations are not counted one by one either, but for those from the magazine. While a span is current, what its
 * cache has handed out = used now - used when it was last counted + freed by the owner + folded; used is the number of
 * alloc bits, which is looked at when it leaves, while the magazine is empty.
 *
 * Zero: a fresh span's objects are zero as long as they were never handed out. While the span is current for the first
 * time and nothing of it has been freed, all that is not allocated is such; after that the span counts as needzero.
 */
#include "client/lib/mspan.h"

#include <errno.h>
#include <pthread.h>

#include "client/lib/meta.h"
#include "shm/tiny.h"

mspan mspan_none;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards free structures and the memory they come from */
static mspan *free_mspans;

static mspan *mspan_get(void)
{
    mspan *s;

    (void)pthread_mutex_lock(&lock);
    s = free_mspans;
    if (s != NULL)
        free_mspans = s->next;
    else
        s = meta_alloc(sizeof(*s));
    (void)pthread_mutex_unlock(&lock);
    return s;
}

static bool is_of_slot(const shm_span *span, uint32_t slot)
{
    span_class spc = slot_spc(slot);

    if (span->spc.n != spc.n)
        return false;
    if (span_class_size(spc).n == 0)
        return span->nelems == 1 && span->npages == slot_npages(slot);
    return span->nelems != 0 && span->nelems == size_class_span_nelems(span_class_size(spc).n, span->npages);
}

static inline uint32_t count_used(const mspan *s)
{
    uint32_t nused = 0;

    for (uint32_t w = 0; w < bits_nwords(s->nelems); w++)
        nused += bits_count(u64_load_relaxed(mspan_word(s, w)) & bits_mask(s->nelems, w));
    return nused;
}

static mspan *describe(uint32_t slot, uint32_t first, void *owner, uint32_t *ret_nused)
{
    const shm_span *span;
    mspan *s;

    if (first == 0 || first >= process.map.npages)
        return NULL;
    span = shm_span_at(&process.map, page_at(first));
    /* The lease word first, acquire: the daemon writes it last of all of the span's words. */
    if (!process_leases(span) || !is_of_slot(span, slot))
        return NULL;
    s = mspan_get();
    if (s == NULL)
        return NULL;

    s->alloc = shm_alloc_word(&process.map, page_at(first), 0);
    s->open_block = 0;
    s->base = (char *)(uintptr_t)(process.map.base + page_offset(page_at(first)));
    s->elem_bytes = (uint32_t)span->elem_bytes;
    s->magic = slot == SLOT_TINY ? 0 : span_class_size(span->spc).n == 0 ? 1 : span->magic;
    s->nelems = (uint16_t)span->nelems;
    s->npages = span->npages & MSPAN_NPAGES_MAX;
    s->slot = (uint16_t)slot;
    s->place = MSPAN_CURRENT; /* in no list yet */
    s->needzero = span->needzero != 0;
    u64_store_release(&s->nleases, u64_load_relaxed(&span->nleases)); /* pairs with held_knows() */
    s->cur = 0;
    mspan_set_owner(s, owner);
    for (uint32_t i = 0; i < s->npages; i++)
        atomic_store_explicit(&process.mspan_of[first + i], s, memory_order_release);
    *ret_nused = count_used(s);
    return s;
}

mspan *mspan_new(uint32_t slot, uint32_t first, uint32_t *ret_nused)
{
    return describe(slot, first, thread_self(), ret_nused);
}

mspan *mspan_new_unowned(uint32_t slot, uint32_t first, uint32_t *ret_nused)
{
    return describe(slot, first, NULL, ret_nused);
}

void mspan_delete(mspan *s)
{
    page_no first = mspan_first(s);

    for (uint32_t i = 1; i < s->npages; i++)
        atomic_store_explicit(&process.mspan_of[first.n + i], NULL, memory_order_release);
    mspan_set_owner(s, NULL);
    mspan_put_back(s);
}

void mspan_unname(mspan *s)
{
    page_no first = mspan_first(s);

    for (uint32_t i = 0; i < s->npages; i++) {
        mspan *name = s;

        (void)atomic_compare_exchange_strong_explicit(&process.mspan_of[first.n + i], &name, NULL,
                                                      memory_order_acq_rel, memory_order_relaxed);
    }
}

void mspan_put_back(mspan *s)
{
    (void)pthread_mutex_lock(&lock);
    s->next = free_mspans;
    free_mspans = s;
    (void)pthread_mutex_unlock(&lock);
}

void mspan_free_all(mspan *all)
{
    (void)pthread_mutex_lock(&lock);
    for (mspan *s = all; s != NULL; s = s->all_next) {
        s->next = free_mspans;
        free_mspans = s;
    }
    (void)pthread_mutex_unlock(&lock);
}

void mspan_reset(bool again)
{
    (void)pthread_mutex_init(&lock, NULL);
    free_mspans = NULL;
    meta_reset(again);
}

/* --- words --- */

uint32_t mspan_nused(const mspan *s)
{
    switch (s->place) {
    case MSPAN_CURRENT:
        return count_used(s);
    case MSPAN_FULL:
        return s->nelems;
    default:
        return s->nfrees;
    }
}

/* The bit of a span's open block, if it lies in word w; else 0. */
static uint64_t open_bit(const mspan *s, uint32_t w)
{
    uint32_t block = s->open_block - 1;

    return s->open_block != 0 && block / 64 == w ? UINT64_C(1) << (block % 64) : 0;
}

/* Fold remote frees of word w into its alloc word. Returns the alloc word; *ret_nfolded goes up. */
static uint64_t fold_word(mspan *s, uint32_t w, uint32_t *ret_nfolded)
{
    page_no first = mspan_first(s);
    const shm_span *span = shm_span_at(&process.map, first);
    uint64_t before = u64_load_relaxed(mspan_word(s, w));
    uint64_t bits;

    if (u64_load_relaxed(shm_remote_of(mspan_word(s, w))) == 0)
        return before;
    if (s->slot == SLOT_TINY)
        bits = tiny_fold_word(&process.map, first, span, w, open_bit(s, w));
    else
        bits = object_fold_word(&process.map, first, span, w);
    *ret_nfolded += bits_count(before & ~bits & bits_mask(s->nelems, w));
    return bits;
}

uint64_t mspan_fold_current(mspan *s, uint32_t w)
{
    uint32_t nfolded = 0;
    uint64_t bits = fold_word(s, w, &nfolded);

    if (nfolded > 0)
        s->needzero = true;
    s->ncounted -= nfolded;
    return bits;
}

bool mspan_advance_far(mspan *s)
{
    uint32_t nwords = bits_nwords(s->nelems);
    uint32_t w = s->cur;

    for (uint32_t i = 1; i < nwords; i++) {
        w = w + 1 < nwords ? w + 1 : 0;
        if (mspan_load(s, w))
            return true;
    }
    return false;
}

uint32_t mspan_fold(mspan *s)
{
    uint32_t nused = mspan_nused(s);
    uint32_t nfolded = 0;

    for (uint32_t w = 0; w < bits_nwords(s->nelems); w++)
        (void)fold_word(s, w, &nfolded);
    return nfolded < nused ? nused - nfolded : 0;
}

bool mspan_has_remote_frees(const mspan *s)
{
    uint64_t remote = 0;

    for (uint32_t w = 0; w < bits_nwords(s->nelems); w++)
        remote |= u64_load_relaxed(shm_remote_of(mspan_word(s, w)));
    return remote != 0;
}
