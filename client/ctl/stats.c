/*
 * stats: what the heap holds: goallocctl stats, classes, scavenge, check and ping.
 *
 * The bytes add up: total = live + unused + free + released + metadata, as the daemon counts them.
 */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "shm/sizeclass.h"
#include "shm/units.h"

const char *stats_class_name(uint32_t class, uint32_t object_bytes, char ret[16])
{
    (void)snprintf(ret, 16, "%u", object_bytes);
    return class == 0 ? "large" : class == SIZE_CLASS_TINY ? "tiny" : ret;
}

static const char *class_name(const Goallocd__ClassStats *c, char name[16])
{
    return stats_class_name(c->size_class, c->object_bytes, name);
}

static double class_fragmentation(const Goallocd__ClassStats *c)
{
    return c->span_bytes == 0 ? 0 : 1 - (double)c->live_bytes / (double)c->span_bytes;
}

static json_t *class_json(const Goallocd__Reply *reply, size_t i)
{
    const Goallocd__ClassStats *c = reply->stats->classes[i];
    uint64_t unused = c->span_bytes > c->live_bytes ? c->span_bytes - c->live_bytes : 0;
    char name[16];

    return json_pack("{s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "class", (json_int_t)c->size_class,
                     "name", class_name(c, name), "size", (json_int_t)c->object_bytes, "spans", (json_int_t)c->spans,
                     "span_bytes", (json_int_t)c->span_bytes, "live_objects", (json_int_t)c->live_objects,
                     "live_bytes", (json_int_t)c->live_bytes, "unused_bytes", (json_int_t)unused, "allocs",
                     (json_int_t)c->allocs, "frees", (json_int_t)c->frees, "fragmentation", class_fragmentation(c));
}

bool classes_json(json_t *object, const Goallocd__Reply *reply)
{
    return ctl_json_append(object, "classes", reply, reply->stats->n_classes, class_json);
}

/* The numbers of stats, as JSON and watch call them. */
static const struct {
    const char *name;
    size_t at;
} figures[] = {
    { "live_objects", offsetof(Goallocd__StatsReply, live_objects) },
    { "live_bytes", offsetof(Goallocd__StatsReply, live_bytes) },
    { "committed_bytes", offsetof(Goallocd__StatsReply, committed_bytes) },
    { "released_bytes", offsetof(Goallocd__StatsReply, released_bytes) },
    { "metadata_bytes", offsetof(Goallocd__StatsReply, metadata_bytes) },
    { "sessions", offsetof(Goallocd__StatsReply, sessions) },
    { "leased_spans", offsetof(Goallocd__StatsReply, leased_spans) },
    { "roots", offsetof(Goallocd__StatsReply, roots) },
    { "total_bytes", offsetof(Goallocd__StatsReply, total_bytes) },
    { "objects_bytes", offsetof(Goallocd__StatsReply, live_bytes) },
    { "unused_bytes", offsetof(Goallocd__StatsReply, unused_bytes) },
    { "free_bytes", offsetof(Goallocd__StatsReply, free_bytes) },
    { "inuse_spans", offsetof(Goallocd__StatsReply, inuse_spans) },
    { "inuse_bytes", offsetof(Goallocd__StatsReply, inuse_bytes) },
    { "reserved_bytes", offsetof(Goallocd__StatsReply, reserved_bytes) },
    { "limit_bytes", offsetof(Goallocd__StatsReply, limit_bytes) },
    { "arena_bytes", offsetof(Goallocd__StatsReply, reserved_bytes) }, /* as goalloc_stats_t calls the two */
    { "memory_limit_bytes", offsetof(Goallocd__StatsReply, limit_bytes) },
    { "max_memory_bytes", offsetof(Goallocd__StatsReply, max_memory_bytes) },
    { "excess_bytes", offsetof(Goallocd__StatsReply, excess_bytes) },
    { "peak_committed_bytes", offsetof(Goallocd__StatsReply, peak_committed_bytes) },
    { "over_limit_bytes", offsetof(Goallocd__StatsReply, over_limit_bytes) },
    { "scavenged_bytes", offsetof(Goallocd__StatsReply, scavenged_bytes) },
    { "scavenged_eager_bytes", offsetof(Goallocd__StatsReply, scavenged_eager_bytes) },
    { "rpcs", offsetof(Goallocd__StatsReply, rpcs) },
    { "tries", offsetof(Goallocd__StatsReply, tries) },
    { "waits", offsetof(Goallocd__StatsReply, waits) },
    { "groups_total", offsetof(Goallocd__StatsReply, ngroups) },
    { "uptime_ms", offsetof(Goallocd__StatsReply, uptime_ms) },
    { "ended_sessions", offsetof(Goallocd__StatsReply, ended_sessions) },
    { "died_sessions", offsetof(Goallocd__StatsReply, died_sessions) },
};
#define FIGURES (sizeof(figures) / sizeof(figures[0]))

