/*
 * Table: the entries in the shared heap through which objects go from hand to hand. Root TABLE_ROOT names it.
 *
 * An entry holds the word of an object (pattern.h), or 0. Whoever takes a word out by compare-and-swap owns the object,
 * until it puts it into an entry or frees it. What an entry may hold depends on where it is, so that the bytes in the
 * table have a bound that no death can shift.
 */
#ifndef GOALLOC_TESTS_STORM_TABLE_H
#define GOALLOC_TESTS_STORM_TABLE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/storm/options.h"

#define TABLE_ROOT "storm"

enum entry_kind {
    ENTRY_LARGE,  /* longer than any run, to 4 MiB */
    ENTRY_RUN,    /* runs: above 32 KiB */
    ENTRY_MEDIUM, /* 2 to 32 KiB */
    ENTRY_SMALL,  /* 0 to 2 KiB */
    ENTRY_KINDS,
};

typedef struct table {
    uint64_t nentries;
    uint64_t begin[ENTRY_KINDS + 1]; /* entries of kind k: begin[k] to begin[k + 1] - 1 */
    _Atomic uint64_t entries[];
} table;

/* In an attached process: allocate the table and name it. NULL: no memory, or the root cannot be set. */
table *table_make(const storm_options *options);

/* In an attached process: 0, or the error of goalloc_root_get(). */
int table_find(table **ret);

/* A random entry; entries of small objects more often. */
uint32_t table_pick(const table *t, uint64_t *random);

/* Another one of the same kind. */
uint32_t table_pick_alike(const table *t, uint32_t entry, uint64_t *random);

/* A random size that the entry may hold, small ones more often. */
size_t table_pick_size(const table *t, uint32_t entry, uint64_t *random);

#endif
