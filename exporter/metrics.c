/*
 * Metrics: which figures there are, and what they are called.
 *
 * Called by cache.c, once for each format and answer. Calls exposition.c. Data: the daemon's replies, read only.
 *
 * Names follow Prometheus's conventions: base units, _total for counters, labels for what adds up. How many series
 * there can be is bounded whatever clients do: one for each size class (70), kind of request (40), limit (20), and
 * --groups-max groups. No label has the number, the pid or the label of a session.
 *
 * Counters begin at 0 with each daemon, but for goallocd_span_leases_total, which the heap has; goallocd_heap_info and
 * goallocd_start_time_seconds say when that was. A figure that the daemon does not send (an older one) is left out, and
 * so is a limit that is not set: a rule that divides by it has no result then.
 */
#include "exporter/metrics.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "shm/layout.h"

#define LABELS(...) ((const label[]){ __VA_ARGS__, { NULL, NULL } })

/* --- this process --- */

static void write_exporter(exposition *x, const exporter_counts *counts)
{
    static const metric build = { "goallocd_exporter_build", METRIC_INFO, "Version of the exporter." };
    static const metric scrapes = { "goallocd_exporter_scrapes", METRIC_COUNTER, "Requests for these metrics." };
    static const metric queries = { "goallocd_exporter_queries", METRIC_COUNTER,
                                    "Times that the daemon was asked for its figures." };
    static const metric failures = { "goallocd_exporter_query_failures", METRIC_COUNTER,
                                     "Times that the daemon could not be asked, or did not answer, by reason." };
    static const metric connections = { "goallocd_exporter_connections", METRIC_GAUGE, "HTTP connections." };
    static const char *const reasons[QUERY_FAILURES] = { [QUERY_CONNECT] = "connect",
                                                         [QUERY_TIMEOUT] = "timeout",
                                                         [QUERY_CLOSED] = "closed",
                                                         [QUERY_NOT_UNDERSTOOD] = "not_understood" };

    exposition_family(x, &build);
    exposition_count(x, LABELS({ "version", GOALLOC_VERSION }), 1);
    exposition_single(x, &scrapes, counts->scrapes);
    exposition_single(x, &queries, counts->queries);
    exposition_family(x, &failures);
    for (size_t i = 0; i < QUERY_FAILURES; i++)
        exposition_count(x, LABELS({ "reason", reasons[i] }), counts->failures[i]);
    exposition_single(x, &connections, counts->connections);
}

/* --- the daemon --- */

static void write_life(exposition *x, const figures *seen)
{
    static const metric build = { "goallocd_build", METRIC_INFO,
                                  "Version of the daemon, and the layout of its shared memory." };
    static const metric heap = { "goallocd_heap", METRIC_INFO,
                                 "Which heap is served: another generation is another heap." };
    static const metric taken_over = { "goallocd_heap_taken_over", METRIC_GAUGE,
                                       "1 if the daemon took the heap over from another one, 0 if it has made it." };
    static const metric start = { "goallocd_start_time_seconds", METRIC_GAUGE,
                                  "When the daemon began to serve, since 1970." };
    static const metric took = { "goallocd_exporter_query_duration_seconds", METRIC_GAUGE,
                                 "How long the daemon took for the answer that these figures are from." };
    const Goallocd__StatsReply *s = seen->stats;
    char generation[20];

    (void)snprintf(generation, sizeof(generation), "%016" PRIx64, s->generation);
    exposition_family(x, &build);
    exposition_count(x, LABELS({ "version", s->version }, { "layout", s->layout }), 1);
    exposition_family(x, &took);
    exposition_seconds(x, NULL, seen->took_us);
    if (s->start_time_ms == 0)
        return;
    exposition_family(x, &heap);
    exposition_count(x, LABELS({ "generation", generation }), 1);
    exposition_single(x, &taken_over, s->taken_over ? 1 : 0);
    exposition_family(x, &start);
    exposition_seconds(x, NULL, s->start_time_ms * 1000);
}

/* --- memory and objects --- */

