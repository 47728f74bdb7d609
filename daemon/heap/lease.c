/*
 * Lease: writes the lease words, and owner in the spans' descriptions.
 *
 * Called by the request handlers (give, check, return), session (its end, recovery) and sweep. Calls mcentral, mheap,
 * adopt, left, estate and roots. Data: lease words and owner in spans, written by this thread alone; the spans' bits
 * while a lease ends; a list of spans for each lessee in private memory.
 *
 * The README of this directory follows a lease from end to end. lease_give writes origin (shm/origin.h) and owner (if
 * the lessee reclaims), then the list, then the lease word. When a lease ends and the owner with it (a session without
 * a group, or a group that is ENDING), its objects are freed unless their kept bits are set, then owner becomes 0, then
 * mcentral_put writes the lease word: if the daemon dies before that, the next one repeats it. While the group goes on,
 * owner and objects stay, and mcentral_put puts the span into the group's mcentrals: the one store is the lease word.
 *
 * A lease is never taken from a process that lives and has not given it up, but for a large object that another
 * process has freed (large_claim). What its process offers (offers.c) it has given up, if the daemon takes it: but no
 * lease that a request under way has just got (nyoung), which nobody knows of yet. The caller ends a lessee when its
 * process is gone or has said so. Neither happens while memory is being committed for it (nops), since its pages would
 * be free and get memory afterwards.
 *
 * Invariants (lease_validate, linear in the spans): a span is in its lessee's list iff its lease word says LEASED; its
 * owner is its lessee's; a span that nobody leases is owned by a group or nobody; held pages and counters are those of
 * the lists.
 */
#include "daemon/heap/lease.h"

#include <errno.h>
#include <limits.h>

#include "shm/crash.h"
#include "shm/holds.h"
#include "shm/origin.h"

void lease_add_lessee(lease_table *table, lessee *l)
{
    assert(table->lessees[l->no.n] == NULL);
    l->table = table;
    table->lessees[l->no.n] = l;
}

void lease_remove_lessee(lessee *l)
{
    assert(l->leased.count == 0 && l->nops == 0);
    offers_end(&l->offers);
    l->table->lessees[l->no.n] = NULL;
}

lessee *lease_find_lessee(const lease_table *table, session_no no, uint32_t epoch)
{
    lessee *l = no.n < SHM_SESSIONS_MAX ? table->lessees[no.n] : NULL;

    return l != NULL && l->epoch == epoch ? l : NULL;
}

static uint64_t room_pages(uint64_t limit_pages, uint64_t nheld_pages)
{
    if (limit_pages == 0)
        return UINT64_MAX;
    return nheld_pages >= limit_pages ? 0 : limit_pages - nheld_pages;
}

uint64_t lease_room_pages(const lessee *l)
{
    uint64_t room = room_pages(l->limit_pages, l->nheld_pages);

    for (unsigned i = 0; i < LEASE_QUOTAS && l->quotas[i] != NULL; i++) {
        uint64_t quota = room_pages(l->quotas[i]->limit_pages, l->quotas[i]->nheld_pages);

        room = quota < room ? quota : room;
    }
    if (l->left_quota != NULL && room_pages(l->left_quota->limit_pages, l->left_quota->nheld_pages) == 0)
        return 0;
    return room;
}

void lease_add_quota(lessee *l, lease_quota *quota)
{
    unsigned i = l->quotas[0] != NULL;

    assert(l->quotas[i] == NULL);
    l->quotas[i] = quota;
    quota->nheld_pages += l->nheld_pages;
}

/* The lessee holds npages more, or less, in a span; so do its quotas, and the count of a check beyond it. */
static void note_held(lessee *l, page_no first, int64_t npages)
{
    l->nheld_pages += (uint64_t)npages;
    for (unsigned i = 0; i < LEASE_QUOTAS && l->quotas[i] != NULL; i++)
        l->quotas[i]->nheld_pages += (uint64_t)npages;
    if (span_is_checked(l->table->heap->links, first))
        l->checked_pages += (uint64_t)npages;
}

