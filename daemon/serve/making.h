/*
 * Making: which session is making which root, so that one makes it and the others wait.
 */
#ifndef GOALLOC_DAEMON_SERVE_MAKING_H
#define GOALLOC_DAEMON_SERVE_MAKING_H

#include "daemon/heap/roots.h"
#include "daemon/serve/session.h"

#define MAKING_UID_MAX 1024u /* roots that sessions of one uid make at the same time */
#define MAKING_MAX     4096u /* and all sessions */

/* What a caller handles itself. */
enum {
    MAKING_E_SESSION_FULL = 1, /* the session makes SHM_MAKING_MAX roots */
    MAKING_E_UID_FULL,
    MAKING_E_FULL, /* MAKING_MAX, or no memory */
};

typedef struct making making;

/* All zero: nothing is being made. */
typedef struct making_table {
    making *by_name; /* those that are valid */
    making *of_session[SHM_SESSIONS_MAX];
    uint8_t nof_session[SHM_SESSIONS_MAX];
    uint32_t n;
} making_table;

/* What the root will be. */
typedef struct making_request {
    root_name name;
    uint32_t ticket; /* not 0 */
    uint64_t size;
    uint64_t type_tag;
    uint64_t there; /* the object's offset if the root is there and is initialised again; 0: it is to be made */
} making_request;

void making_table_end(making_table *table);

/* The session of s makes the root. Nobody else does: making_find() was NULL. 0 or MAKING_E_*. */
int making_begin(making_table *table, const session *s, const making_request *request, making **ret)
    __attribute__((warn_unused_result));

/* Who makes the root of that name, as far as this table knows; NULL: nobody. Its session may be lost or gone. */
making *making_find(const making_table *table, root_name name);

/* What the session has begun with that ticket for that name. NULL: nothing, or it is not valid any more. */
making *making_of(const making_table *table, const session *s, root_name name, uint32_t ticket);

/* Who makes it, and what. */
session_no making_session(const making *m);
uint32_t making_epoch(const making *m);
const making_request *making_what(const making *m);

/* The object that is to be the root, which goes with the session if that ends before the making does. */
void making_set_object(making *m, uint64_t offset);

/* It does not count any more: another session may begin. Only making_drop() and the session's end forget it. */
void making_void(making_table *table, making *m);

/* All that the session has begun: it was lost meanwhile. True: there was something. */
bool making_void_session(making_table *table, const session *s);

/* Forget what the session has begun with that ticket, valid or not. False: it has begun nothing with it. */
bool making_drop(making_table *table, const session *s, root_name name, uint32_t ticket);

/*
 * The session ends: free the objects of what it has begun, which nobody knows of but its process, and forget it. False:
 * there was nothing.
 */
bool making_end_session(making_table *table, const session *s, const shm_map *map);

/* Offsets of objects that sessions have announced, valid or not, max at most. Returns how many. */
size_t making_objects(const making_table *table, uint64_t *ret, size_t max);

/* Check lists and counters. 0, -EUCLEAN after printing what differs. */
int making_validate(const making_table *table, FILE *err) __attribute__((warn_unused_result));

/* Print a line for each. */
void making_dump(const making_table *table, FILE *out);

#endif
