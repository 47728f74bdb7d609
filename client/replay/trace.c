/*
 * trace: reads traces of allocations (format: tests/bench/trace/README.md) and checks them.
 *
 * Called by goalloc-replay.c before anything is measured. Data: private tables, mmap'd: an entry for each id while the
 * trace is read (where it is, how large), 16 bytes for each operation. What all of them take together is bounded.
 *
 * A line's way: 1. it is split off what was read, 2. into thread, op and up to three numbers, 3. checked: the ranges,
 * and that ids are live, or not, as the op needs; 4. its ids become places, 5. live bytes and their peak are counted.
 * Whatever is replayed has passed this: each operation names live objects only, in the order of the trace.
 *
 * With by_thread the operations are sorted by thread in the end (stable, by counting), and places are not used twice:
 * what a thread has to wait for is then that a place is filled, and nothing else.
 */
#include "client/replay/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define READ_BYTES 65536u
#define FIELDS_MAX 5
#define OPS_MIN ((size_t)1 << 16)
#define IDS_MIN ((size_t)1 << 12)
#define PLACE_NONE UINT32_MAX
#define PLACES_MAX (UINT32_MAX - 1)
#define ALIGN_MIN 8u
#define LIVE_BYTES_MAX (UINT64_C(1) << 62)

typedef struct id_entry {
    uint64_t size;
    uint32_t place_plus_1; /* 0: not live */
    uint32_t next_free;   /* places that are free again are chained: of place i here */
} id_entry;

typedef struct reader {
    trace *t;
    int fd;
    bool by_thread;
    id_entry *ids;
    size_t nids;
    uint32_t free_place; /* PLACE_NONE: none */
    uint64_t live_bytes;
    uint64_t live_objects;
    uint32_t threads[TRACE_THREADS_MAX]; /* the trace's number -> ours, plus 1 */
    uint64_t line;
    char *error;
    size_t error_bytes;
    size_t begin; /* of what is not yet used of buffer */
    size_t end;
    char buffer[READ_BYTES];
} reader;

/* --- tables --- */

void *trace_table(trace *t, void *table, size_t old_bytes, size_t bytes)
{
    void *p;

    if (bytes - old_bytes > t->limit_bytes - t->bytes) {
        errno = EFBIG;
        return NULL;
    }
    p = table == NULL ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                      : mremap(table, old_bytes, bytes, MREMAP_MAYMOVE);
    if (p == MAP_FAILED)
        return NULL;
    t->bytes += bytes - old_bytes;
    return p;
}

static void table_free(trace *t, void *table, size_t bytes)
{
    (void)munmap(table, bytes);
    t->bytes -= bytes;
}

/* --- errors --- */

__attribute__((format(printf, 2, 3))) static int fail(reader *r, const char *format, ...)
{
    va_list args;
    int n = r->line == 0 ? 0 : snprintf(r->error, r->error_bytes, "line %" PRIu64 ": ", r->line);

    va_start(args, format);
    (void)vsnprintf(r->error + n, r->error_bytes - (size_t)n, format, args);
    va_end(args);
    return -1;
}

static int fail_table(reader *r)
{
    if (errno == EFBIG)
        return fail(r, "the trace is too long: its tables would take more than %" PRIu64 " MiB (--table-limit)",
                    r->t->limit_bytes >> 20);
    return fail(r, "no memory for tables of the trace: %s", strerror(errno));
}

/* --- lines --- */

/*
 * The next line, without its newline and ended by a zero byte. 1: ret is one; 0: the trace is at its end; -1: failed. A
 * zero byte in the text is the end too: what a killed recorder left at the end.
 */
static int next_line(reader *r, char **ret)
{
    while (true) {
        char *text = r->buffer + r->begin;
        char *newline = memchr(text, '\n', r->end - r->begin);
        ssize_t n;

        if (newline != NULL) {
            *newline = '\0';
            r->begin = (size_t)(newline - r->buffer) + 1;
            r->line++;
            *ret = text;
            return strlen(text) == (size_t)(newline - text) ? 1 : 0;
        }
        if (memchr(text, '\0', r->end - r->begin) != NULL)
            return 0;
        memmove(r->buffer, text, r->end - r->begin);
        r->end -= r->begin;
        r->begin = 0;
        if (r->end == READ_BYTES - 1) {
            r->line++;
            return fail(r, "the line is longer than %u bytes", READ_BYTES - 2);
        }
        do
            n = read(r->fd, r->buffer + r->end, READ_BYTES - 1 - r->end);
        while (n < 0 && errno == EINTR);
        if (n < 0)
            return fail(r, "%s", strerror(errno));
        if (n == 0 && r->end == 0)
            return 0;
        if (n == 0)
            r->buffer[r->end++] = '\n'; /* the last line has none */
        r->end += (size_t)n;
    }
}

