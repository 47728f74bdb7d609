/*
 * Session: one attached process, what it holds, and the end of it. And the lease table: who holds which span.
 */
#ifndef GOALLOC_DAEMON_SERVE_SESSION_H
#define GOALLOC_DAEMON_SERVE_SESSION_H

#include "daemon/heap/mcentral.h"

typedef struct session {
    session_no no;
    uint32_t epoch;
    enum shm_session_state state; /* the slot in spans shows it to others; this is what the daemon goes by */
    uint32_t flags;
    uint32_t pid;
    uint32_t uid;
    uint64_t limit_pages; /* of what it holds; 0: none */
    uint64_t nheld_pages;
    uint64_t nrpcs;
    unsigned nops; /* requests under way that commit memory for it: it does not end before them */
    spanlist leased;
    unsigned nlooks; /* times that its life lock was looked at since it was lost */
    bool detached;       /* its process has said that it is done */
    left_owner_no left; /* claims objects that it has left in its spans: nobody may know of some of them */
    char label[SHM_LABEL_BYTES];
} session;

/* Sessions that are over, the last ones, for people to look at. */
#define SESSIONS_ENDED_KEPT LEFT_ENDED_KEPT

typedef struct session_table {
    mheap *heap;
    session ended[SESSIONS_ENDED_KEPT];
    uint64_t nended; /* ever; the last is ended[(nended - 1) % SESSIONS_ENDED_KEPT] */
    session *slots[SHM_SESSIONS_MAX]; /* NULL: free */
    uint32_t nopen;                   /* all that are not NULL */
    uint64_t nleased;                 /* spans of all sessions */
    uint16_t search_from;
} session_table;

/* What an Attach asks for, and who asks. */
typedef struct session_request {
    uint32_t flags;
    uint32_t pid;
    uint32_t uid;
    uint64_t limit_bytes;
    const char *label; /* cut to SHM_LABEL_BYTES - 1 bytes; what is no UTF-8, or controls terminals, becomes '?' */
} session_request;

/* What a caller handles itself. */
enum {
    SESSION_E_NO_SLOT = 1,
    SESSION_E_NOT_LEASED = 2, /* the span that was named is not leased by the session */
    SESSION_E_NOT_EMPTY = 3,  /* a RECLAIM session returns a span with objects in it */
    SESSION_E_NO_RUN = 4,     /* the span is no large run of AllocLarge */
    SESSION_E_NO_MEMORY = 5,
    SESSION_E_NO_RANDOM = 6, /* the system gives no random numbers for a token */
};

void session_table_init(session_table *table, mheap *heap);

/*
 * The same after mheap_recover(): sessions that were open are LOST, until their processes come back or turn out to be
 * gone; those that were ending, or whose processes are gone, are ENDING. Leased spans and adopted objects are theirs
 * again. 0, -ENOMEM, -EUCLEAN with *ret_why.
 */
int session_table_recover(session_table *table, mheap *heap, const char **ret_why) __attribute__((warn_unused_result));
void session_table_end(session_table *table);

/*
 * Open a session. 0, SESSION_E_NO_SLOT, SESSION_E_NO_MEMORY, SESSION_E_NO_RANDOM. The table owns *ret until
 * session_end_step() has finished it.
 */
int session_open(session_table *table, const session_request *request, session **ret)
    __attribute__((warn_unused_result));

/* Undo session_open(): nobody has been told of the session, which has nothing. s is gone. */
void session_cancel(session_table *table, session *s);

/* True if token is the session's. Takes the same time whatever differs. */
bool session_has_token(const session_table *table, const session *s, const uint8_t *token, size_t len_bytes);

/* The session with that number and epoch; NULL: it has ended. */
session *session_find(const session_table *table, session_no no, uint32_t epoch);

void session_set_state(session_table *table, session *s, enum shm_session_state state);

/*
 * End up to budget leases and adoptions of a session in state ENDING. True: it is over, s is gone. Slots that were
 * not handed out are free, handed-out objects stay, a RECLAIM session's are freed unless kept.
 */
bool session_end_step(session_table *table, session *s, unsigned budget) __attribute__((warn_unused_result));

/* Pages more that the session may hold, as far as its limit says. */
uint64_t session_room_pages(const session *s);

/* Lease a span that is in no list to s. Its description is whole; the lease word is the last store. */
void lease_give(session_table *table, session *s, page_no first);

/* Check a span number from a client. 0, SESSION_E_NOT_LEASED. */
int lease_check(const session_table *table, const session *s, uint32_t first, page_no *ret)
    __attribute__((warn_unused_result));

/* End the lease of a span that s holds. 0, SESSION_E_NOT_EMPTY (nothing has changed). */
int lease_return(session_table *table, session *s, page_no first) __attribute__((warn_unused_result));

/*
 * The same for a large run whose object others may free (lessee_folds 0): the daemon's sweep may have ended its lease
 * already, so the caller checks the lease first. 0, SESSION_E_NOT_EMPTY, SESSION_E_NO_RUN (nothing has changed).
 */
int lease_return_run(session_table *table, session *s, page_no first) __attribute__((warn_unused_result));

/* End the lease of a span that was never used, and free its pages. punched: they have no memory. */
void lease_revoke(session_table *table, session *s, page_no first, bool punched);

/*
 * Sweep any span: one that nobody leases goes where it belongs; a large object that was freed remotely ends,
 * leased or not. force: even if that was done since the last sweep began. True if pages came free.
 */
bool lease_sweep(session_table *table, page_no first, bool force);

#endif
