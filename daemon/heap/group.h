/*
 * Group: sessions that own together: what one of them has left unpublished stays until the last has ended.
 */
#ifndef GOALLOC_DAEMON_HEAP_GROUP_H
#define GOALLOC_DAEMON_HEAP_GROUP_H

#include <stdio.h>

#include "daemon/heap/quota.h"
#include "daemon/heap/spanlist.h"
#include "daemon/memory/heapfile.h"
#include "daemon/memory/lifesign.h"

/* Groups that the sessions of one user may have founded and that have not ended. */
#define GROUPS_PER_UID_MAX 128u

typedef struct group {
    owner_no no;
    uint32_t epoch;
    uint32_t uid;
    bool reclaims;
    bool writes;                        /* a session of it can write, or could: a child of that one may, unseen */
    enum shm_group_state state;         /* OPEN or ENDING; the word in spans says the same */
    uint32_t nmembers;                  /* sessions in the session table, */
    uint32_t nliving;                   /* and those of them that are open or lost. The session table counts */
    bool waits;                         /* it has no such session, and a child that may attach: it is looked at */
    lease_quota quota;                  /* pages that its members hold */
    lifesign sign;                      /* its members have it mapped, and their children until they have their own */
    int door_fd;                        /* the description of it that members get; -1: the next one gets another */
    mcentral central[MCENTRALS]; /* spans with objects of it that nobody leases: its members alone may */
} group;

typedef struct group_table {
    heapfile *file;                /* borrowed */
    group *groups[SHM_GROUPS_MAX]; /* NULL: the entry is free. Its own */
    uint32_t ngroups;
    uint32_t search_from;
} group_table;

/* What an Attach says of its session's group. */
typedef struct group_request {
    const uint8_t *name; /* not terminated */
    size_t name_bytes;   /* 0: no group */
    uint32_t uid;
    uint32_t flags;       /* of the session */
    uint32_t number;      /* of a forked child: its parent's group, which the token shows. 0: none */
    const uint8_t *token; /* the same */
    size_t token_bytes;
} group_request;

/* What a caller handles itself. */
enum {
    GROUP_E_TOO_LONG = 1, /* the name has more than SHM_GROUP_NAME_MAX bytes */
    GROUP_E_NOT_UTF8 = 2, /* nor is a name with zeros in it */
    GROUP_E_MODE = 3,     /* the group's other sessions reclaim, or don't */
    GROUP_E_FULL = 4,     /* SHM_GROUPS_MAX */
    GROUP_E_UID_FULL = 5, /* GROUPS_PER_UID_MAX */
    GROUP_E_NO_MEMORY = 6,
    GROUP_E_NO_RANDOM = 7, /* the system gives no random numbers for a token */
    GROUP_E_NO_SIGN = 8,   /* there is no descriptor for a sign of life, or no place on the shelf */
};

/* file is borrowed. The table is empty, whatever the file says. NULL: no memory. group_table_free() returns NULL. */
group_table *group_table_new(heapfile *file);
group_table *group_table_free(group_table *table);

/* After another daemon: the groups that were there, without members yet. 0, -ENOMEM, -EUCLEAN. */
int group_table_recover(group_table *table) __attribute__((warn_unused_result));

/* The group with that number as an owner; NULL: the heap, a session, or an entry that is free. */
static inline group *group_at(const group_table *table, uint32_t owner)
{
    return owner_is_group(owner) ? table->groups[owner - SHM_SESSIONS_MAX] : NULL;
}

/* Its name, in spans; terminated. */
const char *group_name(const group_table *table, const group *g);

/*
 * The open group of that token, else of that name and uid, which is founded if there is none. It ends soon unless a
 * session joins. 0, GROUP_E_*; *ret NULL: the request names no group.
 */
int group_find_or_found(group_table *table, const group_request *request, group **ret)
    __attribute__((warn_unused_result));

/*
 * A descriptor of its sign of life for a member, which stays the group's. -EUSERS: processes that are no members any
 * more hold too many descriptions of it; -errno.
 */
int group_life_fd(group *g) __attribute__((warn_unused_result));

/* Of a group without an open or lost session: true while a process of the family lives, and is the same program. */
bool group_lives(group *g);

/* True if there is a group of which somebody may write the heap, with a session or without. */
bool group_table_has_writers(const group_table *table);

/* The token by which a child of a member shows that it is of the family. */
const uint8_t *group_token(const group_table *table, const group *g);

/* No session joins it any more, and what is its own is freed from now on (lease_end_group_some()). */
void group_set_ending(group_table *table, group *g);

/* It is ENDING, and nothing is left of it: g is gone. */
void group_forget(group_table *table, group *g);

/* Check the table in spans against the groups. 0, -EUCLEAN after printing what differs. */
int group_table_validate(const group_table *table, FILE *err) __attribute__((warn_unused_result));

/* Print a line for each group. */
void group_table_dump(const group_table *table, FILE *out);

#endif