/* Split a line in place. The number of fields; FIELDS_MAX + 1: too many. */
static int split(char *line, char *fields[FIELDS_MAX + 1])
{
    char *rest = NULL;
    int n = 0;

    while (n <= FIELDS_MAX && (fields[n] = strtok_r(n == 0 ? line : NULL, " \t\r", &rest)) != NULL)
        n++;
    return n;
}

static int parse_number(reader *r, const char *what, const char *text, uint64_t max, uint64_t *ret)
{
    uint64_t n = 0;

    for (const char *c = text; *c != '\0'; c++) {
        if (*c < '0' || *c > '9')
            return fail(r, "'%.20s' is not a number: %s is expected there", text, what);
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (uint64_t)(*c - '0'), &n))
            return fail(r, "%s %.24s... is out of range, at most %" PRIu64, what, text, max);
    }
    if (n > max)
        return fail(r, "%s %" PRIu64 " is out of range, at most %" PRIu64, what, n, max);
    *ret = n;
    return 0;
}

/* --- ids and places --- */

static int ids_reserve(reader *r, size_t nids)
{
    size_t n = r->nids == 0 ? IDS_MIN : r->nids;
    id_entry *ids;

    if (nids <= r->nids)
        return 0;
    while (n < nids)
        n *= 2;
    ids = trace_table(r->t, r->ids, r->nids * sizeof(*ids), n * sizeof(*ids));
    if (ids == NULL)
        return fail_table(r);
    r->ids = ids;
    r->nids = n;
    return 0;
}

static bool id_is_live(const reader *r, uint64_t id)
{
    return id < r->nids && r->ids[id].place_plus_1 != 0;
}

/* A new object of that id. */
static int object_new(reader *r, uint64_t id, uint64_t size, uint32_t *ret_place)
{
    trace *t = r->t;
    uint32_t place = r->free_place;

    if (id_is_live(r, id))
        return fail(r, "id %" PRIu64 " is allocated already", id);
    if (size > LIVE_BYTES_MAX - r->live_bytes)
        return fail(r, "the sizes of what is live add up to more than %" PRIu64 " TiB", LIVE_BYTES_MAX >> 40);
    if (place == PLACE_NONE && t->nplaces == PLACES_MAX)
        return fail(r, "more than %u objects", PLACES_MAX);
    /* The entry with a place's number exists too: places are no more than ids, except by_thread, which has no chain. */
    if (ids_reserve(r, (size_t)id + 1) < 0 || (!r->by_thread && ids_reserve(r, (size_t)t->nplaces + 1) < 0))
        return -1;
    if (place == PLACE_NONE)
        place = t->nplaces++;
    else
        r->free_place = r->ids[place].next_free;
    r->ids[id].place_plus_1 = place + 1;
    r->ids[id].size = size;
    r->live_bytes += size;
    r->live_objects++;
    *ret_place = place;
    return 0;
}

static int object_end(reader *r, uint64_t id, uint32_t *ret_place)
{
    uint32_t place;

    if (!id_is_live(r, id))
        return fail(r, "id %" PRIu64 " is not allocated", id);
    place = r->ids[id].place_plus_1 - 1;
    r->ids[id].place_plus_1 = 0;
    r->live_bytes -= r->ids[id].size;
    r->live_objects--;
    if (!r->by_thread) {
        r->ids[place].next_free = r->free_place;
        r->free_place = place;
    }
    *ret_place = place;
    return 0;
}

/* --- operations --- */

static int add_op(reader *r, const trace_op *op)
{
    trace *t = r->t;

    if (t->nops == t->ops_capacity) {
        size_t n = t->ops_capacity == 0 ? OPS_MIN : t->ops_capacity + t->ops_capacity / 2;
        trace_op *ops = trace_table(t, t->ops, t->ops_capacity * sizeof(*ops), n * sizeof(*ops));

        if (ops == NULL)
            return fail_table(r);
        t->ops = ops;
        t->ops_capacity = n;
    }
    t->ops[t->nops++] = *op;
    t->kinds[op->kind]++;
    if (r->live_bytes > t->peak_bytes) {
        t->peak_bytes = r->live_bytes;
        t->peak_objects = r->live_objects;
        t->peak_op = t->nops;
    }
    return 0;
}

