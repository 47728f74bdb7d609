/*
 * Report: what a replay has found, for people or as JSON.
 */
#ifndef GOALLOC_REPLAY_REPORT_H
#define GOALLOC_REPLAY_REPORT_H

#include "client/replay/replay.h"

typedef struct report {
    const char *file;
    const trace *t;
    const replay_options *options;
    const replay_result *results; /* one of each process */
    uint32_t nprocesses;
} report;

/* Print to stdout. 0; -1: that failed. */
int report_text(const report *rep);
int report_json(const report *rep);

#endif