static uint64_t count_tiny(const Goallocd__StatsReply *s)
{
    uint64_t tiny = 0;

    for (size_t i = 0; i < s->n_classes; i++)
        tiny += s->classes[i]->size_class == SIZE_CLASS_TINY ? s->classes[i]->allocs : 0;
    return tiny;
}

/* As of a session: what has asked for spans or large objects. */
static uint64_t count_refills(const Goallocd__StatsReply *s)
{
    uint64_t refills = 0;

    for (size_t i = 0; i < s->n_requests; i++) {
        const Goallocd__RequestCount *r = s->requests[i];

        refills += r->op == GOALLOCD__REQUEST__OP_REFILL || r->op == GOALLOCD__REQUEST__OP_ALLOC_LARGE ? r->count : 0;
    }
    return refills;
}

static uint64_t count_refusals(const Goallocd__StatsReply *s)
{
    uint64_t refusals = 0;

    for (size_t i = 0; i < s->n_refusals; i++)
        refusals += s->refusals[i]->count;
    return refusals;
}

/* Those that are sums. */
static const struct {
    const char *name;
    uint64_t (*count)(const Goallocd__StatsReply *s);
} sums[] = {
    { "tiny_allocs", count_tiny },
    { "refills", count_refills },
    { "refusals", count_refusals },
};
#define SUMS (sizeof(sums) / sizeof(sums[0]))

static uint64_t figure_at(const Goallocd__StatsReply *s, size_t at)
{
    uint32_t n32;
    uint64_t n64;

    if (at == offsetof(Goallocd__StatsReply, ngroups)) { /* the only one of 32 bits */
        memcpy(&n32, (const char *)s + at, sizeof(n32));
        return n32;
    }
    memcpy(&n64, (const char *)s + at, sizeof(n64));
    return n64;
}

size_t stats_figures(void)
{
    return FIGURES + SUMS;
}

const char *stats_figure_name(size_t i)
{
    return i < FIGURES ? figures[i].name : sums[i - FIGURES].name;
}

uint64_t stats_figure(const Goallocd__StatsReply *s, size_t i)
{
    return i < FIGURES ? figure_at(s, figures[i].at) : sums[i - FIGURES].count(s);
}

static const char *version_of(const char *version)
{
    static char text[64];

    return ctl_plain_text(version, text, sizeof(text));
}

static bool set_version(json_t *object, const char *version)
{
    return ctl_json_set_text(object, "version", version_of(version));
}

bool stats_json(json_t *object, const Goallocd__Reply *reply)
{
    const Goallocd__StatsReply *s = reply->stats;
    bool whole = true;

    for (size_t i = 0; whole && i < stats_figures(); i++)
        whole = ctl_json_set(object, stats_figure_name(i), stats_figure(s, i));
    return whole && set_version(object, s->version) &&
           classes_json(object, reply) && groups_json(object, reply);
}

static void print_count(const char *name, uint64_t n)
{
    (void)printf("%-22s %16" PRIu64 "\n", name, n);
}

static void print_bytes(const char *name, uint64_t bytes)
{
    (void)printf("%-22s %16" PRIu64 "  %s\n", name, bytes, ctl_bytes(bytes));
}

void classes_text(const Goallocd__Reply *reply)
{
    const Goallocd__StatsReply *s = reply->stats;

    ctl_print_row("%6s %9s %8s %10s %8s %10s %10s %8s", "size", "spans", "memory", "objects", "live", "allocs", "frees",
                  "unused");
    for (size_t i = 0; i < s->n_classes; i++) {
        const Goallocd__ClassStats *c = s->classes[i];
        char name[16];

        ctl_print_row("%6s %9" PRIu64 " %8s %10s %8s %10s %10s %7.1f%%", class_name(c, name), c->spans,
                      ctl_size(c->span_bytes), ctl_count(c->live_objects), ctl_size(c->live_bytes),
                      ctl_count(c->allocs), ctl_count(c->frees), 100 * class_fragmentation(c));
    }
}

