/*
 * Toplist: functions by what was allocated in them.
 */
#ifndef GOALLOC_CLIENT_CTL_PROFILE_TOPLIST_H
#define GOALLOC_CLIENT_CTL_PROFILE_TOPLIST_H

#include "client/ctl/profile/chains.h"

typedef struct toplist_row {
    const char *function; /* as long as the symbols and the toplist are */
    uint64_t own;         /* allocated by itself: it has called the library */
    uint64_t all;         /* or by what it calls */
} toplist_row;

typedef struct toplist {
    chains chains;
    toplist_row *rows; /* the largest own first, then the largest all */
    size_t n;
} toplist;

/* 0, -ENOMEM. */
int toplist_make(toplist *t, const snapshot *s, const symbols *sy, enum snapshot_value value)
    __attribute__((warn_unused_result));
void toplist_free(toplist *t);

#endif
