/*
 * Server: the loop, from its start to its stop.
 */
#ifndef GOALLOC_DAEMON_SERVE_SERVER_H
#define GOALLOC_DAEMON_SERVE_SERVER_H

#include "daemon/serve/deaths.h"
#include "daemon/serve/door.h"
#include "daemon/serve/pulse.h"
#include "daemon/serve/reload.h"
#include "daemon/serve/rounds.h"
#include "daemon/serve/saving.h"
#include "daemon/serve/sweep.h"

typedef struct server_options {
    bool eager_commit;
    bool scavtrace;
    const access_policy *access;
    bool recovered; /* the heap was another daemon's before */
    uint64_t began_ns;       /* when this one began, for the log: uv_hrtime() */
    const char *socket_path; /* for the log */
    bool keep_on_stop;       /* SIGTERM and SIGINT leave the heap to the next daemon */
    bool (*is_held)(void *data); /* true if somebody else has the heap, so that it can be left */
    /*
     * A descriptor that becomes readable when its other end has died. on_death then closes it, and returns the one that
     * takes its place. -1 of either: there is none yet, and on_death is called again some seconds later.
     */
    bool watches; /* else there is no such thing */
    int watched_fd;
    int (*on_death)(void *data);
    void *data;
    const int *waiting; /* connections that were accepted before; taken */
    unsigned nwaiting;
    int (*before_serving)(void *data); /* all is set up; 0, -errno: logged, and nobody is served. NULL: nothing */
    const limits *limits; /* of clients; borrowed */
    bool refuses_fds;     /* nobody can send descriptors to the socket */
    const saving_setup *saving; /* who saves the heap before a stop ends it; NULL: nobody */
    bool loaded; /* recovered, and out of an image */
    const reload_setup *reload; /* how to read the configuration again; NULL: it can't be */
} server_options;

typedef struct server {
    uv_signal_t signals[4];
    door door;
    sweep sweep;
    deaths deaths;
    rounds rounds;
    pulse pulse;
    saving saving;
    reload reload;
    server_options options;
    uv_poll_t watched;
    uv_timer_t replace; /* of what was watched */
    uv_timer_t stop;   /* after a request to drop the heap has been answered */
    uv_timer_t map_pause; /* runs between two times in which page maps of long spans are written, */
    uint64_t mapping_ns;  /* the last of which has begun then */
    bool save_on_stop; /* the request that is to be answered first was for a stop */
    bool dropped;      /* it has stopped, and nobody is to serve the heap any more */
    service service;
} server;

/*
 * Set up s, which is zeroed, and serve on listen_fd (taken). 0 after a clean stop, by SIGTERM, SIGINT, SIGUSR1 or a
 * request to drop the heap; -errno if it could not start.
 */
int server_run(server *s, int listen_fd, mheap *heap, const server_options *options)
    __attribute__((warn_unused_result));

/*
 * The two ends of it, for who runs s->service.loop itself: set up s; and, when the loop has nothing left to do because
 * the server has stopped, give up what it has.
 */
int server_open(server *s, int listen_fd, mheap *heap, const server_options *options)
    __attribute__((warn_unused_result));
void server_close(server *s);

#endif
