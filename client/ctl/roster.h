/*
 * Roster: sessions as a daemon has listed them, or groups of them, to be sorted and compared with those of before.
 */
#ifndef GOALLOC_CLIENT_CTL_ROSTER_H
#define GOALLOC_CLIENT_CTL_ROSTER_H

#include <jansson.h>

#include "proto/goallocd.pb-c.h"
#include "shm/layout.h"

/* A session, or a group: then nsessions says of how many, and numbers are sums. */
typedef struct roster_row {
    uint32_t session;
    uint32_t epoch;
    uint32_t pid;
    uint32_t uid; /* of a group: of the user who founded it */
    uint32_t flags;
    uint32_t state;
    uint32_t group_uid;
    uint32_t nsessions;
    uint64_t held_bytes;
    uint64_t leased_spans;
    uint64_t limit_bytes;
    uint64_t rpcs;
    uint64_t left_objects;
    uint64_t left_bytes;
    uint64_t live_objects;
    uint64_t live_bytes;
    uint64_t idle_bytes;
    uint64_t refills;
    uint64_t age_ms; /* of a group: of its oldest session */
    uint64_t profile_bytes; /* it samples an object for so many bytes; 0: it does not. Of a group: nothing */
    double refills_per_s;
    char label[SHM_LABEL_BYTES];
    char group[SHM_GROUP_NAME_BYTES]; /* "": none. As the label, it is fit for a terminal */
} roster_row;

/* Zeroed: empty. */
typedef struct roster {
    roster_row *rows; /* its own */
    size_t n;
    size_t cap;
} roster;

/* A column by which rows can be sorted. NULL: there is no such column. */
typedef struct roster_key roster_key;
const roster_key *roster_key_named(const char *name);
const char *roster_key_name(const roster_key *key);
const roster_key *roster_key_next(const roster_key *key, int step); /* in the order of the list, round it */
const char *roster_key_names(void);                                 /* all, with blanks between them */

void roster_clear(roster *r);
void roster_free(roster *r);

/* Add what a reply lists. False: no memory, or more than a daemon can have. */
bool roster_add(roster *r, const Goallocd__SessionListReply *reply) __attribute__((warn_unused_result));

/* Make it the same rows as from. False: no memory. */
bool roster_copy(roster *r, const roster *from) __attribute__((warn_unused_result));

/* Keep those that are as asked for: of that group (NULL: any), not ended if live. */
void roster_filter(roster *r, const char *group, bool live);

/* One row a group; sessions without one are together in the row of the name "". */
void roster_group(roster *r);

/* The largest first, text and numbers of things in rising order; reverse: the other way round. NULL: as they are. */
void roster_sort(roster *r, const roster_key *key, bool reverse);

/* Refills a second since `before`, seconds ago; what was not there then counts from its beginning. */
void roster_rate(roster *r, const roster *before, double seconds);

/* Columns for the names of groups in a table of sessions: as many as they need, within bounds. */
size_t roster_group_columns(const roster *r);

/* "open", "lost", ... */
const char *roster_state_name(uint32_t state);

/* NULL: no memory. */
json_t *roster_session_json(const roster_row *row);
json_t *roster_group_json(const roster_row *row);

#endif