/* The span enters or leaves the lessee's list. The lease word stays as it is. */
static void lease_link(lessee *l, page_no first)
{
    mheap *heap = l->table->heap;

    spanlist_push_back(&l->leased, heap->links, first, PLACE_LEASED);
    note_held(l, first, shm_span_at(heap->map, first)->npages);
    l->table->nleased++;
}

static void lease_unlink(lessee *l, page_no first)
{
    mheap *heap = l->table->heap;

    spanlist_remove(&l->leased, heap->links, first);
    note_held(l, first, -(int64_t)shm_span_at(heap->map, first)->npages);
    l->table->nleased--;
}

/* --- giving --- */

/* Before the lease word, by which it is seen whether there are objects already. */
static void note_origin(const lessee *l, shm_span *span)
{
    bool is_new = lease_unpack(u64_load_relaxed(&span->lease)).state == SPAN_FREE;

    u64_store_relaxed(&span->origin, origin_when_leased(u64_load_relaxed(&span->origin), is_new, l->no, l->epoch));
}

/* Others may put objects into these pages from now on: no root may point there by what was there before. */
static void forget_roots(mheap *heap, page_no first, uint64_t npages)
{
    if (heap->roots != NULL)
        roots_forget_dead(heap->roots, first, npages);
}

void lease_give(lessee *l, page_no first)
{
    mheap *heap = l->table->heap;
    shm_header *header = heap->map->header;
    shm_span *span = shm_span_at(heap->map, first);
    uint64_t nleases = u64_load_relaxed(&header->nleases) + 1;

    forget_roots(heap, first, span->npages);
    u64_store_relaxed(&header->nleases, nleases);
    u64_store_release(&span->nleases, nleases);
    note_origin(l, span);
    CRASH_POINT(lease_after_origin);
    assert(u32_load_relaxed(&span->owner) == 0 || u32_load_relaxed(&span->owner) == l->owner.n);
    if (l->owner.n != 0) {
        if (span->nelems <= SPAN_NELEMS_MAX / 2)
            adopt_ensure_kept(heap->map, first);
        u32_store_release(&span->owner, l->owner.n);
        CRASH_POINT(lease_after_owner);
    }
    left_lease_begins(heap->left, first);
    estate_drop(heap->estates, first, span->npages);
    lease_link(l, first);
    CRASH_POINT(lease_after_list);
    u64_store_release(&span->lease,
                      lease_pack((lease_word){ .state = SPAN_LEASED, .session = l->no, .epoch = l->epoch }));
    CRASH_POINT(lease_after_word);
}

void lease_give_large(lessee *l, page_no first)
{
    lease_give(l, first);
    offers_begin_large(&l->offers, first, u64_load_relaxed(&shm_span_at(l->table->heap->map, first)->nleases));
}

/* True if the lease word is that of a span which l leases. */
static bool is_leased_by(lease_word lease, const lessee *l)
{
    return lease.state == SPAN_LEASED && lease.session.n == l->no.n && lease.epoch == l->epoch;
}

int lease_check(const lessee *l, uint32_t first, page_no *ret)
{
    const shm_map *map = l->table->heap->map;

    if (first == 0 || first >= map->npages ||
        !is_leased_by(lease_unpack(u64_load_relaxed(&shm_span_at(map, page_at(first))->lease)), l))
        return LEASE_E_NOT_LEASED;
    *ret = page_at(first);
    return 0;
}

void lease_extend(lessee *l, page_no first, uint64_t npages)
{
    mheap *heap = l->table->heap;

    forget_roots(heap, page_at(first.n + shm_span_at(heap->map, first)->npages), npages);
    mheap_extend_span(heap, first, npages);
    note_held(l, first, (int64_t)npages);
}

void lease_shrink(lessee *l, page_no first, uint64_t npages)
{
    note_held(l, first, (int64_t)npages - shm_span_at(l->table->heap->map, first)->npages);
    mheap_shrink_span(l->table->heap, first, npages);
}

/* --- ending --- */

