/*
 * stats: what the heap holds: goallocctl stats, classes, check and ping.
 *
 * The bytes add up: total = live + unused + free + released + metadata, as the daemon counts them.
 */
#include <stdio.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "shm/sizeclass.h"
#include "shm/units.h"

/* "large", "tiny", or the size. */
static const char *class_name(const Goallocd__ClassStats *c, char name[16])
{
    (void)snprintf(name, 16, "%u", c->object_bytes);
    return c->size_class == 0 ? "large" : c->size_class == SIZE_CLASS_TINY ? "tiny" : name;
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

bool stats_json(json_t *object, const Goallocd__Reply *reply)
{
    const Goallocd__StatsReply *s = reply->stats;
    uint64_t tiny = 0;
    bool whole = true;

    for (size_t i = 0; i < s->n_classes; i++)
        tiny += s->classes[i]->size_class == SIZE_CLASS_TINY ? s->classes[i]->allocs : 0;

    const struct {
        const char *name;
        uint64_t value;
    } fields[] = {
        { "live_objects", s->live_objects },
        { "live_bytes", s->live_bytes },
        { "committed_bytes", s->committed_bytes },
        { "released_bytes", s->released_bytes },
        { "metadata_bytes", s->metadata_bytes },
        { "sessions", s->sessions },
        { "leased_spans", s->leased_spans },
        { "roots", s->roots },
        { "total_bytes", s->total_bytes },
        { "objects_bytes", s->live_bytes },
        { "unused_bytes", s->unused_bytes },
        { "free_bytes", s->free_bytes },
        { "inuse_spans", s->inuse_spans },
        { "inuse_bytes", s->inuse_bytes },
        { "reserved_bytes", s->reserved_bytes },
        { "limit_bytes", s->limit_bytes },
        { "arena_bytes", s->reserved_bytes }, /* as goalloc_stats_t calls the two */
        { "memory_limit_bytes", s->limit_bytes },
        { "max_memory_bytes", s->max_memory_bytes },
        { "excess_bytes", s->excess_bytes },
        { "peak_committed_bytes", s->peak_committed_bytes },
        { "over_limit_bytes", s->over_limit_bytes },
        { "scavenged_bytes", s->scavenged_bytes },
        { "scavenged_eager_bytes", s->scavenged_eager_bytes },
        { "tiny_allocs", tiny },
        { "rpcs", s->rpcs },
        { "tries", s->tries },
        { "waits", s->waits },
        { "groups_total", s->ngroups },
        { "uptime_ms", s->uptime_ms },
    };

    for (size_t i = 0; whole && i < sizeof(fields) / sizeof(fields[0]); i++)
        whole = ctl_json_set(object, fields[i].name, fields[i].value);
    return whole && ctl_json_set_text(object, "version", s->version) &&
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

    (void)printf("%7s %9s %11s %12s %11s %14s %14s %7s\n", "size", "spans", "memory", "objects", "live", "allocs",
                 "frees", "unused");
    for (size_t i = 0; i < s->n_classes; i++) {
        const Goallocd__ClassStats *c = s->classes[i];
        char name[16];

        (void)printf("%7s %9" PRIu64 " %11s %12" PRIu64 " %11s %14" PRIu64 " %14" PRIu64 " %6.1f%%\n",
                     class_name(c, name), c->spans, ctl_bytes(c->span_bytes), c->live_objects,
                     ctl_bytes(c->live_bytes), c->allocs, c->frees, 100 * class_fragmentation(c));
    }
}

void stats_text(const Goallocd__Reply *reply)
{
    const Goallocd__StatsReply *s = reply->stats;

    (void)printf("goallocd %s, up %.1f s, %" PRIu64 " requests served\n\n", s->version, (double)s->uptime_ms / 1000,
                 s->rpcs);
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
    if (s->n_classes > 0) {
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
    (void)printf("goallocd %s, pid %u, protocol %u\n", reply->ping->version, reply->ping->pid, reply->ping->protocol);
}

bool ping_json(json_t *object, const Goallocd__Reply *reply)
{
    return ctl_json_set_text(object, "version", reply->ping->version) &&
           ctl_json_set(object, "pid", reply->ping->pid) && ctl_json_set(object, "protocol", reply->ping->protocol);
}

void check_text(const Goallocd__Reply *reply)
{
    ctl_print_lines(reply->check->whole ? "the heap's tables agree" : reply->check->text, stdout);
}

bool check_json(json_t *object, const Goallocd__Reply *reply)
{
    return json_object_set_new(object, "whole", json_boolean(reply->check->whole)) == 0 &&
           ctl_json_set_text(object, "text", reply->check->text);
}
