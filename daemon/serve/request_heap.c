/*
 * Request, the heap as a whole: statistics, picture, trim, release.
 *
 * Called by request.c; any connection may ask, with or without a session. Counting objects and releasing pages take a
 * while: they are done in slices (census.c) and in the thread pool (scavenge.c), and the peer is busy meanwhile.
 *
 * The bytes of the statistics are taken at one moment, when objects have been counted: pages in use, free with memory,
 * free without, and metadata make the total; pages in use are objects and the rest. So the sum holds exactly, whatever
 * goes on. What clients say that they have allocated (the counters in bitmap) is reported and not relied upon.
 */
#include "daemon/serve/request_internal.h"

#include <errno.h>
#include <string.h>

#define MAP_CELLS_MAX      4096u
#define MAP_WORDS_MAX      (UINT64_C(1) << 18) /* of page bits looked at for one picture: a fraction of a millisecond */

void request_wait_for(peer *p, uint64_t id, enum peer_wait wait)
{
    if (!peer_hold(p))
        return; /* a notice that it did not read has closed it */
    p->op_id = id;
    p->wait = wait;
    p->in_round = false;
    server_wake_idle(p->server);
}

void handle_stats(peer *p, uint64_t id)
{
    session *s = peer_session(p);

    if (s != NULL)
        s->nrpcs++;
    request_wait_for(p, id, WAIT_STATS);
}

void request_count_session(server *s, session_no no)
{
    shm_u64 *counters = shm_counters(s->heap->map, no);

    for (size_t c = 0; c < SPAN_CLASS_COUNT; c++) {
        s->ended_allocs[c] += u64_load_relaxed(&counters[c]);
        u64_store_relaxed(&counters[c], 0);
    }
}

/* Objects of each span class allocated since the start, as far as clients have said. */
static void count_allocs(const server *s, uint64_t ret[SPAN_CLASS_COUNT])
{
    memcpy(ret, s->ended_allocs, sizeof(s->ended_allocs));
    for (uint32_t i = 1; i < SHM_SESSIONS_MAX; i++) {
        const shm_u64 *counters = shm_counters(s->heap->map, (session_no){ (uint16_t)i });

        for (size_t c = 0; session_at(&s->sessions, i) != NULL && c < SPAN_CLASS_COUNT; c++)
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
static void fill_memory(const server *s, uint64_t live_bytes, Goallocd__StatsReply *body)
{
    const mheap *heap = s->heap;
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
    body->total_bytes = mheap_added_pages(heap) * PAGE_BYTES + body->metadata_bytes;
    body->limit_bytes = heap->limit_bytes;
    body->over_limit_bytes = mheap_over_limit(heap, 100, 0);
}

void request_stats_done(peer *p)
{
    server *srv = p->server;
    const session *s = peer_session(p);
    Goallocd__Reply reply = reply_init(p->op_id);
    Goallocd__StatsReply body = GOALLOCD__STATS_REPLY__INIT;
    Goallocd__ClassStats classes[SIZE_CLASS_COUNT + 1];
    Goallocd__ClassStats *pointers[SIZE_CLASS_COUNT + 1];
    census_class total = census_total(&p->server->census);
    uint64_t allocs[SPAN_CLASS_COUNT];

    count_allocs(srv, allocs);
    mheap_refresh_metadata(srv->heap);
    fill_memory(srv, total.live.bytes, &body);
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
    body.uptime_ms = uv_hrtime() / 1000000 - srv->started_ms;
    body.version = (char *)(uintptr_t)GOALLOC_VERSION;
    for (uint32_t class = 0; class <= SIZE_CLASS_TINY; class++) {
        pointers[body.n_classes] = &classes[body.n_classes];
        body.n_classes += fill_class(&srv->census, allocs, class, &classes[body.n_classes]);
    }
    body.classes = pointers;
    reply.result_case = GOALLOCD__REPLY__RESULT_STATS;
    reply.stats = &body;
    peer_reply(p, &reply);
    peer_resume(p);
}

static void on_scavenged(void *data, uint64_t npages)
{
    server *srv = data;

    for (peer *p = srv->peers, *next; p != NULL; p = next) {
        Goallocd__Reply reply = reply_init(p->op_id);
        Goallocd__ScavengeReply body = GOALLOCD__SCAVENGE_REPLY__INIT;

        next = p->next;
        if (p->wait != WAIT_RELEASED)
            continue;
        p->wait = WAIT_NONE;
        body.released_bytes = npages * PAGE_BYTES;
        body.remaining_bytes = mheap_idle_pages(srv->heap) * PAGE_BYTES;
        reply.result_case = GOALLOCD__REPLY__RESULT_SCAVENGE;
        reply.scavenge = &body;
        peer_reply(p, &reply);
        peer_resume(p);
    }
}

void handle_scavenge(peer *p, uint64_t id)
{
    server_ask_trim(p->server);
    request_wait_for(p, id, WAIT_SCAVENGE);
}

void handle_trim(peer *p, uint64_t id)
{
    server_ask_trim(p->server);
    request_wait_for(p, id, WAIT_TRIM);
}

void request_swept(peer *p)
{
    server *srv = p->server;

    if (p->wait == WAIT_SCAVENGE) {
        p->wait = WAIT_RELEASED;
        scavenge_force(&srv->scav, on_scavenged, srv);
        return;
    }
    p->wait = WAIT_NONE;
    reply_ok(p, p->op_id);
    peer_resume(p);
}

void handle_heap_map(peer *p, uint64_t id, const Goallocd__HeapMap *ask)
{
    static uint64_t inuse[MAP_CELLS_MAX];
    static uint64_t backed[MAP_CELLS_MAX];
    const mheap *heap = p->server->heap;
    uint64_t end = pagealloc_end(heap->pages).n;
    Goallocd__Reply reply = reply_init(id);
    Goallocd__HeapMapReply body = GOALLOCD__HEAP_MAP_REPLY__INIT;
    uint64_t words = 0;
    size_t n = 0;

    if (ask->cell_pages == 0 || ask->cell_pages % 64 != 0 || ask->cell_pages > heap->map->npages ||
        ask->start % 64 != 0) {
        reply_error(p, id, EINVAL, "cells of no pages, or of no multiple of 64");
        return;
    }
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
    reply.result_case = GOALLOCD__REPLY__RESULT_HEAP_MAP;
    reply.heap_map = &body;
    peer_reply(p, &reply);
}

void handle_check(peer *p, uint64_t id)
{
    const server *srv = p->server;
    Goallocd__Reply reply = reply_init(id);
    Goallocd__CheckReply body = GOALLOCD__CHECK_REPLY__INIT;
    char text[1024] = "";
    FILE *out = fmemopen(text, sizeof(text), "w");
    FILE *err = out != NULL ? out : stderr;

    body.whole = mheap_validate(srv->heap, err) == 0 && session_table_validate(&srv->sessions, err) == 0 &&
                 roots_validate(srv->roots, err) == 0 && peer_validate_all(srv, err) == 0;
    if (out != NULL)
        (void)fclose(out);
    if (!body.whole) {
        session_table_dump(&srv->sessions, stderr);
        roots_dump(srv->roots, stderr);
        adopt_dump(srv->heap->adopted, stderr);
    }
    text[sizeof(text) - 1] = '\0';
    body.text = text;
    reply.result_case = GOALLOCD__REPLY__RESULT_CHECK;
    reply.check = &body;
    peer_reply(p, &reply);
}
