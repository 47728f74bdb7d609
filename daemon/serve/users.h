/*
 * Users: an account for each uid that has something: what is counted on it, and what it was refused.
 */
#ifndef GOALLOC_DAEMON_SERVE_USERS_H
#define GOALLOC_DAEMON_SERVE_USERS_H

#include <stddef.h>

#include "daemon/heap/lease.h"
#include "daemon/limits.h"
#include "daemon/log.h"
#include "daemon/memory/commit.h"
#include "daemon/serve/queue.h"
#include "daemon/serve/refusals.h"
#include "shm/units.h"

/* Accounts that have nothing any more and are kept for their rates and episodes. */
#define USERS_IDLE_MAX 1024u
#define USERS_BUCKETS  4096u

typedef struct user {
    struct user *below; /* in its bucket */
    struct user *prev;  /* among those that have nothing, the oldest first */
    struct user *next;
    uint32_t uid;
    bool privileged;         /* root, or the daemon's user: no limit by uid holds */
    bool refuses;            /* closer.c: a descriptor of it can't be closed; it gets no connection */
    unsigned ncounts;        /* of those below that are not 0 */
    uint64_t used[LIMITS];   /* by limits of a uid */
    uint64_t refused[LIMITS];      /* times that a limit refused it something */
    refusals refusals;             /* the same, in episodes, for the log */
    struct unread *unread;         /* unread.c: of its connections that have not received descriptors */
    uint64_t told_ms;              /* door.c: a connection of it was told last that it is refused */
    uint64_t bound[LIMITS];  /* holdings.c: it has no more than that; UINT64_MAX: nobody knows */
    lease_quota quota;       /* pages that its sessions hold: LIMIT_UID_BYTES */
    lease_quota left;        /* pages that they have left (heap/estate.h): LIMIT_UID_LEFT */
    commit_share commits;    /* memory that they have been given, for whose turn it is */
    queue_user queue;        /* its requests that lease, and those that wait for others of its own */
    uint64_t credit_ns;      /* LIMIT_UID_CONNECTS: time that it has saved up, */
    uint64_t credit_at_ns;   /* at that time */
    uint64_t turn;           /* of the loop, in which */
    unsigned nrequests;      /* so many requests of it were handled, */
    uint64_t spent_ns;       /* which have taken so long, but for the first ones */
} user;

typedef struct users {
    const limits *limits; /* its own */
    limits fitted;
    user *buckets[USERS_BUCKETS];
    user *idle;
    unsigned nidle;
    unsigned nusers;
    uint64_t used[LIMITS]; /* by limits of all */
    uint64_t refused[LIMITS];
    uint64_t ndescriptors; /* users_fit_descriptors() */
    uint64_t nwatches;     /* users_fit_watches() */
    uint64_t most_pidfds;  /* that may be watched */
    uint64_t recounted_ms; /* holdings.c: when all bounds were what there is */
    uint64_t seed[2];
    refusal_log refusal_log;
} users;

/* u is zeroed. */
void users_start(users *u, const limits *max);

/* The process may have so many descriptors for connections and sessions: no uid gets all of them. */
void users_fit_descriptors(users *u, uint64_t n);

/* The kernel lets the process watch so many descriptors: half of them for connections, half for processes. */
void users_fit_watches(users *u, uint64_t n);

/* Other limits from now on, as far as there are descriptors and watches. Who has more than that keeps it. */
void users_set_limits(users *u, const limits *max);

void users_end(users *u);

/* The account of a uid, if it has one. */
user *users_look_up(users *u, uint32_t uid);

/* The account of a uid. NULL: no memory. It stays while something is counted on it, or until others need its place. */
user *users_find(users *u, uint32_t uid);

/*
 * Count n more of what that limit of a uid is about. False: a limit forbids it, and which (of the uid or of all, or
 * LIMIT_RESERVE) is in *ret; nothing has changed.
 */
bool users_count(users *u, user *who, enum limit which, uint64_t n, enum limit *ret)
    __attribute__((warn_unused_result));

/* The same whatever the limits say: what is there already. */
void users_count_always(users *u, user *who, enum limit which, uint64_t n);
void users_uncount(users *u, user *who, enum limit which, uint64_t n);

/* True if the uid may have n more. Nothing is counted. */
bool users_allows(const users *u, const user *who, enum limit which, uint64_t n) __attribute__((warn_unused_result));

/* A connection comes in now. False: more than LIMIT_UID_CONNECTS have. */
bool users_takes_connect(users *u, user *who, uint64_t now_ns) __attribute__((warn_unused_result));

/* What of a limit is used, if this file does not count that; else both are 0. */
typedef struct users_use {
    uint64_t used;
    uint64_t maximum;
} users_use;

/* The limit has refused the subject something: counted, and a line in the log at the beginning of an episode. */
void users_refused(users *u, user *who, enum limit which, const log_subject *subject, users_use use, uint64_t now_ms);

/* The same of what is no limit of a user's; at the beginning of an episode the line says that message. */
__attribute__((format(printf, 6, 7))) void users_refused_by(users *u, user *who, enum refusal what,
                                                            const log_subject *subject, uint64_t now_ms,
                                                            const char *format, ...);

/*
 * Visit the accounts of the first bucket from `from` on that has any, some few. Where the next call goes on; 0: there
 * are no more.
 */
uint32_t users_visit_bucket(const users *u, uint32_t from, void (*visit)(const user *who, void *data), void *data);

/* What is wrong; NULL: nothing. Linear. */
const char *users_validate(const users *u) __attribute__((warn_unused_result));

#endif
