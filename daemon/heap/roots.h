/*
 * Roots: names of objects, in a table of the spans region.
 */
#ifndef GOALLOC_DAEMON_HEAP_ROOTS_H
#define GOALLOC_DAEMON_HEAP_ROOTS_H

#include <stdio.h>

#include "daemon/heap/checking.h"
#include "shm/layout.h"

typedef struct roots roots;

/* What a caller handles itself. */
enum {
    ROOTS_E_EMPTY = 1,
    ROOTS_E_TOO_LONG,
    ROOTS_E_NOT_UTF8,
    ROOTS_E_NO_SUCH,
    ROOTS_E_FULL,
    ROOTS_E_NOT_LIVE, /* the offset is not within a live object */
    ROOTS_E_ANOTHER,  /* the root is not what was expected */
};

/* A name as a client has sent it, not checked. */
typedef struct root_name {
    const uint8_t *bytes;
    size_t nbytes;
} root_name;

/* What a root says: shm_root_value has the meaning of the fields. */
typedef struct root_value {
    uint64_t offset;
    uint64_t size;
    uint64_t type_tag;
    session_no session;
    uint32_t epoch;
    uint32_t ticket;
    uint32_t owner; /* root_owner() of the user who made it, and who keeps it when others change it; 0: nobody knows */
    uint64_t generation;
} root_value;

static inline uint32_t root_owner(uint32_t uid)
{
    return uid + 1; /* no user is UINT32_MAX */
}

/*
 * Set up over the root table of map, reading what stands there; whoever waits for a root looks again. -ENOMEM;
 * -EUCLEAN: it is damaged.
 */
int roots_new(shm_map *map, roots **ret) __attribute__((warn_unused_result));
roots *roots_free(roots *r); /* returns NULL */

/* Call f after each change of a root, with its name (the table's) and whether it is set now. NULL: nobody, as first. */
typedef void roots_change_fn(void *data, root_name name, bool set);
void roots_on_change(roots *r, roots_change_fn *f, void *data);

/* Set name to value, whose generation is filled in; with offset 0, remove it. Its owner stays. 0 or ROOTS_E_*. */
int roots_set(roots *r, root_name name, const root_value *value) __attribute__((warn_unused_result));

/*
 * The same if its offset is expected now; expected 0: if there is none, or its object is gone. It keeps its type tag.
 * Else ROOTS_E_ANOTHER.
 */
int roots_compare_and_set(roots *r, root_name name, uint64_t expected, const root_value *value)
    __attribute__((warn_unused_result));

/* Look name up. A root whose place has no live object is removed: ROOTS_E_NO_SUCH. */
int roots_get(roots *r, root_name name, root_value *ret) __attribute__((warn_unused_result));

/* True if the session's last change of a root was by that request, which has come again. ticket 0: false. */
bool roots_has_done(const roots *r, session_no session, uint32_t epoch, uint32_t ticket);

/* Bytes from offset to the end of the live object in which it lies; 0: there is none. */
uint64_t roots_room(const roots *r, uint64_t offset);

/* These pages may be used for other objects from now on: remove the roots there whose objects do not live. */
void roots_forget_dead(roots *r, page_no first, uint64_t npages);

/* Whoever waits for a root is to look again. */
void roots_wake(roots *r);

uint32_t roots_count(const roots *r);

/* The first root at entry start or above: its entry, or SHM_ROOTS_MAX if there is none. */
uint32_t roots_next(const roots *r, uint32_t start);

/* The root at that entry, which roots_next() has returned. The name is the table's. */
root_name roots_name_at(const roots *r, uint32_t at);
root_value roots_value_at(const roots *r, uint32_t at);

/* Remove the root at that entry. */
void roots_remove_at(roots *r, uint32_t at);

/* 0, or what is wrong with a name: ROOTS_E_EMPTY, _TOO_LONG, _NOT_UTF8. */
int root_name_check(root_name name) __attribute__((warn_unused_result));

/* Check table, hash, places and counters against each other. 0, -EUCLEAN after printing what differs. Linear. */
int roots_validate(const roots *r, FILE *err) __attribute__((warn_unused_result));

/* The same in slices of budget entries (checking.h), from *at 0 on: also VALIDATE_E_MORE. */
int roots_validate_step(const roots *r, uint32_t *at, unsigned budget, FILE *err) __attribute__((warn_unused_result));

/* Print a line for each root. */
void roots_dump(const roots *r, FILE *out);

#endif
