/*
 * Fault: how the library ends a process that has done what it must not do with the heap.
 */
#ifndef GOALLOC_LIB_FAULT_H
#define GOALLOC_LIB_FAULT_H

#include "client/lib/process.h"

/* Say what is wrong with p, in one line on stderr, and abort, as glibc does. */
__attribute__((noreturn)) void fault_die(const char *function, const void *p, const char *what);

/* The same of a pointer that was looked up; not LIVE. */
__attribute__((noreturn)) void fault_die_of(const char *function, const void *p, enum object_verdict verdict);

#endif
