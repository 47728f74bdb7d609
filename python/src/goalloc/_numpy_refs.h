/*
 * Refs: who refers to which array in the shared heap. _numpy_refs.c says how; goalloc._numpy calls it, with the GIL
 * held.
 *
 * Functions return 0 or a negative errno. -ETIMEDOUT: a process that is stopped has a lock, or nobody serves the heap.
 */
#ifndef GOALLOC_NUMPY_REFS_H
#define GOALLOC_NUMPY_REFS_H

#include <stddef.h>
#include <stdint.h>

/* Which entry, and of which of its lives: an entry is used again, and its generation is another one then. */
typedef struct refs_id {
    uint64_t index;
    uint64_t generation;
} refs_id;

typedef struct refs_collected {
    uint64_t holders;    /* dead processes whose references have been returned */
    uint64_t references; /* of these, of messages nobody can read any more, and of names that are gone */
    uint64_t arrays;     /* freed by that */
} refs_collected;

/* Become a holder, unless this process is one: every function below that takes a reference needs it. `family` tells
 * the groups of processes apart that can read each other's messages. What dead holders have left is collected. */
int refs_join(uint32_t family);

/* This process is no holder any more: its references are returned. is_python_gone: there is no GIL. */
void refs_leave(int is_python_gone);

/* Whether this process is a holder in the heap that is mapped now, and may write there what is its own. */
int refs_joined(void);

/* A new entry for block, an object of this session that nobody else knows; this process has a reference. After an error
 * the block is the caller's. */
int refs_create(void *block, refs_id *ret_id);

/* The entry's block, which stays as long as this process has a reference. */
void *refs_block(refs_id id);

/* Return this process's reference; the last one frees the block. */
int refs_release(refs_id id);

/* A reference for a message; *ret_nonce names it. This process has one of its own. */
int refs_ticket(refs_id id, uint32_t *ret_nonce);

/* Take a message's reference over; is_held: this process has one already, so the message's is returned. Of a message
 * that was read before, a new one is taken, as long as the array lives. -ENOENT: it is gone. */
int refs_take(refs_id id, uint32_t nonce, int is_held);

/* Name the entry: meta, an object of this session, becomes the entry's, and the root `name` points to the entry.
 * -EEXIST: there is a root of that name; -EALREADY: the entry has a name. After an error meta is freed. */
int refs_name(refs_id id, const char *name, void *meta);

/* How the meta object of a name is looked at: a copy of at most size bytes goes to meta, have says of how many.
 * has_name: 0 if the copy is whole and of another name. */
typedef struct refs_look {
    void *meta;
    size_t size, have;
    int (*has_name)(const void *meta, size_t have, const char *name);
} refs_look;

/* Look a name up, and take a reference unless is_held(id) is true. -ENOENT: no such root. -EINVAL: the root is no
 * entry. */
int refs_open(const char *name, refs_look *look, int (*is_held)(refs_id id), refs_id *ret_id);

/* Take the name away, and its reference. -ENOENT, -EINVAL as above. */
int refs_unname(const char *name, refs_look *look);

/* Return what dead processes, ended families and removed names have left. */
int refs_collect(refs_collected *ret);

/* The same, but for names: without a request to the daemon. */
int refs_collect_dead(refs_collected *ret);

/* Around a fork: references for the child, one for each of ids, which the child takes over. 1 in the child: it has
 * them; 0: it is no holder, and what it has copies of is its parent's. */
void refs_before_fork(const refs_id *ids, size_t n);
int refs_after_fork_in_child(const refs_id *ids, size_t n);

#endif
