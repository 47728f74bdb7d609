/*
 * Stats: what a Stats request is answered.
 *
 * Called by rounds.c, which has all who wait when a count begins in one round, and goes on with the next slice in the
 * next turn of the loop. Calls census (objects, by the bits), session, request_group.c (groups).
 *
 *   1. The census goes over the spans.
 *   2. Each session is told what the census has found in its spans, for SessionList. The counters of the sessions are
 *      added up, some sessions a slice: what their processes say they have allocated,
 *      which is reported and not relied upon. A session that ends meanwhile counts once: with the ended ones, if it
 *      had not been added yet.
 *   3. The figures are written down at one moment. Pages in use, free with memory, free without, and metadata make the
 *      total; pages in use are objects and the rest. So the sums hold exactly, whatever goes on.
 *   4. Everybody in the round gets these figures, and those of his own session and group.
 *
 * A request is answered with a count that has begun after it came, never with an older one: who frees and then asks
 * gets exact figures (goalloc_stats). Sessions are those that there were when the count began: who is told that there
 * is none gets figures in which nothing of a session is left.
 */
#include "daemon/serve/stats.h"

#include <stdio.h>
#include <string.h>

#include "daemon/heap/census.h"
#include "daemon/serve/request_group.h"

/* What is counted, by one daemon for all. */
typedef struct sums {
    census census;
    uint32_t nsessions;                /* when the count began */
    uint32_t nlost;                    /* of them */
    uint32_t nending;
    uint32_t session;                  /* the next one whose counters are added; 0: spans are still being counted */
    uint64_t allocs[SPAN_CLASS_COUNT]; /* objects, as clients say: of sessions before that one, and ended ones */
    Goallocd__StatsReply body;         /* all but what concerns one session */
    Goallocd__ClassStats classes[SIZE_CLASS_COUNT + 1];
    Goallocd__ClassStats *class_pointers[SIZE_CLASS_COUNT + 1];
} sums;

static sums the;

/* --- counting --- */

void stats_begin(const service *srv)
{
    the.nsessions = srv->sessions.nopen;
    the.nlost = srv->sessions.nlost;
    the.nending = srv->sessions.nending;
    memset(&the.census, 0, sizeof(the.census));
    the.session = 0;
}

live_sum stats_live(void)
{
    return census_total(&the.census).live;
}

static void add_counters(const service *srv, session_no no, uint64_t ret[SPAN_CLASS_COUNT])
{
    const shm_u64 *counters = shm_counters(srv->heap->map, no);

    for (size_t c = 0; c < SPAN_CLASS_COUNT; c++)
        ret[c] += u64_load_relaxed(&counters[c]);
}

void stats_session_ends(service *srv, session_no no)
{
    shm_u64 *counters = shm_counters(srv->heap->map, no);

    if (the.session != 0 && no.n >= the.session)
        add_counters(srv, no, the.allocs);
    add_counters(srv, no, srv->ended_allocs);
    for (size_t c = 0; c < SPAN_CLASS_COUNT; c++)
        u64_store_relaxed(&counters[c], 0);
}

/* True: those of all sessions have been added. */
static bool add_sessions(service *srv, unsigned budget)
{
    sums *s = &the;
    uint32_t end = service_nentries(srv);

    for (; budget > 0 && s->session < end; budget--, s->session++) {
        session *one = session_at(&srv->sessions, s->session);

        if (one == NULL)
            continue;
        add_counters(srv, one->lessee.no, s->allocs);
        one->counted = census_of_lessee(&s->census, one->lessee.no, one->lessee.epoch);
    }
    return s->session >= end;
}

/* --- the figures --- */

