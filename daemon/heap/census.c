/*
 * Census: walks the spans by address and counts the objects that live.
 *
 * Called by the server's idle handle on behalf of Stats requests, one slice a turn of the loop, so that refills go on
 * in between. Writes nothing. Exact when nobody allocates or frees meanwhile; otherwise every object that lived all
 * the time is counted.
 */
#include "daemon/heap/census.h"

static uint64_t kept_word(const shm_map *map, page_no first, uint32_t w)
{
    return span_has_kept(shm_span_at(map, first)) ? u64_load_acquire(shm_kept_word(map, first, w)) : 0;
}

/* The span, in which that lives, counts for the session that leases it, if one does. */
static void count_lease(census *c, const shm_span *span, live_sum live)
{
    lease_word lease = lease_unpack(u64_load_relaxed(&span->lease));
    census_lessee *lessee = &c->leased[lease.session.n < SHM_SESSIONS_MAX ? lease.session.n : 0];

    if (lease.state != SPAN_LEASED)
        return;
    if (lessee->epoch != lease.epoch)
        *lessee = (census_lessee){ .epoch = lease.epoch }; /* the number has another session since this count began */
    lessee->live.objects += live.objects;
    lessee->live.bytes += live.bytes;
    lessee->nidle_pages += live.objects == 0 ? span->npages : 0;
}

bool census_step(census *c, const mheap *heap, unsigned budget)
{
    for (; budget > 0; budget--) {
        page_no first = mheap_next_span(heap, &c->pos);
        const shm_span *span = shm_span_at(heap->map, first);
        census_class *class;
        live_sum all = { 0 };
        uint32_t owner;

        if (first.n == 0)
            return true;
        owner = u32_load_relaxed(&span->owner); /* below SHM_OWNERS_MAX: the daemon alone writes it */
        class = &c->classes[span->spc.n];
        class->nspans++;
        class->npages += span->npages;
        for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
            uint64_t live = live_word(heap->map, first, w);

            live_add(heap->map, first, w, live, &all);
            if (owner != 0)
                live_add(heap->map, first, w, live & ~kept_word(heap->map, first, w), &c->owned[owner]);
        }
        class->live.objects += all.objects;
        class->live.bytes += all.bytes;
        count_lease(c, span, all);
    }
    return false;
}

census_lessee census_of_lessee(const census *c, session_no no, uint32_t epoch)
{
    return c->leased[no.n].epoch == epoch ? c->leased[no.n] : (census_lessee){ .epoch = epoch };
}

census_class census_total(const census *c)
{
    census_class all = { 0 };

    for (size_t i = 0; i < SPAN_CLASS_COUNT; i++) {
        all.nspans += c->classes[i].nspans;
        all.npages += c->classes[i].npages;
        all.live.objects += c->classes[i].live.objects;
        all.live.bytes += c->classes[i].live.bytes;
    }
    return all;
}
