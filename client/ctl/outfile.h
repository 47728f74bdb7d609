/*
 * Outfile: a file that is written whole, or not at all.
 */
#ifndef GOALLOC_CLIENT_CTL_OUTFILE_H
#define GOALLOC_CLIENT_CTL_OUTFILE_H

#include <stddef.h>

/*
 * Write the file of that name; "-" is stdout. A file that is there is replaced once the new one is whole; a device or a
 * pipe is written to as it is. 0, -errno: what was there is as it was.
 */
int outfile_write(const char *path, const void *bytes, size_t len) __attribute__((warn_unused_result));

#endif
