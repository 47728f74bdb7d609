/*
 * Flame: a snapshot's stacks as a picture (SVG).
 */
#ifndef GOALLOC_CLIENT_CTL_PROFILE_FLAME_H
#define GOALLOC_CLIENT_CTL_PROFILE_FLAME_H

#include "client/ctl/profile/symbols.h"

/*
 * Make the file's bytes, which the caller frees. What widths are: a value of rows. title: foreign text may be in it. 0,
 * -ENOMEM.
 */
int flame_make(const snapshot *s, const symbols *sy, enum snapshot_value value, const char *title, void **ret_bytes,
               size_t *ret_len) __attribute__((warn_unused_result));

#endif
