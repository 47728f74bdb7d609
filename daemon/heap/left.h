/*
 * Left: which objects sessions that have ended have left behind, as long as they live.
 */
#ifndef GOALLOC_DAEMON_HEAP_LEFT_H
#define GOALLOC_DAEMON_HEAP_LEFT_H

#include <stdio.h>

#include "daemon/heap/checking.h"
#include "daemon/heap/live.h"
#include "daemon/heap/spanlist.h"

/* Sessions that may have claims: those that are ending, and the last ones that have ended (session.h). */
#define LEFT_ENDED_MAX 128u
#define LEFT_OWNERS_MAX (SHM_SESSIONS_MAX + LEFT_ENDED_MAX)

/* The number of a session that has claims; 0: it has none. */
typedef struct left_owner_no {
    uint16_t n;
} left_owner_no;

typedef struct left_table left_table;

/* map and links are borrowed. NULL: no memory. left_free() returns NULL. */
left_table *left_new(const shm_map *map, span_link *links);
left_table *left_free(left_table *table);

/* A lease of the span begins: what lives in it now is not its lessee's. */
void left_lease_begins(left_table *table, page_no first);

/*
 * The lease of the span ends, and its bits are still what the lessee has left. What its lessee allocated and lives is
 * claimed for *owner, which becomes a number if it is 0, and added to *sum; owner NULL: nobody claims it.
 */
void left_lease_ends(left_table *table, page_no first, left_owner_no *owner, live_sum *sum);

/* The span is freed: nothing in it is left. */
void left_forget_span(left_table *table, page_no first);

/* Nobody asks for that session any more: the next walk drops its claims (left_wants_walk()). 0: does nothing. */
void left_forget_owner(left_table *table, left_owner_no owner);

/*
 * A walk over all claims counts the objects that live, and drops claims on dead ones and of forgotten sessions. Call
 * left_walk_step() until it is true; left_of() then says what was counted. left_wants_walk(): true if there are claims
 * of forgotten sessions.
 */
void left_walk_begin(left_table *table);
bool left_walk_step(left_table *table, unsigned budget) __attribute__((warn_unused_result));
bool left_wants_walk(const left_table *table);
live_sum left_of(const left_table *table, left_owner_no owner);

/*
 * A pass over the claims of owners that are wanted, to free what lives, or (free_them false) to count it: begin, want,
 * and step until it is true. What may be another session's object, since the span was leased after the claim was made,
 * or what was in it before is not known (another daemon gave the lease, or records had run out), is not freed but
 * counted as unsure; what somebody has adopted is neither. span_done is called for each span in which objects were
 * freed, by their remote bits, and has it swept. An owner that is forgotten is wanted no longer.
 */
typedef struct left_freed {
    live_sum freed;
    live_sum unsure;
} left_freed;

void left_free_begin(left_table *table, bool free_them);
void left_free_want(left_table *table, left_owner_no owner); /* 0: does nothing */
bool left_free_step(left_table *table, unsigned budget, void (*span_done)(void *data, page_no first), void *data)
    __attribute__((warn_unused_result));
left_freed left_free_result(const left_table *table);

/*
 * Check records, chains and counters, in slices of budget records (checking.h): 0, VALIDATE_E_MORE, -EUCLEAN after
 * printing what differs. left_validate() does it at once.
 */
void left_validate_begin(left_table *table);
int left_validate_step(left_table *table, unsigned budget, FILE *err) __attribute__((warn_unused_result));
int left_validate(left_table *table, FILE *err) __attribute__((warn_unused_result));

#endif
