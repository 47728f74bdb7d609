/*
 * stats: what the heap holds: goallocctl stats, classes, check and ping.
 *
 * The bytes add up: total = live + unused + free + released + metadata, as the daemon counts them.
 */
#include <stdio.h>
#include <stdlib.h>

#include "client/ctl/ctl.h"
#include "shm/sizeclass.h"

static Goallocd__Reply *ask_stats(const arguments *args)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Stats body = GOALLOCD__STATS__INIT;

    request.op_case = GOALLOCD__REQUEST__OP_STATS;
    request.stats = &body;
    return ctl_ask(args, &request, GOALLOCD__REPLY__RESULT_STATS);
}

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

static json_t *classes_json(const Goallocd__StatsReply *s)
{
    json_t *array = json_array();

    for (size_t i = 0; array != NULL && i < s->n_classes; i++) {
        const Goallocd__ClassStats *c = s->classes[i];
        json_t *object = json_object();
        char name[16];

        if (object == NULL || !ctl_json_set(object, "class", c->size_class) ||
            json_object_set_new(object, "name", json_string(class_name(c, name))) != 0 ||
            !ctl_json_set(object, "size", c->object_bytes) || !ctl_json_set(object, "spans", c->spans) ||
            !ctl_json_set(object, "span_bytes", c->span_bytes) ||
            !ctl_json_set(object, "live_objects", c->live_objects) ||
            !ctl_json_set(object, "live_bytes", c->live_bytes) ||
            !ctl_json_set(object, "unused_bytes", c->span_bytes > c->live_bytes ? c->span_bytes - c->live_bytes : 0) ||
            !ctl_json_set(object, "allocs", c->allocs) || !ctl_json_set(object, "frees", c->frees) ||
            json_object_set_new(object, "fragmentation", json_real(class_fragmentation(c))) != 0 ||
            json_array_append_new(array, object) != 0) {
            json_decref(object);
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static int print_stats_json(const Goallocd__StatsReply *s)
{
    json_t *object = json_object();
    uint64_t tiny = 0;

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
        { "over_limit_bytes", s->over_limit_bytes },
        { "scavenged_bytes", s->scavenged_bytes },
        { "scavenged_eager_bytes", s->scavenged_eager_bytes },
        { "tiny_allocs", tiny },
        { "rpcs", s->rpcs },
        { "uptime_ms", s->uptime_ms },
    };
    bool whole = object != NULL;

    for (size_t i = 0; whole && i < sizeof(fields) / sizeof(fields[0]); i++)
        whole = ctl_json_set(object, fields[i].name, fields[i].value);
    whole = whole && json_object_set_new(object, "version", json_string(s->version)) == 0 &&
            json_object_set_new(object, "classes", classes_json(s)) == 0;
    if (!whole) {
        json_decref(object);
        object = NULL;
    }
    return ctl_print_json(object);
}

static void print_count(const char *name, uint64_t n)
{
    (void)printf("%-22s %16" PRIu64 "\n", name, n);
}

static void print_classes(const Goallocd__StatsReply *s)
{
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

static void print_stats(const Goallocd__StatsReply *s)
{
    (void)printf("goallocd %s, up %.1f s, %" PRIu64 " requests served\n\n", s->version, (double)s->uptime_ms / 1000,
                 s->rpcs);
    print_count("live objects", s->live_objects);
    print_count("sessions", s->sessions);
    print_count("spans", s->inuse_spans);
    print_count("leased spans", s->leased_spans);
    print_count("roots", s->roots);
    (void)printf("\n");
    ctl_print_bytes("live objects", s->live_bytes);
    ctl_print_bytes("unused in spans", s->unused_bytes);
    ctl_print_bytes("free", s->free_bytes);
    ctl_print_bytes("released", s->released_bytes);
    ctl_print_bytes("metadata", s->metadata_bytes);
    ctl_print_bytes("total of these", s->total_bytes);
    (void)printf("\n");
    ctl_print_bytes("committed", s->committed_bytes);
    ctl_print_bytes("reserved", s->reserved_bytes);
    if (s->limit_bytes != 0)
        ctl_print_bytes("memory limit", s->limit_bytes);
    if (s->over_limit_bytes != 0)
        ctl_print_bytes("above the limit", s->over_limit_bytes);
    ctl_print_bytes("scavenged", s->scavenged_bytes);
    ctl_print_bytes("scavenged, forced", s->scavenged_eager_bytes);
    if (s->n_classes > 0) {
        (void)printf("\n");
        print_classes(s);
    }
}

int command_stats(const arguments *args)
{
    Goallocd__Reply *reply = ask_stats(args);
    int status = EXIT_SUCCESS;

    if (reply == NULL)
        return EXIT_FAILURE;
    if (args->json)
        status = print_stats_json(reply->stats);
    else
        print_stats(reply->stats);
    goallocd__reply__free_unpacked(reply, NULL);
    return fflush(stdout) == 0 ? status : EXIT_FAILURE;
}

int command_classes(const arguments *args)
{
    Goallocd__Reply *reply = ask_stats(args);
    int status = EXIT_SUCCESS;

    if (reply == NULL)
        return EXIT_FAILURE;
    if (args->json)
        status = ctl_print_json(json_pack("{s:o}", "classes", classes_json(reply->stats)));
    else
        print_classes(reply->stats);
    goallocd__reply__free_unpacked(reply, NULL);
    return fflush(stdout) == 0 ? status : EXIT_FAILURE;
}

int command_ping(const arguments *args)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Ping body = GOALLOCD__PING__INIT;
    Goallocd__Reply *reply;
    int status = EXIT_SUCCESS;

    request.op_case = GOALLOCD__REQUEST__OP_PING;
    request.ping = &body;
    reply = ctl_ask(args, &request, GOALLOCD__REPLY__RESULT_PING);
    if (reply == NULL)
        return EXIT_FAILURE;
    if (args->json)
        status = ctl_print_json(json_pack("{s:s, s:I, s:I}", "version", reply->ping->version, "pid",
                                          (json_int_t)reply->ping->pid, "protocol",
                                          (json_int_t)reply->ping->protocol));
    else
        (void)printf("goallocd %s, pid %u, protocol %u\n", reply->ping->version, reply->ping->pid,
                     reply->ping->protocol);
    goallocd__reply__free_unpacked(reply, NULL);
    return fflush(stdout) == 0 ? status : EXIT_FAILURE;
}

int command_check(const arguments *args)
{
    Goallocd__Request request = GOALLOCD__REQUEST__INIT;
    Goallocd__Check body = GOALLOCD__CHECK__INIT;
    Goallocd__Reply *reply;
    int status;

    request.op_case = GOALLOCD__REQUEST__OP_CHECK;
    request.check = &body;
    reply = ctl_ask(args, &request, GOALLOCD__REPLY__RESULT_CHECK);
    if (reply == NULL)
        return EXIT_FAILURE;
    status = reply->check->whole ? EXIT_SUCCESS : EXIT_FAILURE;
    if (args->json)
        (void)ctl_print_json(json_pack("{s:b, s:s}", "whole", reply->check->whole, "text", reply->check->text));
    else
        (void)printf("%s%s", reply->check->whole ? "the heap's tables agree\n" : "", reply->check->text);
    goallocd__reply__free_unpacked(reply, NULL);
    return fflush(stdout) == 0 ? status : EXIT_FAILURE;
}
