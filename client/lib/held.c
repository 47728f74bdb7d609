/*
 * Held: marks for spans that have no structure. By them a process that comes back to its session tells which of the
 * spans that the daemon says it leases are really held here.
 *
 * Called by connection.c and comeback.c (spans come, under the link's turn), outbox.c and idle.c (they go: what waits
 * in the outbox is held until it has been sent), large.c (objects in large spans) and largecache.c (spans that are
 * offered). Data: entries of process.mspan_of, private; the alloc bit of large spans, in bitmap.
 *
 * A large object can be freed remotely, which this process is not told: the daemon ends the lease, and the mark stays.
 * So the mark "large" counts only together with the object's alloc bit. Mark and bit are two words, and threads free
 * and allocate while another one comes back: if it saw the mark of the object and then the bit of the cached span, it
 * would take a cached span for unknown and return it, and the cache would hand it out while somebody else leases it.
 * Looking at the mark again would not help, for the span may have got its next object by then. Therefore one lock makes
 * the two words one: under it they change, and under it they are looked at.
 *
 *        mark    alloc bit
 *        held    0          no object: on its way here or back, or in the cache
 *        offered 0          in the cache, and the daemon may have taken it: largecache.c knows which lease is meant
 *        large   1          an object
 *        large   0          the object was freed remotely, and the daemon has ended the lease: not ours
 *
 * Besides, only the daemon changes the bits of large spans, 1 to 0, when an object was freed remotely. Others could
 * forge bits; so whether the object is out or in this process's hand is in a third word, which they don't have
 * (shm/offers.h): in hand before the bit goes, out after it is set. A process that dies takes the marks with it; for
 * the bit see large.c.
 */
#include "client/lib/held.h"

#include <pthread.h>

#include "client/lib/offer.h"

mspan mspan_held;
mspan mspan_offered;
mspan mspan_large;
mspan mspan_doubt;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* a leaf: nothing is called under it */

static mspan *mark_of(uint32_t first)
{
    return atomic_load_explicit(&process.mspan_of[first], memory_order_acquire);
}

static void set_mark(uint32_t first, mspan *mark)
{
    atomic_store_explicit(&process.mspan_of[first], mark, memory_order_release);
}

static bool replace_mark(page_no first, mspan *from, mspan *to)
{
    return atomic_compare_exchange_strong_explicit(&process.mspan_of[first.n], &from, to, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

static bool is_large(const mspan *mark)
{
    return mark == &mspan_large || mark == &mspan_doubt;
}

static void set_all(const uint32_t *spans, size_t nspans, mspan *mark)
{
    for (size_t i = 0; i < nspans; i++) {
        if (spans[i] < process.map.npages)
            set_mark(spans[i], mark);
    }
}

void held_set(const uint32_t *spans, size_t nspans)
{
    set_all(spans, nspans, &mspan_held);
}

void held_clear(const uint32_t *spans, size_t nspans)
{
    set_all(spans, nspans, NULL);
}

bool held_knows(uint32_t first)
{
    const mspan *mark = mark_of(first);
    bool knows;

    if (mark == NULL || mark == &mspan_held) /* it becomes "large" only with its object */
        return mark != NULL;
    /* A structure: if the span was offered, its lease may be over. Or it is another span's by now: then look again. */
    if (!is_large(mark))
        return u64_load_acquire(&mark->nleases) ==
                   u64_load_relaxed(&shm_span_at(&process.map, page_at(first))->nleases) ||
               (mark_of(first) != mark && held_knows(first));
    (void)pthread_mutex_lock(&lock);
    mark = mark_of(first);
    knows = mark != NULL;
    if (is_large(mark)) /* the place may be that of another span by now */
        knows = span_class_size(shm_span_at(&process.map, page_at(first))->spc).n == 0 &&
                (u64_load_acquire(shm_alloc_word(&process.map, page_at(first), 0)) & 1) != 0;
    (void)pthread_mutex_unlock(&lock);
    return knows;
}

void held_set_object(page_no first)
{
    (void)pthread_mutex_lock(&lock);
    CRASH_POINT(large_before_bit);
    u64_store_release(shm_alloc_word(&process.map, first, 0), 1);
    CRASH_POINT(large_after_bit);
    set_mark(first.n, &mspan_large);
    offer_hand_out(first); /* behind the bit: until here the daemon believes no bits */
    (void)pthread_mutex_unlock(&lock);
}

bool held_clear_object(page_no first, bool *ret_in_doubt)
{
    bool was_set;

    (void)pthread_mutex_lock(&lock);
    *ret_in_doubt = mark_of(first.n) == &mspan_doubt;
    was_set = offer_take_in_hand(first);
    CRASH_POINT(large_free_after_word);
    if (was_set)
        was_set = (u64_fetch_and_acq_rel(shm_alloc_word(&process.map, first, 0), ~UINT64_C(1)) & 1) != 0;
    if (was_set)
        set_mark(first.n, &mspan_held);
    CRASH_POINT(large_free_after_bit);
    (void)pthread_mutex_unlock(&lock);
    return was_set;
}

void held_expect(page_no first)
{
    if (!replace_mark(first, NULL, &mspan_large))
        (void)replace_mark(first, &mspan_offered, &mspan_large); /* an object is there: the offered span is gone */
}

void held_set_offered(page_no first)
{
    set_mark(first.n, &mspan_offered);
}

void held_clear_offered(page_no first)
{
    (void)replace_mark(first, &mspan_offered, NULL);
}

bool held_is_offered(page_no first)
{
    return mark_of(first.n) == &mspan_offered;
}

void held_set_doubt(page_no first)
{
    (void)pthread_mutex_lock(&lock);
    if (mark_of(first.n) == &mspan_large)
        set_mark(first.n, &mspan_doubt);
    (void)pthread_mutex_unlock(&lock);
}

bool held_is_in_doubt(page_no first)
{
    return mark_of(first.n) == &mspan_doubt;
}

void held_reset(void)
{
    (void)pthread_mutex_init(&lock, NULL);
}
