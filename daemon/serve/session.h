/*
 * Session: one attached process. What it holds is its lessee's (daemon/heap/lease.h).
 */
#ifndef GOALLOC_DAEMON_SERVE_SESSION_H
#define GOALLOC_DAEMON_SERVE_SESSION_H

#include <stddef.h>

#include "daemon/heap/census.h"
#include "daemon/heap/lease.h"
#include "daemon/memory/commit.h"
#include "daemon/memory/lifesign.h"
#include "daemon/serve/users.h"

typedef struct session {
    lessee lessee;
    enum shm_session_state state; /* what the daemon goes by; while the session lives, its entry in spans shows it */
    uint32_t flags;
    uint32_t pid;
    uint32_t uid;
    user *user;              /* the account on which it counts; NULL: the table has none */
    bool counts_as_lost;     /* there, too: LIMIT_UID_LOST */
    uint64_t nrpcs;
    uint64_t asked_bytes;    /* the limit that its process has asked for; 0: none */
    uint64_t nrefills;       /* of them, those that asked for spans */
    uint64_t opened_ms;      /* on shm_clock_ms(); its entry in spans says it to the next daemon */
    uint64_t ended_ms;       /* 0: it has not */
    census_lessee counted;   /* what lived in its spans when objects were last counted (stats.c) */
    lifesign sign;           /* its process has it mapped as long as it lives; on the shelf for the next daemon, too */
    uint64_t next_search_ns; /* what it offers is not searched for before, at its limit */
    bool searching;          /* it has been told to ask again: a search goes on where the last request's ended */
    bool detached;           /* it ends because its process has asked for that */
    const char *why_ended;   /* else why, for the log; NULL: another daemon knew. Constant */
    bool barred;             /* it was disconnected: its process may not come back to it */
    bool told_not_leased;    /* the log has it that its process returns what it does not lease */
    commit_share commits;    /* memory that it has been given, for whose turn it is */
    bool settled;            /* ENDING: what its process was linking or unlinking is done */
    group *group;            /* NULL: it has none, or it is over */
    uint32_t group_uid;      /* of the group, whose name outlives it here */
    char group_name[SHM_GROUP_NAME_BYTES];
    uint64_t profile;        /* its entry's profile_word */
    bool collecting;         /* it has the right to collect, as its entry says */
    uint64_t collect_nleases; /* the heap's count of leases when it got that; 0: from another daemon */
    char label[SHM_LABEL_BYTES];
} session;

/* Sessions that are over, the last ones, for people to look at. */
#define SESSIONS_ENDED_MAX LEFT_ENDED_MAX

typedef struct session_table {
    lease_table leases; /* says which sessions there are */
    session ended[SESSIONS_ENDED_MAX];
    uint64_t nended; /* ever; the last is ended[(nended - 1) % SESSIONS_ENDED_MAX] */
    uint64_t ndied;  /* of them, without a Detach */
    uint32_t nopen;  /* sessions in the lease table */
    users *users;    /* NULL: sessions are not counted. Borrowed */
    uint32_t nending; /* of them, ENDING */
    uint32_t nlost;   /* and LOST */
    uint16_t search_from;
} session_table;

static inline session *session_of(lessee *l)
{
    return l == NULL ? NULL : (session *)(void *)((char *)l - offsetof(session, lessee));
}

/* The session with that number, which is below SHM_SESSIONS_MAX; NULL: there is none. */
static inline session *session_at(const session_table *table, uint32_t no)
{
    return session_of(table->leases.lessees[no]);
}

/* The session with that number and epoch; NULL: it has ended. */
static inline session *session_find(const session_table *table, session_no no, uint32_t epoch)
{
    return session_of(lease_find_lessee(&table->leases, no, epoch));
}

/* As the log names it; valid as long as s is. */
static inline log_subject session_subject(const session *s)
{
    return (log_subject){ .session = s->lessee.no.n,
                          .pid = s->pid,
                          .has_uid = true,
                          .uid = s->uid,
                          .label = s->label,
                          .group = s->group_name };
}

/* How long it has been there, or was. */
uint64_t session_age_ms(const session *s);

/* The session that somebody names; epoch 0: whichever has the number. NULL: there is none. */
session *session_named(const session_table *table, uint32_t no, uint32_t epoch);