/*
 * The objects of a span with an owner are freed, but for those whose kept bits are set. After this the span is the
 * heap's.
 *
 * Another process may publish an object of it at this moment (goalloc_publish in client/lib/owner.c): it sets the kept
 * bit, passes a fence, and then looks at the owner's state: that of a session and the lease word, or that of a group.
 * Here the state was stored first (ENDING, or what comes after it), then comes the fence, then the kept bits are read.
 * So either the bit is seen here, and the object stays; or the publisher sees that the owner is at its end, and asks
 * the daemon, which knows what it has freed. A publisher that dies after the bit and before the look has told nobody
 * that the object is published. What another process links or unlinks at this moment (holds.h) stays: it is the
 * heap's, and that process, or who settles it, does what is left to do.
 */
static void span_reclaim(mheap *heap, page_no first, live_sum *freed)
{
    shm_span *span = shm_span_at(heap->map, first);

    fence_seq_cst();
    (void)span_fold(heap, first);
    CRASH_POINT(reclaim_after_fold);
    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++) {
        uint64_t alloc = u64_load_relaxed(shm_alloc_word(heap->map, first, w));
        uint64_t kept = span_has_kept(span) ? u64_load_acquire(shm_kept_word(heap->map, first, w)) : 0;
        uint64_t held = holds_any(heap->map) ? holds_among(heap->map, first, span, w, alloc & ~kept) : 0;

        u64_store_release(shm_alloc_word(heap->map, first, w), alloc & (kept | held));
        freed->objects += bits_count(alloc & ~(kept | held));
        freed->bytes += bits_count(alloc & ~(kept | held)) * span->elem_bytes;
    }
    CRASH_POINT(reclaim_after_bits);
    u32_store_release(&span->owner, 0);
    if (u32_load_relaxed(&span->nadopted) == 0)
        u32_store_release(&span->has_kept, 0);
}

/* True if the span has an owner that does not go on: a session without a group, or a group that is ENDING. */
static bool owner_has_ended(const mheap *heap, page_no first)
{
    uint32_t owner = u32_load_relaxed(&shm_span_at(heap->map, first)->owner);
    const group *g = group_at(heap->groups, owner);

    return owner != 0 && (g == NULL || g->state == SHM_GROUP_ENDING);
}

/* The span is in no list. left: what lives in it is claimed as left by its lessee; NULL: nobody claims it. */
static void span_end(mheap *heap, page_no first, left_owner_no *left, lease_ending *ending)
{
    ending->nspans++;
    if (owner_has_ended(heap, first))
        span_reclaim(heap, first, &ending->freed);
    left_lease_ends(heap->left, first, left, &ending->left);
    mcentral_put(heap, first);
}

static void lease_end(lessee *l, page_no first, left_owner_no *left)
{
    mheap *heap = l->table->heap;
    lease_ending unseen = { .nspans = 0 }; /* of a span that is given back while its lessee goes on */

    lease_unlink(l, first);
    CRASH_POINT(lease_end_after_unlink);
    span_end(heap, first, left, left != NULL ? &l->ending : &unseen);
    if (heap->links[first.n].place != PLACE_NONE) /* else it is free */
        estate_add(heap->estates, first, shm_span_at(heap->map, first)->npages, l->left_quota);
}

static bool span_is_empty(const mheap *heap, page_no first)
{
    const shm_span *span = shm_span_at(heap->map, first);
    uint64_t live = 0;

    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++)
        live |= live_word(heap->map, first, w);
    return live == 0;
}

void lease_return(lessee *l, page_no first)
{
    lease_end(l, first, NULL);
}

int lease_return_freed(lessee *l, page_no first)
{
    if (l->owner.n != 0 && !span_is_empty(l->table->heap, first))
        return LEASE_E_NOT_EMPTY;
    lease_end(l, first, NULL);
    return 0;
}

bool lease_is_large(const shm_span *span)
{
    return span_class_size(span->spc).n == 0 && !span->lessee_folds;
}

void lease_revoke(lessee *l, page_no first, bool punched)
{
    lease_unlink(l, first);
    mheap_free_span(l->table->heap, first, punched);
}

