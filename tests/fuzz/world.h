/*
 * World: a daemon within the fuzzer's process, of which the loop is turned by hand, and some clients of it.
 */
#ifndef GOALLOC_TESTS_FUZZ_WORLD_H
#define GOALLOC_TESTS_FUZZ_WORLD_H

#include "daemon/serve/server.h"
#include "proto/channel.h"

#define WORLD_CLIENTS   4u
#define WORLD_PAGES_MAX 16u /* that a client remembers of the spans that it was given */

/* Who a client is, if the fuzzer runs as root; else all are the daemon's user. What each may, says world_rules. */
enum world_user { WORLD_ROOT, WORLD_OTHER, WORLD_THIRD, WORLD_READER, WORLD_CONTROL, WORLD_UNLISTED, WORLD_USERS };

/* What the administrator has decided, as bits. */
enum world_rules {
    WORLD_LISTED = 1, /* lists of who may attach, or only read; a control group; roots are their maker's */
    WORLD_TIGHT = 2,  /* of what is limited by user there is little */
};

/* The end of a connection that the daemon does not see, with all that its session was given. */
typedef struct world_client {
    channel ch;
    int fds[FDPASS_MAX]; /* of the heap; while they are open its process lives */
    int nfds;
    bool deaf; /* it does not read what comes */
    enum world_user user;
    uint32_t uid;
    bool controls;      /* it may control the daemon */
    bool wild;          /* it has sent bytes of which nobody knows what they ask: its replies say nothing */
    uint64_t next_id;   /* 64 at most in an input */
    uint64_t last_id;   /* of the last reply */
    uint64_t forbidden; /* the requests that have to be answered EPERM, a bit each, by id - 1 */
    uint64_t nearest;   /* those that asked for the nearest limits, whose rows name nobody */
    uint32_t cpu;       /* hints in its requests */
    uint32_t sent_us;
    uint32_t session;
    uint32_t epoch;
    uint8_t token[SESSION_TOKEN_BYTES];
    uint32_t group;
    uint8_t group_token[SESSION_TOKEN_BYTES];
    uint32_t pages[WORLD_PAGES_MAX]; /* first pages of spans */
    uint32_t npages;                 /* ever; the last ones are remembered */
} world_client;

typedef struct world {
    bool lazy; /* nothing is committed, and there is a memory limit */
    bool running;
    unsigned rules; /* enum world_rules, of this input */
    limits usual; /* without WORLD_TIGHT */
    server *server;
    server first; /* threads that close what clients send wait in it for ever (closer.c): it is not used again */
    server others;
    heapfile file;
    mheap heap;
    int listen_fd;
    uint32_t ninputs; /* since it was started */
    world_client clients[WORLD_CLIENTS];
} world;

/* Begin an input, with enum world_rules. Starts the daemon if it does not run; ends the process if it can't. */
void world_start(world *w, unsigned rules);

/* Stop it: it is asked to drop its heap, and must have nothing left. */
void world_stop(world *w);

/* Connect client i, as that user if that can be had. A connection that it has is closed. */
void world_connect(world *w, unsigned i, enum world_user user);

/* Send a request. If it can't be sent at once, nothing happens. */
void world_send(world *w, unsigned i, Goallocd__Request *request);
void world_send_bytes(world *w, unsigned i, const uint8_t *data, size_t len_bytes);

/* Close the connection; or all that the process of the session had, as if it had died. */
void world_disconnect(world *w, unsigned i);
void world_die(world *w, unsigned i);

/*
 * Turn the loop n times without waiting, and read what has come for the clients. It must be what they may be told: one
 * reply to each request, in order; EPERM for who may not control; and no daemon finds its own tables broken.
 */
void world_turn(world *w, unsigned n);

/* All timers of the loop are due. */
void world_pass_time(world *w);

/*
 * The end of an input: all processes die, their objects are freed and roots removed; then the heap must validate and be
 * empty. Waits for the threads of the pool.
 */
void world_end_input(world *w);

#endif
