/*
 * Chains: the stacks of a snapshot as names, outermost first, in an order in which what begins alike stands together.
 */
#ifndef GOALLOC_CLIENT_CTL_PROFILE_CHAINS_H
#define GOALLOC_CLIENT_CTL_PROFILE_CHAINS_H

#include "client/ctl/profile/symbols.h"

#define CHAINS_DEPTH_MAX 200u /* names of a stack; the innermost ones beyond are left out */

/* A row of the snapshot. Names are numbers of chains.names, which rise as the texts do. */
typedef struct chain {
    const snapshot_row *row;
    uint32_t *names;
    uint32_t n;
} chain;

typedef struct chains {
    chain *list;
    size_t n;
    const char **names;
    size_t nnames;
    uint32_t *numbers; /* of all chains' names, one chain behind the other */
    char **own;        /* texts of places that have no name */
    size_t nown;
} chains;

/* Those rows that have some of that value. 0, -ENOMEM. */
int chains_init(chains *p, const snapshot *s, const symbols *sy, enum snapshot_value value)
    __attribute__((warn_unused_result));
void chains_free(chains *p);

#endif
