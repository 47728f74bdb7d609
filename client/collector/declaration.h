/*
 * Declaration: what a process has declared of its memory (shm/declared.h), as far as it can be believed.
 */
#ifndef GOALLOC_COLLECTOR_DECLARATION_H
#define GOALLOC_COLLECTOR_DECLARATION_H

#include "client/collector/maps.h"
#include "client/collector/pages.h"

typedef struct declaration {
    bool opaque;
    bool only_roots;
    pages_region *skip; /* sorted, apart from each other */
    uint32_t nskip;
    pages_region *roots;
    uint32_t nroots;
    uint32_t room; /* of both */
} declaration;

/* Of the process that p is about. Without a table, or with one that is not whole, nothing is declared. 0 or -ENOMEM. */
int declaration_read(declaration *d, const maps *m, pages *p) __attribute__((warn_unused_result));
void declaration_free(declaration *d);

#endif
