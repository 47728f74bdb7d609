/*
 * Adopt: which owner, a session or a group, has adopted which object.
 */
#ifndef GOALLOC_DAEMON_HEAP_ADOPT_H
#define GOALLOC_DAEMON_HEAP_ADOPT_H

#include <stdio.h>

#include "daemon/heap/checking.h"
#include "daemon/memory/heapfile.h"
#include "shm/object.h"

#define ADOPT_PER_OWNER_MAX 65536u

typedef struct adopt_table adopt_table;

/* What a caller handles itself: the owner has ADOPT_PER_OWNER_MAX, or all owners have ADOPTIONS_MAX. */
enum { ADOPT_E_FULL = 1 };

/*
 * NULL: no memory, or no random numbers for a seed. The caller owns it. file is borrowed. The table is empty, whatever
 * the file says.
 */
adopt_table *adopt_new(heapfile *file);

/*
 * After another daemon, and when the tables of sessions and groups are this one's: read the adoptions, and drop those
 * whose object or owner is gone. Linear in the entries. After it adopt_recover_span() sets a span's counters right:
 * call it for each.
 */
void adopt_recover(adopt_table *table);
void adopt_recover_span(adopt_table *table, page_no first);

adopt_table *adopt_free(adopt_table *table); /* returns NULL */

/*
 * Make sure that the span's kept bits are in use: they are zeroed if they were not. For spans of more than 512 objects
 * (the 8-byte class) this is left until the first of them is set, since they cost memory of their own.
 */
void adopt_ensure_kept(shm_map *map, page_no first);

/*
 * Note that a live object is owner's, whose entry has that epoch, whoever's it was, and mark it with its kept bit. 0,
 * ADOPT_E_FULL.
 */
int adopt_set(adopt_table *table, const object_ref *object, owner_no owner, uint32_t epoch)
    __attribute__((warn_unused_result));

/* Drop what is noted of the object at offset, if anything. The kept bit stays as it is. */
void adopt_clear(adopt_table *table, uint64_t offset);

/* Drop all that is noted of objects in the span, which is about to end. */
void adopt_forget_span(adopt_table *table, page_no first);

/*
 * Take one of owner's objects out of the table. False: it has none. *ret_lives: *ret is the object, which lives; else
 * it had been freed meanwhile.
 */
bool adopt_pop(adopt_table *table, owner_no owner, object_ref *ret, bool *ret_lives)
    __attribute__((warn_unused_result));

/* Adopted objects: all; those of an owner; those in a span, which costs a step for each. */
uint32_t adopt_count(const adopt_table *table);
uint32_t adopt_count_owner(const adopt_table *table, owner_no owner);
uint32_t adopt_count_span(const adopt_table *table, page_no first);

/* Adoptions that a look for the object at offset goes over, for tests. */
uint32_t adopt_look_steps(const adopt_table *table, uint64_t offset);

/*
 * Check lists, entries and counters against each other, in slices of budget entries (checking.h): 0, VALIDATE_E_MORE,
 * -EUCLEAN after printing what differs. adopt_validate() does it at once.
 */
void adopt_validate_begin(adopt_table *table);
int adopt_validate_step(adopt_table *table, unsigned budget, FILE *err) __attribute__((warn_unused_result));
int adopt_validate(adopt_table *table, FILE *err) __attribute__((warn_unused_result));

/* Print a line for each adopted object. */
void adopt_dump(const adopt_table *table, FILE *out);

#endif
