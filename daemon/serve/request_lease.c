/*
 * Requests for leases: refill, return, large objects.
 *
 * Called by requests.c. Calls leasing (operations, shortage of memory), session (leases), mcentral, mheap.
 *
 * A refill, numbered:
 *   1. how many: what is asked for, at most PROTO_SPANS_MAX spans and SHM_REFILL_PAGES_MAX pages, as far as the
 *      session's limit allows.
 *   2. spans with free objects from the mcentral of the class, of any length: those that nobody owns, or those of the
 *      session's group (a RECLAIM session's spans hold only its own objects or its group's, so without a group it gets
 *      fresh ones).
 *   3. if these give less than half of what was asked for: fresh spans from mheap. If pages in use would pass the
 *      memory limit, the client is told to give back what it holds idle and to insist; who insists gets little, but
 *      gets it.
 *   4. each is leased at once. What has no memory is committed, and the reply names the spans (leasing.c).
 */
#include "daemon/serve/request_lease.h"

#include <errno.h>

#include "daemon/serve/leasing.h"
#include "shm/probe.h"

#define RETURN_SPANS   32u              /* that are returned between two looks at the clock, */
#define RETURN_NS      UINT64_C(250000) /* and how long a slice of a long ReturnSpans takes */
#define INSIST_PAGES   16u   /* a refill above the memory limit */
#define GROWTH_PAGES_MAX (UINT64_C(4) * MHEAP_MAP_PAGES) /* of a large object that stays: mapped at once */
#define LEASE_LIST_MAX 1024u /* spans named in one reply */

/* The search for what a session offers, at its limit. */
#define SEARCH_SPANS   64u                /* between two looks at the clock */
#define SEARCH_NS      UINT64_C(500000)   /* a request: some 30,000 spans that lie close together, 2500 far apart */
#define SEARCH_PART    10u                /* that is, 1/10 of the time; */
#define SEARCH_PAST_NS UINT64_C(10000000) /* what is left of that from the last 10 ms can be used at once */

static const answer cant_grow = { EBUSY, "what lies behind the object is in use, or more than can be added at once" };
static const answer quota_reached = { EDQUOT, NULL }; /* requests.c knows which one, and says so */
static const answer searching = { EINPROGRESS,
                                  "the session's limit is reached, unless it offers something: ask again" };

/* --- spans and runs --- */

/* What a refill asks for. */
typedef struct refill {
    span_class spc;
    uint64_t npages; /* of a span */
    uint32_t nelems;
    uint64_t want; /* spans */
    bool insist;
} refill;

/*
 * Whether the session may hold npages more. If its limit does not allow that, some of what it offers is taken first. A
 * client can send thousands of requests at once, for which all others would wait: so the search takes a tenth of the
 * time at most, and until it has looked at all that the session leases the client is told to ask again.
 */
static answer room_for(session *s, uint64_t npages)
{
    uint64_t start;

    if (lease_room_pages(&s->lessee) >= npages)
        return ANSWER_DONE;
    start = uv_hrtime();
    if (start < s->next_search_ns)
        return searching;
    if (!s->searching)
        s->lessee.offers_at = page_at(0);
    do
        s->searching = lease_take_some_offered(&s->lessee, npages, SEARCH_SPANS);
    while (s->searching && uv_hrtime() - start < SEARCH_NS);
    if (s->next_search_ns < start - SEARCH_PAST_NS)
        s->next_search_ns = start - SEARCH_PAST_NS;
    s->next_search_ns += SEARCH_PART * (uv_hrtime() - start);
    if (lease_room_pages(&s->lessee) >= npages)
        return ANSWER_DONE;
    return s->searching ? searching : quota_reached;
}

