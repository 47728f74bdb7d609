/*
 * Requests for the heap as a whole: statistics, picture, trim, release, check.
 *
 * Called by requests.c, which has looked whether the client may. None needs a session. Counting objects (stats.c),
 * checking all tables (check.c) and sweeping all spans take a while: rounds.c does it in slices for all who ask. Pages
 * are released by the helper (scavenge.c).
 */
#include "daemon/serve/request_heap.h"

#include <errno.h>
#include <unistd.h>

#include "daemon/serve/check.h"
#include "daemon/serve/stats.h"
#include "proto/layout.h"

#define MAP_CELLS_MAX 4096u
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

answer handle_trim(client *c, const Goallocd__Request *request)
{
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
