/*
 * leases: which spans are leased, of which size class, and by whom: goallocctl leases.
 *
 * The daemon lists a thousand spans a reply, so a heap of a million takes a thousand requests. By session and class the
 * list has 4095 * 68 rows at most, which are counted in a table that the system gives memory as it is used. One by one
 * (--spans) it has as many as are asked for by --rows, and spans beyond them are only counted.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl/commands.h"
#include "client/ctl/ctl.h"
#include "shm/layout.h"
#include "shm/sizeclass.h"

#define SPANS_PRESET 1000u

Goallocd__Leases leases_first = GOALLOCD__LEASES__INIT;

typedef struct lease_row {
    uint32_t span; /* 0: a sum */
    uint32_t session;
    uint32_t size_class;
    bool noscan;
    uint64_t nspans;
    uint64_t npages;
    uint64_t live_objects;
    uint64_t live_bytes;
} lease_row;

static struct {
    lease_row *rows; /* by session and class, or one by one */
    size_t n;
    uint64_t nspans; /* all that are leased */
    uint64_t npages;
    const arguments *args;
} all;

#define SUMS ((size_t)SHM_SESSIONS_MAX * (SIZE_CLASS_COUNT + 1))

bool leases_set(const arguments *args)
{
    all.args = args;
    if (args->nwords > 0 && (!ctl_number(args->words[0], strlen(args->words[0]), &leases_first.session) ||
                             leases_first.session == 0 || leases_first.session >= SHM_SESSIONS_MAX))
        return false;
    return true;
}

static size_t most_spans(void)
{
    return all.args->nrows != 0 ? all.args->nrows : SPANS_PRESET;
}

static void add(const Goallocd__LeasesReply *got, size_t i)
{
    uint32_t class = span_class_size((span_class){ (uint8_t)got->span_classes[i] }).n;
    lease_row one = { .span = got->spans[i],
                      .session = got->sessions[i],
                      .size_class = class,
                      .noscan = got->span_classes[i] & 1,
                      .nspans = 1,
                      .npages = got->npages[i],
                      .live_objects = got->live_objects[i],
                      .live_bytes = got->live_bytes[i] };
    lease_row *sum;

    if (got->span_classes[i] >= SPAN_CLASS_COUNT || one.session >= SHM_SESSIONS_MAX)
        return; /* no daemon says so */
    all.nspans++;
    all.npages += one.npages;
    if (all.args->spans) {
        if (all.n < most_spans())
            all.rows[all.n++] = one;
        return;
    }
    sum = &all.rows[one.session * (SIZE_CLASS_COUNT + 1) + class];
    sum->session = one.session;
    sum->size_class = class;
    sum->nspans++;
    sum->npages += one.npages;
    sum->live_objects += one.live_objects;
    sum->live_bytes += one.live_bytes;
}

static int by_memory(const void *a, const void *b)
{
    const lease_row *one = a;
    const lease_row *other = b;

    if (one->npages != other->npages)
        return one->npages < other->npages ? 1 : -1;
    if (one->session != other->session)
        return one->session > other->session ? 1 : -1;
    return (one->size_class > other->size_class) - (one->size_class < other->size_class);
}

/* Those that there are, the largest first. */
static void sort_sums(void)
{
    for (size_t i = 0; i < SUMS; i++) {
        if (all.rows[i].nspans > 0)
            all.rows[all.n++] = all.rows[i];
    }
    qsort(all.rows, all.n, sizeof(all.rows[0]), by_memory);
}

bool leases_next(Goallocd__Request *request, const Goallocd__Reply *reply)
{
    const Goallocd__LeasesReply *got = reply->leases;

    if (all.rows == NULL)
        all.rows = calloc(all.args->spans ? most_spans() : SUMS, sizeof(all.rows[0]));
    if (all.rows == NULL)
        exit(ctl_fail(CTL_E_MEMORY, 0, "out of memory"));
    for (size_t i = 0; i < got->n_spans && i < got->n_npages && i < got->n_span_classes && i < got->n_sessions &&
                       i < got->n_live_objects && i < got->n_live_bytes;
         i++)
        add(got, i);
    if (got->next > request->leases->start) {
        request->leases->start = got->next;
        return true;
    }
    if (!all.args->spans)
        sort_sums();
    return false;
}

static const char *name_of(const lease_row *row, char ret[16])
{
    return stats_class_name(row->size_class, size_class_bytes[row->size_class], ret);
}

static size_t nshown(void)
{
    return all.args->nrows != 0 && all.args->nrows < all.n ? all.args->nrows : all.n;
}

void leases_text(const Goallocd__Reply *last)
{
    uint64_t left = all.nspans;
    char name[16];

    (void)last;
    ctl_print_row("%7s %6s %9s %8s %10s %8s%s", "session", "size", all.args->spans ? "span" : "spans", "memory",
                  "objects", "live", all.args->spans ? "  noscan" : "");
    for (size_t i = 0; i < nshown(); i++) {
        const lease_row *row = &all.rows[i];

        ctl_print_row("%7u %6s %9" PRIu64 " %8s %10s %8s%s", row->session, name_of(row, name),
                      all.args->spans ? row->span : row->nspans, ctl_size(row->npages * PAGE_BYTES),
                      ctl_count(row->live_objects), ctl_size(row->live_bytes),
                      all.args->spans && row->noscan ? "  yes" : "");
        left -= row->nspans;
    }
    if (left > 0)
        (void)printf("and %" PRIu64 " more spans (--rows)\n", left);
    (void)printf("%" PRIu64 " spans are leased, with %s\n", all.nspans, ctl_bytes(all.npages * PAGE_BYTES));
}

static json_t *lease_json(const Goallocd__Reply *reply, size_t i)
{
    const lease_row *row = &all.rows[i];
    const uint64_t bytes = row->npages * PAGE_BYTES;
    char name[16];
    json_t *object = json_pack("{s:I, s:I, s:s, s:I, s:I, s:I}", "session", (json_int_t)row->session, "class",
                               (json_int_t)row->size_class, "name", name_of(row, name), "bytes",
                               (json_int_t)bytes, "live_objects", (json_int_t)row->live_objects,
                               "live_bytes", (json_int_t)row->live_bytes);

    (void)reply;
    if (object != NULL && (all.args->spans ? !ctl_json_set(object, "span", row->span) ||
                                                 json_object_set_new(object, "noscan", json_boolean(row->noscan)) != 0
                                           : !ctl_json_set(object, "spans", row->nspans))) {
        json_decref(object);
        return NULL;
    }
    return object;
}

bool leases_json(json_t *object, const Goallocd__Reply *last)
{
    return ctl_json_set(object, "leased_spans", all.nspans) &&
           ctl_json_set(object, "leased_bytes", all.npages * PAGE_BYTES) &&
           ctl_json_append(object, all.args->spans ? "spans" : "leases", last, nshown(), lease_json);
}