/* What is asked for, as far as it may be had: at least a span. */
static answer refill_size(session *s, const Goallocd__Refill *ask, refill *ret)
{
    span_class spc = { (uint8_t)ask->span_class };
    uint8_t class = span_class_size(spc).n;
    uint64_t room;
    answer a;

    if (ask->span_class >= SPAN_CLASS_COUNT || ask->span_class == SPAN_CLASS_TINY - 1 || ask->nspans == 0)
        return (answer){ EINVAL, "no such span class, or no spans asked for" };
    if (class == 0 && (ask->npages < SHM_RUN_PAGES_MIN || ask->npages > SHM_RUN_PAGES_MAX))
        return (answer){ EINVAL, "runs have " SHM_TEXT(SHM_RUN_PAGES_MIN) " to " SHM_TEXT(SHM_RUN_PAGES_MAX) " pages" };
    if (ask->span_class == SPAN_CLASS_TINY && (s->flags & SESSION_RECLAIM))
        return (answer){ EINVAL, "a session that reclaims has no tiny blocks: objects in one may have several owners" };
    ret->spc = spc;
    ret->npages = class == 0 || ask->npages != 0 ? ask->npages : size_class_npages[class];
    ret->nelems = class == 0 ? 1 : size_class_span_nelems(class, ret->npages);
    if (ret->nelems == 0)
        return (answer){ EINVAL, "the size class has no spans of so many pages" };
    ret->insist = ask->insist;
    ret->want = ask->nspans;
    if (ret->want > PROTO_SPANS_MAX)
        ret->want = PROTO_SPANS_MAX;
    if (ret->want > SHM_REFILL_PAGES_MAX / ret->npages)
        ret->want = SHM_REFILL_PAGES_MAX / ret->npages;
    a = room_for(s, ret->npages);
    room = lease_room_pages(&s->lessee) / ret->npages;
    if (ret->want > room)
        ret->want = room;
    return a;
}

/*
 * Lease spans with free objects, of any length: no more of them, and no more pages, than are asked for, but for the
 * last one's; and none that may be too long for the session's limit. *ret_npages: their pages. Returns how many objects
 * are free.
 */
static uint64_t refill_partial(client *c, session *s, const refill *r, uint64_t *ret_npages)
{
    uint64_t longest = size_class_npages[span_class_size(r->spc).n];
    unsigned budget = MCENTRAL_BUDGET;
    uint64_t nfree = 0;

    while (c->op.nspans < r->want && *ret_npages < r->want * r->npages && lease_room_pages(&s->lessee) >= longest) {
        uint32_t n;
        page_no first = mcentral_take(client_service(c)->heap, s->lessee.owner, (mcentral_kind){ r->spc, c->op.marked },
                                      &budget, &n);

        if (first.n == 0)
            break;
        leasing_add(c, s, first);
        *ret_npages += shm_span_at(client_service(c)->heap->map, first)->npages;
        nfree += n;
    }
    return nfree;
}

/* Lease at most nspans fresh spans. Returns why there are not more. */
static answer refill_fresh(client *c, session *s, const refill *r, uint64_t nspans)
{
    service *srv = client_service(c);
    operation *op = &c->op;

    for (; nspans > 0; nspans--) {
        page_no first;
        uint64_t nscavenged;
        answer a;
        int e;

        a = op->nspans == 0
                ? leasing_allows(srv, s, r->npages, r->insist)
                : leasing_allows_more(srv, s, r->npages, r->insist && op->nspans * r->npages < INSIST_PAGES);
        if (a.error != 0)
            return a;
        if (op->nspans > r->want / 4 && op->commit.nranges == 0 && ahead_is_worth_waiting(&srv->ahead, r->npages))
            return ANSWER_DONE; /* rather less, and at once: when the client comes back there is more */
        e = op->nspans == 0 ? leasing_alloc_span(srv, r->npages, 1, r->spc, &first, &nscavenged)
                            : mheap_alloc_span(srv->heap, r->npages, 1, r->spc, &first, &nscavenged);
        if (e != 0)
            return leasing_exhausted;
        shm_span_at(srv->heap->map, first)->lessee_folds = span_class_size(r->spc).n == 0;
        leasing_add_fresh(c, s, first, nscavenged);
    }
    return ANSWER_DONE;
}

