/*
 * Looker: a thread's means to look at stopped processes, one after the other. Several look at once.
 */
#ifndef GOALLOC_COLLECTOR_LOOKER_H
#define GOALLOC_COLLECTOR_LOOKER_H

#include "client/collector/kernelheld.h"
#include "client/collector/ranges.h"

typedef struct looker {
    words_found words;
    pages pages;
    kernelheld kernelheld;
    ranges ranges;
    world_trouble trouble;
    int result;
    uint64_t maps_ns, kernel_ns; /* more is in ranges */
} looker;

/* What it takes of a process, as it is found when nobody is stopped. */
typedef struct looker_estimate {
    uint64_t bytes; /* private memory with content */
    uint64_t nfds;
    uint64_t text_bytes; /* that the kernel tells of epoll entries and timers */
    uint32_t nthreads;
    uint32_t nmappings;
} looker_estimate;

int looker_init(looker *l, uint64_t base, uint64_t arena_bytes, bool offsets) __attribute__((warn_unused_result));
void looker_deinit(looker *l);

/*
 * -EAGAIN: the process has ended, and had a session; else it is marked as gone. -EOPNOTSUPP, -EPERM, -ENOMEM; why
 * stands in l->trouble.
 */
int looker_estimate_of(looker *l, shared *s, const targets *t, target_process *process, bool trust_kernel,
                       looker_estimate *ret) __attribute__((warn_unused_result));

/* Look at all that the process has, but for registers. As above; -ETIMEDOUT; -ECANCELED: l->pages.given_up. */
int looker_look(looker *l, shared *s, const targets *t, target_process *process, bool trust_kernel,
                uint64_t deadline_ns) __attribute__((warn_unused_result));

#endif
