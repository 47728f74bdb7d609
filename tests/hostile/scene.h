/*
 * Scene: one attack on a daemon of its own, and what it did to the honest clients.
 */
#ifndef GOALLOC_TESTS_HOSTILE_SCENE_H
#define GOALLOC_TESTS_HOSTILE_SCENE_H

#include "tests/hostile/attack.h"

/* What is measured. Times of requests are us; they come in this order for each phase. */
enum quantile { P50, P99, P999, MAX, QUANTILES };

enum figure {
    REFILL_CALM,
    REFILL_BURN = REFILL_CALM + QUANTILES,
    REFILL_ATTACK = REFILL_BURN + QUANTILES,
    REFILL_AFTER = REFILL_ATTACK + QUANTILES,
    ATTACH_CALM = REFILL_AFTER + QUANTILES,
    ATTACH_ATTACK = ATTACH_CALM + QUANTILES,
    BACK_MS =
        ATTACH_ATTACK + QUANTILES, /* from the attackers' end until sessions, memory and descriptors are as before */
    RSS_BEFORE_KIB,                /* RssAnon of the daemon */
    RSS_PEAK_KIB,
    RSS_AFTER_KIB,
    FDS_BEFORE,
    FDS_PEAK,
    FDS_AFTER,
    REFUSED,    /* requests of honest clients */
    ENDED,      /* sessions, connections and leases of theirs */
    WRONG,      /* objects of theirs that had other bytes, or were gone */
    DEEDS,      /* of the attackers */
    DENIED,     /* to the attackers */
    ATTACK_CPU, /* of the attackers, per mille of a CPU each */
    FIGURES,
};

extern const char *const quantile_names[QUANTILES];

/* Names of the figures behind the quantiles, from BACK_MS on. */
extern const char *const figure_names[FIGURES - BACK_MS];

typedef struct scene_result {
    double figures[FIGURES];
    bool not_here;    /* the attack can't be made on this system */
    char failed[512]; /* what was not as it must be; "": nothing */
} scene_result;

void scene_run(const hostile_options *o, const attack *what, scene_result *ret);

#endif
