/*
 * Options: the command line of goallocd-collector.
 */
#ifndef GOALLOC_COLLECTOR_OPTIONS_H
#define GOALLOC_COLLECTOR_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct options {
    const char *socket_path; /* NULL: as goalloc_attach() */
    unsigned flags;          /* COLLECT_* (collect.h) */
    uint64_t max_pause_ns;
    int64_t delay_ms;        /* after a death, before a cycle begins: others may die as well */
    int64_t interval_ms;     /* at least between two cycles */
    int64_t full_ms;         /* at least between two cycles over the whole heap */
    bool once;
    bool answers;            /* the result goes to COLLECT_ANSWER_FD (client/lib/collectanswer.h) */
    pid_t waiter;            /* if so: the thread that waits for it, in goalloc_collect() */
    uint64_t heap_id;        /* the heap that is meant; 0: whichever is served */
} options;

/* Parse the command line. Exits with status 2 if it is wrong, 0 after --help and --version. */
void options_parse(options *o, int argc, char **argv);

#endif