static int parse_op(reader *r, char **fields, int nfields)
{
    static const struct {
        char letter;
        int nfields;
        const char *form;
    } forms[TRACE_KINDS] = {
        [TRACE_MALLOC] = { 'm', 4, "THREAD m ID SIZE" },
        [TRACE_CALLOC] = { 'c', 4, "THREAD c ID SIZE" },
        [TRACE_REALLOC] = { 'r', 5, "THREAD r ID SIZE OLD-ID" },
        [TRACE_ALIGNED] = { 'a', 5, "THREAD a ID SIZE ALIGNMENT" },
        [TRACE_FREE] = { 'f', 3, "THREAD f ID" },
    };
    trace_op op = { 0 };
    uint64_t thread;
    uint64_t id;
    uint64_t size = 0;
    uint64_t third = 0;
    unsigned kind = 0;

    if (nfields < 2 || fields[1][1] != '\0')
        return fail(r, "this is no operation: THREAD OP ID ...");
    while (kind < TRACE_KINDS && forms[kind].letter != fields[1][0])
        kind++;
    if (kind == TRACE_KINDS)
        return fail(r, "unknown operation '%.20s': it is m, c, r, a or f", fields[1]);
    if (nfields != forms[kind].nfields)
        return fail(r, "the form of this operation is %s", forms[kind].form);
    if (parse_number(r, "thread", fields[0], TRACE_THREADS_MAX - 1, &thread) < 0 ||
        parse_number(r, "id", fields[2], TRACE_ID_MAX - 1, &id) < 0 ||
        (nfields > 3 && parse_number(r, "size", fields[3], TRACE_SIZE_MAX, &size) < 0))
        return -1;
    if (kind == TRACE_REALLOC && parse_number(r, "id", fields[4], TRACE_ID_MAX - 1, &third) < 0)
        return -1;
    if (kind == TRACE_ALIGNED && parse_number(r, "alignment", fields[4], TRACE_ALIGN_MAX, &third) < 0)
        return -1;
    if (kind == TRACE_ALIGNED && (third == 0 || (third & (third - 1)) != 0))
        return fail(r, "alignment %" PRIu64 " is not a power of two", third);
    if (kind == TRACE_ALIGNED)
        op.aux = (uint32_t)__builtin_ctzll(third < ALIGN_MIN ? ALIGN_MIN : third);

    if (r->threads[thread] == 0)
        r->threads[thread] = ++r->t->nthreads;
    op.thread = (r->threads[thread] - 1) & (TRACE_THREADS_MAX - 1);
    op.kind = kind & 15;
    op.size = size & TRACE_SIZE_MAX;
    if (kind == TRACE_REALLOC && object_end(r, third, &op.aux) < 0)
        return -1;
    if ((kind == TRACE_FREE ? object_end(r, id, &op.place) : object_new(r, id, size, &op.place)) < 0)
        return -1;
    return add_op(r, &op);
}

/* Thread after thread. */
static int sort_by_thread(reader *r)
{
    trace *t = r->t;
    size_t at[TRACE_THREADS_MAX + 1] = { 0 };
    trace_op *sorted = trace_table(t, NULL, 0, t->nops * sizeof(trace_op));

    t->first = trace_table(t, NULL, 0, (t->nthreads + 1) * sizeof(size_t));
    if (sorted == NULL || t->first == NULL)
        return fail_table(r);
    for (size_t i = 0; i < t->nops; i++)
        at[t->ops[i].thread + 1]++;
    for (uint32_t thread = 0; thread < t->nthreads; thread++)
        at[thread + 1] += at[thread];
    memcpy(t->first, at, (t->nthreads + 1) * sizeof(size_t));
    for (size_t i = 0; i < t->nops; i++)
        sorted[at[t->ops[i].thread]++] = t->ops[i];
    table_free(t, t->ops, t->ops_capacity * sizeof(trace_op));
    t->ops = sorted;
    t->ops_capacity = t->nops;
    return 0;
}

static int read_lines(reader *r)
{
    char *fields[FIELDS_MAX + 1];
    char *line;
    int n = next_line(r, &line);

    if (n < 0)
        return -1;
    if (n == 0)
        return fail(r, "the trace is empty");
    if (strcmp(line, TRACE_VERSION_LINE) != 0)
        return fail(r, "this is no trace, or of another version: the first line must be '%s'", TRACE_VERSION_LINE);
    while ((n = next_line(r, &line)) > 0) {
        int nfields = line[0] == '#' ? 0 : split(line, fields);

        if (nfields > 0 && parse_op(r, fields, nfields) < 0)
            return -1;
    }
    r->line = 0;
    if (n == 0 && r->t->nops == 0)
        return fail(r, "the trace has no operation");
    r->t->end_objects = r->live_objects;
    return n == 0 && r->by_thread ? sort_by_thread(r) : n;
}

int trace_read(trace *t, int fd, bool by_thread, char *ret_error, size_t error_bytes)
{
    static reader r;
    int result;

    r = (reader){
        .t = t,
        .fd = fd,
        .by_thread = by_thread,
        .free_place = PLACE_NONE,
        .error = ret_error,
        .error_bytes = error_bytes,
    };
    result = read_lines(&r);
    if (result == 0)
        table_free(t, r.ids, r.nids * sizeof(id_entry));
    return result;
}
