/*
 * Seededhash: a hash whose collisions nobody outside the daemon can choose.
 */
#ifndef GOALLOC_DAEMON_HEAP_SEEDEDHASH_H
#define GOALLOC_DAEMON_HEAP_SEEDEDHASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Make the process's seed, unless there is one. False: the system gives no random numbers. */
bool hash_start(void) __attribute__((warn_unused_result));

/* SipHash-1-3 of len bytes, and of the eight bytes of a word. Without hash_start(): with a seed of zeroes. */
uint64_t hash_bytes(const void *p, size_t len);
uint64_t hash_word(uint64_t word);

/* For uthash: to be defined before it is included. */
#define HASH_SEEDED(keyptr, keylen, hashv) ((hashv) = (unsigned)hash_bytes(keyptr, keylen))

#endif