/* A span class and its noscan twin. False: there is nothing to say about them. */
static bool fill_class(const sums *s, uint32_t class, Goallocd__ClassStats *ret)
{
    const census *count = &s->census;

    goallocd__class_stats__init(ret);
    ret->size_class = class;
    ret->object_bytes = class == SIZE_CLASS_TINY ? 0 : size_class_bytes[class];
    for (uint32_t c = 2 * class; c < 2 * class + 2; c++) {
        ret->spans += count->classes[c].nspans;
        ret->span_bytes += count->classes[c].npages * PAGE_BYTES;
        ret->live_objects += count->classes[c].live.objects;
        ret->live_bytes += count->classes[c].live.bytes;
        ret->allocs += s->allocs[c];
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
    body->max_memory_bytes = heap->max_bytes;
    body->excess_bytes = excess_bytes(heap);
    body->peak_committed_bytes = mheap_peak_pages(heap) * PAGE_BYTES;
    body->over_limit_bytes = mheap_over_limit(heap, 100, 0);
}

/* What has come since the start, and what of it got no memory. */
static void fill_requests(const service *srv, Goallocd__StatsReply *body)
{
    static Goallocd__RequestCount counts[SERVICE_OPS_MAX];
    static Goallocd__RequestCount *count_pointers[SERVICE_OPS_MAX];
    static Goallocd__RefusalCount refused[MEMORY_ERRORS];
    static Goallocd__RefusalCount *refusal_pointers[MEMORY_ERRORS];

    for (uint32_t op = 0; op < SERVICE_OPS_MAX; op++) {
        Goallocd__RequestCount *count = &counts[body->n_requests];

        if (srv->nrequests[op] == 0)
            continue;
        goallocd__request_count__init(count);
        count->op = op;
        count->count = srv->nrequests[op];
        count_pointers[body->n_requests++] = count;
    }
    for (uint32_t i = 0; i < MEMORY_ERRORS; i++) {
        goallocd__refusal_count__init(&refused[i]);
        refused[i].error = service_memory_errors[i];
        refused[i].count = srv->nrefusals[i];
        refusal_pointers[i] = &refused[i];
    }
    body->requests = count_pointers;
    body->refusals = refusal_pointers;
    body->n_refusals = MEMORY_ERRORS;
}

/* Sessions, as they were when the count began; and which daemon and which heap this is. */
static void fill_life(const service *srv, Goallocd__StatsReply *body)
{
    static char layout[24];
    const shm_header *header = srv->heap->map->header;
    shm_version heap = heapfile_version(srv->heap->file);

    body->sessions = the.nsessions;
    body->lost_sessions = the.nlost;
    body->ending_sessions = the.nending;
    body->ended_sessions = srv->sessions.nended;
    body->died_sessions = srv->sessions.ndied;
    body->uptime_ms = uv_hrtime() / 1000000 - srv->started_ms;
    body->start_time_ms = srv->start_time_ms;
    body->taken_over = srv->taken_over;
    body->generation = header->generation;
    (void)snprintf(layout, sizeof(layout), "%u.%u", heap.major, heap.minor);
    body->layout = layout;
    body->leases = u64_load_relaxed(&header->nleases);
    body->version = (char *)(uintptr_t)GOALLOC_VERSION;
}

static void fill_body(service *srv)
{
    sums *s = &the;
    Goallocd__StatsReply *body = &s->body;
    live_sum live = census_total(&s->census).live;

    goallocd__stats_reply__init(body);
    mheap_refresh_metadata(srv->heap);
    fill_memory(srv->heap, live.bytes, body);
    body->live_objects = live.objects;
    body->leased_spans = srv->sessions.leases.nleased;
    body->roots = roots_count(srv->roots);
    body->reserved_bytes = srv->heap->map->arena_bytes;
    body->inuse_spans = srv->heap->ninuse_spans;
    body->scavenged_bytes = srv->scav.nbackground * PAGE_BYTES;
    body->scavenged_eager_bytes = srv->scav.neager * PAGE_BYTES;
    body->rpcs = srv->nrpcs;
    body->tries = srv->ntries;
    body->waits = srv->queue.nwaits;
    fill_life(srv, body);
    fill_requests(srv, body);
    for (uint32_t class = 0; class <= SIZE_CLASS_TINY; class ++) {
        s->class_pointers[body->n_classes] = &s->classes[body->n_classes];
        body->n_classes += fill_class(s, class, &s->classes[body->n_classes]);
    }
    body->classes = s->class_pointers;
    groups_fill_stats(srv, &s->census, body);
}

bool stats_step(service *srv, unsigned budget)
{
    sums *s = &the;

    if (s->session == 0) {
        if (!census_step(&s->census, srv->heap, budget))
            return false;
        memcpy(s->allocs, srv->ended_allocs, sizeof(s->allocs));
        s->session = 1;
    }
    if (!add_sessions(srv, budget))
        return false;
    s->session = 0;
    fill_body(srv);
    return true;
}

void stats_reply(operation *op)
{
    const session *s = client_session(client_of(op->peer));
    Goallocd__StatsReply body = the.body;

    if (s != NULL)
        body.session_held_bytes = s->lessee.nheld_pages * PAGE_BYTES;
    if (s != NULL && s->lessee.owner.n != 0) {
        body.group_live_objects = the.census.owned[s->lessee.owner.n].objects;
        body.group_live_bytes = the.census.owned[s->lessee.owner.n].bytes;
    }
    (void)reply_body(op->peer, op->id, GOALLOCD__REPLY__RESULT_STATS, &body);
}
