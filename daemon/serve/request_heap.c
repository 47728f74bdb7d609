/*
 * Requests for the heap as a whole: statistics, picture, trim, release, check.
 *
 * Called by requests.c, which has looked whether the client may. None needs a session. Counting objects (stats.c),
 * checking all tables (check.c) and sweeping all spans take a while: rounds.c does it in slices for all who ask. Pages
 * are released by the helper (scavenge.c). The picture and the list of leases come in replies that each cost a
 * fraction of a millisecond, since anybody may ask for them: who wants the whole asks again from where one ended.
 * Size classes are found by a walk over the spans of a cell, so with them a cell is 64 MiB at most, and who draws a
 * larger one adds up its parts.
 */
#include "daemon/serve/request_heap.h"

#include <errno.h>
#include <unistd.h>

#include "daemon/heap/live.h"
#include "daemon/serve/check.h"
#include "daemon/serve/stats.h"
#include "proto/layout.h"
#include "shm/probe.h"

#define MAP_CELLS_MAX 4096u
#define LEASES_MAX    1024u
#define LEASES_NS     UINT64_C(250000) /* after which a reply ends, */
#define LEASES_SPANS  16u              /* looked at after so many spans, of which each takes 10 us at most */
#define TRIM_SPANS    32u
#define MAP_WORDS_MAX (UINT64_C(1) << 18) /* of page bits looked at for one reply: a fraction of a millisecond */
#define MAP_STEPS_MAX 8192u /* spans looked at for their classes before a reply ends: some 20 ns each */

/*
 * Of a cell of which classes are asked; and the rows of these in a reply: each takes a step, and the last cell adds one
 * for each class. A frame holds them.
 */
#define MAP_CLASS_PAGES_MAX SHM_HEAP_ARENA_PAGES
#define MAP_CLASSES_MAX     (MAP_STEPS_MAX + SIZE_CLASS_COUNT + 1)
_Static_assert(MAP_CLASS_PAGES_MAX < 1 << 14 && MAP_CELLS_MAX <= 1 << 14 && SIZE_CLASS_COUNT < 1 << 7 &&
                   MAP_CELLS_MAX * (2 + 2) + MAP_CLASSES_MAX * (2 + 1 + 2) + 256 < FRAME_PAYLOAD_MAX,
               "varints: two bytes for pages of a cell and for its number, one for a class");

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

    PROBE(goallocd, trim_end, (uint16_t)0, op->peer->pid);
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
        PROBE(goallocd, trim_end, s->lessee.no.n, c->peer.pid);
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

/* A reply's cells, and the size classes in them. */
typedef struct map_lists {
    uint64_t inuse[MAP_CELLS_MAX];
    uint64_t backed[MAP_CELLS_MAX];
    uint32_t class_cell[MAP_CLASSES_MAX];
    uint32_t class_number[MAP_CLASSES_MAX];
    uint32_t class_npages[MAP_CLASSES_MAX];
    size_t ncells;
    size_t nclasses;
} map_lists;

/* What is in use of the next cell, by size class: the steps that it took. */
static uint64_t list_classes(const mheap *heap, page_no first, uint64_t npages, map_lists *lists)
{
    uint32_t counted[SIZE_CLASS_COUNT + 1] = { 0 };
    uint64_t nsteps = mheap_count_classes(heap, first, npages, lists->inuse[lists->ncells], counted);

    for (uint32_t class = 0; class <= SIZE_CLASS_COUNT; class++) {
        if (counted[class] == 0)
            continue;
        lists->class_cell[lists->nclasses] = (uint32_t)lists->ncells;
        lists->class_number[lists->nclasses] = class;
        lists->class_npages[lists->nclasses++] = counted[class];
    }
    return nsteps;
}

/* As many cells as the reply may have: the first one always. */
static void list_cells(const mheap *heap, const Goallocd__HeapMap *ask, uint64_t end, map_lists *lists)
{
    uint64_t words = 0;
    uint64_t nsteps = 0;

    lists->ncells = lists->nclasses = 0;
    for (uint64_t page = ask->start; page < end && lists->ncells < ask->max_cells && lists->ncells < MAP_CELLS_MAX;
         page += ask->cell_pages, lists->ncells++) {
        size_t i = lists->ncells;

        words += ask->cell_pages / 64 + 1;
        if (i > 0 && (words > MAP_WORDS_MAX || nsteps > MAP_STEPS_MAX))
            break;
        pagealloc_count(heap->pages, page_at(page), ask->cell_pages, &lists->inuse[i], &lists->backed[i]);
        if (ask->classes)
            nsteps += list_classes(heap, page_at(page), ask->cell_pages, lists);
    }
}

answer handle_heap_map(client *c, const Goallocd__Request *request)
{
    static map_lists lists;
    const Goallocd__HeapMap *ask = request->heap_map;
    const mheap *heap = client_service(c)->heap;
    Goallocd__HeapMapReply body = GOALLOCD__HEAP_MAP_REPLY__INIT;

    if (ask->cell_pages == 0 || ask->cell_pages > (ask->classes ? MAP_CLASS_PAGES_MAX : heap->map->npages))
        return (answer){ EINVAL, "cells of no pages, or of too many" };
    body.end = pagealloc_end(heap->pages).n;
    list_cells(heap, ask, body.end, &lists);
    body.inuse = lists.inuse;
    body.backed = lists.backed;
    body.class_cell = lists.class_cell;
    body.class_number = lists.class_number;
    body.class_npages = lists.class_npages;
    body.n_inuse = body.n_backed = lists.ncells;
    body.n_class_cell = body.n_class_number = body.n_class_npages = lists.nclasses;
    body.has_classes = ask->classes;
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