/* Fresh spans to lease besides those with free objects, which have npages. */
static uint64_t fresh_wanted(const client *c, const refill *r, uint64_t npages)
{
    uint64_t left = npages < r->want * r->npages ? r->want - (npages + r->npages - 1) / r->npages : 0;

    return left < r->want - c->op.nspans ? left : r->want - c->op.nspans;
}

answer handle_refill(client *c, session *s, const Goallocd__Request *request)
{
    uint64_t nfree = 0;
    uint64_t npages = 0;
    uint64_t want_free;
    refill r;
    answer a = refill_size(s, request->refill, &r);

    if (a.error != 0)
        return a;
    leasing_begin(c, request);
    if (span_class_size(r.spc).n != 0 && (s->lessee.owner.n == 0 || s->group != NULL))
        nfree = refill_partial(c, s, &r, &npages);
    /* It waits for pages that are being prepared once, for the piece under way; not if it has waited already. */
    if (c->op.nspans == 0 && !c->op.has_turn &&
        ahead_is_worth_waiting(&client_service(c)->ahead, r.want * r.npages)) {
        operation_defer(&c->op, WAIT_AHEAD, 0, true);
        return ANSWER_GIVEN;
    }
    want_free = (r.want * r.nelems + 1) / 2;
    if (nfree < want_free)
        a = leasing_must_leave_pages(c) ? leasing_exhausted : refill_fresh(c, s, &r, fresh_wanted(c, &r, npages));
    return c->op.nspans > 0 ? leasing_commit(c)
                            : leasing_give_up(c, a, a.message == leasing_exhausted.message ? r.npages : 0);
}

/* --- large objects --- */

answer handle_alloc_large(client *c, session *s, const Goallocd__Request *request)
{
    const Goallocd__AllocLarge *ask = request->alloc_large;
    service *srv = client_service(c);
    uint64_t align = ask->align_pages == 0 ? 1 : ask->align_pages;
    span_class spc = span_class_of((size_class){ 0 }, ask->noscan);
    page_no first;
    uint64_t nscavenged;
    answer a;

    if (ask->npages == 0 || (align & (align - 1)) != 0 || align > SHM_ALIGN_PAGES_MAX)
        return (answer){ EINVAL, "no pages asked for, or no power of two up to " SHM_TEXT(
                                     SHM_ALIGN_MIB_MAX) " MiB to align to" };
    if (ask->npages >= srv->heap->map->npages)
        return (answer){ ENOSPC, "more than the arena has" };
    a = room_for(s, ask->npages);
    if (a.error != 0)
        return a;
    a = leasing_allows(srv, s, ask->npages, ask->insist);
    if (a.error != 0 && a.message != leasing_exhausted.message)
        return a;
    leasing_begin(c, request);
    if (a.error == 0 && !leasing_must_leave_pages(c) && ask->npages > MHEAP_MAP_PAGES)
        return leasing_alloc_long(c, ask->npages, align, spc) == 0
                   ? ANSWER_GIVEN
                   : leasing_give_up(c, leasing_exhausted, ask->npages);
    if (a.error != 0 || leasing_must_leave_pages(c) ||
        leasing_alloc_span(srv, ask->npages, align, spc, &first, &nscavenged) != 0)
        return leasing_give_up(c, leasing_exhausted, ask->npages);
    leasing_add_fresh(c, s, first, nscavenged);
    return leasing_commit(c);
}

