/*
 * Rounds: work in slices between the turns of the loop.
 */
#ifndef GOALLOC_DAEMON_SERVE_ROUNDS_H
#define GOALLOC_DAEMON_SERVE_ROUNDS_H

#include "daemon/serve/service.h"

/* rounds.c draws the transitions. */
enum round_stage { STAGE_IDLE, STAGE_JOINING, STAGE_WORKING, STAGE_LEAVING };

typedef struct round_state {
    enum round_stage stage;
    uint64_t began_ns;
    uint64_t worked_ns;
    uint64_t not_before_ns; /* the next one */
} round_state;

typedef struct rounds {
    service *srv;
    round_state states[ROUNDS];
    unsigned turn; /* the round that comes first in the next turn of the loop */
    uint32_t ending; /* the session whose end goes on next */
    uint32_t ending_group;
    page_no sweep_pos;
    uv_timer_t timer; /* a round that is asked for may begin */
} rounds;

/* r is zeroed; service_wake() makes it work from now on. */
void rounds_start(rounds *r, service *srv);

#endif