/*
 * A large object belongs to the lessee that allocated it until it is freed. One that another process has freed is the
 * daemon's if the daemon takes it: true, and then the lessee holds nothing of it.
 *
 * All clients can write the bits, so they are not enough: between daemon and lessee the word in the session's own memfd
 * decides (shm/offers.h). It is asked for when the bits say that the object is free, and before they are changed.
 *
 * Three write the two words of a leased large object, bit 0 of each.
 *   alloc   the lessee alone sets it, for an object that it hands out. The lessee (free) and the daemon (here) clear it
 *           by fetch_and, and whoever sees it go from 1 to 0 has the pages; so a lessee that frees at the same time is
 *           told that the object is free already.
 *   remote  others set it by fetch_or (free); only the daemon clears it, when the lease is over. The lessee never hands
 *           out pages whose remote bit is set, which a faulty second free leaves behind: it returns them.
 *
 * Remote first, acquire: what the freeing process wrote into the object happens before the next use of the pages.
 *
 * If the daemon dies behind the fetch_and: alloc 0, remote 1, LEASED. The object is free for everybody, no sweep takes
 * the pages, and the lessee returns them when it comes back, because it sees no object there; or its end does.
 */
static bool large_claim(lessee *l, page_no first)
{
    const shm_map *map = l->table->heap->map;
    uint64_t nleases = u64_load_relaxed(&shm_span_at(map, first)->nleases);
    uint64_t before;

    if ((u64_load_acquire(shm_remote_word(map, first, 0)) & 1) == 0 ||
        (u64_load_relaxed(shm_alloc_word(map, first, 0)) & 1) == 0)
        return false;
    if (holds_any(map) && holds_has(map, page_offset(first)))
        return false; /* who unlinks it is not done yet */
    if (!offers_claim_large(&l->offers, first, nleases))
        return false; /* somebody has forged the bits */
    CRASH_POINT(sweep_after_word);
    before = u64_fetch_and_acq_rel(shm_alloc_word(map, first, 0), ~UINT64_C(1));
    CRASH_POINT(sweep_after_claim);
    if ((before & 1) == 0)
        offers_unclaim_large(&l->offers, first, nleases);
    return before & 1;
}

bool lease_sweep(lease_table *table, page_no first, bool force)
{
    mheap *heap = table->heap;
    const shm_span *span = shm_span_at(heap->map, first);
    lease_word lease = lease_unpack(u64_load_relaxed(&span->lease));
    lessee *l;

    if (lease.state == SPAN_CENTRAL)
        return mcentral_sweep(heap, first, force);
    if (lease.state != SPAN_LEASED || !lease_is_large(span))
        return false;
    l = lease_find_lessee(table, lease.session, lease.epoch);
    assert(l != NULL);
    if (l->nops > 0 || !large_claim(l, first))
        return false; /* operations: it may be this one that memory is being committed for */
    lease_end(l, first, NULL);
    return true;
}

bool lease_take_offered(lease_table *table, page_no first, enum offers_look look)
{
    mheap *heap = table->heap;
    const shm_span *span = shm_span_at(heap->map, first);
    lease_word lease = lease_unpack(u64_load_relaxed(&span->lease));
    uint64_t nleases = u64_load_relaxed(&span->nleases);
    enum offer_state state;
    lessee *l;

    if (look == OFFERS_PASS_OVER || lease.state != SPAN_LEASED || (table->nyoung != 0 && nleases >= table->nyoung))
        return false;
    l = lease_find_lessee(table, lease.session, lease.epoch);
    assert(l != NULL);
    state = l->nops > 0 ? OFFER_NONE : offers_state(&l->offers, first, nleases);
    if (state == OFFER_NONE)
        return false; /* operations: it may be this one that memory is being committed for */
    if (state == OFFER_OFFERED && look == OFFERS_AGE) {
        offers_age(&l->offers, first, nleases);
        table->naged++;
        return false;
    }
    if (!span_is_empty(heap, first) || !offers_take(&l->offers, first, nleases))
        return false;
    lease_end(l, first, NULL);
    CRASH_POINT(offer_after_lease_end);
    return true;
}