static void write_memory(exposition *x, const Goallocd__StatsReply *s)
{
    static const metric memory = { "goallocd_memory_bytes", METRIC_GAUGE,
                                   "Memory by what it is: in live objects, unused in spans, free, released to the "
                                   "system, metadata. The sum is all that the heap has ever grown to." };
    static const metric scavenged = { "goallocd_scavenged_bytes", METRIC_COUNTER,
                                      "Memory given back to the system: in the background, or because somebody needed "
                                      "it." };
    static const metric singles[] = {
        { "goallocd_reserved_bytes", METRIC_GAUGE, "Address space of the arena, which the heap can grow to." },
        { "goallocd_committed_bytes", METRIC_GAUGE, "Pages of the arena that have memory." },
        { "goallocd_peak_committed_bytes", METRIC_GAUGE,
          "The most that goallocd_committed_bytes has been since the heap was made." },
        { "goallocd_spans_bytes", METRIC_GAUGE, "Pages in spans." },
        { "goallocd_metadata_charged_bytes", METRIC_GAUGE,
          "The part of the metadata that counts towards the memory limit." },
        { "goallocd_excess_bytes", METRIC_GAUGE, "Memory that clients have added and nobody leases." },
    };
    const uint64_t values[] = { s->reserved_bytes, s->committed_bytes,        s->peak_committed_bytes,
                                s->inuse_bytes,    s->metadata_charged_bytes, s->excess_bytes };
    const struct {
        const char *state;
        uint64_t bytes;
    } parts[] = { { "live", s->live_bytes },
                  { "unused", s->unused_bytes },
                  { "free", s->free_bytes },
                  { "released", s->released_bytes },
                  { "metadata", s->metadata_bytes } };

    exposition_family(x, &memory);
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        exposition_count(x, LABELS({ "state", parts[i].state }), parts[i].bytes);
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        exposition_single(x, &singles[i], values[i]);
    exposition_family(x, &scavenged);
    exposition_count(x, LABELS({ "cause", "background" }), s->scavenged_bytes);
    exposition_count(x, LABELS({ "cause", "forced" }), s->scavenged_eager_bytes);
}

static void write_memory_limits(exposition *x, const Goallocd__StatsReply *s)
{
    static const metric soft = { "goallocd_memory_limit_bytes", METRIC_GAUGE,
                                 "Soft limit (--memory-limit) of committed memory and charged metadata." };
    static const metric over = { "goallocd_over_memory_limit_bytes", METRIC_GAUGE,
                                 "By how much the soft limit is exceeded." };
    static const metric hard = { "goallocd_max_memory_bytes", METRIC_GAUGE,
                                 "Hard limit (--max-memory) of committed memory and metadata." };

    if (s->limit_bytes != 0) {
        exposition_single(x, &soft, s->limit_bytes);
        exposition_single(x, &over, s->over_limit_bytes);
    }
    if (s->max_memory_bytes != 0)
        exposition_single(x, &hard, s->max_memory_bytes);
}

static void write_objects(exposition *x, const Goallocd__StatsReply *s)
{
    static const metric objects = { "goallocd_live_objects", METRIC_GAUGE, "Objects that live." };
    static const metric roots = { "goallocd_roots", METRIC_GAUGE, "Named objects." };
    static const metric spans = { "goallocd_spans", METRIC_GAUGE, "Spans: leased to a session, or to none." };
    static const metric leases = { "goallocd_span_leases", METRIC_COUNTER,
                                   "Leases of spans that have begun since the heap was made." };
    static const metric ends = { "goallocd_span_lease_ends", METRIC_COUNTER,
                                 "Leases of spans that have ended since the heap was made." };
    uint64_t central = s->inuse_spans > s->leased_spans ? s->inuse_spans - s->leased_spans : 0;

    exposition_single(x, &objects, s->live_objects);
    exposition_single(x, &roots, s->roots);
    exposition_family(x, &spans);
    exposition_count(x, LABELS({ "state", "leased" }), s->leased_spans);
    exposition_count(x, LABELS({ "state", "central" }), central);
    if (s->start_time_ms != 0 && s->leases >= s->leased_spans) {
        exposition_single(x, &leases, s->leases);
        exposition_single(x, &ends, s->leases - s->leased_spans);
    }
}

