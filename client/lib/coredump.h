/*
 * Coredump: what of the heap a core dump of this process holds.
 */
#ifndef GOALLOC_LIB_COREDUMP_H
#define GOALLOC_LIB_COREDUMP_H

/*
 * From now on a core dump holds what is in use of the heap that is mapped: install the handlers for all signals that
 * have the default action. May be called again, for signals that have got the default action since.
 */
void coredump_enable(void);

/*
 * From now on it holds nothing of the heap: take away the handlers that are still there. Called before the heap is
 * unmapped.
 */
void coredump_disable(void);

#endif