bool lease_take_some_offered(lessee *l, uint64_t npages, unsigned budget)
{
    const mheap *heap = l->table->heap;
    page_no at;

    if (lease_check(l, l->offers_at.n, &at) != 0)
        at = l->leased.head;
    for (; budget > 0 && at.n != 0 && lease_room_pages(l) < npages; budget--) {
        page_no first = at;

        at = heap->links[at.n].next;
        (void)lease_take_offered(l->table, first, OFFERS_TAKE);
    }
    l->offers_at = at;
    return at.n != 0 && lease_room_pages(l) < npages;
}

bool lease_take_all_offered(lessee *l, page_no *pos, unsigned budget)
{
    const mheap *heap = l->table->heap;
    page_no at = l->leased.head;

    if (pos->n != 0 && lease_check(l, pos->n, &at) != 0)
        return false;
    for (; budget > 0 && at.n != 0; budget--) {
        page_no first = at;

        at = heap->links[at.n].next;
        (void)lease_take_offered(l->table, first, OFFERS_TAKE);
    }
    *pos = at;
    return at.n != 0;
}

/* Free up to budget of the objects that an owner has adopted. True: it has no more. */
static bool end_adopted(lease_table *table, owner_no owner, unsigned budget, live_sum *freed)
{
    mheap *heap = table->heap;

    for (; budget > 0; budget--) {
        object_ref object;
        bool lives;

        if (!adopt_pop(heap->adopted, owner, &object, &lives))
            return true;
        if (lives) {
            freed->objects++;
            freed->bytes += shm_span_at(heap->map, object.first)->elem_bytes;
            (void)object_free_remote(heap->map, &object);
            (void)lease_sweep(table, object.first, true);
        }
    }
    return false;
}

bool lease_end_some(lessee *l, unsigned budget)
{
    for (; budget > 0 && l->leased.head.n != 0; budget--)
        lease_end(l, l->leased.head, &l->left);
    CRASH_POINT(session_end_half);
    if (owner_is_group(l->owner.n))
        return budget > 0; /* what it has adopted is the group's */
    return end_adopted(l->table, (owner_no){ l->no.n }, budget, &l->ending.freed);
}

bool lease_end_group_some(lease_table *table, group *g, unsigned budget)
{
    mheap *heap = table->heap;
    lease_ending ending = { .nspans = 0 }; /* nobody asks */

    assert(g->state == SHM_GROUP_ENDING && g->nmembers == 0);
    for (unsigned i = 0; i < MCENTRALS * 4; i++) {
        spanlist *set = &g->central[i / 4].sets[i % 4];

        for (; budget > 0 && set->head.n != 0; budget--) {
            page_no first = set->head;

            spanlist_remove(set, heap->links, first);
            span_end(heap, first, NULL, &ending);
            CRASH_POINT(group_end_half);
        }
    }
    return end_adopted(table, g->no, budget, &ending.freed);
}

/* --- after another daemon --- */

/*
 * A leased span is its lessee's again; one whose lessee has ended is nobody's, or its group's. So is one of a session
 * that is ENDING and has come to span_reclaim()'s last store. Any other owner than the lessee's is damage: -EUCLEAN.
 */
static int recover_lease(lease_table *table, page_no first)
{
    const shm_map *map = table->heap->map;
    const shm_span *span = shm_span_at(map, first);
    lease_word lease = lease_unpack(u64_load_relaxed(&span->lease));
    uint32_t owner = u32_load_relaxed(&span->owner);
    lessee *l = lease_find_lessee(table, lease.session, lease.epoch);
    lease_ending unseen = { .nspans = 0 };

    adopt_recover_span(table->heap->adopted, first);
    if (lease.state == SPAN_LEASED && l != NULL && owner == l->owner.n)
        lease_link(l, first);
    else if (lease.state == SPAN_LEASED && l != NULL &&
             (owner != 0 || u32_load_relaxed(&map->sessions[l->no.n].state) != SHM_SESSION_ENDING))
        return -EUCLEAN;
    else if (lease.state == SPAN_LEASED || owner_has_ended(table->heap, first))
        span_end(table->heap, first, NULL, &unseen);
    else if (owner != 0)
        mcentral_put_recovered(table->heap, first);
    return 0;
}

