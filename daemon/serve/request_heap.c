/*
 * Requests for the heap as a whole: statistics, picture, trim, release, check.
 *
 * Called by requests.c, which has looked whether the client may. None needs a session. Counting objects (stats.c),
 * checking all tables (check.c) and sweeping all spans take a while: rounds.c does it in slices for all who ask. Pages
 * are released by the helper (scavenge.c). The picture and the list of leases come in replies that each cost a
 * fraction of a millisecond, since anybody may ask for them: who wants the whole asks again from where one ended.
 */
#include "daemon/serve/request_heap.h"

#include <errno.h>
#include <unistd.h>

#include "daemon/heap/live.h"
#include "daemon/serve/check.h"
#include "daemon/serve/stats.h"
#include "proto/layout.h"

#define MAP_CELLS_MAX 4096u
#define LEASES_MAX    1024u
#define LEASES_NS     UINT64_C(250000) /* after which a reply ends, */
#define LEASES_SPANS  16u              /* looked at after so many spans, of which each takes 10 us at most */
#define TRIM_SPANS    32u
#define MAP_WORDS_MAX (UINT64_C(1) << 18) /* of page bits looked at for one picture: a fraction of a millisecond */

/* --- statistics --- */

answer handle_stats(client *c, const Goallocd__Request *request)
{
    return service_wait(c, request, ROUND_STATS, stats_reply);
}

/* --- trim and release --- */

static void scavenge_reply(operation *op, void *data)
{
    const service *srv = op->peer->host->data;
    Goallocd__ScavengeReply body = GOALLOCD__SCAVENGE_REPLY__INIT;

    body.released_bytes = *(const uint64_t *)data * PAGE_BYTES;
    body.remaining_bytes = mheap_idle_pages(srv->heap) * PAGE_BYTES;
    (void)reply_body(op->peer, op->id, GOALLOCD__REPLY__RESULT_SCAVENGE, &body);
    operation_finish(op);
}

static void on_scavenged(void *data, uint64_t npages)
{
    const service *srv = data;

    operations_each(&srv->peers, OPERATION_RELEASING, scavenge_reply, &npages);
}

static void trim_swept(operation *op)
{
    service *srv = op->peer->host->data;

    if (op->kind == GOALLOCD__REQUEST__OP_TRIM) {
        reply_answer(op->peer, op->id, ANSWER_DONE);
        return;
    }
    operation_set_state(op, OPERATION_RELEASING);
    scavenge_force(&srv->scav, on_scavenged, srv);
}

/*
 * One session is asked, and what it offers is taken, some spans a slice. A process that sleeps has offered what it does
 * not use; one that runs gives back the rest when it next has something to do with the daemon. Nobody else is touched,
 * so a user may do it to a session of its own.
 */
static answer trim_session(client *c, const Goallocd__Request *request)
{
    service *srv = client_service(c);
    session *s = session_named(&srv->sessions, request->trim->session, request->trim->epoch);
    page_no pos = page_at(c->op.ndone);

    if (s == NULL)
        return (answer){ ENOENT, "there is no session of that number" };
    if (pos.n == 0)
        service_ask_session(srv, s->lessee.no);
    if (!lease_take_all_offered(&s->lessee, &pos, TRIM_SPANS)) {
        queue_note(&srv->queue, WAIT_PAGES);
        return ANSWER_DONE;
    }
    c->op.ndone = pos.n;
    operation_begin(&c->op, &c->peer, request, OPERATION_PAUSED);
    service_wake(srv);
    return ANSWER_GIVEN;
}

answer handle_trim(client *c, const Goallocd__Request *request)
{
    if (request->op_case == GOALLOCD__REQUEST__OP_TRIM && request->trim->session != 0)
        return trim_session(c, request);
    return service_wait(c, request, ROUND_SWEEP, trim_swept);
}

/* --- looks at the heap --- */

