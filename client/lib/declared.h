/*
 * Declared: what this process tells collectors of its private memory (shm/declared.h). All functions do nothing while
 * there is no table; none waits for more than a few instructions of another thread.
 */
#ifndef GOALLOC_LIB_DECLARED_H
#define GOALLOC_LIB_DECLARED_H

#include <stdbool.h>
#include <stdint.h>

#include "shm/declared.h"

/* The table, zero, has been mapped: it is this process's from now on. */
void declared_begin(declared_table *table);
bool declared_has_begun(void);

/* In the child of a fork: another thread of the parent may have been in the midst of a change. */
void declared_reset(void);

/* The library's own memory, which keeps no object alive: after it is mapped, and before it is unmapped. */
void declared_skip(const void *p, uint64_t bytes);
void declared_unskip(const void *p);

/* What goalloc_private_roots() and its undo do: 0, -ENOSPC, -ENOTSUP (there is no table); 0, -ENOENT. */
int declared_add_roots(const void *p, uint64_t bytes) __attribute__((warn_unused_result));
int declared_remove_roots(const void *p) __attribute__((warn_unused_result));

/* Code of this library, as above. */
void declared_text(const void *p, uint64_t bytes);

/*
 * A thread is about to ask for the name of an object; and it has its address by now, where a collector sees it. True:
 * it is counted, and declared_asking_end() is told so.
 */
bool declared_asking_begin(void);
void declared_asking_end(bool counted);

/* Whether this process has pointers where nobody can see them. Returns whether it had, until now. */
bool declared_set_opaque(bool opaque);
bool declared_is_opaque(void);

#endif
