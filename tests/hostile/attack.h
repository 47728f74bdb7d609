/*
 * Attack: what one hostile client does, again and again, until it is killed.
 */
#ifndef GOALLOC_TESTS_HOSTILE_ATTACK_H
#define GOALLOC_TESTS_HOSTILE_ATTACK_H

#include "tests/hostile/board.h"
#include "tests/support/fixture.h"

/* An attacking process. */
typedef struct attacker {
    const fixture *f;
    attacker_entry *entry;
    unsigned number; /* from 0 on */
    uint64_t random;
    int uffd; /* a descriptor of userfaultfd, if the attack wants one and the system has it; else -1 */
} attacker;

typedef struct attack {
    const char *name;
    const char *text;           /* a line for people */
    void (*run)(attacker *a);   /* does not return, unless there is nothing it can do here */
    const char *const *options; /* of the daemon; NULL: none */
    unsigned nofile;            /* descriptors that the daemon may have; 0: as many as the test */
    bool kept;                  /* the daemon has a keeper */
    bool deaf_log;              /* its log is a pipe that nobody reads */
    bool fails_calls;           /* it runs with the library that has calls fail (support/fail_calls.c) */
    bool wants_uffd;
    bool lazy;   /* the daemon leases pages without memory */
    bool forges; /* it writes bits of others: the bits say what lives, so objects are not counted afterwards */
    bool (*seen_well)(const fixture *f); /* looks at the daemon during the attack; NULL: nothing to see */
} attack;

/* All of them, in the order of the README's table. The last one has no name. */
extern const attack attacks[];

/* attack_fds.c: descriptors and locks that a client passes or takes. */
void attack_linger(attacker *a);
void attack_locks(attacker *a);
void attack_inode(attacker *a);
void attack_stalled_page(attacker *a);
void attack_behind_books(attacker *a);
void attack_punch(attacker *a);

/* attack_peers.c: many connections and sessions. */
void attack_sessions(attacker *a);
void attack_connections(attacker *a);
void attack_connects(attacker *a);
void attack_idle(attacker *a);
void attack_labels(attacker *a);
void attack_log(attacker *a);
void attack_accept(attacker *a);
void attack_keeper(attacker *a);
bool labels_seen_well(const fixture *f);
bool keeper_seen_well(const fixture *f);

/* attack_requests.c: requests that cost the daemon much. */
void attack_unread(attacker *a);
void attack_half_frames(attacker *a);
void attack_checks(attacker *a);
void attack_trims(attacker *a);
void attack_stats(attacker *a);
void attack_refused(attacker *a);
void attack_page_map(attacker *a);
void attack_runs(attacker *a);
void attack_crowd(attacker *a);
void attack_lists(attacker *a);
void attack_limits(attacker *a);

/* attack_bits.c: words that a client can write, and objects at chosen places. */
void attack_adopt(attacker *a);
void attack_forged_bits(attacker *a);

#endif
