/*
 * Rounds: work in slices between the turns of the loop.
 */
#ifndef GOALLOC_DAEMON_SERVE_ROUNDS_H
#define GOALLOC_DAEMON_SERVE_ROUNDS_H

#include "daemon/serve/service.h"

typedef struct rounds {
    service *srv;
    bool active[ROUNDS];
    enum round now; /* the round that operations are being visited for */
    bool any;       /* one of them is in it */
    page_no sweep_pos;
} rounds;

/* r is zeroed; service_wake() makes it work from now on. */
void rounds_start(rounds *r, service *srv);

#endif