answer handle_heap_map(client *c, const Goallocd__Request *request)
{
    static uint64_t inuse[MAP_CELLS_MAX];
    static uint64_t backed[MAP_CELLS_MAX];
    const Goallocd__HeapMap *ask = request->heap_map;
    const mheap *heap = client_service(c)->heap;
    uint64_t end = pagealloc_end(heap->pages).n;
    Goallocd__HeapMapReply body = GOALLOCD__HEAP_MAP_REPLY__INIT;
    uint64_t words = 0;
    size_t n = 0;

    if (ask->cell_pages == 0 || ask->cell_pages % 64 != 0 || ask->cell_pages > heap->map->npages ||
        ask->start % 64 != 0)
        return (answer){ EINVAL, "cells of no pages, or of no multiple of 64" };
    for (uint64_t page = ask->start; page < end && n < ask->max_cells && n < MAP_CELLS_MAX; page += ask->cell_pages) {
        words += ask->cell_pages / 64;
        if (n > 0 && words > MAP_WORDS_MAX)
            break;
        pagealloc_count(heap->pages, page_at(page), ask->cell_pages, &inuse[n], &backed[n]);
        n++;
    }
    body.n_inuse = body.n_backed = n;
    body.inuse = inuse;
    body.backed = backed;
    body.end = end;
    body.arena_pages = heap->map->npages;
    body.arena_base = heap->map->base;
    return reply_body(&c->peer, request->id, GOALLOCD__REPLY__RESULT_HEAP_MAP, &body);
}

typedef struct lease_lists {
    uint32_t spans[LEASES_MAX];
    uint32_t npages[LEASES_MAX];
    uint32_t classes[LEASES_MAX];
    uint32_t sessions[LEASES_MAX];
    uint32_t live_objects[LEASES_MAX];
    uint64_t live_bytes[LEASES_MAX];
    size_t n;
} lease_lists;

static void list_lease(const shm_map *map, page_no first, session_no no, lease_lists *lists)
{
    const shm_span *span = shm_span_at(map, first);
    size_t i = lists->n++;
    live_sum live = { 0 };

    for (uint32_t w = 0; w < bits_nwords(span->nelems); w++)
        live_add(map, first, w, live_word(map, first, w), &live);
    lists->spans[i] = (uint32_t)first.n;
    lists->npages[i] = span->npages;
    lists->classes[i] = span->spc.n;
    lists->sessions[i] = no.n;
    lists->live_objects[i] = (uint32_t)live.objects;
    lists->live_bytes[i] = live.bytes;
}

answer handle_leases(client *c, const Goallocd__Request *request)
{
    static lease_lists lists;
    const mheap *heap = client_service(c)->heap;
    const Goallocd__Leases *ask = request->leases;
    Goallocd__LeasesReply body = GOALLOCD__LEASES_REPLY__INIT;
    uint64_t until_ns = uv_hrtime() + LEASES_NS;
    page_no pos = page_at(ask->start);
    bool more = ask->start < pagealloc_end(heap->pages).n;

    lists.n = 0;
    for (unsigned i = 1; more && lists.n < LEASES_MAX && (i % LEASES_SPANS != 0 || uv_hrtime() < until_ns); i++) {
        page_no first = mheap_next_span(heap, &pos);
        lease_word lease = lease_unpack(u64_load_relaxed(&shm_span_at(heap->map, first)->lease));

        more = first.n != 0;
        if (more && lease.state == SPAN_LEASED && (ask->session == 0 || ask->session == lease.session.n))
            list_lease(heap->map, first, lease.session, &lists);
    }
    body.spans = lists.spans;
    body.npages = lists.npages;
    body.span_classes = lists.classes;
    body.sessions = lists.sessions;
    body.live_objects = lists.live_objects;
    body.live_bytes = lists.live_bytes;
    body.n_spans = body.n_npages = body.n_span_classes = body.n_sessions = lists.n;
    body.n_live_objects = body.n_live_bytes = lists.n;
    body.next = more ? (uint32_t)pos.n : 0;
    return reply_body(&c->peer, request->id, GOALLOCD__REPLY__RESULT_LEASES, &body);
}

answer handle_check(client *c, const Goallocd__Request *request)
{
    return service_wait(c, request, ROUND_CHECK, check_reply);
}

answer handle_ping(client *c, const Goallocd__Request *request)
{
    Goallocd__PingReply body = GOALLOCD__PING_REPLY__INIT;
    const mheap *heap = client_service(c)->heap;
    shm_version version = heapfile_version(heap->file);

    body.layout = layout_tell(&(Goallocd__Layout){ 0 }, &version);
    body.generation = heap->map->header->generation;
    body.protocol = GOALLOC_PROTOCOL;
    body.version = (char *)(uintptr_t)GOALLOC_VERSION;
    body.pid = (uint32_t)getpid();
    return reply_body(&c->peer, request->id, GOALLOCD__REPLY__RESULT_PING, &body);
}
