/*
 * Left: which objects sessions that have ended have left behind, as long as they live.
 */
#ifndef GOALLOC_DAEMON_HEAP_LEFT_H
#define GOALLOC_DAEMON_HEAP_LEFT_H

#include <stdio.h>

#include "daemon/heap/spanlist.h"
#include "shm/layout.h"

/* Sessions that may have claims: those that are ending, and the last ones that have ended (session.h). */
#define LEFT_ENDED_MAX 128u
#define LEFT_OWNERS_MAX (SHM_SESSIONS_MAX + LEFT_ENDED_MAX)

/* A session that has claims; 0: it has none. */
typedef struct left_owner_no {
    uint16_t n;
} left_owner_no;

typedef struct left_sum {
    uint64_t live_objects;
    uint64_t live_bytes;
} left_sum;

typedef struct left_table left_table;

/* map and links are borrowed. NULL: no memory. left_free() returns NULL. */
left_table *left_new(const shm_map *map, span_link *links);
left_table *left_free(left_table *table);

/* A span is leased: what lives in it now is not its lessee's. */
void left_lease_begins(left_table *table, page_no first);

/*
 * Its lease is over. owner: what its lessee's session, which ends, has left in it is claimed for *owner (0: it becomes
 * a number); NULL: nobody claims anything. Before anything in the span changes for others.
 */
void left_lease_ends(left_table *table, page_no first, left_owner_no *owner);

/* The span is freed: nothing in it is left. */
void left_forget_span(left_table *table, page_no first);

/* Nobody will ask for that session any more. Its claims go in a walk: see left_wants_walk(). 0: nothing happens. */
void left_forget_owner(left_table *table, left_owner_no owner);

/*
 * A walk over all claims counts those objects that live and drops what is gone. Call until it is true; left_of() then
 * says what was counted. left_wants_walk(): claims of forgotten sessions are to be dropped.
 */
void left_walk_begin(left_table *table);
bool left_walk_step(left_table *table, unsigned budget) __attribute__((warn_unused_result));
bool left_wants_walk(const left_table *table);
left_sum left_of(const left_table *table, left_owner_no owner);

/* Check records, chains and counters. 0, -EUCLEAN after printing what differs. */
int left_validate(const left_table *table, FILE *err) __attribute__((warn_unused_result));

#endif
