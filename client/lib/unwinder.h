/*
 * Unwinder: walks stacks by tables, with a library that is loaded when profiling is turned on.
 */
#ifndef GOALLOC_LIB_UNWINDER_H
#define GOALLOC_LIB_UNWINDER_H

#include <stdbool.h>
#include <stdint.h>

/* Load it now. The caller may wait for the loader's lock, and allocates: so never on behalf of a malloc. */
void unwinder_load(void);

/* Have a thread load it, which ends then. Waits for nobody. Not if it is loaded or being loaded, or can't be. */
void unwinder_load_later(void);

/* In the child of a fork. */
void unwinder_reset(void);

/* True if unwinder_walk() may find something. */
bool unwinder_is_ready(void);

/*
 * The return addresses of the calling thread's stack, the innermost first; some of this file's own functions come
 * before the caller's. Returns how many; 0: none. It may allocate.
 */
uint32_t unwinder_walk(uintptr_t *ret, uint32_t max);

#endif