/* What an Attach asks for, and who asks. */
typedef struct session_request {
    uint32_t flags;
    uint32_t pid;
    uint32_t uid;
    uint64_t asked_bytes; /* the limit that it asks for; 0: none */
    const char *label; /* cut to SHM_LABEL_BYTES - 1 bytes; what is no UTF-8, or controls terminals, becomes '?' */
    group *group;      /* that it joins, which is open and of its mode; NULL: none */
    shm_version knows; /* what its library knows of layouts */
    uint64_t profile;  /* a profile_word: what it is to sample */
} session_request;

/* What a caller handles itself. */
enum {
    SESSION_E_NO_ENTRY = 1,
    SESSION_E_NO_MEMORY = 2,
    SESSION_E_NO_RANDOM = 3, /* the system gives no random numbers for a token */
    SESSION_E_NO_SIGN = 4,   /* there is no descriptor for a sign of life */
    SESSION_E_NO_SHELF = 5,  /* and no place on the shelf for it */
};

void session_table_init(session_table *table, mheap *heap);

/*
 * The same after mheap_recover(): groups that had not ended are there, sessions that were open are LOST, until their
 * processes come back or turn out to be gone; those that were ending are ENDING. Leased spans and adopted objects are
 * theirs again. 0, -ENOMEM, -EUCLEAN with *ret_why.
 */
int session_table_recover(session_table *table, mheap *heap, const char **ret_why) __attribute__((warn_unused_result));
void session_table_end(session_table *table);

/* Count all sessions on these accounts, and those that are opened from now on. */
int session_table_count_on(session_table *table, users *accounts) __attribute__((warn_unused_result)); /* 0, -ENOMEM */

/* The limits of the accounts have changed: those of sessions and groups that are there follow. */
void session_table_set_limits(session_table *table);

/* The limit that keeps this user from another session; LIMITS: none does. */
enum limit session_forbidden_by(const session_table *table, const user *who);

/*
 * Open a session. 0, SESSION_E_*. The table owns *ret until session_end_step() has finished it.
 */
int session_open(session_table *table, const session_request *request, session **ret)
    __attribute__((warn_unused_result));

/* The session holds nothing: it is over, and s is gone. Also undoes session_open() as long as nobody knows of it. */
void session_forget(session_table *table, session *s);

/* True if token is the session's. Takes the same time whatever differs. */
bool session_has_token(const session_table *table, const session *s, const uint8_t *token, size_t len_bytes);

/* Show the session under another label. */
void session_set_label(session_table *table, session *s, const char *label);

/* Have it sample so from now on: a profile_word. */
void session_set_profile(session_table *table, session *s, uint64_t word);

/* Give it the right to collect, which no other session has; or take it. */
void session_set_collecting(session_table *table, session *s, bool collecting);

void session_set_state(session_table *table, session *s, enum shm_session_state state);

/*
 * The group has no open or lost session: is it at its end? It becomes ENDING unless a child of a member's may still
 * attach; an ENDING one without sessions is freed, up to budget spans. A session that attaches meanwhile keeps an open
 * one.
 */
enum session_group_end { GROUP_WAITS_FOR_CHILD, GROUP_WAITS_FOR_SESSIONS, GROUP_HAS_MORE, GROUP_IS_GONE };
enum session_group_end session_group_end_step(session_table *table, group *g, unsigned budget);

/* lease_end_some() of a session in state ENDING. True: it is over, s is gone. */
bool session_end_step(session_table *table, session *s, unsigned budget) __attribute__((warn_unused_result));

/*
 * Check the table in spans and the sessions, at once; then, in slices, what they hold, as lease_validate_step(). 0,
 * VALIDATE_E_MORE, -EUCLEAN after printing what differs. session_table_validate() does it at once.
 */
int session_table_validate_begin(session_table *table, FILE *err) __attribute__((warn_unused_result));
int session_table_validate_step(session_table *table, unsigned budget, FILE *err) __attribute__((warn_unused_result));
int session_table_validate(session_table *table, FILE *err) __attribute__((warn_unused_result));

/* Print a line for each session. */
void session_table_dump(const session_table *table, FILE *out);

#endif