/* --- size classes --- */

void floors_raise(floors *f, const Goallocd__StatsReply *stats)
{
    if (f->start_time_ms != stats->start_time_ms)
        *f = (floors){ .start_time_ms = stats->start_time_ms };
    for (size_t i = 0; i < stats->n_classes; i++) {
        const Goallocd__ClassStats *c = stats->classes[i];
        uint32_t at = c->size_class;

        if (at >= METRICS_CLASSES_MAX)
            continue;
        f->allocs[at] = c->allocs > f->allocs[at] ? c->allocs : f->allocs[at];
        f->frees[at] = c->frees > f->frees[at] ? c->frees : f->frees[at];
    }
}

/* What the class has of the figure of that number. */
static uint64_t class_value(const Goallocd__ClassStats *c, const floors *f, size_t which)
{
    const uint64_t values[] = { c->spans,        c->span_bytes,           c->live_objects,
                                c->live_bytes, f->allocs[c->size_class], f->frees[c->size_class] };

    return values[which];
}

static void write_classes(exposition *x, const Goallocd__StatsReply *s, const floors *f)
{
    static const metric families[] = {
        { "goallocd_class_spans", METRIC_GAUGE, "Spans by size of their objects in bytes; large and tiny ones." },
        { "goallocd_class_spans_bytes", METRIC_GAUGE, "Memory of the spans of a size." },
        { "goallocd_class_live_objects", METRIC_GAUGE, "Objects of a size that live." },
        { "goallocd_class_live_bytes", METRIC_GAUGE, "Memory of these objects." },
        { "goallocd_class_allocs", METRIC_COUNTER,
          "Objects of a size that were allocated, as far as clients have said." },
        { "goallocd_class_frees", METRIC_COUNTER, "Objects of a size that were freed, as far as clients have said." },
    };

    for (size_t which = 0; which < sizeof(families) / sizeof(families[0]); which++) {
        exposition_family(x, &families[which]);
        for (size_t i = 0; i < s->n_classes; i++) {
            const Goallocd__ClassStats *c = s->classes[i];
            char size[16];

            if (c->size_class >= METRICS_CLASSES_MAX)
                continue;
            (void)snprintf(size, sizeof(size), "%" PRIu32, c->object_bytes);
            exposition_count(x,
                             LABELS({ "size", c->size_class == 0                  ? "large"
                                              : c->size_class == SIZE_CLASS_TINY ? "tiny"
                                                                                 : size }),
                             class_value(c, f, which));
        }
    }
}

/* --- sessions and groups --- */

/* What ended sessions have left, by how they have ended. */
static void write_left(exposition *x, const Goallocd__SessionListReply *ended)
{
    static const metric families[] = {
        { "goallocd_ended_sessions_left_objects", METRIC_GAUGE,
          "Live objects that the last 128 sessions to end have left, by how they ended." },
        { "goallocd_ended_sessions_left_bytes", METRIC_GAUGE, "Memory of these objects." },
    };
    static const struct {
        const char *name;
        uint32_t state;
    } causes[] = { { "detached", SHM_SESSION_DETACHED }, { "died", SHM_SESSION_DIED } };

    for (size_t which = 0; which < 2; which++) {
        exposition_family(x, &families[which]);
        for (size_t c = 0; c < 2; c++) {
            uint64_t sum = 0;

            for (size_t i = 0; i < ended->n_sessions; i++) {
                const Goallocd__SessionInfo *s = ended->sessions[i];

                if (s->state == causes[c].state)
                    sum += which == 0 ? s->left_objects : s->left_bytes;
            }
            exposition_count(x, LABELS({ "cause", causes[c].name }), sum);
        }
    }
}

