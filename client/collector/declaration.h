/*
 * Declaration: what a process has declared of its memory (shm/declared.h), as far as it can be believed.
 */
#ifndef GOALLOC_COLLECTOR_DECLARATION_H
#define GOALLOC_COLLECTOR_DECLARATION_H

#include "client/collector/maps.h"
#include "client/collector/pages.h"
#include "shm/declared.h"

typedef struct declaration {
    bool opaque;
    bool only_roots;
    bool asking;        /* a thread has an object that no word shows, or is about to be told of one */
    bool says_text;     /* it says where the library's code is */
    pages_region *skip; /* sorted, apart from each other */
    uint32_t nskip;
    pages_region *roots;
    uint32_t nroots;
    words_text text[DECLARED_TEXT_MAX * 2]; /* the library's code */
    uint32_t ntext;
    uint32_t room; /* of skip and roots */
} declaration;

/* Of the process that p is about. Without a table, or with one that is not whole, nothing is declared. 0 or -ENOMEM. */
int declaration_read(declaration *d, const maps *m, pages *p) __attribute__((warn_unused_result));
void declaration_free(declaration *d);

#endif