/* The large object that a session wants to resize: leased to it, or (*ret_central) to nobody, and then to it. */
static answer resize_target(const session *s, uint32_t name, page_no *ret, bool *ret_central)
{
    shm_map *map = s->lessee.table->heap->map;
    page_no first = page_at(name < map->npages ? name : 0);
    const shm_span *span = shm_span_at(map, first);
    lease_word lease = lease_unpack(u64_load_relaxed(&span->lease));
    object_ref object;

    if (first.n == 0 || u32_load_relaxed(&map->page_map[first.n]) != first.n || span_class_size(span->spc).n != 0 ||
        object_find(map, map->base + page_offset(first), &object) != OBJECT_LIVE)
        return (answer){ EINVAL, "not a live large object" };
    *ret_central = lease.state == SPAN_CENTRAL && u32_load_relaxed(&span->owner) == s->lessee.owner.n;
    if (*ret_central && span->npages > lease_room_pages(&s->lessee))
        return quota_reached;
    if (!*ret_central && (span->lessee_folds || lease_check(&s->lessee, first.n, &first) != 0))
        return (answer){ EPERM, "another session leases the object, or it is a run" };
    *ret = first;
    return ANSWER_DONE;
}

/* The large object first, of npages pages, is to grow by more. */
static answer grow(client *c, const Goallocd__Request *request, page_no first, uint64_t npages, uint64_t more)
{
    service *srv = client_service(c);
    page_no behind = page_at(first.n + npages);
    uint64_t nscavenged;
    answer a = more > GROWTH_PAGES_MAX ? cant_grow : leasing_allows(srv, client_any_session(c), more, true);

    if (a.error != 0)
        return a;
    leasing_begin(c, request);
    if (mheap_take_aside(srv->heap, ASIDE_GROWTH, (page_range){ behind, more }, &nscavenged).npages == 0)
        return leasing_give_up(c, cant_grow, 0);
    leasing_add_growth(c, first, behind, more, nscavenged);
    return leasing_commit(c);
}

answer handle_resize_large(client *c, session *s, const Goallocd__Request *request)
{
    service *srv = client_service(c);
    uint64_t want = request->resize_large->npages;
    uint64_t npages;
    uint64_t more;
    bool central;
    page_no first;
    answer a;

    if (want == 0 || want >= srv->heap->map->npages)
        return (answer){ EINVAL, "no pages, or more than the arena has" };
    a = resize_target(s, request->resize_large->span, &first, &central);
    if (a.error != 0)
        return a;
    npages = shm_span_at(srv->heap->map, first)->npages;
    more = want > npages ? want - npages : 0;
    if (more > 0 && more + (central ? npages : 0) > lease_room_pages(&s->lessee))
        return quota_reached;
    if (more > 0 && more > mheap_room_pages(srv->heap))
        return leasing_limit_reached;
    if (central) {
        mcentral_remove(srv->heap, first);
        shm_span_at(srv->heap->map, first)->lessee_folds = 0;
        if (!profiling_marks(&srv->profiling, s))
            shm_span_at(srv->heap->map, first)->marked = 0; /* it may use the place for others later */
        lease_give(&s->lessee, first);
    }
    if (more > 0)
        return grow(c, request, first, npages, more);
    if (want < npages)
        lease_shrink(&s->lessee, first, want);
    return ANSWER_DONE;
}

answer handle_free_large(client *c, session *s, const Goallocd__Request *request)
{
    service *srv = client_service(c);
    uint32_t name = request->free_large->span;

    (void)s;
    if (name == 0 || name >= srv->heap->map->npages) {
        peer_violation(&c->peer, "it frees span %u, which is not in the arena", name);
        return ANSWER_GIVEN;
    }
    /*
     * The bits decide. The sweep may have been here before, and the span may be another's by now: then nothing
     * happens.
     */
    if (u32_load_relaxed(&srv->heap->map->page_map[name]) == name)
        (void)lease_sweep(&srv->sessions.leases, page_at(name), true);
    return ANSWER_DONE;
}

/* --- what comes back --- */

/*
 * It returns what it does not lease: a fault, but perhaps not its own, because others can write the bits that end the
 * lease of a large object. So it costs it nothing, and is told once a session.
 */
static void note_not_leased(session *s, uint32_t name)
{
    const log_subject subject = session_subject(s);

    if (!s->told_not_leased)
        log_client_warn(&subject, "returns span %u, which it does not lease: ignored", name);
    s->told_not_leased = true;
}

