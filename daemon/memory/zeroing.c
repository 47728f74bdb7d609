/*
 * Zeroing: which pages are to be zeroed ahead of their first touch, and the call that does it.
 *
 * Called by commit (add, slices) in the thread pool and by the helper's side of the loop (forget). Data: private to the
 * daemon, under a mutex that nobody holds while it waits. No shared words: the memory is all that a client sees of it.
 *
 * fallocate gives pages memory and does not zero it. Each page is zeroed by its first touch, a fault in the client that
 * costs 1.9 us. A second fallocate over such pages zeroes them, and takes no time where that has been done. Then a
 * fault maps up to 16 pages at once, 0.3 us a page (client/lib/window.c). So the first call makes the memory the
 * heap's, and a client gets it at once; the second one is made while nothing else is to be committed.
 *
 *   1. A commit puts its pages on the stack (zeroing_add). Who waits for them gets them now.
 *   2. Slices of 512 KiB are zeroed, of what got memory last, from its end downwards: the client begins at the other
 *      end. If it is as fast, each does about half.
 *   3. What the stack has no room for, at its bottom, the client has touched by now, or never will.
 *
 * Why this loses nothing: the kernel zeroes a page once, under the page's lock, and marks it; whoever comes first does
 * it, the client's fault or this call, and the other finds the mark. A page that was written has the mark.
 *
 * Invariant: only pages that have memory are zeroed. A page without memory would get some behind the books. Who asks
 * for a punch calls zeroing_forget() first, and a slice is sent to the helper under the mutex: so each slice was sent
 * before the punch, or is never sent, and the helper makes calls that were sent before a punch before it (helper.c).
 * Whether the pages are free, leased, or back in a span makes no difference.
 *
 * Why not MADV_POPULATE_WRITE on the daemon's mapping: 2.1 us a page instead of 0.6 + 1.0, and 0.35 more to take the
 * pages out of the daemon's page tables again, where they would count as its resident memory. It holds no lock of the
 * file, though, so it is what backing.c does when a client holds that lock; then nothing is zeroed ahead.
 *
 * If the daemon dies, some pages are zeroed and others are not; nobody can tell but by the time that a touch takes.
 */
#include "daemon/memory/zeroing.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "shm/atomics.h"

#define RANGES_MAX  16u
#define SLICE_PAGES (512 * KIB / PAGE_BYTES)

struct zeroing {
    pthread_mutex_t lock;
    page_range ranges[RANGES_MAX]; /* a stack; none is empty */
    uint32_t nranges;
    shm_u32 due; /* nranges, for those who don't take the lock */
};

zeroing *zeroing_new(void)
{
    zeroing *z = calloc(1, sizeof(*z));

    if (z != NULL)
        (void)pthread_mutex_init(&z->lock, NULL);
    return z;
}

zeroing *zeroing_free(zeroing *z)
{
    if (z != NULL)
        (void)pthread_mutex_destroy(&z->lock);
    free(z);
    return NULL;
}

bool zeroing_is_due(const zeroing *z)
{
    return u32_load_relaxed(&z->due) != 0;
}

static void remove_at(zeroing *z, uint32_t i)
{
    z->nranges--;
    memmove(&z->ranges[i], &z->ranges[i + 1], (z->nranges - i) * sizeof(z->ranges[0]));
}

static void push(zeroing *z, page_range range)
{
    if (z->nranges == RANGES_MAX)
        remove_at(z, 0);
    z->ranges[z->nranges++] = range;
}

void zeroing_add(zeroing *z, page_range range)
{
    if (range.npages == 0)
        return;
    (void)pthread_mutex_lock(&z->lock);
    push(z, range);
    u32_store_relaxed(&z->due, z->nranges);
    (void)pthread_mutex_unlock(&z->lock);
}

void zeroing_forget(zeroing *z, page_range range)
{
    uint64_t from = range.first.n;
    uint64_t to = from + range.npages;

    (void)pthread_mutex_lock(&z->lock);
    for (uint32_t i = z->nranges; i-- > 0;) {
        page_range *r = &z->ranges[i];
        uint64_t end = r->first.n + r->npages;

        if (r->first.n >= to || end <= from)
            continue;
        if (r->first.n < from) {
            r->npages = from - r->first.n; /* what lies above is forgotten, too: to split it is not worth it */
        } else if (end > to) {
            *r = (page_range){ .first = page_at(to), .npages = end - to };
        } else {
            remove_at(z, i);
        }
    }
    u32_store_relaxed(&z->due, z->nranges);
    (void)pthread_mutex_unlock(&z->lock);
}

uint64_t zeroing_slice(zeroing *z, const zeroing_way *way)
{
    uint64_t npages = 0;

    if (!way->begin(way->data))
        return 0;
    (void)pthread_mutex_lock(&z->lock);
    if (z->nranges > 0) {
        page_range *top = &z->ranges[z->nranges - 1];
        uint64_t end = top->first.n + top->npages;
        uint64_t from = (end - 1) / SLICE_PAGES * SLICE_PAGES;

        if (from < top->first.n)
            from = top->first.n;
        npages = end - from;
        top->npages -= npages;
        if (top->npages == 0)
            z->nranges--;
        u32_store_relaxed(&z->due, z->nranges);
        way->send(way->data, (page_range){ page_at(from), npages });
    }
    (void)pthread_mutex_unlock(&z->lock);
    way->end(way->data); /* if it fails, the pages are zeroed by their first touch */
    return npages;
}