static void write_sessions(exposition *x, const Goallocd__StatsReply *s)
{
    static const metric sessions = { "goallocd_sessions", METRIC_GAUGE,
                                     "Sessions: open, lost (the connection has ended, the process lives), or ending." };
    static const metric ended = { "goallocd_sessions_ended", METRIC_COUNTER,
                                  "Sessions that have ended: their process has detached, or died." };
    uint64_t others = s->lost_sessions + s->ending_sessions;
    uint64_t died = s->died_sessions < s->ended_sessions ? s->died_sessions : s->ended_sessions;

    exposition_family(x, &sessions);
    exposition_count(x, LABELS({ "state", "open" }), s->sessions > others ? s->sessions - others : 0);
    exposition_count(x, LABELS({ "state", "lost" }), s->lost_sessions);
    exposition_count(x, LABELS({ "state", "ending" }), s->ending_sessions);
    exposition_family(x, &ended);
    exposition_count(x, LABELS({ "cause", "detached" }), s->ended_sessions - died);
    exposition_count(x, LABELS({ "cause", "died" }), died);
}

static uint64_t group_value(const Goallocd__GroupStats *g, size_t which)
{
    const uint64_t values[] = { g->sessions, g->live_objects, g->live_bytes };

    return values[which];
}

/* Two groups of one name: one of them is ending. */
static bool are_named_alike(const Goallocd__GroupStats *a, const Goallocd__GroupStats *b)
{
    return a->uid == b->uid && strcmp(a->name, b->name) == 0;
}

/* A series for each name among the first n groups; the rest of the total is that of the others. */
static void write_group_family(exposition *x, const Goallocd__StatsReply *s, size_t n, size_t which, uint64_t total)
{
    uint64_t named = 0;

    for (size_t i = 0; i < n; i++) {
        uint64_t sum = 0;
        bool first = true;
        char uid[16];

        for (size_t j = 0; j < n; j++) {
            if (!are_named_alike(s->groups[i], s->groups[j]))
                continue;
            first &= j >= i;
            sum += group_value(s->groups[j], which);
        }
        if (!first)
            continue;
        named += sum;
        (void)snprintf(uid, sizeof(uid), "%" PRIu32, s->groups[i]->uid);
        exposition_count(x, LABELS({ "group", s->groups[i]->name }, { "uid", uid }), sum);
    }
    exposition_count(x, LABELS({ "group", "other" }, { "uid", "" }), total > named ? total - named : 0);
}

static void write_groups(exposition *x, const Goallocd__StatsReply *s, unsigned groups_max)
{
    static const metric groups = { "goallocd_groups", METRIC_GAUGE, "Groups of sessions." };
    static const metric families[] = {
        { "goallocd_group_sessions", METRIC_GAUGE,
          "Sessions of a group, open or lost; other: of all groups not named." },
        { "goallocd_group_live_objects", METRIC_GAUGE, "Live objects that a group owns." },
        { "goallocd_group_live_bytes", METRIC_GAUGE, "Memory of these objects." },
    };
    const uint64_t totals[] = { s->groups_sessions, s->groups_live_objects, s->groups_live_bytes };
    size_t n = s->n_groups < groups_max ? s->n_groups : groups_max;

    exposition_single(x, &groups, s->ngroups);
    for (size_t which = 0; which < sizeof(families) / sizeof(families[0]); which++) {
        exposition_family(x, &families[which]);
        write_group_family(x, s, n, which, totals[which]);
    }
}

/* --- requests and limits --- */

static void write_requests(exposition *x, const Goallocd__StatsReply *s)
{
    static const metric requests = { "goallocd_requests", METRIC_COUNTER, "Requests served, by kind." };
    static const metric tries = { "goallocd_request_tries", METRIC_COUNTER,
                                  "Requests handled: those that waited and were handled once more count again." };
    static const metric waits = { "goallocd_request_waits", METRIC_COUNTER,
                                  "Times that a request has waited for memory, pages or a session." };

    exposition_family(x, &requests);
    for (size_t i = 0; i < s->n_requests; i++) {
        const ProtobufCFieldDescriptor *field =
            protobuf_c_message_descriptor_get_field(&goallocd__request__descriptor, s->requests[i]->op);
        char number[16];

        /* A daemon that is newer than this program has kinds of which it knows the number alone. */
        (void)snprintf(number, sizeof(number), "%" PRIu32, s->requests[i]->op);
        exposition_count(x, LABELS({ "request", field != NULL ? field->name : number }), s->requests[i]->count);
    }
    exposition_single(x, &tries, s->tries);
    exposition_single(x, &waits, s->waits);
}

