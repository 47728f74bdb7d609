/*
 * Releases: a request for holes that a lease waits for.
 *
 * Called by leasing.c. Calls mheap (which pages), helper (holes). Data: private memory for each request, which outlives
 * the lease: pages that are being punched stay aside until the helper has answered, whoever still waits for that.
 *
 *   1. Pages are taken aside, highest first, and the helper is asked.
 *   2. When it answers, they are free again, without memory as far as it got, and after(true) is called.
 *   3. If it does not answer within 2 s, because a client holds a lock of the file, after(false) is called, and 2
 *      comes without it. As long as the helper is stuck no more are begun: so there are as many at most as it takes
 *      requests.
 *
 * What a commit that has failed, or was not begun, leaves behind is punched in the same way, since nobody knows which
 * of its pages have memory.
 *
 * If the daemon dies, the pages are free; the next one keeps those aside that the helper may still be at (helper.c).
 */
#include "daemon/serve/releases.h"

#include <stdlib.h>

#define RANGES_MAX 256u /* the background scavenger has to release the rest */

typedef struct release {
    helper_punch punch;
    service *srv;
    void (*after)(void *data, bool released); /* NULL: nobody waits any more */
    void *data;
    enum mheap_aside kind;
    size_t nholes;
    helper_hole holes[RANGES_MAX];
} release;

static void put_back(release *r, size_t npunched)
{
    service *srv = r->srv;

    for (size_t i = 0; i < r->nholes; i++) {
        mheap_put_back(srv->heap, r->kind, r->holes[i].range, i < npunched);
        if (i < npunched) {
            scavenge_note_eager(&srv->scav, r->holes[i].range);
            sysmem_regain(&srv->mem, r->holes[i].range.npages * PAGE_BYTES);
        }
    }
}

static void tell(release *r, bool released)
{
    void (*after)(void *, bool) = r->after;

    r->after = NULL;
    if (after != NULL)
        after(r->data, released);
}

static void on_done(helper_punch *p)
{
    release *r = p->data;
    service *srv = r->srv;

    put_back(r, p->ndone);
    if (r->kind == ASIDE_FENCED && p->ndone < r->nholes)
        srv->heap->distrust_backed = true;
    tell(r, p->ndone == r->nholes);
    free(r);
    queue_note(&srv->queue, WAIT_PAGES);
}

static void on_late(helper_punch *p)
{
    tell(p->data, false);
}

static void take(release *r, uint64_t npages)
{
    while (npages > 0 && r->nholes < RANGES_MAX) {
        page_range range = mheap_take_aside(r->srv->heap, ASIDE_RELEASE_DENSE, (page_range){ .npages = npages }, NULL);

        if (range.npages == 0)
            return;
        r->holes[r->nholes++] = (helper_hole){ HOLES_PAGES, range };
        npages -= range.npages < npages ? range.npages : npages;
    }
}

/* Ask the helper. False: nothing happens, and r is gone. */
static bool start(release *r)
{
    r->punch = (helper_punch){ .holes = r->holes, .nholes = r->nholes, .done = on_done, .late = on_late, .data = r };
    if (r->nholes > 0 && helper_punch_start(&r->srv->helper, &r->punch))
        return true;
    put_back(r, 0);
    free(r);
    return false;
}

bool releases_begin(service *srv, uint64_t npages, void (*after)(void *data, bool released), void *data)
{
    release *r = helper_is_stuck(&srv->helper) ? NULL : calloc(1, sizeof(*r));

    if (r == NULL)
        return false;
    r->srv = srv;
    r->kind = ASIDE_RELEASE_DENSE;
    mheap_flush_cache(srv->heap);
    take(r, npages);
    r->after = after;
    r->data = data;
    return start(r);
}

void releases_undo(service *srv, const page_range *ranges, size_t n)
{
    release *r = calloc(1, sizeof(*r));

    if (r != NULL) {
        r->srv = srv;
        r->kind = ASIDE_FENCED;
    }
    mheap_flush_cache(srv->heap);
    for (size_t i = 0; i < n; i++) {
        if (r != NULL && r->nholes < RANGES_MAX &&
            mheap_take_aside(srv->heap, ASIDE_FENCED, ranges[i], NULL).npages > 0)
            r->holes[r->nholes++] = (helper_hole){ HOLES_PAGES, ranges[i] };
        else
            srv->heap->distrust_backed = true;
    }
    if (r != NULL && !start(r))
        srv->heap->distrust_backed = true;
}
