/*
 * bench_collector: what a collector's halves of a cycle take that look at the heap alone, over a heap that nobody serves
 * and that is made for it. Prints a table; asserts nothing.
 *
 *   copy      a GiB of objects of 64 bytes, all live, that may hold pointers: heapcopy_take(), the pause's larger part
 *   mark      10^7 objects of 64 bytes: four words of each point to random ones, four are no pointers; conservative,
 *             from one root, one thread: objects a second
 *   mark list the same number in a list in random order: the worst there is, each object waits for the one before
 *   scan      suspects_mark() over that heap, in which a span of 256 is a suspect one: bytes a second. "far": no word
 *             points between the first suspect span and the last one; "near": each word of the heap may
 *   free bits heapcopy_take() of a GiB of objects that hold no pointers: bits alone
 *
 * Each row is the median of --repeat executions. The seed is fixed.
 */
#include <argp.h>
#include <inttypes.h>

#include "client/collector/suspects.h"
#include "tests/support/bareheap.h"

#define OBJECTS 10000000u
#define CLASS64 6u /* 64 bytes */
#define REPEAT_MAX 99

static int repeat = 5;
static bool json;

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* --- heaps --- */

typedef struct made {
    bareheap heap;
    uint64_t *offsets; /* of its objects */
    uint64_t n;
} made;

static void make(made *m, uint64_t n, uint8_t class, bool noscan)
{
    uint32_t nelems = size_class_nelems[class];
    uint64_t bytes = (n / nelems + 1) * size_class_npages[class] * PAGE_BYTES + PAGE_BYTES;

    *m = (made){ .n = n, .offsets = malloc(n * sizeof(uint64_t)) };
    bareheap_open(&m->heap, (bytes + SHM_HEAP_ARENA_BYTES - 1) / SHM_HEAP_ARENA_BYTES * SHM_HEAP_ARENA_BYTES);
    for (uint64_t i = 0; i < n;) {
        uint32_t first;

        (void)bareheap_add_span(&m->heap, class, noscan, 0, &first);
        for (uint32_t k = 0; k < nelems && i < n; k++)
            m->offsets[i++] = bareheap_allocate(&m->heap, first, k);
    }
}

static void drop(made *m)
{
    bareheap_close(&m->heap);
    free(m->offsets);
}

/* Four pointers to random objects in each, and four numbers. */
static void link_randomly(made *m)
{
    uint64_t seed = 88172645463325252u;

    for (uint64_t i = 0; i < m->n; i++) {
        for (uint64_t w = 0; w < 8; w++)
            *bareheap_word(&m->heap, m->offsets[i], w) =
                w % 2 == 0 ? m->heap.map.base + m->offsets[next_random(&seed) % m->n] : next_random(&seed) >> 40;
    }
}

static void link_list(made *m)
{
    uint64_t seed = 88172645463325252u;

    for (uint64_t i = m->n - 1; i > 0; i--) {
        uint64_t k = next_random(&seed) % (i + 1);
        uint64_t t = m->offsets[i];

        m->offsets[i] = m->offsets[k];
        m->offsets[k] = t;
    }
    for (uint64_t i = 0; i < m->n; i++) {
        memset(bareheap_word(&m->heap, m->offsets[i], 0), 0, 64);
        if (i + 1 < m->n)
            *bareheap_word(&m->heap, m->offsets[i], 0) = m->heap.map.base + m->offsets[i + 1];
    }
}

/* --- rows --- */

static int by_value(const void *a, const void *b)
{
    double one = *(const double *)a;
    double other = *(const double *)b;

    return (one > other) - (one < other);
}

static void show(const char *name, double values[REPEAT_MAX], const char *unit, double ms)
{
    qsort(values, (size_t)repeat, sizeof(values[0]), by_value);
    if (json)
        printf("{\"row\": \"%s\", \"value\": %.3f, \"unit\": \"%s\", \"ms\": %.1f}\n", name, values[repeat / 2], unit, ms);
    else
        printf("%-34s %8.2f %-12s %9.1f ms\n", name, values[repeat / 2], unit, ms);
    (void)fflush(stdout);
}

static void must(int r, const char *what)
{
    if (r == 0)
        return;
    (void)fprintf(stderr, "%s: %s\n", what, strerror(-r));
    exit(1);
}

