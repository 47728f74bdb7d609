/*
 * World: a daemon within the fuzzer's process, of which the loop is turned by hand, and some clients of it.
 */
#ifndef GOALLOC_TESTS_FUZZ_WORLD_H
#define GOALLOC_TESTS_FUZZ_WORLD_H

#include "daemon/serve/server.h"
#include "proto/channel.h"

#define WORLD_CLIENTS   4u
#define WORLD_PAGES_MAX 16u /* that a client remembers of the spans that it was given */

/* The end of a connection that the daemon does not see, with all that its session was given. */
typedef struct world_client {
    channel ch;
    int fds[FDPASS_MAX]; /* of the heap; while they are open its process lives */
    int nfds;
    bool deaf; /* it does not read what comes */
    uint64_t next_id;
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
    server *server;
    server first; /* threads that close what clients send wait in it for ever (closer.c): it is not used again */
    server others;
    heapfile file;
    mheap heap;
    int listen_fd;
    uint32_t ninputs; /* since it was started */
    world_client clients[WORLD_CLIENTS];
} world;

/* Start the daemon if it does not run. Ends the process if it can't. */
void world_start(world *w);

/* Stop it: it is asked to drop its heap, and must have nothing left. */
void world_stop(world *w);

/* Connect client i, as another user if that can be had. A connection that it has is closed. */
void world_connect(world *w, unsigned i, bool as_other);

/* Send a request. If it can't be sent at once, nothing happens. */
void world_send(world *w, unsigned i, Goallocd__Request *request);
void world_send_bytes(world *w, unsigned i, const uint8_t *data, size_t len_bytes);

/* Close the connection; or all that the process of the session had, as if it had died. */
void world_disconnect(world *w, unsigned i);
void world_die(world *w, unsigned i);

/* Turn the loop n times without waiting, and read what has come for the clients. */
void world_turn(world *w, unsigned n);

/*
 * The end of an input: all processes die, their objects are freed and roots removed; then the heap must validate and be
 * empty. Waits for the threads of the pool.
 */
void world_end_input(world *w);

#endif