int lease_table_recover(lease_table *table)
{
    int r = 0;

    adopt_recover(table->heap->adopted);
    for (page_no pos = { 0 }, first; r == 0 && (first = mheap_next_span(table->heap, &pos)).n != 0;)
        r = recover_lease(table, first);
    return r;
}

/* --- looking --- */

/* A span's lease word, owner and list. 0, -EUCLEAN. */
static int validate_lease(lease_table *table, page_no first, FILE *err)
{
    const mheap *heap = table->heap;
    const shm_span *span = shm_span_at(heap->map, first);
    lease_word lease = lease_unpack(u64_load_relaxed(&span->lease));
    uint32_t owner = u32_load_relaxed(&span->owner);
    lessee *l = lease.state == SPAN_LEASED ? lease_find_lessee(table, lease.session, lease.epoch) : NULL;

    if (lease.state != SPAN_LEASED && (owner == 0 || group_at(heap->groups, owner) != NULL))
        return 0;
    if (l == NULL || owner != l->owner.n || !spanlist_has(&l->leased, heap->links, first)) {
        (void)fprintf(err, "lease: span %u: state %d, session %u.%u, which is %sthere, owner %u\n", first.n,
                      (int)lease.state, lease.session.n, lease.epoch, l == NULL ? "not " : "", owner);
        return -EUCLEAN;
    }
    l->leased.checked++;
    l->checked_pages += span->npages;
    return 0;
}

static int validate_lessee(const lease_table *table, uint32_t no, FILE *err)
{
    const lessee *l = table->lessees[no];

    if (l->no.n == no && l->table == table && l->leased.count == l->leased.checked &&
        l->nheld_pages == l->checked_pages && (l->leased.head.n == 0) == (l->leased.count == 0))
        return 0;
    (void)fprintf(err, "lease: entry %u, session %u: holds %llu pages in %llu spans, noted %llu in %llu\n", no, l->no.n,
                  (unsigned long long)l->checked_pages, (unsigned long long)l->leased.checked,
                  (unsigned long long)l->nheld_pages, (unsigned long long)l->leased.count);
    return -EUCLEAN;
}

/* All lessees: begin to count what they hold, or compare, and add up. */
static int go_over_lessees(lease_table *table, bool compare, FILE *err)
{
    uint64_t nlisted = 0;

    for (uint32_t no = 0; no < SHM_SESSIONS_MAX; no++) {
        lessee *l = table->lessees[no];

        if (l == NULL)
            continue;
        if (!compare)
            l->leased.checked = l->checked_pages = 0;
        else if (validate_lessee(table, no, err) < 0)
            return -EUCLEAN;
        nlisted += l->leased.count;
    }
    if (nlisted == table->nleased)
        return 0;
    (void)fprintf(err, "lease: %llu spans listed, %llu noted\n", (unsigned long long)nlisted,
                  (unsigned long long)table->nleased);
    return -EUCLEAN;
}

int lease_validate_begin(lease_table *table, FILE *err)
{
    *spans_checked_to(table->heap->links) = page_at(0);
    return go_over_lessees(table, false, err);
}

int lease_validate_step(lease_table *table, unsigned budget, FILE *err)
{
    page_no *to = spans_checked_to(table->heap->links);

    for (; budget > 0; budget--) {
        page_no pos = *to;
        page_no first = mheap_next_span(table->heap, &pos);

        if (first.n == 0) {
            *to = page_at(UINT32_MAX);
            return go_over_lessees(table, true, err);
        }
        if (first.n >= to->n && validate_lease(table, first, err) < 0) /* else it was made meanwhile, and counted */
            return -EUCLEAN;
        *to = pos;
    }
    return VALIDATE_E_MORE;
}

int lease_validate(lease_table *table, FILE *err)
{
    int r = lease_validate_begin(table, err);

    return r < 0 ? r : lease_validate_step(table, UINT_MAX, err);
}
