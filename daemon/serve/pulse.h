/*
 * Pulse: tells systemd that the loop turns, and how much is in use.
 */
#ifndef GOALLOC_DAEMON_SERVE_PULSE_H
#define GOALLOC_DAEMON_SERVE_PULSE_H

#include "daemon/serve/service.h"

typedef struct pulse {
    service *srv; /* borrowed */
    uv_check_t turns;
    uv_timer_t beat; /* has a loop turn that would sleep longer than systemd's watchdog likes */
    uv_timer_t look; /* has it turn when something is to be said that was too early when it changed */
    uint64_t beat_ms;        /* 0: there is no watchdog */
    uint64_t next_beat_ms;   /* not before, on the loop's clock; as all here */
    uint64_t next_status_ms; /* not before */
    bool asked;              /* for a count */
    uint64_t nrpcs;          /* requests that had been handled by then */
    uint32_t nsessions;      /* said last */
    char status[96];         /* said last */
} pulse;

/* Begin, if systemd is there to be told. The loop's handles are closed by whoever stops it. */
void pulse_start(pulse *p, service *srv);

#endif