static bool with_classes;

bool stats_set(const arguments *args)
{
    with_classes = args->classes;
    return true;
}

void stats_text(const Goallocd__Reply *reply)
{
    const Goallocd__StatsReply *s = reply->stats;

    ctl_print_row("goallocd %s, up %.1f s, %" PRIu64 " requests served", version_of(s->version),
                  (double)s->uptime_ms / 1000, s->rpcs);
    (void)putchar('\n');
    print_count("live objects", s->live_objects);
    print_count("sessions", s->sessions);
    print_count("spans", s->inuse_spans);
    print_count("leased spans", s->leased_spans);
    print_count("roots", s->roots);
    (void)printf("\n");
    print_bytes("live objects", s->live_bytes);
    print_bytes("unused in spans", s->unused_bytes);
    print_bytes("free", s->free_bytes);
    print_bytes("released", s->released_bytes);
    print_bytes("metadata", s->metadata_bytes);
    print_bytes("total of these", s->total_bytes);
    (void)printf("\n");
    print_bytes("committed", s->committed_bytes);
    print_bytes("committed, at most", s->peak_committed_bytes);
    print_bytes("reserved", s->reserved_bytes);
    if (s->limit_bytes != 0)
        print_bytes("memory limit", s->limit_bytes);
    if (s->max_memory_bytes != 0)
        print_bytes("hard memory limit", s->max_memory_bytes);
    if (s->excess_bytes >= MIB)
        print_bytes("beyond the books", s->excess_bytes);
    if (s->over_limit_bytes != 0)
        print_bytes("above the limit", s->over_limit_bytes);
    print_bytes("scavenged", s->scavenged_bytes);
    print_bytes("scavenged, forced", s->scavenged_eager_bytes);
    if (with_classes && s->n_classes > 0) {
        (void)printf("\n");
        classes_text(reply);
    }
    if (s->n_groups > 0) {
        (void)printf("\n");
        groups_text(reply);
    }
}

void ping_text(const Goallocd__Reply *reply)
{
    const Goallocd__PingReply *p = reply->ping;
    char loading[64] = "";

    if (p->loading)
        (void)snprintf(loading, sizeof(loading), "; it loads the heap: %u%%",
                       p->loading_total == 0 ? 0 : (unsigned)(p->loading_done * 100 / p->loading_total));
    ctl_print_row("goallocd %s, pid %u, protocol %u%s", version_of(p->version), p->pid, p->protocol, loading);
}

bool ping_json(json_t *object, const Goallocd__Reply *reply)
{
    return set_version(object, reply->ping->version) &&
           ctl_json_set(object, "pid", reply->ping->pid) && ctl_json_set(object, "protocol", reply->ping->protocol) &&
           (!reply->ping->loading || (ctl_json_set(object, "loading_done", reply->ping->loading_done) &&
                                      ctl_json_set(object, "loading_total", reply->ping->loading_total)));
}

void scavenge_text(const Goallocd__Reply *reply)
{
    (void)printf("released %s; %s are free and have memory\n", ctl_bytes(reply->scavenge->released_bytes),
                 ctl_bytes(reply->scavenge->remaining_bytes));
}

bool scavenge_json(json_t *object, const Goallocd__Reply *reply)
{
    return ctl_json_set(object, "released_bytes", reply->scavenge->released_bytes) &&
           ctl_json_set(object, "free_bytes", reply->scavenge->remaining_bytes);
}

void check_text(const Goallocd__Reply *reply)
{
    ctl_print_lines(reply->check->whole ? "the heap's tables agree" : reply->check->text, stdout);
}

bool check_json(json_t *object, const Goallocd__Reply *reply)
{
    return json_object_set_new(object, "whole", json_boolean(reply->check->whole)) == 0 &&
           ctl_json_set_foreign(object, "text", reply->check->text);
}

bool check_failed(const Goallocd__Reply *reply)
{
    return !reply->check->whole;
}
