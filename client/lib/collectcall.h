/*
 * Collectcall: a collector's requests as functions. Their errors are those of connection.h, and -EROFS, -ENOSYS (the
 * daemon is older), and what is named.
 */
#ifndef GOALLOC_LIB_COLLECTCALL_H
#define GOALLOC_LIB_COLLECTCALL_H

#include <stddef.h>
#include <stdint.h>

#define COLLECTCALL_OBJECTS_MAX 4096u
#define COLLECTCALL_SPANS_MAX 1024u

/*
 * Ask for the right to collect. *ret_nleases (NULL: not wanted): the heap's count of leases at that moment. Offsets of
 * objects that are about to be roots go to ret_announced (NULL: not wanted). Returns how many these are, or -EBUSY
 * (another session has it), -EAGAIN (a session is ending: ask again in a moment), -EPERM (sessions of others are
 * there).
 */
int collectcall_begin(uint64_t *ret_nleases, uint64_t ret_announced[COLLECTCALL_OBJECTS_MAX])
    __attribute__((warn_unused_result));

/* Give it back. 0, -ENOENT (this session has not got it). */
int collectcall_end(void) __attribute__((warn_unused_result));

/*
 * In these spans, nspans <= COLLECTCALL_SPANS_MAX, the heap itself holds each object, or it is freed. 0, -ENOENT as
 * above, -EINVAL.
 */
int collectcall_confirm(const uint32_t *spans, size_t nspans) __attribute__((warn_unused_result));

#endif
