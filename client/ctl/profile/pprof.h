/*
 * Pprof: a snapshot as a file that pprof reads.
 */
#ifndef GOALLOC_CLIENT_CTL_PROFILE_PPROF_H
#define GOALLOC_CLIENT_CTL_PROFILE_PPROF_H

#include "client/ctl/profile/symbols.h"

/* Make the file's bytes, which the caller frees. 0, -ENOMEM. */
int pprof_make(const snapshot *s, const symbols *sy, void **ret_bytes, size_t *ret_len)
    __attribute__((warn_unused_result));

#endif
