/*
 * report: prints what has been measured: a table, or one line of JSON.
 *
 * Called by goalloc-replay.c at the end. With several processes the sum stands first: the time of the slowest process,
 * and the largest peak of the heap that any process saw plus the private memory of each.
 */
#include "client/replay/report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "client/replay/backend.h"

typedef struct figures {
    double ns; /* one repetition of the slowest process: the median of its repetitions */
    uint64_t nops;
    uint64_t peak_heap_bytes;
    uint64_t peak_private_bytes;
    uint64_t peak_bytes;
    uint64_t freed_bytes;
    uint64_t requested_bytes;
    uint64_t usable_bytes;
    uint64_t rpcs;
    uint64_t daemon_ns;
} figures;

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static double median_ns(const replay_result *result)
{
    static uint64_t sorted[REPLAY_REPEAT_MAX];
    uint32_t n = result->nrepeats;
    uint32_t middle = n / 2;

    if (n == 0)
        return 0;
    memcpy(sorted, result->ns, n * sizeof(sorted[0]));
    qsort(sorted, n, sizeof(sorted[0]), compare);
    return n % 2 == 1 ? (double)sorted[middle] : ((double)sorted[middle - 1] + (double)sorted[middle]) / 2;
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

static figures add_up(const report *rep)
{
    figures f = { .nops = rep->t->nops * rep->nprocesses, .requested_bytes = rep->t->peak_bytes * rep->nprocesses };

    for (uint32_t i = 0; i < rep->nprocesses; i++) {
        const replay_result *result = &rep->results[i];
        const memory_meter *m = &result->meter;

        if (median_ns(result) > f.ns)
            f.ns = median_ns(result);
        if (m->peak_heap_bytes > f.peak_heap_bytes)
            f.peak_heap_bytes = m->peak_heap_bytes;
        if (m->last.heap_bytes > f.freed_bytes)
            f.freed_bytes = m->last.heap_bytes;
        f.peak_private_bytes += m->peak.private_bytes;
        f.usable_bytes += result->usable_bytes;
        f.rpcs += m->rpcs;
        if (m->daemon_ns > f.daemon_ns) /* each sees the same daemon */
            f.daemon_ns = m->daemon_ns;
    }
    /* Of one process: heap and private memory of the same moment. */
    f.peak_bytes = f.peak_heap_bytes + f.peak_private_bytes;
    if (rep->nprocesses == 1)
        f.peak_bytes = rep->results[0].meter.peak.heap_bytes + rep->results[0].meter.peak.private_bytes;
    return f;
}

/* --- text --- */

static const char *bytes_text(uint64_t bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    static char texts[8][32];
    static unsigned turn;
    char *text = texts[turn++ % 8];
    double value = (double)bytes;
    size_t u = 0;

    while (value >= 1024 && u + 1 < sizeof(units) / sizeof(units[0])) {
        value /= 1024;
        u++;
    }
    (void)snprintf(text, sizeof(texts[0]), "%.*f %s", u == 0 ? 0 : 2, value, units[u]);
    return text;
}

static void print_row(const char *name, uint64_t bytes, const char *more)
{
    (void)printf("%-18s %14" PRIu64 "  %s%s\n", name, bytes, bytes_text(bytes), more);
}

static void print_time(const report *rep, const figures *f)
{
    const replay_result *one = &rep->results[0];

    (void)printf("%-18s %14.6f s  %.1f ns an operation", "time", f->ns / 1e9, ratio(f->ns, (double)rep->t->nops));
    if (one->nrepeats > 1) {
        uint64_t least = UINT64_MAX;
        uint64_t most = 0;

        for (uint32_t i = 0; i < one->nrepeats; i++) {
            least = one->ns[i] < least ? one->ns[i] : least;
            most = one->ns[i] > most ? one->ns[i] : most;
        }
        (void)printf("; median of %u, the first %.6f s, from %.6f to %.6f s", one->nrepeats, (double)one->ns[0] / 1e9,
                     (double)least / 1e9, (double)most / 1e9);
    }
    (void)printf("\n");
}

int report_text(const report *rep)
{
    const trace *t = rep->t;
    figures f = add_up(rep);
    char more[128];

    (void)printf("%-18s %s\n", "trace", rep->file);
    (void)printf("%-18s %14zu  malloc %" PRIu64 ", calloc %" PRIu64 ", realloc %" PRIu64 ", aligned %" PRIu64
                 ", free %" PRIu64 "\n",
                 "operations", t->nops, t->kinds[TRACE_MALLOC], t->kinds[TRACE_CALLOC], t->kinds[TRACE_REALLOC],
                 t->kinds[TRACE_ALIGNED], t->kinds[TRACE_FREE]);
    (void)printf("%-18s %14u  %s, %u process%s\n", "threads", t->nthreads,
                 rep->options->threads ? "each replayed by one" : "replayed by one in the order of the trace",
                 rep->nprocesses, rep->nprocesses == 1 ? "" : "es");
    print_time(rep, &f);
    (void)snprintf(more, sizeof(more), " in %" PRIu64 " objects%s", t->peak_objects,
                   rep->nprocesses == 1 ? "" : " of each process");
    print_row("peak requested", f.requested_bytes, more);
    if (f.usable_bytes > 0) {
        (void)snprintf(more, sizeof(more), ", internal waste %.1f%%",
                       100 * ratio((double)f.usable_bytes - (double)f.requested_bytes, (double)f.requested_bytes));
        print_row("usable then", f.usable_bytes, more);
    }
    (void)snprintf(more, sizeof(more), ": heap %s, %s %s", bytes_text(f.peak_heap_bytes),
                   BACKEND_IS_GOALLOC ? "library" : "resident", bytes_text(f.peak_private_bytes));
    print_row("peak memory", f.peak_bytes, more);
    (void)printf("%-18s %14.3f  peak memory / peak requested\n", "fragmentation",
                 ratio((double)f.peak_bytes, (double)f.requested_bytes));
    if (BACKEND_IS_GOALLOC) {
        print_row("heap, all freed", f.freed_bytes, "");
        (void)printf("%-18s %14" PRIu64 "  %.3f in 1000 operations\n", "requests", f.rpcs,
                     ratio(1000 * (double)f.rpcs, (double)f.nops * rep->results[0].nrepeats));
    }
    for (uint32_t i = 0; rep->nprocesses > 1 && i < rep->nprocesses; i++) {
        const replay_result *one = &rep->results[i];

        (void)printf("process %-10u %14.6f s  %.1f ns an operation; library %s; %" PRIu64 " requests\n", i + 1,
                     median_ns(one) / 1e9, ratio(median_ns(one), (double)t->nops),
                     bytes_text(one->meter.peak.private_bytes), one->meter.rpcs);
    }
    return fflush(stdout) == 0 ? 0 : -1;
}

/* --- JSON --- */

static void set(json_t *object, const char *name, uint64_t value)
{
    (void)json_object_set_new(object, name, json_integer((json_int_t)value));
}

static void set_real(json_t *object, const char *name, double value)
{
    (void)json_object_set_new(object, name, json_real(value));
}

static void set_time(json_t *object, const replay_result *result, double ns, uint64_t nops)
{
    json_t *runs = json_array();

    for (uint32_t i = 0; i < result->nrepeats; i++)
        (void)json_array_append_new(runs, json_real((double)result->ns[i] / 1e9));
    set_real(object, "seconds", ns / 1e9);
    set_real(object, "ns_per_op", ratio(ns, (double)nops));
    (void)json_object_set_new(object, "seconds_of_runs", runs);
}

int report_json(const report *rep)
{
    static const char *const kinds[TRACE_KINDS] = { "mallocs", "callocs", "reallocs", "aligned", "frees" };
    const trace *t = rep->t;
    figures f = add_up(rep);
    json_t *out = json_object();
    json_t *each = NULL;
    int r;

    (void)json_object_set_new(out, "allocator", json_string(BACKEND_NAME));
    (void)json_object_set_new(out, "trace", json_string(rep->file));
    set(out, "ops", t->nops);
    for (int i = 0; i < TRACE_KINDS; i++)
        set(out, kinds[i], t->kinds[i]);
    set(out, "threads", t->nthreads);
    (void)json_object_set_new(out, "in_threads", json_boolean(rep->options->threads));
    set(out, "processes", rep->nprocesses);
    set(out, "repeats", rep->results[0].nrepeats);
    set_time(out, &rep->results[0], f.ns, t->nops);
    set(out, "peak_live_bytes", f.requested_bytes);
    set(out, "peak_live_objects", t->peak_objects * rep->nprocesses);
    set(out, "end_live_objects", t->end_objects * rep->nprocesses);
    if (f.usable_bytes > 0) {
        set(out, "usable_bytes", f.usable_bytes);
        set_real(out, "internal_waste",
                 ratio((double)f.usable_bytes - (double)f.requested_bytes, (double)f.requested_bytes));
    }
    set(out, "peak_bytes", f.peak_bytes);
    set(out, "peak_heap_bytes", f.peak_heap_bytes);
    set(out, "peak_private_bytes", f.peak_private_bytes);
    set_real(out, "fragmentation", ratio((double)f.peak_bytes, (double)f.requested_bytes));
    if (BACKEND_IS_GOALLOC)
        set(out, "freed_heap_bytes", f.freed_bytes);
    set(out, "rpcs", f.rpcs);
    if (f.daemon_ns > 0)
        set_real(out, "daemon_ns_per_op", ratio((double)f.daemon_ns, (double)f.nops * rep->results[0].nrepeats));
    if (rep->nprocesses > 1)
        (void)json_object_set_new(out, "each_process", each = json_array());
    for (uint32_t i = 0; each != NULL && i < rep->nprocesses; i++) {
        const replay_result *result = &rep->results[i];
        json_t *one = json_object();

        set_time(one, result, median_ns(result), t->nops);
        set(one, "peak_private_bytes", result->meter.peak.private_bytes);
        set(one, "rpcs", result->meter.rpcs);
        (void)json_array_append_new(each, one);
    }
    r = json_dumpf(out, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
    (void)printf("\n");
    json_decref(out);
    return r == 0 && fflush(stdout) == 0 ? 0 : -1;
}
