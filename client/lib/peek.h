/*
 * Peek: reads memory of this process that may not be there.
 */
#ifndef GOALLOC_LIB_PEEK_H
#define GOALLOC_LIB_PEEK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What is known to be readable: who reads on from there pays nothing. Begins as {0, 0}. */
typedef struct peek_room {
    uintptr_t begin;
    uintptr_t end;
} peek_room;

/* The page that p lies in is readable: it is the caller's own stack. */
peek_room peek_room_of(const void *p);

/*
 * Read two words, from an address that is a multiple of a word. False: they are not there. Cost: nothing within *room,
 * else a short system call for each page, which *room becomes.
 */
bool peek_pair(peek_room *room, uintptr_t from, uintptr_t ret[2]) __attribute__((warn_unused_result));

/* Read bytes from anywhere. False: they are not all there. */
bool peek(const void *from, void *to, size_t bytes) __attribute__((warn_unused_result));

#endif
