/*
 * declaration: reads the table that a process has of its own memory. See declaration.h, and shm/declared.h for the
 * table, who writes it and what holds while it is changed.
 *
 * What it says of the library's code, and that a thread is waiting for an object's name, are as good as its word: who
 * lies there may see its own objects freed under its hands, in spans that it leases.
 *
 * Called by ranges.c while the process is stopped, and before, for an estimate. The bytes are the process's own:
 * lengths are bounded, ranges cut to the addresses that there can be, and what is wrong counts as not declared. So does
 * all that a process with more than TABLES_MAX tables declares, but for being opaque. A process that lies about its
 * memory harms what it holds itself: its objects are freed.
 */
#include "client/collector/declaration.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NAME "/memfd:" DECLARED_NAME " (deleted)"
#define ADDRESS_END (UINT64_C(1) << 56)
#define TABLES_MAX 8u   /* one for each copy of the library that a process has */
#define CLOCK_EACH 256u /* mappings between two looks at the clock */

/* The table is larger than a stack should have to bear. */
static declared_table *table_new(void)
{
    return calloc(1, sizeof(declared_table));
}

static int by_start(const void *a, const void *b)
{
    const pages_region *left = a, *right = b;

    return left->start < right->start ? -1 : left->start > right->start;
}

/* Sort, and join what touches. */
static uint32_t tidy(pages_region *regions, uint32_t n)
{
    uint32_t kept = 0;

    if (n == 0)
        return 0;
    qsort(regions, n, sizeof(*regions), by_start);
    for (uint32_t i = 1; i < n; i++) {
        if (regions[i].start > regions[kept].end)
            regions[++kept] = regions[i];
        else if (regions[i].end > regions[kept].end)
            regions[kept].end = regions[i].end;
    }
    return kept + 1;
}

static int make_room(declaration *d, uint32_t n)
{
    uint32_t room = d->nskip + d->nroots + n;
    pages_region *skip, *roots;

    if (room <= d->room)
        return 0;
    skip = realloc(d->skip, room * sizeof(*skip));
    if (skip == NULL)
        return -ENOMEM;
    d->skip = skip;
    roots = realloc(d->roots, room * sizeof(*roots));
    if (roots == NULL)
        return -ENOMEM;
    d->roots = roots;
    d->room = room;
    return 0;
}

static void take_entries(declaration *d, const declared_table *table)
{
    uint32_t n = u32_load_relaxed(&table->n);

    for (uint32_t i = 0; i < n; i++) {
        uint64_t start = u64_load_relaxed(&table->entries[i].start);
        uint64_t bytes = u64_load_relaxed(&table->entries[i].bytes);
        uint64_t kind = u64_load_relaxed(&table->entries[i].kind);

        if (start >= ADDRESS_END || bytes == 0 || bytes > ADDRESS_END - start)
            continue;
        if (kind == DECLARED_SKIP)
            d->skip[d->nskip++] = (pages_region){ start, start + bytes };
        else if (kind == DECLARED_ROOTS)
            d->roots[d->nroots++] = (pages_region){ start, start + bytes };
        else if (kind == DECLARED_TEXT && d->ntext < sizeof(d->text) / sizeof(d->text[0]))
            d->text[d->ntext++] = (words_text){ start, start + bytes };
    }
}

static bool read_entries(pages *p, const maps_entry *entry, declared_table *table)
{
    uint64_t bytes = u32_load_relaxed(&table->n) * sizeof(table->entries[0]);

    return pages_read(p, entry->start + DECLARED_HEADER_BYTES, table->entries, bytes) == bytes;
}

int declaration_read(declaration *d, const maps *m, pages *p)
{
    declared_table *table = NULL;
    uint32_t ntables = 0, nonly = 0, ntext = 0;
    int r = 0;

    d->opaque = d->only_roots = d->asking = false;
    d->nskip = d->nroots = d->ntext = 0;
    for (uint32_t i = 0; i < m->n && r == 0; i++) {
        const maps_entry *entry = &m->entries[i];
        uint64_t bytes = entry->end - entry->start;

        if (i % CLOCK_EACH == CLOCK_EACH - 1)
            r = pages_go_on(p);
        if (entry->shared || entry->offset != 0 || entry->file.inode == 0 || strcmp(entry->name, NAME) != 0)
            continue;
        ntables++;
        if (table == NULL)
            table = table_new();
        if (table == NULL)
            return -ENOMEM;
        if (pages_read(p, entry->start, table, DECLARED_HEADER_BYTES) < DECLARED_HEADER_BYTES)
            continue;
        /* Of a table that is being changed, too: who is opaque is so before and after. */
        if (table->magic == DECLARED_MAGIC && (u32_load_relaxed(&table->flags) & DECLARED_OPAQUE) != 0)
            d->opaque = true;
        if (table->magic == DECLARED_MAGIC && u32_load_relaxed(&table->nasking) != 0)
            d->asking = true;
        /* No page is read of which nothing was written: that would give it memory. */
        if (ntables > TABLES_MAX || !declared_is_whole(table, bytes) || !read_entries(p, entry, table))
            continue;
        nonly += (u32_load_relaxed(&table->flags) & DECLARED_ONLY_ROOTS) != 0;
        if (r == 0)
            r = make_room(d, u32_load_relaxed(&table->n));
        if (r == 0) {
            uint32_t before = d->ntext;

            take_entries(d, table);
            ntext += d->ntext > before;
        }
    }
    free(table);
    if (ntables > TABLES_MAX)
        d->nskip = d->nroots = d->ntext = nonly = ntext = 0;
    d->only_roots = ntables > 0 && nonly == ntables;
    d->says_text = ntables > 0 && ntext == ntables; /* of each copy of the library */
    d->nskip = tidy(d->skip, d->nskip);
    d->nroots = tidy(d->roots, d->nroots);
    return r;
}

void declaration_free(declaration *d)
{
    free(d->skip);
    free(d->roots);
    *d = (declaration){ 0 };
}
