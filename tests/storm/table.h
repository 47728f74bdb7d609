/*
 * Table: the slots in the shared heap through which objects go from hand to hand. Root TABLE_ROOT names it.
 *
 * A slot holds the word of an object (pattern.h), or 0. Whoever takes a word out by compare-and-swap owns the object,
 * until it puts it into a slot or frees it. What slots may hold depends on their place, so that the bytes in the table
 * have a bound that no death can shift.
 */
#ifndef GOALLOC_TESTS_STORM_TABLE_H
#define GOALLOC_TESTS_STORM_TABLE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/storm/options.h"

#define TABLE_ROOT "storm"

enum slot_kind {
    SLOT_LARGE,  /* longer than any run, to 4 MiB */
    SLOT_RUN,    /* runs: above 32 KiB */
    SLOT_MEDIUM, /* 2 to 32 KiB */
    SLOT_SMALL,  /* 0 to 2 KiB */
    SLOT_KINDS,
};

typedef struct table {
    uint64_t nslots;
    uint64_t begin[SLOT_KINDS + 1]; /* slots of kind k: begin[k] to begin[k + 1] - 1 */
    _Atomic uint64_t slots[];
} table;

/* In an attached process: allocate the table and name it. NULL: no memory, or the root cannot be set. */
table *table_make(const storm_options *options);

/* In an attached process: 0, or the error of goalloc_root_get(). */
int table_find(table **ret);

/* A random slot; slots of small objects more often. */
uint32_t table_pick(const table *t, uint64_t *random);

/* Another one of the same kind. */
uint32_t table_pick_alike(const table *t, uint32_t slot, uint64_t *random);

/* A random size that the slot may hold, small ones more often. */
size_t table_pick_size(const table *t, uint32_t slot, uint64_t *random);

#endif
