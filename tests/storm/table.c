/*
 * Table: see table.h. Called by operations.c, by audit.c, and by round.c to make it.
 */
#include "tests/storm/table.h"

#include "shm/limits.h"
#include "tests/support/fixture.h"

static const uint64_t most_bytes[ENTRY_KINDS] = { 4 * MIB, SHM_RUN_BYTES_MAX, SMALL_BYTES_MAX, 2 * KIB };
static const uint64_t least_bytes[ENTRY_KINDS] = { SHM_RUN_BYTES_MAX, SMALL_BYTES_MAX, 2 * KIB, 0 };

/* The share of bytes and entries that a kind may have, both as divisors. SMALL: the entries that are left. */
static const struct {
    uint64_t bytes_part, entries_part;
} shares[ENTRY_SMALL] = { { 3, 16 }, { 4, 8 }, { 8, 4 } };

static uint64_t at_least_one(uint64_t n)
{
    return n == 0 ? 1 : n;
}

table *table_make(const storm_options *options)
{
    uint64_t bytes = (uint64_t)options->max_mib << 20;
    table *t = goalloc_calloc(1, sizeof(*t) + options->nentries * sizeof(t->entries[0]));
    uint64_t next = 0;

    if (t == NULL)
        return NULL;
    t->nentries = options->nentries;
    for (int k = 0; k < ENTRY_SMALL; k++) {
        uint64_t by_bytes = at_least_one(bytes / shares[k].bytes_part / most_bytes[k]);
        uint64_t by_entries = at_least_one(options->nentries / shares[k].entries_part);

        t->begin[k] = next;
        next += by_bytes < by_entries ? by_bytes : by_entries;
    }
    t->begin[ENTRY_SMALL] = next;
    t->begin[ENTRY_KINDS] = t->nentries;
    return goalloc_root_set(TABLE_ROOT, t) == 0 ? t : NULL;
}

int table_find(table **ret)
{
    void *p;
    int r = goalloc_root_get(TABLE_ROOT, &p);

    if (r == 0)
        *ret = p;
    return r;
}

static uint32_t pick_of_kind(const table *t, int kind, uint64_t *random)
{
    return (uint32_t)(t->begin[kind] + test_random(random) % (t->begin[kind + 1] - t->begin[kind]));
}

static int kind_of(const table *t, uint32_t entry)
{
    int kind = 0;

    while (entry >= t->begin[kind + 1])
        kind++;
    return kind;
}

uint32_t table_pick(const table *t, uint64_t *random)
{
    uint64_t r = test_random(random) % 256;

    return pick_of_kind(t, r < 1 ? ENTRY_LARGE : r < 9 ? ENTRY_RUN : r < 49 ? ENTRY_MEDIUM : ENTRY_SMALL, random);
}

uint32_t table_pick_alike(const table *t, uint32_t entry, uint64_t *random)
{
    return pick_of_kind(t, kind_of(t, entry), random);
}

size_t table_pick_size(const table *t, uint32_t entry, uint64_t *random)
{
    int kind = kind_of(t, entry);
    uint64_t r = test_random(random);
    uint64_t most = most_bytes[kind];

    if (kind == ENTRY_SMALL && r % 4 == 0)
        return (size_t)(r >> 8) % 17;
    /* The bound is halved up to three times (four times below 2 KiB): small ones more often. */
    most >>= (r >> 2) % (kind == ENTRY_SMALL ? 6 : 4);
    if (most <= least_bytes[kind])
        return (size_t)(least_bytes[kind] + (r >> 8) % 4096 + 1);
    return (size_t)(least_bytes[kind] + (r >> 8) % (most - least_bytes[kind] + 1));
}
