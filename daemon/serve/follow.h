/*
 * Follow: which CPU the loop should be on: its client's, or any.
 */
#ifndef GOALLOC_DAEMON_SERVE_FOLLOW_H
#define GOALLOC_DAEMON_SERVE_FOLLOW_H

#include <stdbool.h>
#include <stdint.h>

#define FOLLOW_ANY    (-1)       /* no CPU: the loop may be on any; a request whose CPU is not known */
#define FOLLOW_NO_AGE UINT64_MAX /* of a request: not known */

#define FOLLOW_REQUESTS     3u               /* from one CPU, until it is followed */
#define FOLLOW_ALONE_MS     2u               /* that nobody else has asked for, from another CPU */
#define FOLLOW_IDLE_MS      10u              /* without a request, after which no CPU is followed */
#define FOLLOW_LATE_NS      UINT64_C(1000000) /* that the loop has waited for its CPU */
#define FOLLOW_LOOK_TURNS   64u              /* after which it is looked at in any case */
#define FOLLOW_PAUSE_MS     100u             /* after the first time that it was late */
#define FOLLOW_PAUSE_MS_MAX 10000u           /* after many */

/* Times are in ms, on any clock that does not go back. */
typedef struct follow {
    int to;                 /* the CPU to be on; FOLLOW_ANY */
    int at;                 /* the CPU that the loop is bound to; FOLLOW_ANY */
    int cpu;                /* of the last request; FOLLOW_ANY: not known */
    const void *who;        /* has made it: a name, and not looked at */
    unsigned nsame;         /* requests from there, up to FOLLOW_REQUESTS */
    uint64_t last_ms;       /* the last request */
    uint64_t elsewhere_ms;  /* the last one of somebody else, from another CPU than that */
    uint64_t begun_ms;      /* `to` is followed since then, or the pause was last made shorter */
    uint64_t pause_ms;      /* after the next time that the loop is late */
    uint64_t not_before_ms; /* no CPU is followed */
    /* The turn of the loop that is under way. */
    bool asked;       /* requests have come */
    bool late;        /* one of them has come some time ago, as its client says */
    unsigned nturns;  /* since the last look */
    uint64_t turn_ms; /* the end of the last turn */
} follow;

void follow_init(follow *f);

/*
 * A client, who is told from others by that address, waits on that CPU for the loop, and says that the request is so
 * old. FOLLOW_NO_AGE: does not say.
 */
void follow_request(follow *f, const void *who, int cpu, uint64_t age_ns, uint64_t now_ms);

/* The loop is bound to that CPU now, or (FOLLOW_ANY) to none. */
void follow_moved(follow *f, int at, uint64_t now_ms);

/* The CPU is none that the loop may be on: pause. */
void follow_refused(follow *f, uint64_t now_ms);

/* At the end of a turn of a bound loop: true if it should be looked at how long the loop has waited for its CPU. */
bool follow_wants_look(follow *f, uint64_t now_ms);

/* That was looked at, and this long it was since the last look. True: it was late for somebody. */
bool follow_looked(follow *f, uint64_t waited_ns, uint64_t now_ms);

/* A turn ends. */
void follow_end_turn(follow *f);

/* From time to time: no CPU is followed for ever. */
void follow_tick(follow *f, uint64_t now_ms);

/* No CPU is followed until three more requests have come. */
void follow_end(follow *f);

#endif
