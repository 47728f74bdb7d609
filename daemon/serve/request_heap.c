/*
 * Requests for the heap as a whole: statistics, picture, trim, release, check.
 *
 * Called by requests.c; any connection may ask, with or without a session. Counting objects and sweeping all spans take
 * a while: rounds.c does it in slices for all who ask. Pages are released in the thread pool (scavenge.c).
 *
 * The bytes of the statistics are taken at one moment, when objects have been counted: pages in use, free with memory,
 * free without, and metadata make the total; pages in use are objects and the rest. So the sum holds exactly, whatever
 * goes on. What clients say that they have allocated (the counters in bitmap) is reported and not relied upon.
 */
#include "daemon/serve/request_heap.h"

#include "daemon/serve/request_group.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define MAP_CELLS_MAX 4096u
#define MAP_WORDS_MAX (UINT64_C(1) << 18) /* of page bits looked at for one picture: a fraction of a millisecond */

/* --- statistics --- */

/* Objects of each span class allocated since the start, as far as clients have said. */
static void count_allocs(const service *srv, uint64_t ret[SPAN_CLASS_COUNT])
{
    memcpy(ret, srv->ended_allocs, sizeof(srv->ended_allocs));
    for (uint32_t i = 1, end = service_nentries(srv); i < end; i++) {
        const shm_u64 *counters = shm_counters(srv->heap->map, (session_no){ (uint16_t)i });

        for (size_t c = 0; session_at(&srv->sessions, i) != NULL && c < SPAN_CLASS_COUNT; c++)
            ret[c] += u64_load_relaxed(&counters[c]);
    }
}

/* A span class and its noscan twin. False: there is nothing to say about them. */
static bool fill_class(const census *count, const uint64_t *allocs, uint32_t class, Goallocd__ClassStats *ret)
{
    goallocd__class_stats__init(ret);
    ret->size_class = class;
    ret->object_bytes = class == SIZE_CLASS_TINY ? 0 : size_class_bytes[class];
    for (size_t c = 2 * class; c < 2 * class + 2; c++) {
        ret->spans += count->classes[c].nspans;
        ret->span_bytes += count->classes[c].npages * PAGE_BYTES;
        ret->live_objects += count->classes[c].live.objects;
        ret->live_bytes += count->classes[c].live.bytes;
        ret->allocs += allocs[c];
    }
    if (ret->allocs < ret->live_objects)
        ret->allocs = ret->live_objects; /* a process that was killed had not said all */
    ret->frees = ret->allocs - ret->live_objects;
    return ret->spans != 0 || ret->allocs != 0;
}

/* Bytes of pages by what they are for. Together with metadata they are the total, by definition and exactly. */
static void fill_memory(const mheap *heap, uint64_t live_bytes, Goallocd__StatsReply *body)
{
    uint64_t inuse_bytes = heap->ninuse_pages * PAGE_BYTES;

    /* Spans may have ended while objects were counted. */
    body->live_bytes = live_bytes < inuse_bytes ? live_bytes : inuse_bytes;
    body->inuse_bytes = inuse_bytes;
    body->unused_bytes = inuse_bytes - body->live_bytes;
    body->committed_bytes = mheap_committed_pages(heap) * PAGE_BYTES;
    body->free_bytes = body->committed_bytes - inuse_bytes;
    body->released_bytes = mheap_released_pages(heap) * PAGE_BYTES;
    body->metadata_bytes = heap->metadata_bytes;
    body->metadata_charged_bytes = metabook_bytes(&heap->book);
    body->total_bytes = pagealloc_npages_added(heap->pages) * PAGE_BYTES + body->metadata_bytes;
    body->limit_bytes = heap->limit_bytes;
    body->peak_committed_bytes = mheap_peak_pages(heap) * PAGE_BYTES;
    body->over_limit_bytes = mheap_over_limit(heap, 100, 0);
}

static void stats_counted(operation *op)
{
    service *srv = op->peer->host->data;
    const census *count = &srv->census;
    const session *s = client_session(client_of(op->peer));
    Goallocd__StatsReply body = GOALLOCD__STATS_REPLY__INIT;
    Goallocd__ClassStats classes[SIZE_CLASS_COUNT + 1];
    Goallocd__ClassStats *pointers[SIZE_CLASS_COUNT + 1];
    census_class total = census_total(count);
    uint64_t allocs[SPAN_CLASS_COUNT];

    count_allocs(srv, allocs);
    mheap_refresh_metadata(srv->heap);
    fill_memory(srv->heap, total.live.bytes, &body);
    body.live_objects = total.live.objects;
    body.sessions = srv->sessions.nopen;
    body.leased_spans = srv->sessions.leases.nleased;
    body.roots = roots_count(srv->roots);
    body.session_held_bytes = s == NULL ? 0 : s->lessee.nheld_pages * PAGE_BYTES;
    body.reserved_bytes = srv->heap->map->arena_bytes;
    body.inuse_spans = srv->heap->ninuse_spans;
    body.scavenged_bytes = srv->scav.nbackground * PAGE_BYTES;
    body.scavenged_eager_bytes = srv->scav.neager * PAGE_BYTES;
    body.rpcs = srv->nrpcs;
    body.tries = srv->ntries;
    body.waits = srv->queue.nwaits;
    body.uptime_ms = uv_hrtime() / 1000000 - srv->started_ms;
    body.version = (char *)(uintptr_t)GOALLOC_VERSION;
    for (uint32_t class = 0; class <= SIZE_CLASS_TINY; class ++) {
        pointers[body.n_classes] = &classes[body.n_classes];
        body.n_classes += fill_class(count, allocs, class, &classes[body.n_classes]);
    }
    body.classes = pointers;
    if (s != NULL && s->lessee.owner.n != 0) {
        body.group_live_objects = count->owned[s->lessee.owner.n].objects;
        body.group_live_bytes = count->owned[s->lessee.owner.n].bytes;
    }
    groups_fill_stats(srv, &body);
    (void)reply_body(op->peer, op->id, GOALLOCD__REPLY__RESULT_STATS, &body);
}

answer handle_stats(client *c, const Goallocd__Request *request)
{
    return service_wait(c, request, ROUND_STATS, stats_counted);
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

answer handle_trim(client *c, const Goallocd__Request *request)
{
    service_ask_trim(client_service(c));
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

answer handle_check(client *c, const Goallocd__Request *request)
{
    Goallocd__CheckReply body = GOALLOCD__CHECK_REPLY__INIT;
    char text[1024] = "";
    FILE *out = fmemopen(text, sizeof(text), "w");

    body.whole = service_validate(client_service(c), out != NULL ? out : stderr) == 0;
    if (out != NULL)
        (void)fclose(out);
    if (!body.whole)
        service_dump(client_service(c), stderr);
    text[sizeof(text) - 1] = '\0';
    body.text = text;
    return reply_body(&c->peer, request->id, GOALLOCD__REPLY__RESULT_CHECK, &body);
}

answer handle_ping(client *c, const Goallocd__Request *request)
{
    Goallocd__PingReply body = GOALLOCD__PING_REPLY__INIT;

    body.protocol = GOALLOC_PROTOCOL;
    body.version = (char *)(uintptr_t)GOALLOC_VERSION;
    body.pid = (uint32_t)getpid();
    return reply_body(&c->peer, request->id, GOALLOCD__REPLY__RESULT_PING, &body);
}