static void write_refusals(exposition *x, const Goallocd__StatsReply *s)
{
    static const metric refusals = { "goallocd_memory_refusals", METRIC_COUNTER,
                                     "Requests for memory that got none: the arena is full, a limit of a client, the "
                                     "system (or --max-memory) has none. memory_limit: told to give back and insist." };
    static const struct {
        int error;
        const char *name;
    } reasons[] = { { ENOSPC, "arena_full" },
                    { EDQUOT, "limit" },
                    { ENOMEM, "no_memory" },
                    { EAGAIN, "memory_limit" } };

    if (s->n_refusals == 0)
        return;
    exposition_family(x, &refusals);
    for (size_t r = 0; r < sizeof(reasons) / sizeof(reasons[0]); r++) {
        uint64_t count = 0;

        for (size_t i = 0; i < s->n_refusals; i++)
            count += s->refusals[i]->error == reasons[r].error ? s->refusals[i]->count : 0;
        exposition_count(x, LABELS({ "reason", reasons[r].name }), count);
    }
}

/* As the daemon numbers them (daemon/limits.h): what is used of a connection's limits is not counted. */
#define SCOPE_CONNECTION 3u

static void write_limits(exposition *x, const Goallocd__LimitsReply *l)
{
    static const char *const scopes[] = { "all", "uid", "session", "connection", "group" };
    static const struct {
        metric m;
        bool bytes;
        enum { IS_MAXIMUM, IS_USE, IS_REFUSALS } value;
    } families[] = {
        { { "goallocd_limit", METRIC_GAUGE, "Limits of clients that are numbers." }, false, IS_MAXIMUM },
        { { "goallocd_limit_bytes", METRIC_GAUGE, "Limits of clients that are sizes." }, true, IS_MAXIMUM },
        { { "goallocd_limit_used", METRIC_GAUGE,
            "Used of these: by the user, session or group that is nearest to its limit, which goallocd_limit says." },
          false, IS_USE },
        { { "goallocd_limit_used_bytes", METRIC_GAUGE, "The same of goallocd_limit_bytes." }, true, IS_USE },
        { { "goallocd_limit_refusals", METRIC_COUNTER, "Times that a limit has refused something." },
          false, IS_REFUSALS },
    };

    for (size_t f = 0; f < sizeof(families) / sizeof(families[0]); f++) {
        exposition_family(x, &families[f].m);
        for (size_t i = 0; i < l->n_uses; i++) {
            const Goallocd__LimitUse *use = l->uses[i];
            const char *scope = use->scope < sizeof(scopes) / sizeof(scopes[0]) ? scopes[use->scope] : "other";
            const label *labels = LABELS({ "limit", use->name }, { "scope", scope });

            if (families[f].value == IS_REFUSALS)
                exposition_count(x, labels, use->refused);
            else if (use->bytes != families[f].bytes || use->maximum == 0)
                continue;
            else if (families[f].value == IS_MAXIMUM)
                exposition_count(x, labels, use->maximum);
            else if (use->scope != SCOPE_CONNECTION)
                exposition_count(x, labels, use->used);
        }
    }
}

void metrics_write(exposition *x, const figures *seen, const floors *f, const exporter_counts *counts,
                   unsigned groups_max)
{
    static const metric up = { "goallocd_up", METRIC_GAUGE,
                               "1 if the daemon has answered; else there is nothing of it here." };

    exposition_single(x, &up, seen != NULL);
    write_exporter(x, counts);
    if (seen == NULL)
        return;
    write_life(x, seen);
    write_memory(x, seen->stats);
    write_memory_limits(x, seen->stats);
    write_objects(x, seen->stats);
    write_sessions(x, seen->stats);
    write_left(x, seen->ended);
    write_groups(x, seen->stats, groups_max);
    write_requests(x, seen->stats);
    write_refusals(x, seen->stats);
    write_limits(x, seen->limits);
    write_classes(x, seen->stats, f);
}
