/*
 * Window: maps pages that the daemon has prepared, 64 KiB at a time.
 */
#ifndef GOALLOC_LIB_WINDOW_H
#define GOALLOC_LIB_WINDOW_H

#include <stdint.h>

/*
 * The bytes at from, in spans that this process has just got, are about to be written: map them, and what lies around
 * them in windows of 64 KiB, as far as it is prepared. Changes nothing that can be seen. Cost: a read a window.
 */
void window_map(const char *from, uint64_t bytes);

#endif
