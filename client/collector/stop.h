/*
 * Stop: has the threads of the targets traced, stops them, and lets them go.
 *
 * All of it runs in one thread, the tracer, but for stop_check(), which traces nobody. When that thread ends, however
 * it ends, the kernel lets everybody go.
 */
#ifndef GOALLOC_COLLECTOR_STOP_H
#define GOALLOC_COLLECTOR_STOP_H

#include "client/collector/targets.h"

/* Trace all threads of all targets, and of who has the heap mapped besides. Nobody is stopped. */
int stop_seize(targets *t, bool trust_kernel, uint64_t deadline_ns, world_trouble *ret)
    __attribute__((warn_unused_result));

/* Where its time went. */
typedef struct stop_times {
    uint64_t interrupt_ns;
    uint64_t await_ns;
    uint64_t check_ns; /* that all are who they were, and nobody is missing */
} stop_times;

/* Stop them. *times is raised. */
int stop_all(targets *t, bool trust_kernel, uint64_t deadline_ns, stop_times *times, world_trouble *ret)
    __attribute__((warn_unused_result));

/*
 * Each process is still the one that was found, and not another one with its number; and, if all are stopped by now,
 * nobody has killed it meanwhile. 0 or -EAGAIN.
 */
int stop_check(targets *t, bool stopped, world_trouble *ret) __attribute__((warn_unused_result));

/* Let those go that are stopped. Who is not, goes with the tracer. */
void stop_let_go(targets *t);

#endif
