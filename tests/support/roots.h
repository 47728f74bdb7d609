/*
 * Roots: a table that is made by whoever comes first. For tests that use the library.
 */
#ifndef GOALLOC_TESTS_ROOTS_H
#define GOALLOC_TESTS_ROOTS_H

#include <sched.h>
#include <stdatomic.h>

#include "tests/support/waits.h"

#define TABLE_TAG   UINT64_C(0x7461626c65)
#define TABLE_MAGIC UINT64_C(0x5ca1ab1e)

typedef struct table {
    uint64_t magic;
    atomic_uint ninits;
    uint64_t words[50];
} table;

static inline int table_init(void *p, size_t size, void *arg)
{
    table *t = p;

    (void)arg;
    CHECK(size == sizeof(*t));
    for (size_t i = 0; i < size; i++)
        CHECK(((const unsigned char *)p)[i] == 0);
    t->ninits++;
    (void)sched_yield();
    t->magic = TABLE_MAGIC;
    return 0;
}

static inline int table_get(const char *name, void **ret_p, int *ret_created)
{
    return goalloc_root_get_or_create(name, sizeof(table), TABLE_TAG, table_init, NULL, ret_p, ret_created);
}

/* In a child process: remove the root and free its object. */
static inline void root_drop(const char *name)
{
    void *p;

    CHECK(goalloc_root_get(name, &p) == 0);
    CHECK(goalloc_root_compare_and_set(name, p, NULL) == 0);
    goalloc_free(p);
}

#endif