/* A span that the client has given up. False: it lies, and is disconnected. */
static bool return_span(client *c, session *s, uint32_t name)
{
    page_no first;

    if (name == 0 || name >= client_service(c)->heap->map->npages) {
        peer_violation(&c->peer, "it returns span %u, which is not in the arena", name);
        return false;
    }
    if (lease_check(&s->lessee, name, &first) == 0)
        lease_return(&s->lessee, first);
    else
        note_not_leased(s, name);
    return true;
}

/*
 * A large object that another process may have freed: the sweep may have ended the lease since the client looked, and
 * the pages may be anybody's by now. The same.
 */
static bool return_large(client *c, session *s, uint32_t name)
{
    page_no first;

    if (name == 0 || name >= client_service(c)->heap->map->npages) {
        peer_violation(&c->peer, "it returns large object %u, which is not in the arena", name);
        return false;
    }
    if (lease_check(&s->lessee, name, &first) != 0)
        return true;
    if (!lease_is_large(shm_span_at(client_service(c)->heap->map, first))) {
        peer_violation(&c->peer, "it returns span %u as a large object, which it is not", name);
        return false;
    }
    (void)lease_return_freed(&s->lessee, first); /* an object that lives and is the session's stays leased */
    return true;
}

/* True if a slice is over. It begins with the first call, *until_ns 0: short returns don't look at the clock. */
static bool is_over(uint64_t *until_ns)
{
    uint64_t now = uv_hrtime();

    if (*until_ns == 0)
        *until_ns = now + RETURN_NS;
    return now > *until_ns;
}

/*
 * A frame has room for some 20,000 spans, and what a span costs depends on what lives, was left and was adopted in it.
 * So after a slice the request is PAUSED, and is handled again where it was; who comes first then is others. If the
 * daemon dies in between, the client finds in the list of leases what was not returned.
 */
answer handle_return(client *c, session *s, const Goallocd__Request *request)
{
    const Goallocd__ReturnSpans *ask = request->return_spans;
    size_t n = ask->n_spans + ask->n_large;
    size_t first = c->op.ndone;
    uint64_t until_ns = 0;

    for (size_t i = first; i < n; i++) {
        if (i > first && (i - first) % RETURN_SPANS == 0 && is_over(&until_ns)) {
            c->op.ndone = i;
            operation_begin(&c->op, &c->peer, request, OPERATION_PAUSED);
            service_wake(client_service(c));
            return ANSWER_GIVEN;
        }
        if (i < ask->n_spans ? !return_span(c, s, ask->spans[i]) : !return_large(c, s, ask->large[i - ask->n_spans]))
            return ANSWER_GIVEN;
    }
    PROBE(goallocd, return, s->lessee.no.n, (uint32_t)ask->n_spans, (uint32_t)ask->n_large,
          s->lessee.nheld_pages * PAGE_BYTES);
    return ANSWER_DONE;
}

answer handle_lease_list(client *c, session *s, const Goallocd__Request *request)
{
    static uint32_t names[LEASE_LIST_MAX];
    const service *srv = client_service(c);
    Goallocd__LeaseListReply body = GOALLOCD__LEASE_LIST_REPLY__INIT;
    page_no at = s->lessee.leased.head;

    if (request->lease_list->after != 0) {
        if (lease_check(&s->lessee, request->lease_list->after, &at) != 0)
            return (answer){ EINVAL, "the session does not lease that span" };
        at = srv->heap->links[at.n].next;
    }
    for (; at.n != 0 && body.n_spans < LEASE_LIST_MAX; at = srv->heap->links[at.n].next)
        names[body.n_spans++] = at.n;
    body.spans = names;
    body.more = at.n != 0;
    return reply_body(&c->peer, request->id, GOALLOCD__REPLY__RESULT_LEASE_LIST, &body);
}