static uint32_t suspect_of; /* each so-many-th span is a suspect; 0: those of the first and the last MiB */
static const shm_map *suspect_map;

static bool is_suspect(const shm_span *span)
{
    uint64_t page = (uint64_t)(span - suspect_map->span_table);

    return suspect_of != 0 ? page / 4 % suspect_of == 0 : page < 128;
}

static uint64_t take(heapcopy *h, const made *m, heapcopy_is_suspect *suspect)
{
    uint64_t begin;

    must(heapcopy_prepare(h, &m->heap.map, m->heap.arena_fd, suspect, 1), "prepare");
    begin = heapcopy_now_ns();
    must(heapcopy_take(h, suspect, false, UINT64_MAX), "take");
    return heapcopy_now_ns() - begin;
}

static void row_copy(const char *name, const made *m, bool per_bytes)
{
    double values[REPEAT_MAX];
    double ms = 0;

    for (int i = 0; i < repeat; i++) {
        heapcopy h;
        uint64_t ns = take(&h, m, NULL);

        values[i] = per_bytes ? (double)h.content_bytes / (double)ns : (double)ns / 1e6;
        ms = (double)ns / 1e6;
        heapcopy_free(&h);
    }
    show(name, values, per_bytes ? "GB/s" : "ms/GiB", ms);
}

static void row_mark(const char *name, const made *m, uint64_t from)
{
    double values[REPEAT_MAX];
    double ms = 0;

    for (int i = 0; i < repeat; i++) {
        heapcopy h;
        marker mk;
        uint64_t begin;
        uint64_t ns;

        (void)take(&h, m, NULL);
        must(mark_init(&mk, &h, 0, false), "mark");
        begin = heapcopy_now_ns();
        mark_from(&mk, from, (mark_holder){ MARK_HELD_BY_ROOT, 0 });
        mark_closure(&mk);
        ns = heapcopy_now_ns() - begin;
        values[i] = (double)mk.nmarked / (double)ns * 1e3;
        ms = (double)ns / 1e6;
        mark_free(&mk);
        heapcopy_free(&h);
    }
    show(name, values, "M objects/s", ms);
}

static void row_scan(const char *name, const made *m, uint32_t each)
{
    double values[REPEAT_MAX];
    double ms = 0;

    suspect_of = each;
    suspect_map = &m->heap.map;
    for (int i = 0; i < repeat; i++) {
        heapcopy h;
        marker mk;
        uint64_t begin;
        uint64_t ns;
        uint64_t bytes;

        (void)take(&h, m, is_suspect);
        must(mark_init(&mk, &h, 0, false), "mark");
        begin = heapcopy_now_ns();
        bytes = suspects_mark(&mk);
        ns = heapcopy_now_ns() - begin;
        values[i] = (double)bytes / (double)ns;
        ms = (double)ns / 1e6;
        mark_free(&mk);
        heapcopy_free(&h);
    }
    show(name, values, "GB/s", ms);
}

static error_t parse(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case 'r':
        repeat = atoi(arg);
        if (repeat < 1 || repeat > REPEAT_MAX)
            argp_error(state, "--repeat: a number from 1 to %d", REPEAT_MAX);
        return 0;
    case 'j':
        json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

int main(int argc, char **argv)
{
    static const struct argp_option options[] = {
        { .name = "repeat", .key = 'r', .arg = "N", .doc = "Executions of each row (default: 5)" },
        { .name = "json", .key = 'j', .doc = "An object each row" },
        { 0 },
    };
    static const struct argp argp = { .options = options, .parser = parse };
    made m;

    (void)argp_parse(&argp, argc, argv, 0, NULL, NULL);
    make(&m, 1024 * MIB / 64, CLASS64, false);
    link_randomly(&m);
    row_copy("copy, 64 B", &m, true);
    drop(&m);
    make(&m, 1024 * MIB / 64, CLASS64, true);
    row_copy("bits of noscan, 64 B", &m, false);
    drop(&m);
    make(&m, OBJECTS, CLASS64, false);
    link_randomly(&m);
    row_mark("mark, random graph, 64 B", &m, m.offsets[0]);
    row_scan("scan for suspects, far", &m, 0);
    row_scan("scan for suspects, near", &m, 256);
    link_list(&m);
    row_mark("mark, list, 64 B", &m, m.offsets[0]);
    drop(&m);
    return 0;
}
