/*
 * Metrics: which figures there are, and what they are called.
 */
#ifndef GOALLOC_EXPORTER_METRICS_H
#define GOALLOC_EXPORTER_METRICS_H

#include "exporter/exposition.h"
#include "exporter/query.h"

#define METRICS_CLASSES_MAX 256u

/* What this process has counted. */
typedef struct exporter_counts {
    uint64_t scrapes;
    uint64_t queries;
    uint64_t failures[QUERY_FAILURES];
    uint64_t connections; /* now */
} exporter_counts;

/*
 * Figures that the daemon estimates, and that a counter must not fall below as long as it is the same daemon: what
 * clients say they have allocated. By number of the size class.
 */
typedef struct floors {
    uint64_t start_time_ms;
    uint64_t allocs[METRICS_CLASSES_MAX];
    uint64_t frees[METRICS_CLASSES_MAX];
} floors;

/* The daemon has answered: once for each answer, before it is written. */
void floors_raise(floors *f, const Goallocd__StatsReply *stats);

/* Write all metrics; seen NULL: the daemon is not to be had. At most groups_max groups have figures of their own. */
void metrics_write(exposition *x, const figures *seen, const floors *f, const exporter_counts *counts,
                   unsigned groups_max);

#endif
